//! How likely a model finds a text.

use serde::Serialize;
use std::f64::consts::LN_2;

/// Negative log-likelihood of predicted tokens, in nats. Standard errors take tokens as independent; they are 0
/// for a single prediction.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Likelihood {
    /// Tokens predicted.
    pub predictions: usize,
    /// Mean negative log-likelihood.
    pub nll: f64,
    /// Standard error of `nll`.
    pub stderr: f64,
    /// exp(nll).
    pub perplexity: f64,
    /// Standard error of `perplexity`, to first order: perplexity · stderr.
    pub perplexity_stderr: f64,
    /// Bytes of text that the predicted tokens stand for.
    pub bytes: u64,
    /// Bits per byte of text: Σ nll / ln 2 / bytes. Comparable between models with different tokenizers.
    pub bits_per_byte: f64,
}

impl Likelihood {
    /// Of the losses of single tokens, at least one, which stand for so many bytes of text.
    pub(crate) fn new(losses: &[f64], bytes: u64) -> Self {
        let (nll, stderr) = mean(losses);
        let predictions = losses.len();
        Self::of(predictions, (nll, stderr), bytes, nll * predictions as f64 / LN_2 / bytes.max(1) as f64)
    }

    /// The plain mean over texts: every text counts the same, whatever its length.
    pub(crate) fn mean_of(texts: &[Self]) -> Self {
        let count = texts.len() as f64;
        let mean = |of: fn(&Self) -> f64| texts.iter().map(of).sum::<f64>() / count;
        let stderr = texts.iter().map(|text| text.stderr.powi(2)).sum::<f64>().sqrt() / count;
        let predictions = texts.iter().map(|text| text.predictions).sum();
        let bytes = texts.iter().map(|text| text.bytes).sum();
        Self::of(predictions, (mean(|text| text.nll), stderr), bytes, mean(|text| text.bits_per_byte))
    }

    fn of(predictions: usize, (nll, stderr): (f64, f64), bytes: u64, bits_per_byte: f64) -> Self {
        let perplexity = nll.exp();
        let perplexity_stderr = perplexity * stderr;
        Self { predictions, nll, stderr, perplexity, perplexity_stderr, bytes, bits_per_byte }
    }
}

/// Mean and its standard error √(Σ (x − mean)² / (n − 1) / n).
pub(crate) fn mean(values: &[f64]) -> (f64, f64) {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (mean, (squares / (count - 1.0).max(1.0) / count).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_hand() {
        assert_eq!(mean(&[1.0, 2.0, 3.0, 6.0]), (3.0, (14.0f64 / 3.0 / 4.0).sqrt()));
        assert_eq!(mean(&[5.0]), (5.0, 0.0));
        let (short, long) = (Likelihood::new(&[1.0], 2), Likelihood::new(&[3.0; 8], 24));
        let both = Likelihood::mean_of(&[short, long]);
        assert_eq!((both.predictions, both.nll, both.perplexity, both.bytes), (9, 2.0, 2f64.exp(), 26));
        let bits = [short, long, both].map(|likelihood| likelihood.bits_per_byte * LN_2);
        for (bits, wanted) in bits.into_iter().zip([0.5, 1.0, 0.75]) {
            assert!((bits - wanted).abs() < 1e-15, "{bits}");
        }
        let spread = Likelihood::new(&[1.0, 2.0, 3.0, 6.0], 8);
        assert_eq!(spread.perplexity_stderr, 3f64.exp() * (14.0f64 / 12.0).sqrt());
    }
}
