//! What experts that are fitted anew should return: what those of the original returned to the same tokens.
//!
//! An expert stands for itself, or for those it was merged from. What is missing of a token because experts were dropped, or
//! because gates are now divided among others, is shared out among the experts that are left, in proportion to their gates.

use crate::CalibrateError;
use crate::activations::Slot;
use crate::layer::{build, dense_on};
use crate::reached::Down;
use crate::walk::Walk;
use moepress_checkpoint::Share;
use moepress_nn::{Block, Expert, Ignore, Mlp, Routed, Tensor, add_rows, select_rows, to_rows};
use moepress_stats::Statistics;
use std::collections::{BTreeMap, BTreeSet};

/// For each of some experts those of the original that it stands for, by their index there.
pub(crate) type Originals = BTreeMap<usize, Vec<(usize, Expert)>>;

impl Walk<'_> {
    /// For every row of the router the expert of the original that it led to.
    pub(crate) fn rows_of_original(&self, layer: usize) -> Vec<usize> {
        let all = self.undecided.original.spec().moe(layer).map_or(&[][..], |moe| &moe.router);
        match self.undecided.rows.get(&layer) {
            Some(rows) => rows.iter().filter_map(|&row| all.get(row).copied()).collect(),
            None => all.to_vec(),
        }
    }

    pub(crate) fn originals(
        &self,
        layer: usize,
        refit: &[usize],
        rows: &[usize],
    ) -> Result<Originals, CalibrateError> {
        let (Some(moe), false) = (self.source.spec().moe(layer), refit.is_empty()) else {
            return Ok(Originals::new());
        };
        let members = moe.members(rows);
        // A share is an ascending list.
        let all: BTreeSet<usize> = refit.iter().flat_map(|&expert| members[expert].clone()).collect();
        let all: Vec<usize> = all.into_iter().collect();
        let loaded = self.load_originals(layer, &all)?;
        let mut loaded: BTreeMap<usize, Expert> = loaded.into_iter().collect();
        let own = |&expert: &usize| {
            let own = members[expert].iter().filter_map(|member| Some((*member, loaded.remove(member)?)));
            (expert, own.collect())
        };
        Ok(refit.iter().map(own).collect())
    }

    fn load_originals(
        &self,
        layer: usize,
        experts: &[usize],
    ) -> Result<Vec<(usize, Expert)>, CalibrateError> {
        let (original, device) = (self.undecided.original, &self.sweep.device);
        let weights = original.share(layer, &Share::Experts(experts.to_vec()))?;
        build(original.spec(), layer, weights, &dense_on(device), device, |builder| {
            experts.iter().map(|&expert| Ok((expert, builder.expert(expert)?))).collect()
        })
    }

    /// Keeps for every token what the experts of the original returned to it and those that are left, as they were there, no
    /// longer return. None where rows are all there or nothing is fitted.
    pub(crate) fn find_missing(
        &mut self,
        layer: usize,
        block: &Block,
    ) -> Result<Option<Slot>, CalibrateError> {
        let (original, rows) = (self.undecided.original, self.rows_of_original(layer));
        let fitted = self.undecided.refit.range((layer, 0)..(layer + 1, 0)).next().is_some();
        let (Some(moe), Mlp::Moe(left), true) = (original.spec().moe(layer), &block.mlp, fitted) else {
            return Ok(None);
        };
        if rows.len() == moe.router.len() {
            return Ok(None);
        }
        let device = self.sweep.device.clone();
        let core = original.share(layer, &Share::Core)?;
        let core =
            build(original.spec(), layer, core, &dense_on(&device), &device, |builder| builder.core())?;
        let Mlp::Moe(whole) = &core.mlp else { return Ok(None) };
        let all: Vec<usize> = (0..moe.experts.len()).collect();
        let mut found = None;
        for (turn, group) in all.chunks(self.held).enumerate() {
            let experts = self.load_originals(layer, group)?;
            let (from, to) = (found, Slot::Missing(turn % 2 == 0));
            let Self { sweep, acts, .. } = &mut *self;
            sweep.pass(acts, &mut Statistics::default(), &[to], |acts, i, chunk| {
                let normed = block.mlp_input(sweep.rows(acts.read(Slot::Attended, i)?, chunk));
                let (was, now) = (whole.route(normed.clone()), left.route_to(normed.clone(), &rows));
                let mut sum = match from {
                    Some(from) => sweep.rows(acts.read(from, i)?, chunk),
                    None => normed.zeros_like(),
                };
                for (index, expert) in &experts {
                    let of = |routed: &Routed| routed.tokens.get(*index).cloned().unwrap_or_default();
                    let tokens: BTreeSet<u32> = of(&was).into_iter().chain(of(&now)).collect();
                    let tokens: Vec<u32> = tokens.into_iter().collect();
                    if tokens.is_empty() {
                        continue;
                    }
                    let gates = match *index < now.tokens.len() {
                        true => was.gates_at(*index, &tokens) - now.gates_at(*index, &tokens),
                        false => was.gates_at(*index, &tokens),
                    };
                    let y = expert.forward(*index, select_rows(&normed, &tokens), &mut Ignore);
                    sum = add_rows(sum, &tokens, y * gates);
                }
                Ok((vec![to_rows(sum)], Statistics::default()))
            })?;
            if let Some(from) = from {
                acts.drop(from)?;
            }
            found = Some(to);
        }
        Ok(found)
    }
}

/// The gated outputs of the `down_proj` of several experts, summed for each of the tokens `of`, whose rows are `x`.
pub(crate) fn together(experts: &[(usize, Expert)], x: &Tensor<2>, of: &[u32], routed: &Routed) -> Tensor<2> {
    let mut sum = x.zeros_like();
    for (index, expert) in experts {
        let places =
            of.iter().zip(0..).filter(|(token, _)| routed.tokens[*index].binary_search(token).is_ok());
        let places: Vec<u32> = places.map(|(_, place)| place).collect();
        if places.is_empty() {
            continue;
        }
        let mut down = Down::default();
        expert.forward(*index, select_rows(x, &places), &mut down);
        if let Some(y) = down.output {
            sum = add_rows(sum, &places, y * routed.gates_of(*index));
        }
    }
    sum
}

/// What is missing of every token, `[tokens, hidden]`, for a gate of one.
pub(crate) fn per_gate(missing: Tensor<2>, routed: &Routed) -> Tensor<2> {
    // Chosen experts have gates above 0; a token without any has no part in any sum.
    missing / routed.gates.clone().sum_dim(1).clamp_min(1e-6)
}
