//! How likely a model finds a text.

use serde::Serialize;

/// Negative log-likelihood of predicted tokens, in nats.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Likelihood {
    /// Tokens predicted.
    pub predictions: usize,
    /// Mean negative log-likelihood.
    pub nll: f64,
    /// Standard error of `nll`, taking tokens as independent; 0 for a single prediction.
    pub stderr: f64,
    /// exp(nll).
    pub perplexity: f64,
}

impl Likelihood {
    /// Of the losses of single tokens, at least one.
    pub(crate) fn new(losses: &[f64]) -> Self {
        let (nll, stderr) = mean(losses);
        Self { predictions: losses.len(), nll, stderr, perplexity: nll.exp() }
    }

    /// The plain mean over texts: every text counts the same, whatever its length.
    pub(crate) fn mean_of(texts: &[Self]) -> Self {
        let count = texts.len() as f64;
        let nll = texts.iter().map(|text| text.nll).sum::<f64>() / count;
        let stderr = texts.iter().map(|text| text.stderr.powi(2)).sum::<f64>().sqrt() / count;
        let predictions = texts.iter().map(|text| text.predictions).sum();
        Self { predictions, nll, stderr, perplexity: nll.exp() }
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
        let (short, long) = (Likelihood::new(&[1.0]), Likelihood::new(&[3.0; 9]));
        let both = Likelihood::mean_of(&[short, long]);
        assert_eq!((both.predictions, both.nll, both.perplexity), (10, 2.0, 2f64.exp()));
    }
}
