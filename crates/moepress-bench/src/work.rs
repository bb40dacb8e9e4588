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
        let share = spec.met(tensor);
        work.bytes += share * spec.stored_bytes(tensor) as f64;
        let multiplied = tensor.class() != Class::Norms
            && tensor.class() != Class::Embeddings
            && !matches!(tensor, Tensor::Layer(_, Part::Correction | Part::Sinks));
        if multiplied {
            work.products += share * weights;
        }
    }
    work
}
