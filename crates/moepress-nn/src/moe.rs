//! Gated experts and the router that chooses among them.

use crate::ops::{add_rows, from_rows, select_rows, to_rows};
use crate::watch::{Watch, watched};
use crate::{Linear, Side, Site};
use burn::tensor::Tensor;
use burn::tensor::activation::{silu, softmax};
use moepress_model::{Part, Projection, Routing};

/// One gated MLP: down(silu(gate x) · up x). A segment of an expert, or a dense MLP.
pub struct Gated {
    pub(crate) gate: Box<dyn Linear>,
    pub(crate) up: Box<dyn Linear>,
    pub(crate) down: Box<dyn Linear>,
}

impl Gated {
    /// `[n, hidden]` → `[n, hidden]`; `part` names the weights for the watch.
    pub fn forward(
        &self,
        x: Tensor<2>,
        part: impl Fn(Projection) -> Part,
        watch: &mut dyn Watch,
    ) -> Tensor<2> {
        let mut output = |map: &dyn Linear, projection| {
            let site = Site { part: part(projection), side: Side::Output };
            watch.tensor(site, map.forward(x.clone()))
        };
        let gate = output(&*self.gate, Projection::Gate);
        let up = output(&*self.up, Projection::Up);
        watched(&*self.down, part(Projection::Down), silu(gate) * up, watch)
    }
}

/// Where the tokens of a batch go.
pub struct Routed {
    /// Router logits `[tokens, rows]`.
    pub logits: Tensor<2>,
    /// What each expert's output is multiplied by, `[tokens, experts]`; zero where it is not chosen.
    pub gates: Tensor<2>,
    /// The tokens of each expert, ascending.
    pub tokens: Vec<Vec<u32>>,
}

/// The router and the routed experts of one layer.
pub struct Experts {
    pub(crate) routing: Routing,
    /// Router row → expert.
    pub(crate) rows: Vec<usize>,
    /// 0/1 `[rows, experts]` when several rows lead to one expert.
    pub(crate) fold: Option<Tensor<2>>,
    pub(crate) router: Box<dyn Linear>,
    /// Segments of each expert.
    pub(crate) experts: Vec<Vec<Gated>>,
}

impl Experts {
    /// Number of experts.
    pub fn len(&self) -> usize {
        self.experts.len()
    }

    /// Whether there are no experts.
    pub fn is_empty(&self) -> bool {
        self.experts.is_empty()
    }

    /// Chooses rows for `[tokens, hidden]`: the largest logits, ties to the lower row. Differentiable in
    /// the gates, with the choice held fixed.
    pub fn route(&self, x: Tensor<2>) -> Routed {
        let logits = self.router.forward(x);
        let [tokens, rows] = logits.dims();
        let values = to_rows(logits.clone());
        let mut mask = vec![0.0; tokens * rows];
        let mut routed = vec![Vec::new(); self.experts.len()];
        let mut order: Vec<usize> = Vec::with_capacity(rows);
        for token in 0..tokens {
            let logit = &values[token * rows..(token + 1) * rows];
            order.clear();
            order.extend(0..rows);
            order.select_nth_unstable_by(self.routing.top_k - 1, |&a, &b| {
                logit[b].total_cmp(&logit[a]).then(a.cmp(&b))
            });
            for &row in &order[..self.routing.top_k] {
                mask[token * rows + row] = 1.0;
                let list: &mut Vec<u32> = &mut routed[self.rows[row]];
                if list.last() != Some(&(token as u32)) {
                    list.push(token as u32);
                }
            }
        }
        let mask = from_rows(mask, [tokens, rows], &logits.device());
        let mut gates = softmax(logits.clone(), 1) * mask;
        if self.routing.renormalise {
            gates = gates.clone() / gates.sum_dim(1);
        }
        if let Some(fold) = &self.fold {
            gates = gates.matmul(fold.clone());
        }
        Routed { logits, gates, tokens: routed }
    }

    /// One expert on the tokens routed to it, `[n, hidden]` → `[n, hidden]`, before its gate.
    pub fn expert(&self, expert: usize, x: Tensor<2>, watch: &mut dyn Watch) -> Tensor<2> {
        let [n, hidden] = x.dims();
        let mut sum: Option<Tensor<2>> = None;
        let first = Part::Expert { expert, segment: 0, projection: Projection::Gate };
        let x = watch.tensor(Site { part: first, side: Side::Input }, x);
        for (segment, gated) in self.experts[expert].iter().enumerate() {
            let part = |projection| Part::Expert { expert, segment, projection };
            let y = gated.forward(x.clone(), part, watch);
            sum = Some(match sum {
                Some(sum) => sum + y,
                None => y,
            });
        }
        let output = sum.unwrap_or_else(|| Tensor::zeros([n, hidden], &x.device()));
        watch.expert(expert, &output);
        output
    }

    /// `[tokens, hidden]` of normed hidden states → the weighted sum of the chosen experts.
    pub fn forward(&self, x: Tensor<2>, watch: &mut dyn Watch) -> Tensor<2> {
        let routed = self.route(x.clone());
        watch.routed(&routed);
        let [tokens, hidden] = x.dims();
        let mut sum = Tensor::zeros([tokens, hidden], &x.device());
        for (expert, chosen) in routed.tokens.iter().enumerate().filter(|(_, chosen)| !chosen.is_empty()) {
            let y = self.expert(expert, select_rows(&x, chosen), watch);
            let gate = select_rows(&routed.gates.clone().slice([0..tokens, expert..expert + 1]), chosen);
            sum = add_rows(sum, chosen, y * gate);
        }
        sum
    }
}
