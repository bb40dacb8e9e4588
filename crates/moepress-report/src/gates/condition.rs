//! `METRIC > BOUND`: what is written, and what it comes to.

use super::{Metric, Needs, alike};
use moepress_pipeline::Verdict;
use serde_json::Value;
use std::str::FromStr;

const SHAPE: &str = "write METRIC>BOUND, or <, >=, <=; METRIC may be of one text, as in ppl[novel]; BOUND is a number, or \
     a sum of numbers and multiples of `stderr`, `original` and `baseline`, such as 1.02*baseline+2*stderr";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Relation {
    Above,
    Below,
    AtLeast,
    AtMost,
}

/// What a term of a bound is a multiple of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    One,
    /// The standard error of the difference that is judged.
    Stderr,
    /// The value of the original.
    Original,
    /// The value in the stored report.
    Baseline,
}

/// A condition under which a command fails.
#[derive(Clone, Debug, PartialEq)]
pub struct Gate {
    metric: Metric,
    /// The text that it is about; all of them without.
    of: Option<String>,
    relation: Relation,
    bound: Vec<(f64, Unit)>,
    /// As written.
    text: String,
}

/// What will be measured.
#[derive(Clone, Debug, Default)]
pub struct Available<'a> {
    /// Names of the texts that are evaluated on.
    pub texts: Vec<String>,
    /// Names of the tasks that are asked.
    pub tasks: Vec<String>,
    /// Whether both models are walked.
    pub drift: bool,
    /// Whether the model is compared with the original, token by token.
    pub original: bool,
    /// Whether the original itself is there, not only its distributions.
    pub original_model: bool,
    /// Whether the comparison token by token knows the original's whole distributions.
    pub whole_distributions: bool,
    /// Whether speed is measured.
    pub speed: bool,
    /// Whether the original is measured on calibration text.
    pub calibration: bool,
    /// The stored report.
    pub baseline: Option<&'a Value>,
}

impl FromStr for Gate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let at = text.find(['<', '>']).ok_or(SHAPE)?;
        let (word, rest) = (text[..at].trim(), &text[at + 1..]);
        let (rest, inclusive) = rest.strip_prefix('=').map_or((rest, false), |rest| (rest, true));
        let relation = match (text.as_bytes()[at], inclusive) {
            (b'>', false) => Relation::Above,
            (b'<', false) => Relation::Below,
            (b'>', true) => Relation::AtLeast,
            _ => Relation::AtMost,
        };
        let (name, of) = match word.strip_suffix(']').and_then(|word| word.split_once('[')) {
            Some((name, of)) => (name.trim(), Some(of.trim().to_owned())),
            None => (word, None),
        };
        let metric = Metric::named(name)?;
        if of.is_some() && !metric.has_texts() && !metric.has_tasks() {
            return Err(format!("`{name}` is not measured text by text"));
        }
        let bound = bound(rest)?;
        let has = |unit| bound.iter().any(|(_, other)| *other == unit);
        if has(Unit::Original) && !metric.has_original() {
            return Err(format!(
                "`{name}` compares with the original already, or the original has no such figure"
            ));
        }
        let paired = has(Unit::Original) && !matches!(metric.name, "nll" | "ppl");
        if has(Unit::Stderr) && (!metric.has_stderr() || paired) {
            return Err(format!(
                "`{name}` has no standard error{}",
                if paired { " beside the original" } else { "" }
            ));
        }
        Ok(Self { metric, of, relation, bound, text: text.trim().to_owned() })
    }
}

/// Terms of a sum: `1.02*baseline + 2*stderr`.
fn bound(text: &str) -> Result<Vec<(f64, Unit)>, String> {
    let mut terms = Vec::new();
    let mut rest = text.trim();
    let mut sign = 1.0;
    if let Some(after) = rest.strip_prefix('-') {
        (sign, rest) = (-1.0, after);
    }
    loop {
        let (term, after) = term(rest)?;
        terms.push((sign * term.0, term.1));
        rest = after.trim_start();
        sign = match rest.chars().next() {
            None => return Ok(terms),
            Some('+') => 1.0,
            Some('-') => -1.0,
            Some(_) => return Err(format!("`{}` is no number; {SHAPE}", text.trim())),
        };
        rest = &rest[1..];
    }
}

/// One term, and what follows it.
fn term(text: &str) -> Result<((f64, Unit), &str), String> {
    let (mut factor, mut unit) = (1.0, None);
    let mut rest = text.trim_start();
    for part in 0.. {
        let end = factor_end(rest);
        let word = rest[..end].trim();
        rest = &rest[end..];
        match (word, unit) {
            ("stderr", None) => unit = Some(Unit::Stderr),
            ("original", None) => unit = Some(Unit::Original),
            ("baseline", None) => unit = Some(Unit::Baseline),
            _ => {
                let number: f64 = word.parse().map_err(|_| format!("`{word}` is no number; {SHAPE}"))?;
                if !number.is_finite() {
                    return Err(format!("`{word}` is no finite number"));
                }
                factor *= number;
            }
        }
        match rest.strip_prefix('*') {
            Some(after) if part < 2 => rest = after,
            _ => break,
        }
    }
    Ok(((factor, unit.unwrap_or(Unit::One)), rest))
}

/// Where a factor ends: at an operator that is no sign of an exponent.
fn factor_end(text: &str) -> usize {
    let bytes = text.as_bytes();
    let sign_of_exponent =
        |at: usize| at >= 2 && matches!(bytes[at - 1], b'e' | b'E') && bytes[at - 2].is_ascii_digit();
    let ends = |at: usize| match bytes[at] {
        b'*' => true,
        b'+' | b'-' => at > 0 && !sign_of_exponent(at),
        _ => false,
    };
    (0..bytes.len()).find(|&at| ends(at)).unwrap_or(bytes.len())
}

impl Gate {
    /// As it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether it needs a stored report.
    pub fn needs_baseline(&self) -> bool {
        self.has(Unit::Baseline)
    }

    fn has(&self, unit: Unit) -> bool {
        self.bound.iter().any(|(_, other)| *other == unit)
    }

    /// Refuses a gate on what will not be measured.
    ///
    /// # Errors
    /// What it needs, and how to have it.
    pub fn check(&self, available: &Available<'_>) -> Result<(), String> {
        let needs = match self.metric.needs {
            Needs::Text if self.has(Unit::Original) => Needs::Original,
            Needs::Tasks if self.has(Unit::Original) => Needs::TasksOfOriginal,
            Needs::Nothing if self.has(Unit::Original) => Needs::OriginalSize,
            needs => needs,
        };
        let text = !available.texts.is_empty();
        let lacks = match needs {
            Needs::Text if !text => Some("needs text to evaluate on: `evaluate` in the recipe, with files"),
            Needs::Original if !text => {
                Some("needs text to evaluate on: `evaluate` in the recipe, with files")
            }
            Needs::Original if !available.original => {
                Some("needs the original to compare with: --against or --base")
            }
            Needs::Original if !available.whole_distributions && self.metric.name.starts_with("kld_") => {
                Some(
                    "needs the original's whole distributions: the base file holds the likeliest tokens only, which bounds the \
                 divergence from below (save it with --base-top all)",
                )
            }
            Needs::OriginalSize if !available.original_model => {
                Some("needs the original to compare with: --against")
            }
            Needs::Run if !available.speed => {
                Some("is measured by `moepress run` with `evaluate` in the recipe")
            }
            Needs::Tasks | Needs::TasksOfOriginal if available.tasks.is_empty() => {
                Some("needs questions: `moepress eval --task FILE`")
            }
            Needs::TasksOfOriginal if !available.original_model => {
                Some("needs the original to compare with: --against")
            }
            Needs::Drift if !available.drift => Some("is measured by `moepress eval --drift`"),
            Needs::Calibration if !available.calibration => Some("is measured by a run that calibrates"),
            _ => None,
        };
        if let Some(lacks) = lacks {
            return Err(lacks.to_owned());
        }
        let (kind, names) = match self.metric.has_tasks() {
            true => ("task", &available.tasks),
            false => ("text", &available.texts),
        };
        match &self.of {
            Some(of) if !names.contains(of) => {
                let known = names.iter().map(String::as_str).collect::<Vec<_>>();
                return Err(moepress_recipe::unknown_word(kind, of, &known));
            }
            None if self.metric.has_tasks() && names.len() > 1 => {
                return Err(format!("name the task: {}[{}]", self.metric.name, names[0]));
            }
            _ => {}
        }
        if self.needs_baseline() {
            let of = self.of.as_deref();
            match available.baseline {
                None => {
                    return Err("needs a stored report: --baseline FILE, or `baseline` of `gates`".to_owned());
                }
                Some(report) if self.metric.value(report, of).is_none() => {
                    return Err(format!("the stored report has no `{}`", self.metric.name));
                }
                Some(report) if self.has(Unit::Stderr) && self.metric.stderr(report, of).is_none() => {
                    return Err(format!("the stored report has no standard error of `{}`", self.metric.name));
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// What it comes to. A gate whose metric was not measured fails, and so does one that asks about a stored report in
    /// which the metric is of other text.
    pub fn judge(&self, report: &Value, baseline: Option<&Value>) -> Verdict {
        let of = self.of.as_deref();
        let value = self.metric.value(report, of);
        let baseline = baseline.filter(|baseline| alike(&self.metric, report, baseline, of));
        let unit = |unit| match unit {
            Unit::One => Some(1.0),
            Unit::Original => self.metric.of_original(report, of),
            Unit::Baseline => self.metric.value(baseline?, of),
            Unit::Stderr if self.has(Unit::Original) => self.metric.stderr_of_increase(report, of),
            Unit::Stderr if self.has(Unit::Baseline) => {
                // Two evaluations, taken as independent.
                let [ours, theirs] = [Some(report), baseline].map(|report| self.metric.stderr(report?, of));
                Some(ours?.hypot(theirs?))
            }
            Unit::Stderr => self.metric.stderr(report, of),
        };
        let bound: Option<f64> =
            self.bound.iter().map(|&(factor, of)| Some(factor * unit(of)?)).sum::<Option<f64>>();
        let failed = value.zip(bound).is_none_or(|(value, bound)| match self.relation {
            Relation::Above => value > bound,
            Relation::Below => value < bound,
            Relation::AtLeast => value >= bound,
            Relation::AtMost => value <= bound,
        });
        Verdict { gate: self.text.clone(), value, bound, failed }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;

    fn gate(text: &str) -> Gate {
        text.parse().unwrap()
    }

    #[test]
    fn gates_are_read() {
        let read = gate(" kld_mean[novel] >= 5e-2+ 2*stderr - baseline*1e-1 ");
        assert_eq!(
            (read.metric.name, read.of.as_deref(), read.relation),
            ("kld_mean", Some("novel"), Relation::AtLeast)
        );
        assert_eq!(read.bound, [(0.05, Unit::One), (2.0, Unit::Stderr), (-0.1, Unit::Baseline)]);
        assert_eq!(gate("delta_p_mean<-0.01").bound, [(-0.01, Unit::One)]);
        assert_eq!(gate("delta_p_mean<-0.01 - stderr").bound, [(-0.01, Unit::One), (-1.0, Unit::Stderr)]);
        assert_eq!(gate("ppl>1.03*original*1").bound, [(1.03, Unit::Original)]);
        let relations = ["bpw>1", "bpw<1", "bpw>=1", "bpw<=1"].map(|text| gate(text).relation);
        assert_eq!(relations, [Relation::Above, Relation::Below, Relation::AtLeast, Relation::AtMost]);
        for (text, reason) in [
            ("kld_men>1", "unknown metric `kld_men`; did you mean `kld_mean`?"),
            ("bpw", "write METRIC>BOUND"),
            ("bpw>", "`` is no number"),
            ("bpw>x", "`x` is no number"),
            ("bpw>1+", "`` is no number"),
            ("bpw>1 2", "`1 2` is no number"),
            ("bpw>nan", "no finite number"),
            ("bpw>2*-", "`-` is no number"),
            ("bpw>baseline*original", "`original` is no number"),
            ("bpw=>1", "unknown metric `bpw=`"),
            ("bpw[novel]>1", "`bpw` is not measured text by text"),
            ("bpw>1+stderr", "`bpw` has no standard error"),
            ("kld_p99>1+stderr", "`kld_p99` has no standard error"),
            ("top1<original", "compares with the original already"),
            ("ppl[novel>1", "unknown metric `ppl[novel`"),
            ("", "write METRIC>BOUND"),
            (">1", "unknown metric ``"),
        ] {
            let error = text.parse::<Gate>().unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn gates_ask_for_what_they_need() {
        let report = serde_json::to_value(sample::plain()).unwrap();
        let all = Available {
            texts: vec!["novel".into()],
            tasks: vec!["quiz".into(), "more".into()],
            drift: true,
            original: true,
            original_model: true,
            whole_distributions: true,
            speed: true,
            calibration: true,
            baseline: Some(&report),
        };
        let lacks = |text: &str, available: &Available<'_>| gate(text).check(available).unwrap_err();
        assert!(lacks("nll>3", &Available::default()).contains("needs text"));
        assert!(lacks("top1<0.9", &Available { original: false, ..all.clone() }).contains("--against"));
        assert!(lacks("nll>original", &Available { original: false, ..all.clone() }).contains("--against"));
        let bounded = Available { whole_distributions: false, ..all.clone() };
        assert!(lacks("kld_p99>1", &bounded).contains("--base-top all"));
        assert_eq!(gate("top1<1").check(&bounded), Ok(()));
        assert!(lacks("coverage<1", &Available { calibration: false, ..all.clone() }).contains("calibrates"));
        assert!(lacks("nll[nvel]>3", &all).contains("unknown text `nvel`; did you mean `novel`?"));
        assert!(
            lacks("bpw>baseline", &Available { baseline: None, ..all.clone() }).contains("--baseline FILE")
        );
        assert!(lacks("nll>baseline", &all).contains("the stored report has no `nll`"));
        assert!(lacks("acc<0.5", &all).contains("name the task: acc[quiz]"));
        assert!(lacks("acc[quip]<0.5", &all).contains("unknown task `quip`; did you mean `quiz`?"));
        assert!(lacks("flips>0.1", &Available { tasks: vec![], ..all.clone() }).contains("--task FILE"));
        let unasked = Available { original_model: false, ..all.clone() };
        assert!(lacks("flips[quiz]>0.1", &unasked).contains("--against"));
        assert!(lacks("bpw>0.5*original", &unasked).contains("--against"));
        assert!(lacks("acc[quiz]<0.9*original", &unasked).contains("--against"));
        assert!(lacks("routing_kept<1", &Available { drift: false, ..all.clone() }).contains("--drift"));
        for text in
            ["acc[quiz]<0.5", "nll[novel]>3", "size_ratio>0.3", "bpw>baseline", "decode_tokens_per_second<1"]
        {
            assert_eq!(gate(text).check(&all), Ok(()), "{text}");
        }
    }

    #[test]
    fn gates_judge_and_never_pass_unmeasured() {
        let report = serde_json::to_value(sample::evaluated()).unwrap();
        let mut baseline = report.clone();
        baseline["evaluation"]["compact"]["overall"]["nll"] = 3.3.into();
        let judge = |text: &str| {
            let verdict = gate(text).judge(&report, Some(&baseline));
            (verdict.failed, verdict.value.unwrap(), verdict.bound.unwrap())
        };
        // Of the sample: nll 3.385 ± 0.012 beside 3.33, their paired difference ± 0.002; size 3,198,000 of 13,408,000.
        assert_eq!(judge("size_bytes>3198000"), (false, 3_198_000.0, 3_198_000.0));
        assert!(judge("size_bytes>=3198000").0);
        assert!(judge("size_bytes<0.25*original").0 && !judge("size_bytes<0.2*original").0);
        let near = |found: f64, wanted: f64| assert!((found - wanted).abs() < 1e-9, "{found} {wanted}");
        near(judge("nll>3.38").1, 3.385);
        near(judge("nll>3+stderr").2, 3.012);
        near(judge("nll>original+10*stderr").2, 3.33 + 0.02);
        assert!(judge("nll>original+10*stderr").0 && !judge("nll>original+30*stderr").0);
        near(judge("nll>baseline+stderr").2, 3.3 + 0.012f64.hypot(0.012));
        assert!(!judge("nll>baseline+6*stderr").0 && judge("nll>baseline+4*stderr").0);
        assert!(judge("kld_mean[drama]>0.04").0);
        let unmeasured = serde_json::to_value(sample::plain()).unwrap();
        let verdict = gate("nll>100").judge(&unmeasured, None);
        assert_eq!((verdict.failed, verdict.value, verdict.bound), (true, None, Some(100.0)));
        assert_eq!(verdict.line(), Some("nll>100 (not measured)".to_owned()));
        let failed = gate("bpw<=16").judge(&report, None);
        assert!(failed.line().unwrap().starts_with("bpw<=16 (measured "), "{failed:?}");
    }
}
