//! The sweep as one page: no script, nothing loaded.

use super::{NOTE, correlation, name, points, sweep_svg};
use crate::html::element::{escape, figure, section, table};
use crate::html::{base_name, page};
use crate::units::{bytes, fixed, percent, seconds};
use moepress_pipeline::{PointReport, PointResult, SweepReport};

/// The sweep as a self-contained HTML page: the drawing, what is on the front, the table, the stages of every point.
pub fn sweep_html(report: &SweepReport) -> String {
    let model = base_name(&report.model);
    let results: Vec<&PointResult> = report.points.iter().filter_map(|point| point.result.as_ref()).collect();
    let headline = match results.iter().map(|result| result.bytes).min() {
        Some(least) => format!(
            "{} points between {} and the {} of the original",
            results.len(),
            bytes(least),
            bytes(report.original.total.bytes)
        ),
        None => "no point was possible".to_owned(),
    };
    let mut body = format!(
        "<header>\n<p class=\"kicker\">Sweep with moepress</p>\n<h1>{}</h1>\n<p class=\"headline\">{}</p>\n\
         <p class=\"facts\">measured in {}, everything took {}</p>\n</header>\n",
        escape(model),
        escape(&headline),
        escape(&seconds(report.seconds.measure)),
        escape(&seconds(report.seconds.total)),
    );
    let caption = "Size and quality of all points, on logarithmic scales: further left is smaller, further down is closer \
                   to the original. Filled points are on the Pareto front, those that no other point beats in both.";
    body += &section("Size against quality", &figure(&sweep_svg(report), caption));
    let best: String = report.points.iter().filter_map(on_the_front).collect();
    body += &section("The Pareto front", &format!("<ul>\n{best}</ul>\n"));
    let said = correlation(report).map(|line| format!("<p>{}</p>\n", escape(&line))).unwrap_or_default();
    body += &section("Points", &format!("<p>{NOTE}</p>\n{}{said}", table(&points(report))));
    let failed: String = report.points.iter().filter_map(failed).collect();
    if !failed.is_empty() {
        body += &section("Not possible", &format!("<ul>\n{failed}</ul>\n"));
    }
    let stages: String = report.points.iter().map(stages).collect();
    body += &section("Stages", &format!("<ul>\n{stages}</ul>\n"));
    let footer = format!("moepress {}, sweep version {}", report.moepress, report.schema_version);
    page(&format!("Sweep of {model}: {headline}"), &body, &footer)
}

fn on_the_front(point: &PointReport) -> Option<String> {
    let result = point.result.as_ref().filter(|result| result.best_nll)?;
    Some(item(&format!(
        "{}: {} ({} of the original), {} nats per token more",
        name(point),
        bytes(result.bytes),
        percent(result.share),
        fixed(result.nll_increase, 4)
    )))
}

fn failed(point: &PointReport) -> Option<String> {
    Some(item(&format!("{}: {}", name(point), point.failed.as_ref()?)))
}

fn stages(point: &PointReport) -> String {
    item(&format!("{}: {}", name(point), point.stages.join("; ")))
}

fn item(text: &str) -> String {
    format!("<li>{}</li>\n", escape(text))
}
