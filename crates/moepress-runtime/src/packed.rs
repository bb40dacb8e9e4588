//! Linear maps that keep their weights as stored.

use moepress_kernels::{Activations, Precision, matmul};
use moepress_nn::{Linear, Tensor, from_rows, to_rows};
use moepress_quant::Stored;
use std::sync::Arc;

/// A weight in the format of its checkpoint; unpacked a tile at a time while it multiplies.
struct Packed(Arc<Stored>);

/// A linear map that computes from the weights as they are stored: what [`crate::Blocks`] are made of.
pub fn packed(stored: Arc<Stored>) -> Box<dyn Linear> {
    Box::new(Packed(stored))
}

impl Linear for Packed {
    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let ([n, _], device) = (x.dims(), x.device());
        let (rows, _) = self.0.matrix_shape();
        // The only error is an x of the wrong width. Block, Embedding and Head have checked every shape; should one
        // slip through, no values make no tensor, and burn stops as it does for its own products.
        let y = matmul(&Activations::new(&to_rows(x), n, Precision::Exact), &self.0).unwrap_or_default();
        from_rows(y, [n, rows], &device)
    }
}
