use super::*;
use crate::sample;
use moepress_pipeline::{PointResult, RankCorrelation, SweepSeconds};

const ATTACK: &str = "\"'><script>alert(1)</script>&|`\u{1b}[2J";

fn sweep(method: &str) -> SweepReport {
    let point = |budget: &str, share: f64, nll_increase: f64, best: bool| PointReport {
        method: method.to_owned(),
        budget: Some(budget.to_owned()),
        stages: vec!["prune_atoms heapr: 25% ranked globally".to_owned()],
        result: Some(PointResult {
            bytes: (13_408_000.0 * share) as u64,
            share,
            bpw: 16.0 * share,
            nll: 3.33 + nll_increase,
            original_nll: 3.33,
            nll_increase,
            predicted: Some(0.5 * nll_increase),
            kld: nll_increase.abs(),
            top1: 0.9,
            best_nll: best,
            best_kld: false,
            seconds: 2.5,
        }),
        report: Some("report-1.json".to_owned()),
        failed: None,
    };
    let failed = PointReport {
        result: None,
        report: None,
        failed: Some(format!("r.yaml:7:1: bpw: is too small {ATTACK}")),
        ..point("0.1", 0.1, 1.0, false)
    };
    let plain = PointReport { method: "int4".to_owned(), budget: None, ..point("", 0.31, -0.0001, true) };
    SweepReport {
        schema_version: 1,
        moepress: "0.1.0",
        model: format!("models/x{ATTACK}"),
        original: sample::plain().before,
        original_nll: Some(3.33),
        rank_correlation: Some(RankCorrelation { points: 3, spearman: 0.875 }),
        points: vec![point("0.25", 0.8, 0.04, true), point("0.5", 0.6, 0.2, false), failed, plain],
        seconds: SweepSeconds { measure: 3.1, total: 12.0 },
    }
}

#[test]
fn every_point_is_drawn_and_listed() {
    let report = sweep("HEAPr");
    let drawing = sweep_svg(&report);
    // Three points in two panels, and two methods in the legend.
    assert_eq!(drawing.matches("<path class=\"mark").count(), 2 * 3 + 2);
    assert_eq!(drawing.matches("class=\"front\"").count(), 1, "no point has the best divergence");
    assert!(
        drawing.contains("<title>HEAPr at 0.25: 10.7 MB, 0.040, on the Pareto front</title>"),
        "{drawing}"
    );
    let text = sweep_markdown(&report);
    assert!(text.contains("| HEAPr | 0.25 | 10.7 MB | 80.0% | 12.80 | 0.0400 ● | 0.0200 |"), "{text}");
    assert!(text.contains("(Spearman) of predicted and measured increase over 3 points: 0.875"), "{text}");
    assert!(text.contains("## Not possible") && text.contains("HEAPr at 0.1"));
    let lines = sweep_summary(&report);
    assert!(lines.starts_with("method") && lines.contains("int4"), "{lines}");
}

#[test]
fn user_text_is_no_markup() {
    let report = sweep(ATTACK);
    for text in [sweep_svg(&report), sweep_html(&report), sweep_markdown(&report)] {
        assert!(!text.contains("<script"), "{text}");
    }
    assert!(!sweep_summary(&report).contains('\u{1b}'));
}

#[test]
fn coordinates_are_numbers_whatever_the_values() {
    let mut report = sweep("a");
    report.points.truncate(1);
    assert!(!sweep_svg(&report).contains("NaN"));
    report.points.clear();
    let empty = sweep_svg(&report);
    assert!(!empty.contains("NaN") && empty.ends_with("</svg>\n"));
}
