//! The second half of MC-SMoE (arXiv 2310.01334, section 3.3): every matrix of an expert that is left as a product of two thin
//! ones and some rows of what is missing, W ≈ L R + S. By singular values alone, without the paper's training.
//!
//! Parameters: `low_rank`, the rank of L R, and `rest`, the share of the rows of S that are kept. All experts are
//! written so, merged or not, in bf16: how many bytes that takes does not depend on which are merged.

use moepress_model::{Edit, ModelSpec, Part, Projection, Solver, Tensor};
use moepress_quant::codec::Packing;
use moepress_quant::{Format, LowRank};
use moepress_recipe::{Params, RecipeError};

pub(super) const KEYS: &[&str] = &["low_rank", "rest"];

/// What is kept of every matrix.
pub(super) struct Parts {
    rank: usize,
    rest: f64,
}

impl Parts {
    pub(super) fn read(params: &Params) -> Result<Option<Self>, RecipeError> {
        if !params.has("low_rank") {
            return match params.has("rest") {
                true => Err(params.error("rest", "belongs with `low_rank`")),
                false => Ok(None),
            };
        }
        let rank = params.usize_in("low_rank", None, 1..=LowRank::MOST)?;
        Ok(Some(Self { rank, rest: params.f64_in("rest", Some(0.1), 0.0..=1.0)? }))
    }

    pub(super) fn describe(&self) -> String {
        format!(", of rank {} and {:.0} % of the rows that lack most", self.rank, 100.0 * self.rest)
    }

    fn format(&self, rows: usize) -> LowRank {
        LowRank { rank: self.rank, kept: (self.rest * rows as f64).round() as usize }
    }

    /// Refuses what takes no fewer bytes than the matrices themselves.
    pub(super) fn check(&self, spec: &ModelSpec, params: &Params) -> Result<(), RecipeError> {
        for (layer, _) in spec.moe_layers() {
            // All experts have one width.
            for edit in self.edits(spec, layer, 1) {
                let Edit::Encode { tensor, format, .. } = edit else { continue };
                let Some(&[rows, cols]) = spec.shape(tensor).as_deref() else { continue };
                let (bytes, plain) = (format.stored_bytes(rows, cols), spec.stored_bytes(tensor));
                let fits = matches!(format, Format::LowRank(low_rank) if low_rank.fits(rows, cols));
                if !fits || bytes >= plain {
                    let rest = 100.0 * self.rest;
                    let message = format!(
                        "of {} with {rest:.0} % of the rows is no smaller than {tensor} itself, {rows} × {cols}; lower it or `rest`",
                        self.rank
                    );
                    return Err(params.error("low_rank", message));
                }
            }
        }
        Ok(())
    }

    /// The edits for a layer of which so many experts are left.
    pub(super) fn edits(&self, spec: &ModelSpec, layer: usize, experts: usize) -> Vec<Edit> {
        let matrix =
            |expert| Projection::ALL.map(|projection| Part::Expert { expert, segment: 0, projection });
        let edit = |part| {
            let tensor = Tensor::Layer(layer, part);
            let rows = spec.shape(tensor).and_then(|shape| shape.first().copied()).unwrap_or(0);
            let format = Format::LowRank(self.format(rows));
            Edit::Encode { tensor, format, solver: Solver::Nearest, grid: None, codec: Packing::Fields }
        };
        (0..experts).flat_map(matrix).map(edit).collect()
    }
}

#[cfg(test)]
mod tests {
    use crate::toy::{refused, stage, toy};
    use moepress_model::{Edit, Tensor};
    use moepress_stats::{Of, Quantity, Statistics};

    fn statistics() -> Statistics {
        let mut stats = Statistics::default();
        for layer in 0..2 {
            stats.add(Of::Layer(layer), Quantity::Tokens, vec![4.0, 3.0, 2.0, 1.0]).unwrap();
            let gram = (0..16).map(|at| if at / 4 == at % 4 { 1.0 } else { 0.5 }).collect();
            stats.add(Of::Layer(layer), Quantity::RouterGram, gram).unwrap();
        }
        stats
    }

    #[test]
    fn every_matrix_of_an_expert_takes_what_was_promised() {
        let decision =
            crate::toy::decide("merge_experts: {ratio: 0.5, low_rank: 1, rest: 0.25}", &statistics());
        let after = toy().after(&decision.edits).unwrap();
        let mut bytes = 0;
        for edit in &decision.edits {
            if let Edit::Encode { tensor: tensor @ Tensor::Layer(..), format, .. } = edit {
                assert_eq!(after.format(*tensor), Some(*format));
                let [rows, cols] = after.shape(*tensor).unwrap()[..] else { panic!("no matrix") };
                let kept = (rows as f64 * 0.25).round() as usize;
                assert_eq!(after.stored_bytes(*tensor), (2 * (rows + cols + kept * cols) + 4 * kept) as u64);
                bytes += after.stored_bytes(*tensor);
            }
        }
        let experts: u64 = after.bytes_by_class()[&moepress_model::Class::Experts].1;
        assert_eq!(bytes, experts, "no matrix of an expert is left out");
    }

    #[test]
    fn what_saves_nothing_or_stands_alone_is_refused() {
        assert!(refused("merge_experts: {ratio: 0.5, rest: 0.5}").contains("low_rank"));
        assert!(refused("merge_experts: {ratio: 0.5, low_rank: 0}").contains("low_rank"));
        let error = stage("merge_experts: {ratio: 0.5, low_rank: 6}").check(&toy()).unwrap_err().to_string();
        assert!(error.contains("no smaller") && error.contains("low_rank"), "{error}");
        assert!(stage("merge_experts: {ratio: 0.5, low_rank: 1}").check(&toy()).is_ok());
    }
}
