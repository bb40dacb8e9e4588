//! What a sweep came to.

use super::PlannedPoint;
use crate::report::Report;
use crate::{PipelineError, Sizes};
use serde::{Deserialize, Serialize};

/// What a sweep came to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SweepReport {
    /// Version of this structure.
    pub schema_version: u32,
    /// Version of moepress.
    pub moepress: &'static str,
    /// Directory of the original, as given.
    pub model: String,
    /// Size of the original.
    pub original: Sizes,
    /// Negative log-likelihood of the original, nats per token; none when no point was reached.
    pub original_nll: Option<f64>,
    /// How well predicted losses order the points; none with fewer than three predictions.
    pub rank_correlation: Option<RankCorrelation>,
    /// All points, by method and budget in the order of the sweep.
    pub points: Vec<PointReport>,
    /// Wall time.
    pub seconds: SweepSeconds,
}

/// Wall time in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct SweepSeconds {
    /// The shared measurement.
    pub measure: f64,
    /// Everything.
    pub total: f64,
}

/// Spearman's rank correlation of predicted and measured increases of the negative log-likelihood.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct RankCorrelation {
    /// Points with both.
    pub points: usize,
    /// From −1 to 1, where both are in the same order.
    pub spearman: f64,
}

/// A method at a budget.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PointReport {
    /// Name of the method.
    pub method: String,
    /// The budget as written; none where the method has none.
    pub budget: Option<String>,
    /// Its stages and what they were told.
    pub stages: Vec<String>,
    /// What came out; none when it could not be done.
    pub result: Option<PointResult>,
    /// The file with the whole story.
    pub report: Option<String>,
    /// Why it could not be done.
    pub failed: Option<String>,
}

impl PointReport {
    pub(super) fn of(planned: &PlannedPoint) -> Self {
        let PlannedPoint { method, budget, stages, impossible, .. } = planned.clone();
        Self { method, budget, stages, result: None, report: None, failed: impossible }
    }
}

/// Size and quality of a point.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PointResult {
    /// Bytes of all tensors.
    pub bytes: u64,
    /// The same as a share of the original's.
    pub share: f64,
    /// Bits per weight.
    pub bpw: f64,
    /// Negative log-likelihood, nats per token, each text counting the same.
    pub nll: f64,
    /// That of the original.
    pub original_nll: f64,
    /// How much it grew.
    pub nll_increase: f64,
    /// What was predicted of that, where the stages predict it.
    pub predicted: Option<f64>,
    /// Mean Kullback-Leibler divergence from the original, nats per token.
    pub kld: f64,
    /// Share of tokens whose likeliest next token is the original's.
    pub top1: f64,
    /// Whether no other point has as few bytes and as low an NLL, one of them lower.
    pub best_nll: bool,
    /// The same with the divergence.
    pub best_kld: bool,
    /// Wall time in seconds, without the shared measurement.
    pub seconds: f64,
}

/// A point as it is stored.
pub(super) struct Finished {
    pub result: PointResult,
    /// `report.json` of its run.
    pub report: Vec<u8>,
}

impl PointResult {
    pub(super) fn of(report: &Report) -> Result<Self, PipelineError> {
        let missing = || PipelineError::Report("a point was not compared with the original".to_owned());
        let comparison = report.evaluation.as_ref().ok_or_else(missing)?;
        let nll_increase = comparison.nll_increase().ok_or_else(missing)?;
        let compact = &comparison.compact.overall;
        let divergence = compact.divergence.ok_or_else(missing)?;
        Ok(Self {
            bytes: report.after.total.bytes,
            share: report.after.total.bytes as f64 / report.before.total.bytes as f64,
            bpw: report.after.bpw,
            nll: compact.likelihood.nll,
            original_nll: compact.likelihood.nll - nll_increase,
            nll_increase,
            predicted: report.losses.iter().find(|loss| loss.measured.is_some()).map(|loss| loss.predicted),
            kld: divergence.mean,
            top1: divergence.top1_agreement,
            best_nll: false,
            best_kld: false,
            seconds: report.seconds.total,
        })
    }
}

impl SweepReport {
    /// The bytes of `sweep.json`.
    pub(super) fn json(&self) -> Result<Vec<u8>, PipelineError> {
        let mut bytes = serde_json::to_vec_pretty(self).map_err(|e| PipelineError::Report(e.to_string()))?;
        bytes.push(b'\n');
        Ok(bytes)
    }
}

/// Marks the points of the Pareto fronts: those that no other point beats in bytes or quality without losing in the
/// other.
pub(super) fn mark_best(reports: &mut [PointReport]) {
    let all: Vec<PointResult> = reports.iter().filter_map(|report| report.result).collect();
    let best = |point: &PointResult, quality: fn(&PointResult) -> f64| {
        !all.iter().any(|other| {
            let (smaller, better) = (other.bytes < point.bytes, quality(other) < quality(point));
            let no_worse = other.bytes <= point.bytes && quality(other) <= quality(point);
            no_worse && (smaller || better)
        })
    };
    for result in reports.iter_mut().filter_map(|report| report.result.as_mut()) {
        let point = *result;
        result.best_nll = best(&point, |result| result.nll_increase);
        result.best_kld = best(&point, |result| result.kld);
    }
}

/// Of the points that have a prediction.
pub(super) fn rank_correlation(reports: &[PointReport]) -> Option<RankCorrelation> {
    let results = reports.iter().filter_map(|report| report.result);
    let (predicted, measured): (Vec<f64>, Vec<f64>) =
        results.filter_map(|result| Some((result.predicted?, result.nll_increase))).unzip();
    let points = predicted.len();
    let spearman = (points > 2).then(|| spearman(&predicted, &measured))?;
    spearman.is_finite().then_some(RankCorrelation { points, spearman })
}

/// Pearson's correlation of the ranks; NaN where all values of one are the same.
fn spearman(a: &[f64], b: &[f64]) -> f64 {
    let [a, b] = [a, b].map(ranks);
    let mean = (a.len() as f64 - 1.0) / 2.0;
    let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - mean) * (b - mean)).sum::<f64>();
    product(&a, &b) / (product(&a, &a) * product(&b, &b)).sqrt()
}

/// Ranks from 0; equal values share the mean of theirs.
fn ranks(values: &[f64]) -> Vec<f64> {
    let below = |value: f64| values.iter().filter(|&&other| other < value).count() as f64;
    let equal = |value: f64| values.iter().filter(|&&other| other == value).count() as f64;
    values.iter().map(|&value| below(value) + (equal(value) - 1.0) / 2.0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(bytes: u64, nll_increase: f64, kld: f64, predicted: Option<f64>) -> PointReport {
        let result = PointResult {
            bytes,
            share: 0.0,
            bpw: 0.0,
            nll: 3.0 + nll_increase,
            original_nll: 3.0,
            nll_increase,
            predicted,
            kld,
            top1: 0.0,
            best_nll: false,
            best_kld: false,
            seconds: 0.0,
        };
        let method = "m".to_owned();
        PointReport { method, budget: None, stages: vec![], result: Some(result), report: None, failed: None }
    }

    #[test]
    fn the_front_is_what_nothing_beats() {
        let failed = PointReport { result: None, failed: Some("no".to_owned()), ..point(1, 0.0, 0.0, None) };
        let mut reports = vec![
            point(10, 3.0, 0.9, None),
            point(20, 2.0, 0.5, None),
            point(20, 2.0, 0.6, None),
            point(30, 2.0, 0.4, None),
            failed,
            point(40, 1.0, 0.4, None),
        ];
        mark_best(&mut reports);
        let marks: Vec<Option<(bool, bool)>> =
            reports.iter().map(|r| r.result.map(|r| (r.best_nll, r.best_kld))).collect();
        let wanted = [(true, true), (true, true), (true, false), (false, true)].map(Some);
        assert_eq!(marks[..4], wanted);
        assert_eq!(marks[4..], [None, Some((true, false))]);
    }

    #[test]
    fn ranks_are_correlated() {
        let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-12, "{a} {b}");
        close(spearman(&[1.0, 2.0, 3.0], &[0.1, 10.0, 11.0]), 1.0);
        close(spearman(&[1.0, 2.0, 3.0], &[3.0, 2.0, 1.0]), -1.0);
        // 1 − 6 Σ d² / (n (n² − 1)) with d = 1, 1, 0, 0.
        close(spearman(&[1.0, 2.0, 3.0, 4.0], &[2.0, 1.0, 3.0, 4.0]), 1.0 - 6.0 * 2.0 / 60.0);
        assert_eq!(ranks(&[5.0, 1.0, 5.0]), [1.5, 0.0, 1.5]);
        let reports: Vec<PointReport> = [(0.1, Some(0.2)), (0.3, Some(0.1)), (0.9, None), (0.4, Some(0.9))]
            .map(|(nll, predicted)| point(1, nll, 0.0, predicted))
            .into();
        let found = rank_correlation(&reports).unwrap();
        assert_eq!((found.points, found.spearman), (3, 0.5));
        assert_eq!(rank_correlation(&reports[..3]), None);
        assert_eq!(rank_correlation(&vec![point(1, 0.1, 0.1, Some(0.1)); 3]), None, "all the same");
    }
}
