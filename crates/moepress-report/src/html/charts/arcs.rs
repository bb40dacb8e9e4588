//! Experts of a layer that are used together, as arcs between them.

use crate::units::{count, percent};
use moepress_pipeline::RoutingReport;

/// Layers that are drawn: those whose closest pair is closest.
const LAYERS: usize = 48;

/// The pairs of every layer over a line of its experts, of which the most has `experts`.
pub(in crate::html) fn arcs(routing: &[RoutingReport], experts: usize) -> String {
    let closest = |layer: &&RoutingReport| layer.pairs.first().map_or(0.0, |pair| pair.of_first);
    let mut shown: Vec<&RoutingReport> = routing.iter().filter(|layer| !layer.pairs.is_empty()).collect();
    shown.sort_by(|a, b| closest(b).total_cmp(&closest(a)));
    shown.truncate(LAYERS);
    shown.sort_by_key(|layer| layer.layer);
    let drawn: String = shown.iter().map(|layer| draw(layer, experts)).collect();
    format!("<div class=\"arcs\">\n{drawn}</div>\n")
}

fn draw(routing: &RoutingReport, experts: usize) -> String {
    let layer = routing.layer;
    let arc = |pair: &moepress_pipeline::PairReport| {
        let [a, b] = [pair.first, pair.second].map(|index| index as f64 + 0.5);
        // A quadratic curve rises half as high as its control point.
        let top = 1.0 - 1.9 * (a - b).abs() / experts.max(1) as f64;
        format!(
            "<path d=\"M{a} 1Q{:.2} {top:.2} {b} 1\" class=\"arc\" stroke-width=\"{:.1}\"><title>layer {layer}, experts {} and {}: \
             {} tokens go to both, {} of those of {}</title></path>\n",
            (a + b) / 2.0,
            1.0 + 6.0 * pair.of_first,
            pair.first,
            pair.second,
            count(pair.tokens),
            percent(pair.of_first),
            pair.first,
        )
    };
    let arcs: String = routing.pairs.iter().map(arc).collect();
    format!(
        "<div><p class=\"legend\">layer {layer}</p>\n<svg role=\"img\" aria-label=\"Experts of layer {layer} that are used together\" \
         viewBox=\"0 0 {experts} 1.05\" preserveAspectRatio=\"none\" height=\"44\">\n{arcs}<line x1=\"0\" x2=\"{experts}\" y1=\"1\" \
         y2=\"1\" class=\"axis\"/></svg></div>\n"
    )
}
