//! What a model was measured and evaluated on, in words.

use crate::units::{count, fixed};
use moepress_pipeline::{CalibrationReport, Report, TextReport, TextsReport};

/// What was measured on, as names and values.
pub(crate) fn calibration(report: &Report) -> Vec<(&'static str, String)> {
    let Some(c) = &report.calibration else { return vec![] };
    let experts: usize = report.layers.iter().map(|layer| layer.experts.len()).sum();
    let nll =
        c.nll.map(|nll| format!("{} nats per token, perplexity {}", fixed(nll, 4), fixed(nll.exp(), 2)));
    let missed = format!("{} of {}", count(c.unreached.len() as u64), count(experts as u64));
    let mut rows = vec![
        ("texts", c.texts.join(", ")),
        ("tokens", format!("{} in windows of {}", count(c.tokens as u64), count(c.window as u64))),
        ("windows", drawn(&c.sampling)),
        ("files", c.sampling.files.iter().map(file).collect::<Vec<_>>().join("; ")),
        ("experts no token reached", missed),
    ];
    rows.extend((!c.unreached.is_empty()).then(|| ("which", unreached(&c.unreached))));
    rows.extend(under_measured(c, experts));
    rows.extend(nll.map(|nll| ("the original on it", nll)));
    rows
}

/// A protocol of evaluation in one line.
pub fn protocol_in_words(sampling: &TextsReport) -> String {
    let TextsReport { protocol, window, stride, bos, .. } = sampling;
    let (window, stride) = (count(*window as u64), count(*stride as u64));
    let cut = match *protocol {
        "llama.cpp" => format!("windows of {window} tokens without overlap, the second half of each scored"),
        "strided" => format!(
            "windows of {window} tokens, one every {stride}, every token but a text's first scored once"
        ),
        _ => format!("windows of {window} tokens without overlap, all but the first token of each scored"),
    };
    let bos = match (*bos, *protocol) {
        ("none", _) => "no beginning-of-sequence token".to_owned(),
        ("document", "llama.cpp") => "the beginning-of-sequence token as the first of each".to_owned(),
        (place, _) => format!("the beginning-of-sequence token before every {place}"),
    };
    format!("Protocol {protocol}: {cut}; {bos}")
}

/// Which windows were taken of every file, and what is before them.
fn drawn(sampling: &TextsReport) -> String {
    let which = match sampling.seed {
        None => "the first of every file".to_owned(),
        Some(seed) => format!("drawn with seed {seed}"),
    };
    match sampling.bos {
        "none" => which,
        bos => format!("{which}, the beginning-of-sequence token before every {bos}"),
    }
}

/// `novel.txt: 16 windows of 1 document`, and the weight where it is not 1.
fn file(file: &TextReport) -> String {
    let of = |number: usize, what: &str| {
        format!("{} {what}{}", count(number as u64), if number == 1 { "" } else { "s" })
    };
    let weight = if file.weight == 1.0 { String::new() } else { format!(", weight {}", file.weight) };
    format!("{}: {} of {}{weight}", file.file, of(file.windows, "window"), of(file.documents, "document"))
}

/// Experts that fewer tokens reached than asked for, and what became of them, where the recipe says so.
fn under_measured(c: &CalibrationReport, experts: usize) -> Vec<(&'static str, String)> {
    let mut rows = vec![];
    if c.min_tokens > 1 {
        let (found, asked) = (count(c.under_measured.len() as u64), count(c.min_tokens as u64));
        let all = count(experts as u64);
        rows.push(("experts with too few tokens", format!("{found} of {all} with fewer than {asked}")));
        let layers = c.under_measured.chunk_by(|a, b| a.layer == b.layer).map(|run| {
            let list = run.iter().map(|e| format!("{} ({})", e.expert, count(e.tokens))).collect::<Vec<_>>();
            format!("layer {}: {}", run[0].layer, list.join(", "))
        });
        let layers = layers.collect::<Vec<_>>().join("; ");
        rows.extend((!layers.is_empty()).then_some(("which, and their tokens", layers)));
    }
    let what = match c.below_min_tokens {
        "keep" => "are neither removed nor pruned",
        "prune" => "are the first to be removed or pruned",
        "error" => "end the run",
        _ if c.min_tokens > 1 => "are ranked by their scores, those without tokens first",
        _ => return rows,
    };
    rows.push(("experts with too few tokens, policy", what.to_owned()));
    rows
}

/// `layer 0: 3, 7; layer 2: 1`.
fn unreached(experts: &[(usize, usize)]) -> String {
    let layers = experts.chunk_by(|a, b| a.0 == b.0).map(|run| {
        let indices: Vec<String> = run.iter().map(|(_, expert)| expert.to_string()).collect();
        format!("layer {}: {}", run[0].0, indices.join(", "))
    });
    layers.collect::<Vec<_>>().join("; ")
}
