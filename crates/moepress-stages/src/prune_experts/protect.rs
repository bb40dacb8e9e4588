//! Experts that stay whatever their scores: `protect: super`, a list of `layer:expert`, or both in one list.
//!
//! Super experts (arXiv 2507.23279, by the rule of REAP, arXiv 2510.13999) are the few whose outputs hold massive
//! activations: max |E(x)| above the 99.5th percentile of all experts and above a tenth of the largest, in the first
//! three quarters of the layers with experts.

use crate::evidence::Evidence;
use moepress_model::ModelSpec;
use moepress_recipe::{Params, RecipeError};
use moepress_stats::{Of, Quantity, StatisticsError};
use std::collections::BTreeSet;

const KEY: &str = "protect";
const QUANTILE: f64 = 0.995;
const OF_LARGEST: f64 = 0.1;
const OF_LAYERS: f64 = 0.75;

/// Layer and index of an expert.
type Place = (usize, usize);

/// Who is protected.
#[derive(Clone, Debug, Default)]
pub(super) struct Protect {
    super_experts: bool,
    listed: BTreeSet<Place>,
}

impl Protect {
    pub(super) fn read(params: &Params) -> Result<Self, RecipeError> {
        let mut protect = Self::default();
        if !params.has(KEY) {
            return Ok(protect);
        }
        for text in params.texts(KEY)? {
            let place = text.split_once(':').and_then(|(l, e)| Some((l.parse().ok()?, e.parse().ok()?)));
            match place {
                Some(place) => drop(protect.listed.insert(place)),
                None if text == "super" => protect.super_experts = true,
                None => {
                    let message =
                        format!("is `super` or a list of layer:expert such as [0:3, 1:7], not `{text}`");
                    return Err(params.error(KEY, message));
                }
            }
        }
        Ok(protect)
    }

    /// Whether the model has the experts listed.
    pub(super) fn check(&self, spec: &ModelSpec, params: &Params) -> Result<(), RecipeError> {
        let missing =
            |&&(layer, expert): &&Place| spec.moe(layer).is_none_or(|moe| expert >= moe.experts.len());
        match self.listed.iter().find(missing) {
            Some((layer, expert)) => {
                Err(params.error(KEY, format!("the model has no expert {layer}:{expert}")))
            }
            None => Ok(()),
        }
    }

    /// The experts that stay, and what is to be said about those that were not named.
    pub(super) fn places(
        &self,
        evidence: &Evidence<'_>,
    ) -> Result<(BTreeSet<Place>, Option<String>), StatisticsError> {
        if !self.super_experts {
            return Ok((self.listed.clone(), None));
        }
        let (found, threshold) = super_experts(evidence)?;
        let names: Vec<String> = found.iter().map(|(layer, expert)| format!("{layer}:{expert}")).collect();
        let note = match names.is_empty() {
            true => "no expert is a super expert".to_owned(),
            false => format!("protected as super experts (layer:expert): {}", names.join(" ")),
        };
        let note = format!("{note}; outputs above {threshold:.4} make one");
        Ok((found.union(&self.listed).copied().collect(), Some(note)))
    }
}

/// Super experts, and the threshold above which outputs make one.
fn super_experts(evidence: &Evidence<'_>) -> Result<(BTreeSet<Place>, f64), StatisticsError> {
    let mut outputs = Vec::new();
    for (layer, _) in evidence.spec.moe_layers() {
        let of_layer = evidence.stats.get(Of::Layer(layer), Quantity::OutputMax)?;
        outputs.extend(of_layer.iter().enumerate().map(|(expert, &most)| ((layer, expert), most)));
    }
    let mut sorted: Vec<f64> = outputs.iter().map(|(_, most)| *most).collect();
    sorted.sort_by(f64::total_cmp);
    let threshold = quantile(&sorted, QUANTILE).max(OF_LARGEST * sorted.last().copied().unwrap_or(0.0));
    let layers: Vec<usize> = evidence.spec.moe_layers().map(|(layer, _)| layer).collect();
    let early = &layers[..(layers.len() as f64 * OF_LAYERS) as usize];
    let is_super = |((layer, _), most): &(Place, f64)| *most > threshold && early.contains(layer);
    Ok((outputs.into_iter().filter(is_super).map(|(place, _)| place).collect(), threshold))
}

/// Between the two nearest of ascending values, linearly.
fn quantile(sorted: &[f64], q: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return 0.0 };
    let place = q * last as f64;
    let below = (place.floor() as usize).min(last);
    let above = (below + 1).min(last);
    sorted[below] + (place - below as f64) * (sorted[above] - sorted[below])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::toy::{decide, stage, toy};
    use moepress_model::Edit;
    use moepress_stats::Statistics;

    fn stats(outputs: [[f64; 4]; 2]) -> Statistics {
        let mut stats = Statistics::default();
        for (layer, outputs) in outputs.into_iter().enumerate() {
            stats.add(Of::Layer(layer), Quantity::Tokens, vec![4.0, 3.0, 2.0, 1.0]).unwrap();
            stats.add(Of::Layer(layer), Quantity::OutputMax, outputs.to_vec()).unwrap();
        }
        stats
    }

    fn kept(keys: &str, outputs: [[f64; 4]; 2]) -> (Vec<Vec<usize>>, Vec<String>) {
        let yaml = format!("prune_experts: {{method: frequency, ratio: 0.5, {keys}}}");
        let decision = decide(&yaml, &stats(outputs));
        let experts = |edit: &Edit| match edit {
            Edit::KeepExperts { experts, .. } => experts.clone(),
            other => panic!("{other:?}"),
        };
        (decision.edits.iter().map(experts).collect(), decision.notes)
    }

    #[test]
    fn massive_outputs_protect_but_not_in_the_last_quarter() {
        // Of two layers the first counts. The percentile lies between the two largest.
        let (experts, notes) = kept("protect: super", [[1.0, 2.0, 1.0, 90.0], [1.0, 2.0, 80.0, 3.0]]);
        assert_eq!(experts, [[0, 3], [0, 1]]);
        assert_eq!(notes, ["protected as super experts (layer:expert): 0:3; outputs above 89.6500 make one"]);
        let (experts, notes) = kept("protect: super", [[1.0; 4]; 2]);
        assert_eq!(experts, [[0, 1], [0, 1]]);
        assert!(notes[0].starts_with("no expert is a super expert"), "{notes:?}");
    }

    #[test]
    fn listed_experts_stay() {
        assert_eq!(kept("protect: [0:2, 1:3]", [[1.0; 4]; 2]).0, [[0, 2], [0, 3]]);
        assert_eq!(kept("protect: [super, 1:3]", [[1.0, 2.0, 1.0, 90.0], [1.0; 4]]).0, [[0, 3], [0, 3]]);
        assert_eq!(kept("protect: 1:3", [[1.0; 4]; 2]).0, [[0, 1], [0, 3]]);
    }

    #[test]
    fn what_is_not_there_is_refused() {
        let check = |keys: &str| {
            let yaml = format!("prune_experts: {{ratio: 0.5, {keys}}}");
            stage(&yaml).check(&toy()).unwrap_err().to_string()
        };
        assert!(check("protect: [0:4]").contains("the model has no expert 0:4"));
        assert!(check("protect: [7:0]").contains("the model has no expert 7:0"));
    }

    #[test]
    fn quantiles_are_those_of_numpy() {
        let sorted = [1.0, 2.0, 4.0, 8.0];
        assert_eq!([0.0, 0.5, 1.0].map(|q| quantile(&sorted, q)), [1.0, 3.0, 8.0]);
        assert!((quantile(&sorted, 0.995) - 7.94).abs() < 1e-12);
        assert_eq!((quantile(&[5.0], 0.995), quantile(&[], 0.5)), (5.0, 0.0));
    }
}
