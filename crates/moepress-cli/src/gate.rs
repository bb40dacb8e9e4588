//! Quality gates: `--fail-if METRIC>NUMBER`.

use crate::failure::Failure;
use moepress_eval::Evaluation;
use moepress_pipeline::Sizes;
use moepress_recipe::unknown_word;
use serde::Serialize;
use std::str::FromStr;

/// What gates can ask about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    /// Negative log-likelihood in nats per token, the mean over texts.
    Nll,
    /// How much that is above the original's.
    NllIncrease,
    /// Perplexity over the original's.
    PplRatio,
    /// Mean Kullback–Leibler divergence from the original in nats per token.
    KldMean,
    /// Its 99th percentile.
    KldP99,
    /// Fraction of tokens where the likeliest next token is the original's.
    Top1,
    /// Bytes of all tensors.
    SizeBytes,
    /// Bits per weight, everything counted.
    Bpw,
    /// Bytes over the original's.
    SizeRatio,
}

impl Metric {
    const ALL: [(&'static str, Self); 9] = [
        ("nll", Self::Nll),
        ("nll_increase", Self::NllIncrease),
        ("ppl_ratio", Self::PplRatio),
        ("kld_mean", Self::KldMean),
        ("kld_p99", Self::KldP99),
        ("top1", Self::Top1),
        ("size_bytes", Self::SizeBytes),
        ("bpw", Self::Bpw),
        ("size_ratio", Self::SizeRatio),
    ];

    /// Whether it takes text to measure.
    pub fn needs_text(self) -> bool {
        !matches!(self, Self::SizeBytes | Self::Bpw | Self::SizeRatio)
    }

    /// Whether it takes the original to compare with.
    pub fn needs_original(self) -> bool {
        !matches!(self, Self::Nll | Self::SizeBytes | Self::Bpw)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Relation {
    Above,
    Below,
    AtLeast,
    AtMost,
}

/// A condition under which a command fails.
#[derive(Clone, Debug, PartialEq)]
pub struct Gate {
    pub metric: Metric,
    relation: Relation,
    bound: f64,
    /// As written.
    text: String,
}

impl FromStr for Gate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let shape = "write METRIC>NUMBER, or <, >=, <=, such as kld_mean>0.05";
        let at = text.find(['<', '>']).ok_or(shape)?;
        let (word, rest) = (text[..at].trim(), &text[at + 1..]);
        let (rest, inclusive) = rest.strip_prefix('=').map_or((rest, false), |rest| (rest, true));
        let relation = match (text.as_bytes()[at], inclusive) {
            (b'>', false) => Relation::Above,
            (b'<', false) => Relation::Below,
            (b'>', true) => Relation::AtLeast,
            _ => Relation::AtMost,
        };
        let names = Metric::ALL.map(|(name, _)| name);
        let known = Metric::ALL.into_iter().find(|(name, _)| *name == word);
        let (_, metric) = known.ok_or_else(|| unknown_word("metric", word, &names))?;
        let bound: f64 =
            rest.trim().parse().map_err(|_| format!("`{}` is no number; {shape}", rest.trim()))?;
        if !bound.is_finite() {
            return Err(format!("`{}` is no finite number", rest.trim()));
        }
        Ok(Self { metric, relation, bound, text: text.to_owned() })
    }
}

/// What a gate came to.
#[derive(Debug, PartialEq, Serialize)]
pub struct Verdict {
    gate: String,
    /// The value measured.
    value: Option<f64>,
    failed: bool,
}

impl Gate {
    /// An error if the gate needs what will not be measured; `help` says how to have it measured.
    pub fn check(&self, text: bool, original: bool, help: &str) -> Result<(), Failure> {
        if (self.metric.needs_text() && !text) || (self.metric.needs_original() && !original) {
            return Err(Failure::usage(format!("--fail-if '{}': {help}", self.text)));
        }
        Ok(())
    }

    fn judge(&self, measured: &Measured<'_>) -> Verdict {
        let value = measured.value(self.metric);
        let failed = value.is_none_or(|value| match self.relation {
            Relation::Above => value > self.bound,
            Relation::Below => value < self.bound,
            Relation::AtLeast => value >= self.bound,
            Relation::AtMost => value <= self.bound,
        });
        Verdict { gate: self.text.clone(), value, failed }
    }
}

impl Verdict {
    /// The line about a gate that failed.
    fn line(&self) -> Option<String> {
        let value = self.value.map_or("not measured".into(), |value| format!("measured {value}"));
        self.failed.then(|| format!("{} ({value})", self.gate))
    }
}

/// What gates are held against.
pub struct Measured<'a> {
    pub size: &'a Sizes,
    pub original_size: Option<&'a Sizes>,
    pub evaluation: Option<&'a Evaluation>,
    pub original: Option<&'a Evaluation>,
}

impl Measured<'_> {
    fn value(&self, metric: Metric) -> Option<f64> {
        let nll = self.evaluation.map(|evaluation| evaluation.overall.likelihood.nll);
        let increase = || Some(nll? - self.original?.overall.likelihood.nll);
        let divergence = || self.evaluation?.overall.divergence;
        match metric {
            Metric::Nll => nll,
            Metric::NllIncrease => increase(),
            Metric::PplRatio => increase().map(f64::exp),
            Metric::KldMean => divergence().map(|divergence| divergence.mean),
            Metric::KldP99 => divergence().map(|divergence| divergence.p99),
            Metric::Top1 => divergence().map(|divergence| divergence.top1_agreement),
            Metric::SizeBytes => Some(self.size.total.bytes as f64),
            Metric::Bpw => Some(self.size.bpw),
            Metric::SizeRatio => {
                Some(self.size.total.bytes as f64 / self.original_size?.total.bytes.max(1) as f64)
            }
        }
    }

    /// Every gate's verdict.
    pub fn judge(&self, gates: &[Gate]) -> Vec<Verdict> {
        gates.iter().map(|gate| gate.judge(self)).collect()
    }
}

/// One line for every gate that failed.
pub fn failed(verdicts: &[Verdict]) -> Vec<String> {
    verdicts.iter().filter_map(Verdict::line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gates_are_read() {
        let gate: Gate = " kld_mean >= 5e-2".parse().unwrap();
        assert_eq!((gate.metric, gate.relation, gate.bound), (Metric::KldMean, Relation::AtLeast, 0.05));
        let relations =
            ["bpw>1", "bpw<1", "bpw>=1", "bpw<=1"].map(|text| text.parse::<Gate>().unwrap().relation);
        assert_eq!(relations, [Relation::Above, Relation::Below, Relation::AtLeast, Relation::AtMost]);
        for (text, reason) in [
            ("kld_men>1", "unknown metric `kld_men`; did you mean `kld_mean`?"),
            ("bpw", "write METRIC>NUMBER"),
            ("bpw>", "`` is no number"),
            ("bpw>x", "`x` is no number"),
            ("bpw>nan", "no finite number"),
            ("bpw=>1", "unknown metric `bpw=`"),
            ("", "write METRIC>NUMBER"),
            (">1", "unknown metric ``"),
        ] {
            let error = text.parse::<Gate>().unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn gates_ask_for_what_they_need() {
        let check = |text: &str, texts, original| {
            text.parse::<Gate>()
                .unwrap()
                .check(texts, original, "needs more")
                .map_err(|failure| failure.code())
        };
        assert_eq!(check("top1<0.9", true, false), Err(2));
        assert_eq!(check("nll>3", false, true), Err(2));
        assert_eq!(check("nll>3", true, false), Ok(()));
        assert_eq!(check("size_ratio>0.3", false, true), Ok(()));
        assert_eq!(check("bpw>3", false, false), Ok(()));
    }

    #[test]
    fn gates_judge_and_never_pass_unmeasured() {
        let sizes = |bytes| Sizes {
            total: moepress_pipeline::SizeOf { weights: 100, bytes },
            bpw: 4.0,
            classes: Default::default(),
        };
        let (size, original) = (sizes(50), sizes(200));
        let measured =
            Measured { size: &size, original_size: Some(&original), evaluation: None, original: None };
        let gates = ["size_ratio>0.25", "size_ratio>=0.25", "size_bytes<51", "bpw>4", "bpw<=4", "nll>1"]
            .map(|t| t.parse().unwrap());
        let verdicts = measured.judge(&gates);
        assert_eq!(
            failed(&verdicts),
            [
                "size_ratio>=0.25 (measured 0.25)",
                "size_bytes<51 (measured 50)",
                "bpw<=4 (measured 4)",
                "nll>1 (not measured)"
            ]
        );
    }
}
