//! How the divergences of single tokens are spread, on a logarithmic axis.

use crate::html::element::escape;
use crate::units::{count, fixed};
use moepress_eval::{Divergence, Histogram};

/// Height of the bars, of a row of marks below them, in pixels.
const BARS: f64 = 150.0;
const ROW: usize = 18;
/// Mean divergences of Llama-3-8B in formats of llama.cpp on WikiText-2, as its `tools/perplexity/README.md` has them.
const KNOWN: [(&str, f64); 5] =
    [("q8_0", 0.0014), ("q6_K", 0.0055), ("q4_K_M", 0.031), ("q3_K_M", 0.101), ("q2_K", 0.445)];

/// The histogram, with marks for the mean and two percentiles, and for what others' formats come to.
pub(in crate::html) fn histogram(histogram: &Histogram, divergence: &Divergence) -> String {
    let Histogram { bounds, counts } = histogram;
    let (Some(&first), Some(&last)) = (bounds.first(), bounds.last()) else { return String::new() };
    let width = 100.0 / counts.len() as f64;
    // The first and the last range have no end of their own.
    let (start, end) = (first.log10(), last.log10());
    let place = |nats: f64| {
        let share = (nats.max(first).log10() - start) / (end - start);
        (width + share.clamp(0.0, 1.0) * (100.0 - 2.0 * width)).clamp(0.0, 100.0)
    };
    let most = counts.iter().copied().max().unwrap_or(1).max(1) as f64;
    let all = counts.iter().sum::<usize>().max(1) as f64;
    let mut drawing = String::new();
    for (index, &tokens) in counts.iter().enumerate().filter(|(_, tokens)| **tokens > 0) {
        let height = (BARS * tokens as f64 / most).max(1.0);
        let range = match (index.checked_sub(1).map(|below| bounds[below]), bounds.get(index)) {
            (None, _) => format!("below {first:e}"),
            (Some(low), Some(high)) => format!("{} to {}", nats(low), nats(*high)),
            (Some(low), None) => format!("{} or more", nats(low)),
        };
        let share = 100.0 * tokens as f64 / all;
        drawing += &format!(
            "<rect x=\"{:.3}%\" y=\"{:.1}\" width=\"{:.3}%\" height=\"{height:.1}\" class=\"compact\"><title>{} nats: {} \
             tokens, {share:.2}%</title></rect>\n",
            index as f64 * width + 0.08 * width,
            BARS - height,
            0.84 * width,
            range,
            count(tokens as u64),
        );
    }
    let mut axis = format!("<line x1=\"0\" x2=\"100%\" y1=\"{BARS}\" y2=\"{BARS}\" class=\"axis\"/>\n");
    for exponent in -6..=1 {
        let (x, y) = (place(10f64.powi(exponent)), BARS + ROW as f64 - 3.0);
        axis += &format!(
            "<text x=\"{x:.3}%\" y=\"{y}\" text-anchor=\"middle\">{}</text>\n",
            nats(10f64.powi(exponent))
        );
    }
    let mark = |(name, value, row): (&str, f64, usize)| {
        let (x, y) = (place(value), BARS as usize + ROW * (row + 2) - 3);
        let name = escape(name);
        format!(
            "<line x1=\"{x:.3}%\" x2=\"{x:.3}%\" y1=\"0\" y2=\"{}\" class=\"mark\"/>\
             <text x=\"{x:.3}%\" y=\"{y}\" dx=\"4\" class=\"name\">{name} {}</text>\n",
            y + 2,
            nats(value),
        )
    };
    let marks = [
        ("median", divergence.median, 2),
        ("mean", divergence.mean, 1),
        ("99th percentile", divergence.p99, 0),
    ];
    let known = |(name, value): (&str, f64)| {
        let (x, y) = (place(value), BARS as usize + ROW * 5 - 1);
        format!(
            "<circle cx=\"{x:.3}%\" cy=\"{y}\" r=\"3\" class=\"original\"/>\
             <text x=\"{x:.3}%\" y=\"{}\" text-anchor=\"middle\">{name}</text>\n",
            y + ROW
        )
    };
    let marks: String = marks.into_iter().map(mark).chain(KNOWN.into_iter().map(known)).collect();
    let height = BARS as usize + 6 * ROW + 4;
    format!(
        "<svg role=\"img\" aria-label=\"Histogram of the divergence of single tokens\" width=\"100%\" height=\"{height}\">\n\
         <title>Tokens by divergence, in nats</title>\n{axis}{drawing}{marks}</svg>\n"
    )
}

/// `0.001`, `1e-5`, `0.0312`.
fn nats(value: f64) -> String {
    match value {
        _ if value == 0.0 => "0".to_owned(),
        _ if value < 0.9e-4 => format!("{value:.0e}"),
        _ if value < 0.9e-1 => fixed(value, 4).trim_end_matches('0').to_owned(),
        _ => {
            let text = fixed(value, 2);
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        }
    }
}
