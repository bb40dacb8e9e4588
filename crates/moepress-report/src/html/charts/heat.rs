//! Layers × experts: what is left of each, how precisely it is stored, how much it is used.

use crate::html::element::escape;
use crate::units::{count, fixed, percent};
use moepress_pipeline::{ExpertReport, LayerReport};
use std::collections::BTreeMap;

/// Shades of a map, beside nothing.
const SHADES: usize = 16;
/// Cells that a map describes one by one; more would make the page heavy.
const DESCRIBED: usize = 2048;

/// One map: a title, the words for the ends of its scale, and the share of the scale of every expert; none where the
/// expert is gone.
struct Map<'a> {
    title: &'a str,
    ends: [String; 2],
    shade: &'a dyn Fn(&LayerReport, &ExpertReport) -> Option<f64>,
}

/// Maps side by side, layers from top to bottom, experts of the original from left to right.
pub(in crate::html) fn heat_maps(layers: &[LayerReport]) -> String {
    let experts = || layers.iter().flat_map(|layer| &layer.experts);
    let widest = experts().map(|expert| expert.bpw).fold(f64::MIN_POSITIVE, f64::max);
    let kept = Map {
        title: "atoms left",
        ends: ["few".to_owned(), "all".to_owned()],
        shade: &|_, expert| left(expert).map(ExpertReport::kept),
    };
    let bits = Map {
        title: "bits per weight",
        ends: ["0".to_owned(), fixed(widest, 2)],
        shade: &|_, expert| left(expert).map(|expert| expert.bpw / widest),
    };
    let busiest =
        layers.iter().map(|layer| layer.experts.iter().filter_map(|e| load(layer, e)).fold(0.0, f64::max));
    let busiest = busiest.fold(1.0, f64::max);
    let used = Map {
        title: "tokens routed to it",
        ends: ["none".to_owned(), format!("{}× the mean", fixed(busiest, 1))],
        shade: &|layer, expert| load(layer, expert).filter(|&load| load > 0.0).map(|load| load / busiest),
    };
    let measured = experts().any(|expert| expert.tokens.is_some());
    let maps = [Some(kept), Some(bits), measured.then_some(used)];
    let drawn: String = maps.into_iter().flatten().map(|map| draw(&map, layers)).collect();
    format!("<div class=\"maps\">\n{drawn}</div>\n")
}

fn left(expert: &ExpertReport) -> Option<&ExpertReport> {
    (expert.kept() > 0.0).then_some(expert)
}

/// Tokens of an expert over the mean of its layer.
fn load(layer: &LayerReport, expert: &ExpertReport) -> Option<f64> {
    let sum: u64 = layer.experts.iter().filter_map(|expert| expert.tokens).sum();
    Some(expert.tokens? as f64 * layer.experts.len() as f64 / sum.max(1) as f64)
}

fn draw(map: &Map<'_>, layers: &[LayerReport]) -> String {
    let columns = layers.iter().map(|layer| layer.experts.len()).max().unwrap_or(1);
    let height = (360 / layers.len().max(1)).clamp(4, 24);
    // Cells of one shade are one path; a path of outlines has those that are gone.
    let mut paths: BTreeMap<Option<usize>, String> = BTreeMap::new();
    let mut tips = String::new();
    let describe = columns * layers.len() <= DESCRIBED;
    for (row, layer) in layers.iter().enumerate() {
        for (column, expert) in layer.experts.iter().enumerate() {
            let shade = (map.shade)(layer, expert);
            let shade = shade.map(|share| ((share * SHADES as f64).ceil() as usize).clamp(1, SHADES));
            let path = paths.entry(shade).or_default();
            *path += &format!("M{column} {row}h.9v.86h-.9z");
            if describe {
                let words = describe_expert(layer.layer, column, expert);
                tips += &format!(
                    "<rect x=\"{column}\" y=\"{row}\" width=\"1\" height=\"1\" class=\"tip\"><title>{words}</title></rect>\n"
                );
            }
        }
    }
    let cells: String = paths.into_iter().map(|(shade, path)| filled(shade, &path)).collect();
    let every = 14usize.div_ceil(height);
    let labels: String = layers
        .iter()
        .enumerate()
        .step_by(every)
        .map(|(row, layer)| {
            let y = (row * height) as f64 + height as f64 / 2.0 + 4.0;
            format!("<text x=\"100%\" y=\"{y}\" text-anchor=\"end\">{}</text>\n", layer.layer)
        })
        .collect();
    let (title, [low, high], tall) =
        (escape(map.title), map.ends.each_ref().map(|end| escape(end)), height * layers.len());
    let scale: String = [2, 6, 11, 16]
        .map(|shade| {
            let cell = filled(Some(shade), "M0 0h1v1h-1z");
            format!("<svg class=\"swatch\" viewBox=\"0 0 1 1\" aria-hidden=\"true\">{cell}</svg>")
        })
        .concat();
    format!(
        "<div>\n<p class=\"legend\"><strong>{title}</strong> {low} {scale} {high}</p>\n<div class=\"map\">\
         <svg aria-hidden=\"true\" height=\"{tall}\">{labels}</svg>\
         <svg role=\"img\" aria-label=\"{title}, layers by experts\" viewBox=\"0 0 {columns} {}\" \
         preserveAspectRatio=\"none\" height=\"{tall}\">\n<title>{title}</title>\n{cells}{tips}</svg></div>\n</div>\n",
        layers.len(),
    )
}

fn filled(shade: Option<usize>, path: &str) -> String {
    match shade {
        None => format!("<path class=\"gone\" d=\"{path}\"/>\n"),
        // The least that is left can still be seen.
        Some(shade) => {
            let opacity = 0.1 + 0.9 * shade as f64 / SHADES as f64;
            format!("<path class=\"kept\" fill-opacity=\"{opacity:.2}\" d=\"{path}\"/>\n")
        }
    }
}

fn describe_expert(layer: usize, index: usize, expert: &ExpertReport) -> String {
    let left = format!("{} of its {} atoms left", percent(expert.kept()), count(expert.atoms_before as u64));
    let mut words = vec![format!("layer {layer}, expert {index}: {left}")];
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
