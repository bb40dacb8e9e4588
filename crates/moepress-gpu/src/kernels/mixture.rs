//! What lies between the products of a mixture: atoms from gate and up, and the gated sum of the experts of a token.

use cubecl::prelude::*;

/// Units of a cube.
pub(crate) const UNITS: u32 = 128;
/// Numbers of a pair in the order of tokens: its row among pairs sorted by expert, its expert, segments of that.
pub(crate) const PAIR: usize = 3;

/// What atoms are made with, known when the kernel is compiled; numbers are bits of f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Gate {
    /// silu(gate) · up.
    Silu,
    /// As `moepress_model::Activation::ClampedSwiglu`.
    ClampedSwiglu {
        /// Slope of the sigmoid.
        alpha: u32,
        /// Largest gate, and largest magnitude of up.
        limit: u32,
    },
}

/// Atoms `[pairs, width]` from `[pairs, 2 · width]`, gate before up; with `biased`, that row of biases `[experts, 2 · width]`
/// which `experts` names is added first. One unit an atom.
#[cube(launch_unchecked, create_dummy_kernel)]
#[allow(clippy::too_many_arguments)] // buffers of a kernel
pub(crate) fn activate(
    both: &[f32],
    experts: &[u32],
    biases: &[f32],
    atoms: &mut [f32],
    width: u32,
    count: u32,
    #[comptime] gate: Gate,
    #[comptime] biased: bool,
) {
    let at = (CUBE_POS_Y as usize * CUBE_COUNT_X as usize + CUBE_POS_X as usize) * comptime!(UNITS as usize)
        + UNIT_POS as usize;
    if at >= count as usize {
        terminate!();
    }
    let width = width as usize;
    let (pair, atom) = (at / width, at % width);
    let mut g = both[2 * pair * width + atom];
    let mut u = both[2 * pair * width + width + atom];
    if comptime!(biased) {
        let bias = 2 * experts[pair] as usize * width + atom;
        g += biases[bias];
        u += biases[bias + width];
    }
    let (clamped, alpha, limit) = comptime!(match gate {
        Gate::Silu => (false, 1.0f32, 0.0f32),
        Gate::ClampedSwiglu { alpha, limit } => (true, f32::from_bits(alpha), f32::from_bits(limit)),
    });
    if comptime!(clamped) {
        g = select(g > limit, limit.runtime(), g);
        u = select(u > limit, limit.runtime(), u);
        u = select(u < -limit, (-limit).runtime(), u) + 1.0f32;
    }
    atoms[at] = u * g / (1.0f32 + (-(g * alpha)).exp());
}

/// Sums `[tokens, hidden]` of the gated outputs of each token's experts, in the order of `pairs`, segments first.
///
/// `parts` is `[segments, count, hidden]`; `starts` `[tokens + 1]` tells the [`PAIR`]s of a token; `gates` is `[tokens, experts]`;
/// `biases` `[experts, hidden]`. Cubes: blocks of `hidden` × tokens.
#[cube(launch_unchecked, create_dummy_kernel)]
#[allow(clippy::too_many_arguments)] // buffers of a kernel
pub(crate) fn combine(
    parts: &[f32],
    gates: &[f32],
    starts: &[u32],
    pairs: &[u32],
    biases: &[f32],
    out: &mut [f32],
    hidden: u32,
    count: u32,
    experts: u32,
    #[comptime] biased: bool,
) {
    let column = CUBE_POS_X as usize * comptime!(UNITS as usize) + UNIT_POS as usize;
    let token = CUBE_POS_Y as usize;
    let hidden = hidden as usize;
    if column >= hidden {
        terminate!();
    }
    let mut sum = 0.0f32;
    for at in starts[token] as usize..starts[token + 1] as usize {
        let pair = pairs[at * PAIR] as usize;
        let expert = pairs[at * PAIR + 1] as usize;
        let mut output = 0.0f32;
        for segment in 0..pairs[at * PAIR + 2] as usize {
            output += parts[(segment * count as usize + pair) * hidden + column];
        }
        if comptime!(biased) {
            output += biases[expert * hidden + column];
        }
        sum += gates[token * experts as usize + expert] * output;
    }
    out[token * hidden + column] = sum;
}
