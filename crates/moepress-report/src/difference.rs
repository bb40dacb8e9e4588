//! Two reports beside each other.

use crate::gates::{METRICS, alike};
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeSet;

/// What differs between two reports.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Changed {
    /// Every figure that at least one of them has; of every text too.
    pub metrics: Vec<MetricChange>,
    /// Lines that only the first has: stages, notes, lines of the recipe.
    pub only_a: Vec<String>,
    /// Lines that only the second has.
    pub only_b: Vec<String>,
}

/// A figure in two reports.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MetricChange {
    /// Its name, with the text in brackets where it is of one.
    pub name: String,
    /// In the first.
    pub a: Option<f64>,
    /// In the second.
    pub b: Option<f64>,
    /// Whether both were measured in the same way, on the same text or the same questions.
    pub alike: bool,
    /// (b − a) / |a|; none where there is no such number, or they were not measured alike.
    pub change: Option<f64>,
}

/// Compares two reports, given as their JSON.
pub fn difference(a: &Value, b: &Value) -> Changed {
    let texts = |report: &Value| -> Vec<String> {
        let texts = report.pointer("/evaluation/compact/texts").and_then(Value::as_array);
        texts.into_iter().flatten().filter_map(|text| Some(text["name"].as_str()?.to_owned())).collect()
    };
    let mut names = texts(a);
    let more: Vec<String> = texts(b).into_iter().filter(|name| !names.contains(name)).collect();
    names.extend(more);
    let tasks = [a, b].into_iter().filter_map(|report| report["results"].as_object());
    let tasks: BTreeSet<String> = tasks.flat_map(|results| results.keys().cloned()).collect();
    let tasks: Vec<String> = tasks.into_iter().collect();
    let mut metrics = Vec::new();
    for metric in METRICS {
        let of = if metric.has_tasks() { &tasks } else { &names };
        let of =
            of.iter().filter(|_| metric.has_texts() || metric.has_tasks()).map(|name| Some(name.as_str()));
        for text in [None].into_iter().chain(of) {
            let alike = alike(&metric, a, b, text);
            let [a, b] = [a, b].map(|report| metric.value(report, text));
            if a.is_none() && b.is_none() {
                continue;
            }
            let change = a.zip(b).filter(|_| alike).map(|(a, b)| (b - a) / a.abs());
            let change = change.filter(|change| change.is_finite());
            let name = text.map_or(metric.name.to_owned(), |text| format!("{}[{text}]", metric.name));
            metrics.push(MetricChange { name, a, b, alike, change });
        }
    }
    let [lines_a, lines_b] = [a, b].map(lines);
    let only = |here: &[String], there: &[String]| {
        let there: BTreeSet<&String> = there.iter().collect();
        here.iter().filter(|line| !there.contains(line)).cloned().collect()
    };
    Changed { metrics, only_a: only(&lines_a, &lines_b), only_b: only(&lines_b, &lines_a) }
}

/// What was done and decided, and the recipe, line by line.
fn lines(report: &Value) -> Vec<String> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let notes = list(&report["notes"]).iter().filter_map(text).map(|note| format!("note: {note}")).collect();
    let mut lines: Vec<String> = notes;
    for stage in list(&report["stages"]) {
        lines.extend(text(&stage["what"]).map(|what| format!("stage: {what}")));
        lines.extend(list(&stage["notes"]).iter().filter_map(text).map(|note| format!("note: {note}")));
    }
    let recipe = report["recipe"].as_str().unwrap_or_default();
    lines.extend(recipe.lines().map(|line| format!("recipe: {line}")));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;

    #[test]
    fn figures_and_lines_that_differ() {
        let a = serde_json::to_value(sample::plain()).unwrap();
        let mut b = serde_json::to_value(sample::evaluated()).unwrap();
        b["after"]["bytes"] = 1_599_000.into();
        b["recipe"] = "version: 1\nmodel: other\n".into();
        let changed = difference(&a, &b);
        let find = |name: &str| changed.metrics.iter().find(|metric| metric.name == name).unwrap();
        assert_eq!((find("size_bytes").change, find("bpw").change), (Some(-0.5), Some(0.0)));
        assert_eq!((find("nll[drama]").a, find("nll[drama]").change), (None, None));
        assert_eq!(changed.only_b, ["recipe: model: other"]);
        assert!(
            changed.only_a.contains(&"recipe: model: models/sample-moe".to_owned()),
            "{:?}",
            changed.only_a
        );
        let same = difference(&a, &a);
        assert!(same.only_a.is_empty() && same.metrics.iter().all(|metric| metric.change == Some(0.0)));
    }
}
