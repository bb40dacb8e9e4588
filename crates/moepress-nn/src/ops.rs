//! The few tensor operations that burn does not have in one piece.

use burn::tensor::{Device, IndexingUpdateOp, Int, Tensor, TensorData};
use moepress_quant::Stored;

/// Root-mean-square norm over the last dimension: x / √(mean x² + ε) · w, for `[n, d]` and w of `[d]`.
pub fn rms_norm(x: Tensor<2>, weight: &Tensor<1>, eps: f64) -> Tensor<2> {
    let scale = (x.clone().powi_scalar(2).mean_dim(1) + eps).sqrt().recip();
    x * scale * weight.clone().unsqueeze()
}

/// A `[rows, cols]` tensor of f32 values, row-major.
pub fn from_rows(values: Vec<f32>, shape: [usize; 2], device: &Device) -> Tensor<2> {
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// All weights of a tensor as one vector.
pub(crate) fn vector(stored: &Stored, device: &Device) -> Tensor<1> {
    let values = stored.to_f32();
    let count = values.len();
    Tensor::from_data(TensorData::new(values, [count]), device)
}

/// The values of a tensor, row-major.
pub fn to_rows<const D: usize>(x: Tensor<D>) -> Vec<f32> {
    let data = x.into_data();
    match data.as_slice::<f32>() {
        Ok(values) => values.to_vec(),
        Err(_) => data.iter::<f32>().collect(),
    }
}

fn indices(rows: &[u32], device: &Device) -> Tensor<1, Int> {
    let count = rows.len();
    let rows: Vec<i64> = rows.iter().map(|&row| i64::from(row)).collect();
    Tensor::from_data(TensorData::new(rows, [count]), device)
}

/// Rows of `x` by index, `[n, d]` → `[rows.len(), d]`.
pub fn select_rows(x: &Tensor<2>, rows: &[u32]) -> Tensor<2> {
    x.clone().select(0, indices(rows, &x.device()))
}

/// `x` with `values` added to the rows named; rows are distinct.
pub fn add_rows(x: Tensor<2>, rows: &[u32], values: Tensor<2>) -> Tensor<2> {
    let rows = indices(rows, &x.device());
    x.select_assign(0, rows, values, IndexingUpdateOp::Add)
}
