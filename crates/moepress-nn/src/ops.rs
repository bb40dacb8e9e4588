//! The few tensor operations that burn does not have in one piece.

use burn::tensor::{Device, IndexingUpdateOp, Int, Tensor, TensorData};
use moepress_model::NormKind;
use moepress_quant::Stored;

/// A norm over the last dimension.
pub struct Norm {
    kind: NormKind,
    weight: Tensor<1>,
    bias: Option<Tensor<1>>,
    eps: f64,
}

impl Norm {
    pub(crate) fn new(kind: NormKind, eps: f64, weight: Tensor<1>, bias: Option<Tensor<1>>) -> Self {
        Self { kind, weight, bias, eps }
    }

    /// Root-mean-square norm without bias.
    pub(crate) fn rms(eps: f64, weight: Tensor<1>) -> Self {
        Self::new(NormKind::Rms, eps, weight, None)
    }

    /// `[n, d]` → `[n, d]`; d is the length of the weight.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let x = match self.kind {
            NormKind::Rms => x,
            NormKind::Layer => x.clone() - x.mean_dim(1),
        };
        let scale = (x.clone().powi_scalar(2).mean_dim(1) + self.eps).sqrt().recip();
        let y = x * scale * self.weight.clone().unsqueeze();
        plus(y, self.bias.as_ref())
    }

    /// The same over runs of channels: `[n, runs · d]`, each run normed by itself.
    pub(crate) fn runs(&self, x: Tensor<2>) -> Tensor<2> {
        let ([rows, cols], [channels]) = (x.dims(), self.weight.dims());
        self.forward(x.reshape([rows * cols / channels, channels])).reshape([rows, cols])
    }
}

/// x + bias, for every row of x.
pub(crate) fn plus(x: Tensor<2>, bias: Option<&Tensor<1>>) -> Tensor<2> {
    match bias {
        Some(bias) => x + bias.clone().unsqueeze(),
        None => x,
    }
}

/// x · factor; x itself for a factor of one.
pub(crate) fn times(x: Tensor<2>, factor: f64) -> Tensor<2> {
    if factor == 1.0 { x } else { x.mul_scalar(factor) }
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
