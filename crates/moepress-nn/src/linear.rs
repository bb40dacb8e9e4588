//! Linear maps without bias, in whatever form their weights are held.

use crate::ops::from_rows;
use burn::tensor::{Device, Tensor};
use moepress_quant::Stored;
use std::sync::Arc;

/// y = x Wᵀ for a weight of shape `[out, in]`.
pub trait Linear: Send + Sync {
    /// `[n, in]` → `[n, out]`.
    fn forward(&self, x: Tensor<2>) -> Tensor<2>;
}

/// Turns stored weights into a linear map; calibration wants [`dense`], the runtime computes packed.
pub type MakeLinear<'a> = &'a (dyn Fn(Arc<Stored>) -> Box<dyn Linear> + Sync);

/// Weights unpacked to f32.
pub struct Dense {
    transposed: Tensor<2>,
}

impl Linear for Dense {
    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        x.matmul(self.transposed.clone())
    }
}

/// Unpacks weights to f32 on `device`.
pub fn dense(stored: &Stored, device: &Device) -> Box<dyn Linear> {
    let (rows, cols) = stored.matrix_shape();
    let weight = from_rows(stored.to_f32(), [rows, cols], device);
    Box::new(Dense { transposed: weight.transpose() })
}
