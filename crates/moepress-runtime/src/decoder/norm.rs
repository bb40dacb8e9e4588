//! Norms.

use super::each_row;
use moepress_kernels::squares;
use moepress_model::NormKind;

/// A norm over runs of channels.
pub(crate) struct Norm {
    pub(crate) kind: NormKind,
    pub(crate) eps: f64,
    pub(crate) weight: Vec<f32>,
    pub(crate) bias: Option<Vec<f32>>,
}

impl Norm {
    /// Every run of as many channels as there are weights, by itself.
    pub(crate) fn rows(&self, x: &[f32]) -> Vec<f32> {
        let mut y = x.to_vec();
        self.in_place(&mut y);
        y
    }

    /// [`Self::rows`] in place.
    pub(crate) fn in_place(&self, x: &mut [f32]) {
        let count = self.weight.len() as f32;
        each_row(x, self.weight.len(), |_, run| {
            if self.kind == NormKind::Layer {
                let mean = run.iter().sum::<f32>() / count;
                run.iter_mut().for_each(|x| *x -= mean);
            }
            let scale = 1.0 / (squares(run) / count + self.eps as f32).sqrt();
            run.iter_mut().zip(&self.weight).for_each(|(x, weight)| *x = *x * scale * weight);
            if let Some(bias) = &self.bias {
                run.iter_mut().zip(bias).for_each(|(x, bias)| *x += bias);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_hand() {
        let norm = |kind, bias| Norm { kind, eps: 1.0, weight: vec![1.0, 2.0], bias };
        let root = 1.0 / 13.5f32.sqrt();
        assert_eq!(norm(NormKind::Rms, None).rows(&[3.0, 4.0]), [3.0 * root, 8.0 * root]);
        let root = 1.0 / 5f32.sqrt();
        let layer = norm(NormKind::Layer, Some(vec![0.5, 0.0]));
        assert_eq!(layer.rows(&[1.0, 5.0]), [-2.0 * root + 0.5, 4.0 * root]);
    }
}
