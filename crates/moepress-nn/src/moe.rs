//! Gated experts and the router that chooses among them.

use crate::ops::{add_rows, from_rows, plus, select_rows};
use crate::routing::choose;
use crate::watch::{Watch, watched};
use crate::{Linear, Side, Site};
use burn::tensor::activation::{sigmoid, silu};
use burn::tensor::{Device, Tensor};
use moepress_model::{Activation, Part, Projection, Routing};

/// One gated MLP: down(activation(gate x, up x)). A segment of an expert, or a dense MLP.
pub struct Gated {
    pub(crate) gate: Box<dyn Linear>,
    pub(crate) up: Box<dyn Linear>,
    pub(crate) down: Box<dyn Linear>,
    /// Biases of gate, up and down.
    pub(crate) biases: [Option<Tensor<1>>; 3],
    pub(crate) activation: Activation,
}

impl Gated {
    /// `[n, hidden]` → `[n, hidden]`; `part` names the weights for the watch.
    pub fn forward(
        &self,
        x: Tensor<2>,
        part: impl Fn(Projection) -> Part,
        watch: &mut dyn Watch,
    ) -> Tensor<2> {
        let mut output = |map: &dyn Linear, projection, bias| {
            let site = Site { part: part(projection), side: Side::Output };
            plus(watch.tensor(site, map.forward(x.clone())), bias)
        };
        let [gate_bias, up_bias, down_bias] = self.biases.each_ref().map(Option::as_ref);
        let gate = output(&*self.gate, Projection::Gate, gate_bias);
        let up = output(&*self.up, Projection::Up, up_bias);
        let atoms = match self.activation {
            Activation::Silu => silu(gate) * up,
            Activation::ClampedSwiglu { alpha, limit } => {
                let gate = gate.clamp_max(limit);
                let slope = sigmoid(gate.clone().mul_scalar(alpha));
                (up.clamp(-limit, limit) + 1.0) * gate * slope
            }
        };
        plus(watched(&*self.down, part(Projection::Down), atoms, watch), down_bias)
    }
}

/// A routed expert.
pub struct Expert {
    pub(crate) segments: Vec<Gated>,
    /// Added to the sum of the segments.
    pub(crate) bias: Option<Tensor<1>>,
}

impl Expert {
    /// `[n, hidden]` → `[n, hidden]`, before the gate; `expert` is its index, for the watch.
    pub fn forward(&self, expert: usize, x: Tensor<2>, watch: &mut dyn Watch) -> Tensor<2> {
        let [n, hidden] = x.dims();
        let mut sum: Option<Tensor<2>> = None;
        let first = Part::Expert { expert, segment: 0, projection: Projection::Gate };
        let x = watch.tensor(Site { part: first, side: Side::Input }, x);
        for (segment, gated) in self.segments.iter().enumerate() {
            let part = |projection| Part::Expert { expert, segment, projection };
            let y = gated.forward(x.clone(), part, watch);
            sum = Some(match sum {
                Some(sum) => sum + y,
                None => y,
            });
        }
        let sum = sum.unwrap_or_else(|| Tensor::zeros([n, hidden], &x.device()));
        let output = plus(sum, self.bias.as_ref());
        watch.expert(expert, &output);
        output
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

impl Routed {
    /// Gates of the tokens of an expert, `[its tokens, 1]`.
    pub fn gates_of(&self, expert: usize) -> Tensor<2> {
        let [tokens, _] = self.gates.dims();
        select_rows(&self.gates.clone().slice([0..tokens, expert..expert + 1]), &self.tokens[expert])
    }
}

/// The matrix that sums the gates of rows leading to the same expert; none when the map is one to one.
pub(crate) fn fold(rows: &[usize], experts: usize, device: &Device) -> Option<Tensor<2>> {
    if rows.iter().copied().eq(0..experts) {
        return None;
    }
    let mut fold = vec![0.0; rows.len() * experts];
    rows.iter().enumerate().for_each(|(row, expert)| fold[row * experts + expert] = 1.0);
    Some(from_rows(fold, [rows.len(), experts], device))
}

/// The routed experts of a layer, computed together, in whatever form their weights are held.
pub trait Mixture: Send + Sync {
    /// `[tokens, hidden]` of normed hidden states → the weighted sum of the chosen experts, of the same shape.
    fn forward(&self, x: Tensor<2>, routed: &Routed) -> Tensor<2>;
}

/// The router of one layer, and what of its experts is loaded.
pub struct Experts {
    pub(crate) routing: Routing,
    /// Router row → expert.
    pub(crate) rows: Vec<usize>,
    /// 0/1 `[rows, experts]` when several rows lead to one expert.
    pub(crate) fold: Option<Tensor<2>>,
    pub(crate) router: Box<dyn Linear>,
    pub(crate) router_bias: Option<Tensor<1>>,
    pub(crate) correction: Option<Vec<f32>>,
    /// Number of experts, loaded or not.
    pub(crate) count: usize,
    /// All of them, or none where experts are loaded as they are needed.
    pub(crate) experts: Vec<Expert>,
    /// All of them in one, instead.
    pub(crate) mixture: Option<Box<dyn Mixture>>,
    pub(crate) shared: Option<(Gated, Option<Box<dyn Linear>>)>,
}

impl Experts {
    /// Number of experts.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are no experts.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Chooses experts for `[tokens, hidden]`. Differentiable in the gates, with the choice held fixed.
    pub fn route(&self, x: Tensor<2>) -> Routed {
        self.route_by(x, &self.rows, self.count, self.fold.as_ref())
    }

    /// The same choice of rows where they lead elsewhere: row r to expert `rows[r]` of as many as these reach.
    pub fn route_to(&self, x: Tensor<2>, rows: &[usize]) -> Routed {
        let count = rows.iter().max().map_or(0, |&last| last + 1);
        let fold = fold(rows, count, &x.device());
        self.route_by(x, rows, count, fold.as_ref())
    }

    fn route_by(&self, x: Tensor<2>, rows: &[usize], count: usize, fold: Option<&Tensor<2>>) -> Routed {
        let logits = plus(self.router.forward(x), self.router_bias.as_ref());
        let (chosen, mut gates) = choose(&self.routing, self.correction.as_deref(), logits.clone());
        let mut tokens = vec![Vec::new(); count];
        for (token, chosen) in (0..).zip(&chosen) {
            for &row in chosen {
                let list: &mut Vec<u32> = &mut tokens[rows[row]];
                if list.last() != Some(&token) {
                    list.push(token);
                }
            }
        }
        if let Some(fold) = fold {
            gates = gates.matmul(fold.clone());
        }
        Routed { logits, gates, tokens }
    }

    /// The expert that every token goes through, `[tokens, hidden]` → the same; none when there is none.
    pub fn shared(&self, x: Tensor<2>, watch: &mut dyn Watch) -> Option<Tensor<2>> {
        let (gated, gate) = self.shared.as_ref()?;
        let x = watch.tensor(Site { part: Part::Shared(Projection::Gate), side: Side::Input }, x);
        let y = gated.forward(x.clone(), Part::Shared, watch);
        Some(match gate {
            Some(gate) => y * sigmoid(gate.forward(x)),
            None => y,
        })
    }

    /// Adds the gated outputs of these experts to `sum`, all `[tokens, hidden]`; `x` are the normed hidden states.
    pub fn add<'a>(
        &self,
        experts: impl IntoIterator<Item = (usize, &'a Expert)>,
        x: &Tensor<2>,
        routed: &Routed,
        mut sum: Tensor<2>,
        watch: &mut dyn Watch,
    ) -> Tensor<2> {
        for (index, expert) in experts {
            let chosen = &routed.tokens[index];
            if !chosen.is_empty() {
                let y = expert.forward(index, select_rows(x, chosen), watch);
                sum = add_rows(sum, chosen, y * routed.gates_of(index));
            }
        }
        sum
    }

    /// The experts that are loaded, by index.
    pub fn loaded(&self) -> impl Iterator<Item = (usize, &Expert)> {
        self.experts.iter().enumerate()
    }

    /// `[tokens, hidden]` of normed hidden states → the weighted sum of the chosen experts, and the shared one.
    pub fn forward(&self, x: Tensor<2>, watch: &mut dyn Watch) -> Tensor<2> {
        let routed = self.route(x.clone());
        watch.routed(&routed);
        let sum = match &self.mixture {
            Some(mixture) => mixture.forward(x.clone(), &routed),
            None => self.add(self.loaded(), &x, &routed, x.zeros_like(), watch),
        };
        match self.shared(x, watch) {
            Some(shared) => sum + shared,
            None => sum,
        }
    }
}
