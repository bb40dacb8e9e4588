//! Reports for tests.

use moepress_eval::{Divergence, Evaluation, Histogram, Increase, Likelihood, Overall, TextScore};
use moepress_pipeline::{
    CalibrationReport, Comparison, ExpertReport, LayerReport, LossReport, PairReport, PhaseReport, Report,
    RoutingReport, RunReport, Seconds, SizeOf, Sizes, StageReport, SuccessionReport, TextReport, TextsReport,
    UnderMeasuredReport, Verdict,
};

const TEXTS: [&str; 3] = ["novel", "drama", "code"];

/// A run without evaluation and calibration.
pub(crate) fn plain() -> Report {
    let before =
        sizes([(2_000_000, 4_000_000), (1_000_000, 2_000_000), (3_700_000, 7_400_000), (4_000, 8_000)]);
    let after = sizes([(2_000_000, 1_130_000), (1_000_000, 580_000), (2_600_000, 1_480_000), (4_000, 8_000)]);
    let stage = |what: &str, notes: &[&str]| StageReport {
        what: what.to_owned(),
        edits: 96,
        notes: notes.iter().map(|&note| note.to_owned()).collect(),
        after: after.clone(),
    };
    Report {
        schema_version: 1,
        moepress: "0.1.0",
        command: "run",
        model: "models/sample-moe".to_owned(),
        against: None,
        family: "qwen3_moe".to_owned(),
        stages: vec![
            stage(
                "prune_atoms heapr: 25% ranked globally",
                &["2 experts were reached by no calibration token"],
            ),
            stage("quantize nearest: the formats of assign_bits", &[]),
        ],
        before,
        after,
        notes: vec![],
        layers: (1..4).map(|index| layer(index, false)).collect(),
        routing: vec![],
        routing_after: vec![],
        calibration: None,
        evaluation: None,
        losses: vec![],
        gates: vec![],
        phases: [("read text and headers", 0.3), ("measure for prune_atoms", 8.4), ("apply and write", 0.6)]
            .map(|(what, seconds)| PhaseReport {
                what: what.to_owned(),
                seconds,
                peak_memory_bytes: Some(200 << 20),
            })
            .to_vec(),
        seconds: Seconds { text: 0.3, measure: 8.4, decide: 0.05, write: 0.6, evaluate: 12.5, total: 21.85 },
        threads: 2,
        predicted_peak_memory_bytes: 250 << 20,
        spool_bytes: 0,
        peak_memory_bytes: Some(231 << 20),
        recipe: "version: 1\nmodel: models/sample-moe\nstages:\n- quantize:\n    solver: nearest\n"
            .to_owned(),
    }
}

/// A run with everything.
pub(crate) fn evaluated() -> Report {
    let texts = TEXTS.map(str::to_owned).to_vec();
    let calibration = CalibrationReport {
        texts,
        window: 256,
        tokens: 24_576,
        sampling: sampling(),
        nll: Some(3.31),
        unreached: vec![(1, 3), (1, 8), (3, 13)],
        min_tokens: 1,
        below_min_tokens: "rank",
        coverage: Some(0.9375),
        under_measured: [(1, 3), (1, 8), (3, 13)]
            .map(|(layer, expert)| UnderMeasuredReport { layer, expert, tokens: 0 })
            .to_vec(),
    };
    let evaluation = Comparison {
        sampling: sampling(),
        original: Some(evaluation(0.0, None)),
        compact: evaluation(0.055, Some(divergence())),
        original_decode_tokens_per_second: Some(812.4),
        compact_decode_tokens_per_second: Some(1204.0),
    };
    let losses = vec![LossReport { what: "prune_atoms".to_owned(), predicted: 0.031, measured: Some(0.035) }];
    let verdict = |gate: &str, value, bound, failed| Verdict {
        gate: gate.to_owned(),
        value: Some(value),
        bound: Some(bound),
        failed,
    };
    let gates = vec![verdict("kld_mean>0.1", 0.0412, 0.1, false), verdict("top1<0.95", 0.912, 0.95, true)];
    let layers = (1..4).map(|index| layer(index, true)).collect();
    let routing: Vec<_> = (1..4).map(routing).collect();
    let routing_after =
        routing.iter().map(|r| RoutingReport { variation: r.variation + 0.2, ..r.clone() }).collect();
    Report {
        calibration: Some(calibration),
        evaluation: Some(evaluation),
        layers,
        losses,
        gates,
        routing,
        routing_after,
        ..plain()
    }
}

/// A run whose every name is an attack.
pub(crate) fn hostile() -> Report {
    const ATTACK: &str = "\"'><script>alert(1)</script>&amp;\u{0}|`";
    let mut report = evaluated();
    report.model = ATTACK.to_owned();
    report.family = ATTACK.to_owned();
    report.recipe = ATTACK.to_owned();
    report.stages[0].what = ATTACK.to_owned();
    report.notes = vec![ATTACK.to_owned()];
    report.stages[0].notes = vec![ATTACK.to_owned()];
    report.calibration.iter_mut().for_each(|c| c.texts = vec![ATTACK.to_owned()]);
    report.calibration.iter_mut().for_each(|c| c.sampling.files[0].file = ATTACK.to_owned());
    report.gates[0].gate = ATTACK.to_owned();
    report.losses[0].what = ATTACK.to_owned();
    report.phases[0].what = ATTACK.to_owned();
    for evaluation in report.evaluation.iter_mut().flat_map(|c| c.original.iter_mut().chain([&mut c.compact]))
    {
        evaluation.texts.iter_mut().for_each(|text| text.name = ATTACK.to_owned());
    }
    report
}

fn sampling() -> TextsReport {
    let file = |name: &str, weight| TextReport {
        file: format!("{name}.jsonl"),
        weight,
        sha256: "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad".to_owned(),
        windows: (32.0 * weight) as usize,
        tokens: (8192.0 * weight) as usize,
        scored: (8160.0 * weight) as usize,
        bytes: (30_000.0 * weight) as u64,
        documents: 77,
    };
    let files = TEXTS.into_iter().zip([1.0, 0.5, 1.5]).map(|(name, weight)| file(name, weight)).collect();
    TextsReport { protocol: "paper", window: 256, stride: 256, seed: Some(7), bos: "window", files }
}

fn sizes(classes: [(u64, u64); 4]) -> Sizes {
    let names = ["embeddings", "attention", "experts", "norms"];
    let classes = names.into_iter().zip(classes.map(|(weights, bytes)| SizeOf { weights, bytes }));
    let classes: std::collections::BTreeMap<_, _> = classes.collect();
    let sum = |of: fn(&SizeOf) -> u64| classes.values().map(of).sum::<u64>();
    let total = SizeOf { weights: sum(|size| size.weights), bytes: sum(|size| size.bytes) };
    Sizes { total, bpw: 8.0 * total.bytes as f64 / total.weights as f64, classes }
}

fn layer(layer: usize, measured: bool) -> LayerReport {
    let expert = |index: usize| {
        let atoms = [32, 24, 0, 8, 17, 32, 16, 32][(index + layer) % 8];
        let shared_by = match (layer, index) {
            (2, 1 | 4) => vec![1, 4],
            (3, 6) => vec![],
            _ => vec![index],
        };
        let tokens = measured.then_some(if index % 5 == 3 { 0 } else { 1000 * index as u64 + 17 });
        ExpertReport { atoms_before: 32, atoms, shared_by, bytes: 3 * 16 * atoms as u64, bpw: 4.25, tokens }
    };
    LayerReport { layer, experts: (0..16).map(expert).collect() }
}

fn routing(layer: usize) -> RoutingReport {
    let pair = |first, second| PairReport { first, second, tokens: 1200, of_first: 0.41 };
    let run = |tokens, srp| RunReport { tokens, srp, held: srp.map(|_| 1.8), sch: 0.71, cache: 8 };
    RoutingReport {
        layer,
        variation: 0.62,
        peak: 2.4,
        evenness: 0.93,
        collaboration: Some(0.18),
        pairs: vec![pair(3, 7), pair(0, 12)],
        succession: (layer > 1)
            .then(|| SuccessionReport { likeliest: 0.44, pairs: vec![pair(5, 2), pair(1, 1)] }),
        runs: vec![run(4, Some(0.66)), run(16, Some(0.58)), run(64, Some(0.55)), run(256, None)],
    }
}

fn evaluation(worse: f64, divergence: Option<Divergence>) -> Evaluation {
    let likelihood = |nll: f64| {
        let nll = nll + worse;
        let (predictions, bytes, stderr) = (6120, 22_000, 0.012);
        let perplexity = nll.exp();
        let bits_per_byte = nll * predictions as f64 / std::f64::consts::LN_2 / bytes as f64;
        let perplexity_stderr = perplexity * stderr;
        Likelihood { predictions, nll, stderr, perplexity, perplexity_stderr, bytes, bits_per_byte }
    };
    let text = |(name, nll): (&str, f64)| TextScore {
        name: name.to_owned(),
        likelihood: likelihood(nll),
        divergence,
    };
    let texts = TEXTS.into_iter().zip([3.41, 3.72, 2.05]).map(text).collect();
    let increase = divergence.map(|_| Increase {
        nll_increase: 0.055,
        nll_increase_stderr: 0.002,
        ppl_ratio: 1.0565,
        ppl_ratio_stderr: 0.0021,
    });
    let histogram = divergence.map(|_| Histogram {
        bounds: (-24..=4).map(|quarter| 10f64.powf(f64::from(quarter) / 4.0)).collect(),
        counts: (0..30).map(|i: i32| (4000 / (1 + (i - 18) * (i - 18))) as usize).collect(),
    });
    let overall =
        Overall { likelihood: likelihood(3.33), by_token: likelihood(3.35), divergence, histogram, increase };
    Evaluation { overall, texts, tokens_per_second: 4100.0, original: None }
}

fn divergence() -> Divergence {
    Divergence {
        mean: 0.0412,
        stderr: 0.0006,
        median: 0.0201,
        p90: 0.0987,
        p95: 0.14,
        p99: 0.31,
        p999: 0.88,
        max: 1.83,
        top1_agreement: 0.912,
        top1_stderr: 0.002,
        delta_p_mean: -0.0091,
        delta_p_stderr: 0.0007,
        delta_p_rms: 0.081,
        nll_increase: 0.055,
        nll_increase_stderr: 0.003,
        ppl_ratio: 1.0565,
        ppl_ratio_stderr: 0.0032,
    }
}
