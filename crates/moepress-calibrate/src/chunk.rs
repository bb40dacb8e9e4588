//! How windows are cut into the chunks that a sweep works on.

/// Tokens of a chunk, at least: enough for matrix products to be efficient with 16 experts.
const TOKENS: usize = 1024;

/// Windows of `window` tokens that run as one batch. Whoever deals windows out to several sweeps keeps these
/// together, so that every chunk comes to the same numbers in whichever sweep it runs.
pub fn windows_per_chunk(window: usize) -> usize {
    (TOKENS / window.max(1)).max(1)
}
