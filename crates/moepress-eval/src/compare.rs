//! Two models layer by layer on the same tokens: where they part, and what their routers do.

use crate::EvalError;
use moepress_checkpoint::{Progress, Source};
use moepress_model::{Expert, ModelSpec, Moe};
use moepress_nn::{Block, Builder, Device, Embedding, Head, Rotary, Routed, Tensor, Watch, to_rows};
use moepress_runtime::{RuntimeError, check, packed};
use rayon::prelude::*;
use serde::Serialize;
use std::collections::BTreeSet;

/// Rows of logits that are compared at a time.
const ROWS: usize = 64;

/// How far two sets of numbers are apart.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Distance {
    /// Σ ab / √(Σ a² Σ b²); 1 where both are zero.
    pub cosine: f64,
    /// Signal to quantization noise 10 log₁₀(Σ a² / Σ (a − b)²) in dB; none where both are the same.
    pub sqnr_db: Option<f64>,
}

/// What a token's experts of one model are beside those of the other, over the tokens of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Drift {
    /// Tokens.
    pub tokens: usize,
    /// Share of the tokens whose set of experts is another. An expert that was merged counts as what it became, one
    /// that was removed as gone.
    pub changed: f64,
    /// Share of the first model's choices that the second makes too.
    pub kept: f64,
    /// Share of the experts of the first that at least one token reached.
    pub coverage: f64,
    /// The same of the second.
    pub coverage_after: f64,
}

/// Two models at one place.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Step {
    /// `embedding`, `layer 3`, or `logits`.
    pub place: String,
    /// Index of the layer, where it is one.
    pub layer: Option<usize>,
    /// Hidden states after it, each model on what came before in itself; of the logits, those.
    pub states: Distance,
    /// What the layer adds, both models on the hidden states of the first; none where it is no layer.
    pub alone: Option<Distance>,
    /// What the routers do, where the layer has experts in both, each model on its own hidden states.
    pub routing: Option<Drift>,
}

/// Sums that a distance is made of.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    aa: f64,
    bb: f64,
    ab: f64,
    errors: f64,
}

impl Sums {
    fn of(a: impl Iterator<Item = f32>, b: impl Iterator<Item = f32>) -> Self {
        a.zip(b).fold(Self::default(), |mut sums, (a, b)| {
            let (a, b) = (f64::from(a), f64::from(b));
            sums.aa += a * a;
            sums.bb += b * b;
            sums.ab += a * b;
            sums.errors += (a - b) * (a - b);
            sums
        })
    }

    fn add(self, other: Self) -> Self {
        Self {
            aa: self.aa + other.aa,
            bb: self.bb + other.bb,
            ab: self.ab + other.ab,
            errors: self.errors + other.errors,
        }
    }

    fn distance(self) -> Distance {
        let scale = (self.aa * self.bb).sqrt();
        let cosine = match scale > 0.0 {
            true => self.ab / scale,
            false if self.errors == 0.0 => 1.0,
            false => 0.0,
        };
        Distance { cosine, sqnr_db: (self.errors != 0.0).then(|| 10.0 * (self.aa / self.errors).log10()) }
    }
}

/// The experts of every token.
#[derive(Default)]
struct Chosen {
    of_token: Vec<BTreeSet<usize>>,
}

impl Watch for Chosen {
    fn routed(&mut self, routed: &Routed) {
        let [tokens, _] = routed.logits.dims();
        self.of_token = vec![BTreeSet::new(); tokens];
        for (expert, tokens) in routed.tokens.iter().enumerate() {
            for &token in tokens {
                self.of_token[token as usize].insert(expert);
            }
        }
    }
}

/// Hidden states of some windows in both models.
struct Pair {
    a: Tensor<2>,
    b: Tensor<2>,
    /// Windows in it.
    batch: usize,
}

/// What a layer did to some windows.
#[derive(Default)]
struct Seen {
    states: Sums,
    alone: Sums,
    chosen: [Vec<BTreeSet<usize>>; 2],
}

/// Walks two models through windows of one length, a layer of each in memory at a time; both have as many layers, hidden
/// channels and tokens. What comes before the first layer is the first step, the logits are the last.
///
/// # Errors
/// The models are not alike, the windows cannot be run, the weights cannot be read, or the caller cancelled.
pub fn compare(
    a: &dyn Source,
    b: &dyn Source,
    windows: &[Vec<u32>],
    progress: &dyn Progress,
) -> Result<Vec<Step>, EvalError> {
    let (spec_a, spec_b) = (a.spec(), b.spec());
    alike(spec_a, spec_b)?;
    let window = windows.first().map_or(0, Vec::len);
    windows.iter().try_for_each(|ids| check(spec_a, ids, window))?;
    let device = Device::flex();
    let embeddings = [embedding(a)?, embedding(b)?];
    let per_pair = windows.len().div_ceil(4 * rayon::current_num_threads()).max(1);
    let mut pairs: Vec<Pair> = windows
        .chunks(per_pair)
        .map(|windows| {
            let ids = windows.concat();
            let [a, b] = embeddings.each_ref().map(|embedding| embedding.embed(&ids, &device));
            Pair { a, b, batch: windows.len() }
        })
        .collect();
    drop(embeddings);
    let states = |pairs: &[Pair]| {
        let sums = pairs.iter().map(|pair| sums(&pair.a, &pair.b)).fold(Sums::default(), Sums::add);
        sums.distance()
    };
    let step = |place: &str, states| Step {
        place: place.to_owned(),
        layer: None,
        states,
        alone: None,
        routing: None,
    };
    let mut steps = vec![step("embedding", states(&pairs))];
    let [turn_a, turn_b] =
        [spec_a, spec_b].map(|spec| Rotary::part(&spec.attention, 0..window, window, &device));
    let layers = spec_a.layers.len();
    for layer in 0..layers {
        if progress.cancelled() {
            return Err(EvalError::Cancelled);
        }
        let [block_a, block_b] = [block(a, layer, &device)?, block(b, layer, &device)?];
        let seen: Vec<Seen> =
            pairs.par_iter_mut().map(|pair| pair.through([&block_a, &block_b], [&turn_a, &turn_b])).collect();
        let mut all = Seen::default();
        for seen in seen {
            (all.states, all.alone) = (all.states.add(seen.states), all.alone.add(seen.alone));
            all.chosen.iter_mut().zip(seen.chosen).for_each(|(all, more)| all.extend(more));
        }
        let moe = spec_a.moe(layer).zip(spec_b.moe(layer));
        steps.push(Step {
            place: format!("layer {layer}"),
            layer: Some(layer),
            states: all.states.distance(),
            alone: Some(all.alone.distance()),
            routing: moe.map(|(before, after)| drift(before, after, &all.chosen)),
        });
        progress.step("compare", layer as u64 + 1, layers as u64 + 1);
    }
    let heads = [head(a, &device)?, head(b, &device)?];
    let logits = pairs.par_iter().map(|pair| logits(pair, &heads)).collect::<Vec<_>>();
    steps.push(step("logits", logits.into_iter().fold(Sums::default(), Sums::add).distance()));
    progress.step("compare", layers as u64 + 1, layers as u64 + 1);
    Ok(steps)
}

impl Pair {
    /// Takes both models through a layer, and the second also on the hidden states of the first.
    fn through(&mut self, blocks: [&Block; 2], turns: [&Rotary; 2]) -> Seen {
        let mut seen = Seen::default();
        let mut watch = [Chosen::default(), Chosen::default()];
        let [first, second] = &mut watch;
        let before = self.a.clone();
        let a = blocks[0].forward(before.clone(), self.batch, turns[0], None, first);
        let alone = blocks[1].forward(before.clone(), self.batch, turns[1], None, &mut moepress_nn::Ignore);
        seen.alone = sums(&(a.clone() - before.clone()), &(alone - before));
        self.b = blocks[1].forward(self.b.clone(), self.batch, turns[1], None, second);
        self.a = a;
        seen.states = sums(&self.a, &self.b);
        seen.chosen = watch.map(|watch| watch.of_token);
        seen
    }
}

fn sums(a: &Tensor<2>, b: &Tensor<2>) -> Sums {
    Sums::of(to_rows(a.clone()).into_iter(), to_rows(b.clone()).into_iter())
}

fn logits(pair: &Pair, heads: &[Head; 2]) -> Sums {
    let [rows, width] = pair.a.dims();
    let part = |start: usize| {
        let range = start..rows.min(start + ROWS);
        let of = |x: &Tensor<2>, head: &Head| head.logits(x.clone().slice([range.clone(), 0..width]));
        sums(&of(&pair.a, &heads[0]), &of(&pair.b, &heads[1]))
    };
    (0..rows).step_by(ROWS).map(part).fold(Sums::default(), Sums::add)
}

fn alike(a: &ModelSpec, b: &ModelSpec) -> Result<(), EvalError> {
    let parts = [
        ("layers", a.layers.len(), b.layers.len()),
        ("hidden channels", a.hidden, b.hidden),
        ("tokens in the vocabulary", a.vocab, b.vocab),
    ];
    match parts.into_iter().find(|(_, a, b)| a != b) {
        None => Ok(()),
        Some((what, a, b)) => Err(EvalError::Unlike { what, a, b }),
    }
}

fn embedding(source: &dyn Source) -> Result<Embedding, RuntimeError> {
    Embedding::new(source.spec(), |tensor| source.tensor(tensor).map_err(RuntimeError::from))
}

fn head(source: &dyn Source, device: &Device) -> Result<Head, RuntimeError> {
    let tensor = |tensor| source.tensor(tensor).map_err(RuntimeError::from);
    Head::new(source.spec(), tensor, None, &packed, device)
}

fn block(source: &dyn Source, layer: usize, device: &Device) -> Result<Block, RuntimeError> {
    Ok(Builder::new(source.spec(), layer, source.layer(layer)?, &packed, device).block()?)
}

/// What the routers of a layer did; `sources` of experts say what became of whom.
fn drift(before: &Moe, after: &Moe, chosen: &[Vec<BTreeSet<usize>>; 2]) -> Drift {
    let images: Vec<BTreeSet<usize>> = before
        .experts
        .iter()
        .map(|expert| {
            let shares = |other: &Expert| other.sources.iter().any(|source| expert.sources.contains(source));
            let others = after.experts.iter().enumerate();
            others.filter(|(_, other)| shares(other)).map(|(index, _)| index).collect()
        })
        .collect();
    let tokens = chosen[0].len();
    let (mut changed, mut kept, mut choices) = (0, 0, 0);
    for (first, second) in chosen[0].iter().zip(&chosen[1]) {
        let image: BTreeSet<usize> =
            first.iter().flat_map(|&expert| images[expert].iter().copied()).collect();
        let gone = first.iter().any(|&expert| images[expert].is_empty());
        changed += usize::from(gone || image != *second);
        kept +=
            first.iter().filter(|&&expert| images[expert].iter().any(|image| second.contains(image))).count();
        choices += first.len();
    }
    let share = |count: usize, of: usize| count as f64 / of.max(1) as f64;
    let reached = |chosen: &[BTreeSet<usize>], experts: usize| {
        share(chosen.iter().flatten().collect::<BTreeSet<_>>().len(), experts)
    };
    Drift {
        tokens,
        changed: share(changed, tokens),
        kept: share(kept, choices),
        coverage: reached(&chosen[0], before.experts.len()),
        coverage_after: reached(&chosen[1], after.experts.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_by_hand() {
        let of = |a: [f32; 2], b: [f32; 2]| Sums::of(a.into_iter(), b.into_iter()).distance();
        assert_eq!(of([3.0, 4.0], [3.0, 4.0]), Distance { cosine: 1.0, sqnr_db: None });
        let half = of([3.0, 4.0], [3.0, 3.5]);
        assert!((half.sqnr_db.unwrap() - 20.0).abs() < 1e-9);
        assert!((half.cosine - 23.0 / (5.0 * 21.25f64.sqrt())).abs() < 1e-12);
        assert_eq!(of([0.0; 2], [0.0; 2]), Distance { cosine: 1.0, sqnr_db: None });
        assert_eq!(of([0.0; 2], [1.0; 2]).cosine, 0.0);
    }

    #[test]
    fn experts_are_followed() {
        let config = serde_json::json!({
            "model_type": "qwen3_moe", "hidden_size": 8, "num_attention_heads": 2, "num_key_value_heads": 1,
            "head_dim": 4, "vocab_size": 16, "num_hidden_layers": 1, "num_experts": 4, "num_experts_per_tok": 2,
            "moe_intermediate_size": 6, "max_position_embeddings": 32, "rms_norm_eps": 1e-6, "rope_theta": 1e4,
            "norm_topk_prob": true,
        });
        let config = moepress_model::Config(config.as_object().unwrap());
        let before = (moepress_model::family(config).unwrap().spec)(config).unwrap();
        let group = |members: &[usize]| moepress_model::Group {
            members: members.to_vec(),
            weights: vec![1.0 / members.len() as f64; members.len()],
        };
        // 0 and 2 become the first, 1 the second; 3 is removed.
        let groups = vec![group(&[0, 2]), group(&[1]), group(&[3])];
        let edits = [
            moepress_model::Edit::MergeExperts { layer: 0, groups, align: false },
            moepress_model::Edit::KeepExperts { layer: 0, experts: vec![0, 1] },
        ];
        let after = before.after(&edits).unwrap();
        let set = |experts: &[usize]| experts.iter().copied().collect::<BTreeSet<_>>();
        let first = vec![set(&[0, 1]), set(&[0, 2]), set(&[1, 3]), set(&[1, 2])];
        let second = vec![set(&[0, 1]), set(&[0]), set(&[1, 0]), set(&[0])];
        let found = drift(before.moe(0).unwrap(), after.moe(0).unwrap(), &[first, second]);
        assert_eq!((found.tokens, found.changed, found.kept), (4, 0.5, 6.0 / 8.0));
        assert_eq!((found.coverage, found.coverage_after), (1.0, 1.0));
    }
}
