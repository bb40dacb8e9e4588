//! The report of an evaluation as text for a terminal.

use crate::output;
use moepress_eval::{Divergence, Likelihood};
use moepress_pipeline::{Comparison, Report, Sizes};
use moepress_report::protocol_in_words;

pub fn in_words(report: &Report) -> String {
    let mut text = scores(report) + &answers(report) + &routing(report);
    let size = |path: &str, sizes: &Sizes| {
        format!("{path}: {} ({:.3} bits per weight)\n", output::bytes(sizes.total.bytes), sizes.bpw)
    };
    text += &size(&report.model, &report.after);
    if let Some(path) = report.against.as_ref().filter(|_| report.before != report.after) {
        text += &size(path, &report.before);
    }
    let speed = report.evaluation.as_ref().and_then(|comparison| comparison.compact.tokens_per_second);
    text + &speed.map_or_else(String::new, |speed| format!("{speed:.0} tokens per second, all threads\n"))
}

/// What questions came to.
fn answers(report: &Report) -> String {
    if report.tasks.is_empty() {
        return String::new();
    }
    let mut rows =
        vec![["task", "questions", "shots", "metric", "value", "±", "original"].map(str::to_owned).to_vec()];
    for task in &report.tasks {
        let (result, original) = (report.results.get(&task.name), report.original_results.get(&task.name));
        for (key, value) in result.into_iter().flat_map(|result| &result.figures) {
            let Some(name) = key.strip_suffix(",none").filter(|name| !name.ends_with("_stderr")) else {
                continue;
            };
            let of = |value: Option<&f64>| value.map_or(String::new(), |value| format!("{value:.4}"));
            let stderr = result.and_then(|result| result.figures.get(&format!("{name}_stderr,none")));
            let original = original.and_then(|original| original.figures.get(key));
            let counts = [task.questions, task.shots].map(|count| count.to_string());
            rows.push(
                [
                    vec![task.name.clone()],
                    counts.into(),
                    vec![name.into(), of(Some(value)), of(stderr), of(original)],
                ]
                .concat(),
            );
        }
    }
    output::table(&rows) + "\n"
}

/// How routing drifted.
fn routing(report: &Report) -> String {
    let Some(drift) = &report.drift else { return String::new() };
    let mut rows = vec![
        ["layer", "tokens changed", "choices kept", "experts reached", "after"].map(str::to_owned).to_vec(),
    ];
    let percent = |share: f64| format!("{:.1}%", 100.0 * share);
    for step in &drift.steps {
        let (Some(layer), Some(routing)) = (step.layer, step.routing) else { continue };
        let shares = [routing.changed, routing.kept, routing.coverage, routing.coverage_after].map(percent);
        rows.push([vec![layer.to_string()], shares.into()].concat());
    }
    let shares = [drift.changed, drift.kept, drift.coverage, drift.coverage_after].map(percent);
    rows.push([vec!["mean".to_owned()], shares.into()].concat());
    format!("routing of {} tokens\n{}\n", drift.tokens, output::table(&rows))
}

fn scores(report: &Report) -> String {
    let Some(Comparison { original, compact, sampling, .. }) = &report.evaluation else {
        return String::new();
    };
    let mut text = format!("{}\n\n", protocol_in_words(sampling));
    let heads = ["file", "windows", "tokens", "scored", "bytes", "sha256"].map(str::to_owned);
    let mut files = vec![heads.to_vec()];
    files.extend(sampling.files.iter().map(|file| {
        let counts = [file.windows, file.tokens, file.scored].map(|count| count.to_string());
        [vec![file.file.clone()], counts.into(), vec![file.bytes.to_string(), file.sha256.clone()]].concat()
    }));
    text += &(output::table(&files) + "\n");
    let mut heads = vec!["text", "nll", "±", "perplexity", "±", "bits/byte"];
    if original.is_some() {
        heads.extend(["original", "ratio", "±"]);
    }
    let mut rows = vec![heads.into_iter().map(str::to_owned).collect::<Vec<_>>()];
    for (index, text) in compact.texts.iter().enumerate() {
        let original =
            original.as_ref().and_then(|original| original.texts.get(index)).map(|t| &t.likelihood);
        rows.push(likelihood(
            &text.name,
            &text.likelihood,
            original,
            text.divergence.map(|d| d.ppl_ratio_stderr),
        ));
    }
    let overall = &compact.overall;
    let original = original.as_ref().map(|original| &original.overall);
    let (texts, tokens) = ("all texts alike", "all tokens alike");
    let stderr = overall.increase.map(|increase| increase.ppl_ratio_stderr);
    rows.push(likelihood(texts, &overall.likelihood, original.map(|o| &o.likelihood), stderr));
    let stderr = overall.divergence.map(|divergence| divergence.ppl_ratio_stderr);
    rows.push(likelihood(tokens, &overall.by_token, original.map(|o| &o.by_token), stderr));
    text += &output::table(&rows);
    if let Some(all) = &overall.divergence {
        let kld = all.top.map_or("kld".to_owned(), |top| format!("kld, at least (top {top})"));
        let heads = ["text", &kld, "±", "median", "p90", "p95", "p99", "p99.9", "max", "top-1", "Δp", "rms"];
        let mut rows = vec![heads.map(str::to_owned).to_vec()];
        let texts = compact.texts.iter();
        rows.extend(
            texts.filter_map(|t| t.divergence.as_ref().map(|divergence| distance(&t.name, divergence))),
        );
        rows.push(distance(tokens, all));
        text += &format!("\n{}", output::table(&rows));
    }
    text + "\n"
}

fn likelihood(
    name: &str,
    of: &Likelihood,
    original: Option<&Likelihood>,
    stderr: Option<f64>,
) -> Vec<String> {
    let mut cells = vec![
        name.to_owned(),
        format!("{:.4}", of.nll),
        format!("{:.4}", of.stderr),
        format!("{:.3}", of.perplexity),
        format!("{:.3}", of.perplexity_stderr),
        format!("{:.4}", of.bits_per_byte),
    ];
    if let Some(original) = original {
        cells.push(format!("{:.3}", original.perplexity));
        cells.push(format!("{:.4}", of.perplexity / original.perplexity));
        cells.push(stderr.map_or_else(String::new, |stderr| format!("{stderr:.4}")));
    }
    cells
}

fn distance(name: &str, d: &Divergence) -> Vec<String> {
    let nats = [d.mean, d.stderr, d.median, d.p90, d.p95, d.p99, d.p999, d.max].map(|n| format!("{n:.4}"));
    let shares = [d.top1_agreement, d.delta_p_mean, d.delta_p_rms].map(|p| format!("{:.2}%", 100.0 * p));
    [vec![name.to_owned()], nats.into(), shares.into()].concat()
}
