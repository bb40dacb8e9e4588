//! What a token costs: bytes of weights and products.

use moepress_model::{Class, ModelSpec, Part, Tensor};

/// Per token, on average over experts that are chosen equally often.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Work {
    /// Bytes of weights that one token alone reads.
    pub(crate) bytes: f64,
    /// Multiplications of weights with activations, without those of the head.
    pub(crate) products: f64,
}

/// Of a model; a tied head is read as often as one of its own.
pub(crate) fn work(spec: &ModelSpec) -> Work {
    let mut work = Work { bytes: 0.0, products: 0.0 };
    for tensor in spec.tensors() {
        let weights = spec.shape(tensor).map_or(0, |shape| shape.iter().product::<usize>()) as f64;
        let share = match tensor {
            Tensor::Layer(layer, part) => match (part.expert(), spec.moe(layer)) {
                (Some(_), Some(moe)) => moe.routing.top_k as f64 / moe.experts.len().max(1) as f64,
                _ => 1.0,
            },
            Tensor::Embedding if !spec.tied_embeddings => 0.0,
            _ => 1.0,
        };
        work.bytes += share.min(1.0) * spec.stored_bytes(tensor) as f64;
        let multiplied = tensor.class() != Class::Norms
            && tensor.class() != Class::Embeddings
            && !matches!(tensor, Tensor::Layer(_, Part::Correction | Part::Sinks));
        if multiplied {
            work.products += share.min(1.0) * weights;
        }
    }
    work
}
