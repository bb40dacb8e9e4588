//! How fast kernels and models run. Every figure stands beside what the machine could do at most, measured in the same
//! process: a ratio to another program says who is faster, a percentage of the roofline how much is left.

mod decode;
mod error;
mod kernel;
mod load;
mod prefill;
mod roofline;
mod rules;
mod work;

pub use decode::{Decode, decode};
pub use error::BenchError;
pub use kernel::{Coding, Kernel, Shape, codings, kernel};
pub use load::{Load, load};
pub use prefill::{Prefill, prefill};
pub use roofline::Roofline;
pub use rules::{Named, Ruled, rules};

/// The middle of some numbers; the lower of two middles.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len().saturating_sub(1) / 2).copied().unwrap_or(0.0)
}

/// Token ids in no order, below `vocab`.
fn tokens(count: usize, vocab: usize) -> Vec<u32> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = || {
        // xorshift64 (Marsaglia, 2003).
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % vocab.max(1) as u64) as u32
    };
    (0..count).map(|_| next()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_tokens() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!((median(vec![4.0, 1.0]), median(vec![])), (1.0, 0.0));
        let ids = tokens(1000, 10);
        assert!((0..10).all(|id| ids.iter().filter(|&&x| x == id).count() > 50));
    }
}
