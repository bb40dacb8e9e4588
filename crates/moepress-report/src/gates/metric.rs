//! The figures of a report by name: what gates ask about, and what two reports are compared by.

use moepress_recipe::unknown_word;
use serde_json::Value;

/// What it takes to have a figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Nothing.
    Nothing,
    /// Text to evaluate on.
    Text,
    /// That, and the original to compare with.
    Original,
    /// The original, evaluated or not.
    OriginalSize,
    /// A run that evaluates, which also measures speed.
    Run,
    /// A run that measures the original on calibration text.
    Calibration,
}

/// Where a figure is in a report.
#[derive(Clone, Copy, Debug, PartialEq)]
enum At {
    /// A JSON pointer.
    Report(&'static str),
    /// The first over the second.
    Ratio(&'static str, &'static str),
    /// Pointers below the scores of all texts or of one: a figure, and its standard error.
    Score(&'static str, &'static str),
    /// The same; the scores of all texts have it at the first place, those of one at the second.
    Scores([&'static str; 2], [&'static str; 2]),
}

/// A figure that a report has.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// What it is, in a few words.
    pub meaning: &'static str,
    /// What it takes.
    pub needs: Needs,
    at: At,
    /// Where the same of the original is, if it is a figure of one model.
    original: Option<At>,
}

const fn metric(name: &'static str, meaning: &'static str, needs: Needs, at: At) -> Metric {
    Metric { name, meaning, needs, at, original: None }
}

const fn score(
    name: &'static str,
    meaning: &'static str,
    value: &'static str,
    stderr: &'static str,
) -> Metric {
    let at = At::Score(value, stderr);
    Metric { name, meaning, needs: Needs::Text, at, original: Some(at) }
}

const fn size(
    name: &'static str,
    meaning: &'static str,
    after: &'static str,
    before: &'static str,
) -> Metric {
    Metric { name, meaning, needs: Needs::Nothing, at: At::Report(after), original: Some(At::Report(before)) }
}

const fn distance(
    name: &'static str,
    meaning: &'static str,
    value: &'static str,
    stderr: &'static str,
) -> Metric {
    metric(name, meaning, Needs::Original, At::Score(value, stderr))
}

/// All of them.
pub const METRICS: [Metric; 25] = [
    score("nll", "negative log-likelihood in nats per token, the mean over texts", "nll", "stderr"),
    score("ppl", "perplexity, exp of nll", "perplexity", "perplexity_stderr"),
    score("bits_per_byte", "bits per byte of text", "bits_per_byte", ""),
    metric(
        "nll_increase",
        "nll above the original's",
        Needs::Original,
        At::Scores(
            ["nll_increase", "nll_increase_stderr"],
            ["divergence/nll_increase", "divergence/nll_increase_stderr"],
        ),
    ),
    metric(
        "ppl_ratio",
        "perplexity over the original's",
        Needs::Original,
        At::Scores(
            ["ppl_ratio", "ppl_ratio_stderr"],
            ["divergence/ppl_ratio", "divergence/ppl_ratio_stderr"],
        ),
    ),
    distance(
        "kld_mean",
        "mean Kullback-Leibler divergence from the original",
        "divergence/mean",
        "divergence/stderr",
    ),
    distance("kld_median", "median divergence", "divergence/median", ""),
    distance("kld_p90", "divergence that 90 % of tokens do not exceed", "divergence/p90", ""),
    distance("kld_p95", "divergence that 95 % of tokens do not exceed", "divergence/p95", ""),
    distance("kld_p99", "divergence that 99 % of tokens do not exceed", "divergence/p99", ""),
    distance("kld_p999", "divergence that 99.9 % of tokens do not exceed", "divergence/p999", ""),
    distance("kld_max", "divergence of the worst token", "divergence/max", ""),
    distance(
        "top1",
        "share of tokens where both find the same next token likeliest",
        "divergence/top1_agreement",
        "divergence/top1_stderr",
    ),
    distance(
        "delta_p_mean",
        "mean change of the probability of the token that comes",
        "divergence/delta_p_mean",
        "divergence/delta_p_stderr",
    ),
    distance("delta_p_rms", "root mean square of that change", "divergence/delta_p_rms", ""),
    size("size_bytes", "bytes of all tensors", "/after/bytes", "/before/bytes"),
    size("weights", "number of weights", "/after/weights", "/before/weights"),
    size("bpw", "bits per weight, everything counted", "/after/bpw", "/before/bpw"),
    metric(
        "size_ratio",
        "bytes over the original's",
        Needs::OriginalSize,
        At::Ratio("/after/bytes", "/before/bytes"),
    ),
    metric(
        "coverage",
        "share of experts that calibration tokens reached",
        Needs::Calibration,
        At::Report("/calibration/coverage"),
    ),
    metric(
        "calibration_nll",
        "negative log-likelihood of the original on the calibration text",
        Needs::Calibration,
        At::Report("/calibration/nll"),
    ),
    Metric {
        name: "decode_tokens_per_second",
        meaning: "speed of decoding one sequence",
        needs: Needs::Run,
        at: At::Report("/evaluation/compact_decode_tokens_per_second"),
        original: Some(At::Report("/evaluation/original_decode_tokens_per_second")),
    },
    Metric {
        name: "score_tokens_per_second",
        meaning: "speed of scoring text, all threads",
        needs: Needs::Text,
        at: At::Report("/evaluation/compact/tokens_per_second"),
        original: Some(At::Report("/evaluation/original/tokens_per_second")),
    },
    metric("seconds", "wall time of everything", Needs::Nothing, At::Report("/seconds/total")),
    metric("peak_memory_bytes", "peak of resident memory", Needs::Nothing, At::Report("/peak_memory_bytes")),
];

impl Metric {
    /// The metric of that name.
    ///
    /// # Errors
    /// There is none; the message has the nearest name.
    pub fn named(name: &str) -> Result<Self, String> {
        let found = METRICS.into_iter().find(|metric| metric.name == name);
        found.ok_or_else(|| unknown_word("metric", name, &METRICS.map(|metric| metric.name)))
    }

    /// Whether texts have it one by one.
    pub fn has_texts(&self) -> bool {
        matches!(self.at, At::Score(..) | At::Scores(..))
    }

    /// Whether the original has it too.
    pub fn has_original(&self) -> bool {
        self.original.is_some()
    }

    /// Whether it has a standard error.
    pub fn has_stderr(&self) -> bool {
        matches!(self.at, At::Score(_, stderr) if !stderr.is_empty()) || matches!(self.at, At::Scores(..))
    }

    /// Its value in a report, of one text or of all; none when it was not measured.
    pub fn value(&self, report: &Value, text: Option<&str>) -> Option<f64> {
        find(self.at, report, "compact", text, 0)
    }

    /// The value of the original in a report.
    pub fn of_original(&self, report: &Value, text: Option<&str>) -> Option<f64> {
        find(self.original?, report, "original", text, 0)
    }

    /// Its standard error in a report.
    pub fn stderr(&self, report: &Value, text: Option<&str>) -> Option<f64> {
        find(self.at, report, "compact", text, 1)
    }

    /// The standard error of its difference from the original's value: that of the paired differences.
    pub fn stderr_of_increase(&self, report: &Value, text: Option<&str>) -> Option<f64> {
        let nll = Self::named("nll_increase").ok()?.stderr(report, text)?;
        match self.name {
            "nll" => Some(nll),
            "ppl" => Some(nll * self.value(report, text)?),
            _ => None,
        }
    }
}

/// The value (`which` 0) or its standard error (1) of one of the two models.
fn find(at: At, report: &Value, model: &str, text: Option<&str>, which: usize) -> Option<f64> {
    let number = |pointer: &str| report.pointer(pointer)?.as_f64();
    let (of_all, of_one) = match at {
        At::Report(pointer) => return number(pointer).filter(|_| which == 0),
        At::Ratio(above, below) => {
            let ratio = number(above)? / number(below)?;
            return Some(ratio).filter(|ratio| which == 0 && ratio.is_finite());
        }
        At::Score(value, stderr) => ([value, stderr], [value, stderr]),
        At::Scores(of_all, of_one) => (of_all, of_one),
    };
    let evaluation = report.pointer("/evaluation")?.get(model)?;
    let (scores, path) = match text {
        None => (evaluation.get("overall")?, of_all[which]),
        Some(name) => {
            let texts = evaluation.get("texts")?.as_array()?;
            (texts.iter().find(|text| text["name"] == name)?, of_one[which])
        }
    };
    scores.pointer(&format!("/{path}")).filter(|_| !path.is_empty())?.as_f64()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;

    #[test]
    fn every_metric_is_in_a_report_with_everything() {
        let report = serde_json::to_value(sample::evaluated()).unwrap();
        for metric in METRICS {
            assert!(metric.value(&report, None).is_some(), "{}", metric.name);
            assert_eq!(metric.stderr(&report, None).is_some(), metric.has_stderr(), "{}", metric.name);
            assert_eq!(metric.of_original(&report, None).is_some(), metric.has_original(), "{}", metric.name);
            let of_text = metric.value(&report, Some("drama"));
            assert!(of_text.is_some() || !metric.has_texts(), "{}", metric.name);
            assert_eq!(metric.value(&report, Some("drame")).filter(|_| metric.has_texts()), None);
        }
        let names: std::collections::BTreeSet<_> = METRICS.iter().map(|metric| metric.name).collect();
        assert_eq!(names.len(), METRICS.len());
        assert!(Metric::named("kld_men").unwrap_err().contains("did you mean `kld_mean`?"));
    }

    #[test]
    fn what_was_not_measured_has_no_value() {
        let report = serde_json::to_value(sample::plain()).unwrap();
        for metric in METRICS {
            let there = matches!(metric.needs, Needs::Nothing | Needs::OriginalSize);
            assert_eq!(metric.value(&report, None).is_some(), there, "{}", metric.name);
        }
    }
}
