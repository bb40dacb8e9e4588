//! The numbers of a report as rows of text, once for every form it takes.

mod texts;

use crate::units::{bytes, change, count, fixed, memory, percent, seconds, times};
use moepress_eval::{Distance, Evaluation, Likelihood, Step, TextScore};
use moepress_pipeline::{
    Comparison, LayerReport, LossReport, PhaseReport, Report, RoutingReport, SizeOf, TextReport, TextsReport,
    Verdict,
};

pub(crate) use texts::calibration;
pub use texts::protocol_in_words;

/// The first column names the row, the others hold numbers.
pub(crate) struct Table {
    pub(crate) head: Vec<String>,
    pub(crate) rows: Vec<Vec<String>>,
    /// The sum or mean of the rows.
    pub(crate) total: Option<Vec<String>>,
}

impl Table {
    pub(crate) fn new(head: &[&str], rows: Vec<Vec<String>>) -> Self {
        Self { head: head.iter().map(|&cell| cell.to_owned()).collect(), rows, total: None }
    }
}

/// A class of tensors in words.
pub(crate) fn class_name(class: &str) -> String {
    match class {
        "dense_mlp" => "dense MLPs".to_owned(),
        other => other.to_owned(),
    }
}

/// Classes with their size before and after, the largest first.
pub(crate) fn classes(report: &Report) -> Vec<(String, SizeOf, SizeOf)> {
    let of = |sizes: &moepress_pipeline::Sizes, class| sizes.classes.get(class).copied().unwrap_or_default();
    let names = report.before.classes.keys();
    let mut classes: Vec<_> = names
        .map(|&class| (class_name(class), of(&report.before, class), of(&report.after, class)))
        .collect();
    // Stable, so that equal classes stay in the order of their names.
    classes.sort_by_key(|(_, before, _)| std::cmp::Reverse(before.bytes));
    classes
}

/// Bits per weight, scales and offsets included.
pub(crate) fn bpw(size: SizeOf) -> f64 {
    8.0 * size.bytes as f64 / size.weights.max(1) as f64
}

pub(crate) fn sizes(report: &Report) -> Table {
    let row = |name: String, before: SizeOf, after: SizeOf| {
        let weights = [before, after].map(|size| count(size.weights));
        let bpw = [before, after].map(|size| fixed(bpw(size), 2));
        let bytes = [before, after].map(|size| count(size.bytes));
        let ratio = times(before.bytes as f64, after.bytes as f64);
        [vec![name], weights.into(), bpw.into(), bytes.into(), vec![ratio]].concat()
    };
    let head = [
        "tensors",
        "weights, original",
        "compact",
        "bits per weight, original",
        "compact",
        "bytes, original",
        "compact",
        "times smaller",
    ];
    let rows = classes(report).into_iter().map(|(name, before, after)| row(name, before, after));
    let total = Some(row("everything".to_owned(), report.before.total, report.after.total));
    Table { total, ..Table::new(&head, rows.collect()) }
}

/// The likelihoods of every text and of all of them, the original's before where there is one.
pub(crate) fn beside<'a>(
    original: Option<&Evaluation>,
    compact: &'a Evaluation,
) -> Vec<(&'a str, Option<Likelihood>, Likelihood)> {
    let text = |(index, text): (usize, &'a TextScore)| {
        let before = original.and_then(|original| original.texts.get(index)).map(|text| text.likelihood);
        (text.name.as_str(), before, text.likelihood)
    };
    let overall = original.map(|original| original.overall.likelihood);
    let overall = ("all texts", overall, compact.overall.likelihood);
    compact.texts.iter().enumerate().map(text).chain([overall]).collect()
}

/// Perplexity by text; the original's beside it where there is one.
pub(crate) fn perplexity(comparison: &Comparison) -> Table {
    let Comparison { original, compact, .. } = comparison;
    let scores = |evaluation: &Evaluation| {
        let texts = evaluation.texts.iter().map(|text| text.likelihood);
        texts.chain([evaluation.overall.by_token, evaluation.overall.likelihood]).collect::<Vec<_>>()
    };
    let names = compact.texts.iter().map(|text| text.name.as_str());
    let names = names.chain(["all tokens alike", "all texts alike"]);
    let both =
        |l: Likelihood| [format!("{} ± {}", fixed(l.nll, 4), fixed(l.stderr, 4)), fixed(l.bits_per_byte, 3)];
    let originals: Vec<Option<Likelihood>> = match original {
        Some(original) => scores(original).into_iter().map(Some).collect(),
        None => vec![None; compact.texts.len() + 2],
    };
    let rows = names.zip(originals).zip(scores(compact)).map(|((name, a), b)| {
        let mut cells = vec![name.to_owned(), count(b.predictions as u64)];
        match a {
            None => {
                cells.push(format!("{} ± {}", fixed(b.perplexity, 2), fixed(b.perplexity_stderr, 2)));
                cells.extend(both(b));
            }
            Some(a) => {
                cells.extend([
                    fixed(a.perplexity, 2),
                    fixed(b.perplexity, 2),
                    change(a.perplexity, b.perplexity),
                ]);
                let [[nll_a, bits_a], [nll_b, bits_b]] = [both(a), both(b)];
                cells.extend([nll_a, nll_b, bits_a, bits_b]);
            }
        }
        cells
    });
    let head: &[&str] = match original {
        None => &["text", "predictions", "perplexity", "nats per token", "bits per byte"],
        Some(_) => &[
            "text",
            "predictions",
            "perplexity, original",
            "compact",
            "change",
            "nats per token, original",
            "compact",
            "bits per byte, original",
            "compact",
        ],
    };
    let mut rows: Vec<_> = rows.collect();
    let total = rows.pop();
    Table { total, ..Table::new(head, rows) }
}

/// Kullback-Leibler divergence by text; none when it was not measured.
pub(crate) fn divergence(comparison: &Comparison) -> Option<Table> {
    let texts = comparison.compact.texts.iter().map(|text| (text.name.as_str(), text.divergence));
    let overall = ("all tokens", comparison.compact.overall.divergence);
    let rows = texts.chain([overall]).filter_map(|(name, divergence)| {
        let d = divergence?;
        let nats =
            [d.mean, d.stderr, d.median, d.p90, d.p95, d.p99, d.p999, d.max].map(|nats| fixed(nats, 4));
        let shares = [d.top1_agreement, d.delta_p_mean, d.delta_p_rms].map(percent);
        Some([vec![name.to_owned()], nats.into(), shares.into()].concat())
    });
    let head = [
        "text",
        "mean",
        "± standard error",
        "median",
        "p90",
        "p95",
        "p99",
        "p99.9",
        "max",
        "top-1 agreement",
        "Δp, mean",
        "Δp, RMS",
    ];
    let mut rows: Vec<_> = rows.collect();
    let total = Some(rows.pop()?);
    Some(Table { total, ..Table::new(&head, rows) })
}

/// Tokens per second, where they were measured.
pub(crate) fn speed(comparison: &Comparison) -> Table {
    let words = |value: Option<f64>| value.map_or("-".to_owned(), |value| fixed(value, 0));
    let row = |name: &str, before: Option<f64>, after: Option<f64>| {
        let ratio = after.zip(before).map_or("-".to_owned(), |(after, before)| times(after, before));
        (before.is_some() || after.is_some())
            .then(|| vec![name.to_owned(), words(before), words(after), ratio])
    };
    let decode = row(
        "decoding one sequence",
        comparison.original_decode_tokens_per_second,
        comparison.compact_decode_tokens_per_second,
    );
    let scoring = row(
        "scoring texts, all threads",
        comparison.original.as_ref().and_then(|original| original.tokens_per_second),
        comparison.compact.tokens_per_second,
    );
    let rows = [decode, scoring].into_iter().flatten().collect();
    Table::new(&["tokens per second", "original", "compact", "times"], rows)
}

/// What the quality gates came to; none without gates.
pub(crate) fn gates(report: &Report) -> Option<Table> {
    let number =
        |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{}", (value * 1e6).round() / 1e6));
    let row = |verdict: &Verdict| {
        let word = if verdict.failed { "failed" } else { "passed" };
        vec![verdict.gate.clone(), number(verdict.value), number(verdict.bound), word.to_owned()]
    };
    let rows: Vec<_> = report.gates.iter().map(row).collect();
    (!rows.is_empty()).then(|| Table::new(&["fails if", "measured", "bound", "verdict"], rows))
}

/// What was predicted beside what was measured; none where nothing was predicted.
pub(crate) fn losses(report: &Report) -> Option<Table> {
    let row = |loss: &LossReport| {
        let measured = loss.measured.map_or("-".to_owned(), |nats| fixed(nats, 4));
        vec![loss.what.clone(), fixed(loss.predicted, 4), measured]
    };
    let rows: Vec<_> = report.losses.iter().map(row).collect();
    (!rows.is_empty())
        .then(|| Table::new(&["increase of the loss, nats per token", "predicted", "measured"], rows))
}

/// What questions came to, the original's figures beside; none without questions.
pub(crate) fn answers(report: &Report) -> Option<Table> {
    let mut rows = vec![];
    for task in &report.tasks {
        let Some(result) = report.results.get(&task.name) else { continue };
        let original = report.original_results.get(&task.name);
        for (key, value) in &result.figures {
            let Some(name) = key.strip_suffix(",none").filter(|name| !name.ends_with("_stderr")) else {
                continue;
            };
            let stderr = result.figures.get(&format!("{name}_stderr,none")).copied().unwrap_or_default();
            let before = original.and_then(|original| original.figures.get(key)).map(|value| percent(*value));
            rows.push(vec![
                format!("{}, {name}", task.name),
                count(task.questions as u64),
                count(task.shots as u64),
                before.unwrap_or_else(|| "-".to_owned()),
                format!("{} ± {}", percent(*value), percent(stderr)),
            ]);
        }
    }
    let head = ["task", "questions", "examples before each", "original", "compact"];
    (!rows.is_empty()).then(|| Table::new(&head, rows))
}

/// How the models part on the way through their layers; none where that was not asked for.
pub(crate) fn drift(report: &Report) -> Option<Table> {
    let drift = report.drift.as_ref()?;
    let sqnr = |distance: &Distance| distance.sqnr_db.map_or("same".to_owned(), |db| fixed(db, 1));
    let none = || "-".to_owned();
    let row = |step: &Step| {
        let shares = step.routing.map(|r| [r.changed, r.kept, r.coverage, r.coverage_after].map(percent));
        let alone = step.alone.as_ref().map_or_else(none, sqnr);
        let states = vec![step.place.clone(), fixed(step.states.cosine, 4), sqnr(&step.states), alone];
        [states, shares.unwrap_or_else(|| [(); 4].map(|()| none())).into()].concat()
    };
    let head = [
        "after",
        "cosine",
        "signal to noise, dB",
        "of the layer alone",
        "tokens with other experts",
        "choices kept",
        "experts reached, original",
        "compact",
    ];
    let shares = [drift.changed, drift.kept, drift.coverage, drift.coverage_after].map(percent);
    let total = [vec!["mean over layers".to_owned(), none(), none(), none()], shares.into()].concat();
    Some(Table { total: Some(total), ..Table::new(&head, drift.steps.iter().map(row).collect()) })
}

/// The files that were evaluated on.
pub(crate) fn files(sampling: &TextsReport) -> Table {
    let row = |file: &TextReport| {
        let counts = [file.windows, file.tokens, file.scored].map(|number| count(number as u64));
        [vec![file.file.clone()], counts.into(), vec![count(file.bytes), file.sha256.clone()]].concat()
    };
    let head = ["file", "windows", "tokens", "scored", "bytes scored", "SHA-256"];
    Table::new(&head, sampling.files.iter().map(row).collect())
}

/// What is left of the experts of each layer.
pub(crate) fn experts(report: &Report) -> Table {
    let row = |layer: &LayerReport| {
        let experts = &layer.experts;
        // Those that were merged are listed once, with the first of them.
        let left: Vec<_> = experts
            .iter()
            .enumerate()
            .filter(|(index, e)| e.atoms > 0 && e.shared_by.first() == Some(index))
            .map(|(_, e)| e)
            .collect();
        let atoms: usize = left.iter().map(|e| e.atoms).sum();
        let before: usize = experts.iter().map(|e| e.atoms_before).sum();
        let bytes: u64 = left.iter().map(|e| e.bytes).sum();
        let weighted: f64 = left.iter().map(|e| e.bpw * e.atoms as f64).sum();
        let unreached = match experts.iter().any(|e| e.tokens.is_some()) {
            true => count(experts.iter().filter(|e| e.tokens == Some(0)).count() as u64),
            false => "-".to_owned(),
        };
        vec![
            layer.layer.to_string(),
            format!("{} of {}", left.len(), experts.len()),
            percent(atoms as f64 / before.max(1) as f64),
            fixed(weighted / atoms.max(1) as f64, 2),
            self::bytes(bytes),
            unreached,
        ]
    };
    let head = ["layer", "experts left", "atoms left", "bits per weight", "size", "unreached"];
    Table::new(&head, report.layers.iter().map(row).collect())
}

/// Wall time by phase, and memory up to its end.
pub(crate) fn phases(report: &Report) -> Table {
    let peak = |bytes: Option<u64>| bytes.map_or("-".to_owned(), memory);
    let row =
        |phase: &PhaseReport| vec![phase.what.clone(), seconds(phase.seconds), peak(phase.peak_memory_bytes)];
    let total = vec!["everything".to_owned(), seconds(report.seconds.total), peak(report.peak_memory_bytes)];
    let rows = report.phases.iter().map(row).collect();
    Table { total: Some(total), ..Table::new(&["phase", "wall time", "peak memory so far"], rows) }
}

/// How tokens are spread over experts, on the original and on the result; columns of what was not measured are left
/// out. None when nothing was.
pub(crate) fn routing(report: &Report) -> Option<Table> {
    let all = || report.routing.iter().chain(&report.routing_after);
    all().next()?;
    let mut head = vec!["layer", "variation", "busiest", "evenness", "closest pair", "its share"];
    let succeeds = all().any(|layer| layer.succession.is_some());
    head.extend(succeeds.then_some("likeliest next"));
    let runs: Vec<usize> =
        all().flat_map(|layer| &layer.runs).filter(|r| r.srp.is_some()).map(|r| r.tokens).collect();
    let runs: Vec<usize> =
        runs.iter().enumerate().filter(|(i, run)| !runs[..*i].contains(run)).map(|(_, run)| *run).collect();
    let of_runs: Vec<String> =
        runs.iter().flat_map(|run| [format!("SRP {run}"), format!("SCH {run}")]).collect();
    head.extend(of_runs.iter().map(String::as_str));
    let row = |(which, layer): (&str, &RoutingReport)| {
        let known = |value: Option<f64>, words: fn(f64) -> String| value.map_or("-".to_owned(), words);
        let name = format!("{}{which}", layer.layer);
        let pair = layer.pairs.first();
        let mut cells = vec![
            name,
            fixed(layer.variation, 2),
            format!("{}×", fixed(layer.peak, 2)),
            fixed(layer.evenness, 3),
            pair.map_or("-".to_owned(), |pair| format!("{} and {}", pair.first, pair.second)),
            known(pair.map(|pair| pair.of_first), percent),
        ];
        if succeeds {
            cells.push(known(layer.succession.as_ref().map(|s| s.likeliest), percent));
        }
        for run in &runs {
            let found = layer.runs.iter().find(|r| r.tokens == *run);
            cells.push(known(found.and_then(|r| r.srp), |srp| fixed(srp, 3)));
            cells.push(known(found.map(|r| r.sch), percent));
        }
        cells
    };
    let before = report.routing.iter().map(|layer| ("", layer));
    let after = report.routing_after.iter().map(|layer| (", compact", layer));
    Some(Table::new(&head, before.chain(after).map(row).collect()))
}

/// What the columns of [`routing`] mean.
pub(crate) const ROUTING: &str = "variation: standard deviation of tokens per expert over their mean; busiest: \
    tokens of the most used expert over the mean; evenness: entropy over that of equal use; closest pair: the two \
    experts that most tokens go to both of, and their share of the tokens of the first; likeliest next: how often a \
    token goes on to the expert that most tokens of its expert in the layer before go on to; SRP m: best F1 of a \
    fixed set of experts for m consecutive tokens; SCH m: share of uses that a cache of twice the experts of a token \
    serves that knows m tokens ahead, the first use in a window being a miss";

/// What a run took beside time.
pub(crate) fn resources(report: &Report) -> Vec<(&'static str, String)> {
    let mut rows = vec![("threads", count(report.threads as u64))];
    if report.predicted_peak_memory_bytes > 0 {
        rows.push(("peak memory, predicted", memory(report.predicted_peak_memory_bytes)));
    }
    rows.push((
        "peak memory, measured",
        report.peak_memory_bytes.map_or_else(|| "not known".to_owned(), memory),
    ));
    if report.spool_bytes > 0 {
        rows.push(("activations on disk, predicted", memory(report.spool_bytes)));
    }
    rows
}

/// Original and compact in one line: `13.4 MB → 3.20 MB, perplexity 28.0 → 30.1`.
pub(crate) fn headline(report: &Report) -> String {
    let of = |evaluation: &Evaluation| crate::units::short(evaluation.overall.likelihood.perplexity);
    let size = match report.before == report.after {
        true => bytes(report.after.total.bytes),
        false => format!("{} → {}", bytes(report.before.total.bytes), bytes(report.after.total.bytes)),
    };
    match &report.evaluation {
        None => format!("{size}, {} bits per weight", fixed(report.after.bpw, 2)),
        Some(Comparison { original: None, compact, .. }) => format!("{size}, perplexity {}", of(compact)),
        Some(Comparison { original: Some(original), compact, .. }) => {
            format!("{size}, perplexity {} → {}", of(original), of(compact))
        }
    }
}
