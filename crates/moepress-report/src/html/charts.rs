//! Drawings. Lengths are percent of the width, so text keeps its size however narrow the page is.

use super::element::escape;
use crate::units::{count, fixed, percent};
use moepress_pipeline::{ExpertReport, LayerReport};

/// A value of the original and of the result, each with the words for it.
pub(super) struct Pair {
    pub(super) name: String,
    pub(super) before: (f64, String),
    pub(super) after: (f64, String),
}

/// Height of a pair, and of one bar in it, in pixels.
const PAIR: usize = 64;
const BAR: usize = 14;
/// The longest bar in percent; the rest is for its number.
const LONGEST: f64 = 62.0;

/// Two bars for each pair, on one scale from zero.
pub(super) fn pairs(title: &str, pairs: Vec<Pair>) -> String {
    let largest =
        pairs.iter().flat_map(|pair| [pair.before.0, pair.after.0]).fold(f64::MIN_POSITIVE, f64::max);
    let height = PAIR * pairs.len();
    let mut drawing = String::new();
    for (index, pair) in pairs.iter().enumerate() {
        let top = PAIR * index;
        let name = escape(&pair.name);
        drawing += &format!("<text x=\"0\" y=\"{}\" class=\"name\">{name}</text>\n", top + 16);
        for (which, class, (value, words)) in [(0, "original", &pair.before), (1, "compact", &pair.after)] {
            let y = top + 22 + which * (BAR + 2);
            let length = LONGEST * value / largest;
            let words = escape(words);
            drawing += &format!(
                "<g><title>{name}, {class}: {words}</title>\
                 <rect x=\"0\" y=\"{y}\" width=\"{length:.3}%\" height=\"{BAR}\" rx=\"2\" class=\"{class}\"/>\
                 <text x=\"{length:.3}%\" dx=\"8\" y=\"{}\">{words}</text></g>\n",
                y + BAR - 3,
            );
        }
    }
    let title = escape(title);
    format!(
        "<p class=\"legend\"><span class=\"key original\"></span>original <span class=\"key compact\"></span>compact</p>\n\
         <svg role=\"img\" aria-label=\"{title}, original and compact\" width=\"100%\" height=\"{height}\">\n\
         <title>{title}</title>\n{drawing}</svg>\n"
    )
}

/// Layers from top to bottom, experts of the original from left to right.
pub(super) fn heat_map(layers: &[LayerReport]) -> String {
    let rows: String = layers.iter().map(strip).collect();
    let scale: String = [1.0, 0.75, 0.5, 0.25, 0.0]
        .map(|kept| {
            let expert = ExpertReport { atoms_before: 4, atoms: (4.0 * kept) as usize, shared_by: vec![0], ..ExpertReport::default() };
            let cell = cell(0, 0, &expert);
            format!(
                "<svg class=\"swatch\" viewBox=\"0 0 1 1\" preserveAspectRatio=\"none\" aria-hidden=\"true\">{cell}</svg>{} ",
                percent(kept).replace(".0%", "%")
            )
        })
        .concat();
    format!("<p class=\"legend\">atoms left: {scale}</p>\n<div class=\"heat\">\n{rows}</div>\n")
}

fn strip(layer: &LayerReport) -> String {
    let LayerReport { layer, experts } = layer;
    let cells: String =
        experts.iter().enumerate().map(|(index, expert)| cell(*layer, index, expert)).collect();
    let count = experts.len();
    format!(
        "<span>layer {layer}</span><svg role=\"img\" aria-label=\"Experts of layer {layer}, atoms left\" \
         viewBox=\"0 0 {count} 1\" preserveAspectRatio=\"none\">\n<title>layer {layer}</title>\n{cells}</svg>\n"
    )
}

fn cell(layer: usize, index: usize, expert: &ExpertReport) -> String {
    let title = describe(layer, index, expert);
    let (class, opacity) = match expert.kept() {
        0.0 => ("gone", 1.0),
        // The least that is left can still be seen.
        kept => ("kept", 0.15 + 0.85 * kept),
    };
    let mark = match expert.tokens {
        Some(0) => {
            format!("<rect x=\"{index}.3\" y=\"0.78\" width=\"0.4\" height=\"0.22\" class=\"unreached\"/>")
        }
        _ => String::new(),
    };
    format!(
        "<g><title>{title}</title><rect x=\"{index}.05\" y=\"0.04\" width=\"0.9\" height=\"0.66\" class=\"{class}\" \
         fill-opacity=\"{opacity:.3}\"/>{mark}</g>\n"
    )
}

fn describe(layer: usize, index: usize, expert: &ExpertReport) -> String {
    let mut words = vec![format!(
        "layer {layer}, expert {index}: {} of its {} atoms left",
        percent(expert.kept()),
        expert.atoms_before
    )];
    match expert.shared_by.len() {
        0 => words.push("removed".to_owned()),
        1 => {}
        _ => {
            let others = expert.shared_by.iter().filter(|other| **other != index).map(usize::to_string);
            words.push(format!("merged with {}", others.collect::<Vec<_>>().join(" and ")));
        }
    }
    if expert.atoms > 0 {
        words.push(format!("{} bits per weight", fixed(expert.bpw, 2)));
    }
    words.extend(expert.tokens.map(|tokens| format!("{} calibration tokens", count(tokens))));
    words.join(", ")
}
