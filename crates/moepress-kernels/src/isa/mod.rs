//! Instruction sets that the fast kernels are written for. Each file holds the few operations that differ.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod bf16;
#[cfg(target_arch = "x86_64")]
mod few;
#[cfg(target_arch = "x86_64")]
mod integers;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "x86_64")]
mod panel;
mod portable;
#[cfg(target_arch = "x86_64")]
mod trits;

use crate::activations::{CHUNK, Chunk, Five, Integers, Order};
use crate::part::Part;
use crate::rows::Decode;
use moepress_quant::{Code, Packed};

/// The operations of one instruction set on chunks of 256 weights.
///
/// # Safety
/// The methods may only be called where the processor has the instructions, and must be inlined into a function
/// that has them enabled. Pointers must be valid for reads of as many elements as `left` says.
pub(crate) unsafe trait Isa {
    /// 256 codes, in four phases of sixteen lanes.
    type Codes: Copy;
    /// Sixteen f32.
    type Lanes: Copy;
    /// How numbers are spread over lanes.
    type Spread: Copy;

    /// Codes from `packed`, of which `left` > 0 bytes are there; what is missing reads as zero. Those of ternary weights
    /// come out as weight + 1.
    unsafe fn unpack<const KIND: u8>(packed: *const u8, left: usize) -> Self::Codes;

    /// The spread of `count` numbers, a power of two up to 16: lane d gets number d · `count` / 16.
    unsafe fn spread(count: usize) -> Self::Spread;

    /// f16 numbers spread over the lanes, of which `left` > 0 are there; zero for those that are missing.
    unsafe fn numbers(bits: *const u16, left: usize, spread: Self::Spread) -> Self::Lanes;

    /// Asks for the line of memory at an address that may be anywhere.
    unsafe fn prefetch(address: *const u8);

    /// Zeros.
    unsafe fn zero() -> Self::Lanes;

    /// Codes that are zero.
    unsafe fn no_codes() -> Self::Codes;

    /// What is common to all weight rows that meet a chunk of activations.
    unsafe fn meet<const KIND: u8, const CENTRED: bool>(x: &Chunk) -> Met<Self::Lanes>;

    /// Adds scale · x.scale · Σ (code − middle) · x per lane to `sums` or, where the format is not centred,
    /// scale · x.scale · Σ code · x + offset · x.scale · Σ x.
    unsafe fn add<const KIND: u8, const CENTRED: bool>(
        sums: Self::Lanes,
        codes: &Self::Codes,
        grid: &Grid<Self::Lanes>,
        x: &Chunk,
        met: &Met<Self::Lanes>,
    ) -> Self::Lanes;

    /// The sum of all lanes.
    unsafe fn sum(lanes: Self::Lanes) -> f32;
}

/// The kind of codes, as a constant: bits of a code, or this for ternary ones.
pub(crate) const TERNARY: u8 = 1;

/// Packed bytes of 256 codes.
pub(crate) const fn chunk_bytes(kind: u8) -> usize {
    match kind {
        TERNARY => 64,
        bits => 32 * bits as usize,
    }
}

/// Bytes between what is read and what is asked for, where a single input meets rows straight from memory.
const AHEAD: usize = 4096;

/// The code of zero in centred formats is 1 << this.
pub(crate) const fn middle(kind: u8) -> u32 {
    match kind {
        TERNARY => 0,
        bits => bits as u32 - 1,
    }
}

/// Scales and offsets of the weights of a chunk.
#[derive(Clone, Copy)]
pub(crate) struct Grid<T> {
    pub(crate) scales: T,
    pub(crate) offsets: T,
}

/// A chunk of activations, loaded: the part that does not depend on the weights.
#[derive(Clone, Copy)]
pub(crate) struct Met<T> {
    /// x.scale.
    pub(crate) scales: T,
    /// Where the format is centred what dot products are less by, as integers; else x.scale · Σ x.
    pub(crate) totals: T,
}

/// A kernel: x · Wᵀ for the rows of W from that number on, whose codes are in fields.
pub(crate) type Kernel = fn(Integers<'_>, &Packed, usize, &mut Part<'_>);

/// The fastest kernel for this processor.
pub(crate) fn kernel() -> Kernel {
    kernels().last().map_or(portable::rows, |kernel| kernel.1)
}

/// All kernels that this processor can run, slowest first.
pub(crate) fn kernels() -> impl Iterator<Item = (&'static str, Kernel)> {
    let all: [(bool, &'static str, Kernel); _] = [
        (true, "portable", portable::rows),
        #[cfg(target_arch = "x86_64")]
        (avx2::available(), "avx2", avx2::rows),
        #[cfg(target_arch = "x86_64")]
        (avx512::available(), "avx512", few::rows),
        #[cfg(target_arch = "aarch64")]
        (true, "neon", neon::rows),
        #[cfg(target_arch = "aarch64")]
        (neon::has_dot_products(), "dotprod", neon::rows_by_dot_products),
    ];
    all.into_iter().filter(|all| all.0).map(|(_, name, kernel)| (name, kernel))
}

/// A kernel for bf16 inputs `[n, cols]`, bf16 weights `[rows, cols]` and cols.
pub(crate) type Halves = fn(&[u16], &[u8], usize, &mut Part<'_>);

/// The kernel for bf16, where the processor has instructions for it.
pub(crate) fn halves() -> Option<Halves> {
    #[cfg(target_arch = "x86_64")]
    return bf16::available().then_some(bf16::rows);
    #[cfg(not(target_arch = "x86_64"))]
    None
}

/// A kernel for fewer than sixteen inputs and codes in five-trit bytes, in groups of 32 or more: inputs, how many, weights, the
/// first row, how bytes are decoded.
pub(crate) type Trits = fn(&[Five], usize, &Packed, usize, Decode, &mut Part<'_>);

/// The kernel for five-trit bytes, where the processor has instructions for it.
pub(crate) fn trits() -> Option<Trits> {
    #[cfg(target_arch = "x86_64")]
    return avx512::available().then_some(trits::rows);
    #[cfg(not(target_arch = "x86_64"))]
    None
}

/// Makes a chunk of up to 256 activations.
pub(crate) type MakeChunk = fn(&[f32], Order) -> Chunk;

/// Makes what [`Chunk::new`] does, where the processor has instructions for it.
pub(crate) fn chunks() -> Option<MakeChunk> {
    #[cfg(target_arch = "x86_64")]
    return avx512::available().then_some(integers::chunk);
    #[cfg(not(target_arch = "x86_64"))]
    None
}

/// A kernel for many inputs, otherwise as [`Kernel`].
pub(crate) type Panels = fn(Integers<'_>, &Packed, usize, &mut Part<'_>, &mut Room);

/// What such a kernel unpacks weights into, kept from product to product.
#[derive(Default)]
pub(crate) struct Room(#[cfg(target_arch = "x86_64")] Vec<panel::Panel>);

/// The kernel for many inputs, where the processor has instructions for it.
pub(crate) fn panels() -> Option<Panels> {
    #[cfg(target_arch = "x86_64")]
    return avx512::available().then_some(panel::rows);
    #[cfg(not(target_arch = "x86_64"))]
    None
}

/// The kernel in terms of an instruction set: `R` rows of weights at a time meet up to `T` rows of activations.
///
/// # Safety
/// As for the methods of [`Isa`].
#[inline(always)]
unsafe fn rows<I: Isa, const R: usize, const T: usize>(
    x: Integers<'_>,
    w: &Packed,
    first: usize,
    out: &mut Part<'_>,
) {
    // SAFETY: the caller's promise.
    unsafe {
        match (w.format.code, w.format.symmetric) {
            (Code::Ternary, _) => rows_of::<I, TERNARY, true, R, T>(x, w, first, out),
            (Code::Int(2), true) => rows_of::<I, 2, true, R, T>(x, w, first, out),
            (Code::Int(2), false) => rows_of::<I, 2, false, R, T>(x, w, first, out),
            (Code::Int(3), true) => rows_of::<I, 3, true, R, T>(x, w, first, out),
            (Code::Int(3), false) => rows_of::<I, 3, false, R, T>(x, w, first, out),
            (Code::Int(4), true) => rows_of::<I, 4, true, R, T>(x, w, first, out),
            (Code::Int(4), false) => rows_of::<I, 4, false, R, T>(x, w, first, out),
            (Code::Int(_), true) => rows_of::<I, 8, true, R, T>(x, w, first, out),
            (Code::Int(_), false) => rows_of::<I, 8, false, R, T>(x, w, first, out),
            // `Order::of` has none for them.
            (Code::Fp4 | Code::Fp8, _) => (0..x.n).for_each(|input| out.of_input(input).fill(f32::NAN)),
        }
    }
}

/// No closures and no adaptors that take them: they would not be compiled for the instruction set.
#[inline(always)]
unsafe fn rows_of<I: Isa, const KIND: u8, const CENTRED: bool, const R: usize, const T: usize>(
    x: Integers<'_>,
    w: &Packed,
    first: usize,
    out: &mut Part<'_>,
) {
    let (n, width, groups) = (x.n, w.format.row_bytes(w.cols), w.format.row_groups(w.cols));
    let rows = first..first + out.rows();
    let bytes = w.codes.bytes();
    // Rows that are met together lie apart, each followed by that of the next turn: few long runs of memory are what
    // processors read ahead, and several rows of one page are not.
    let stride = rows.len().div_ceil(R);
    // A group that is longer than a chunk, the whole row, is one for every chunk.
    let (count, step) = match CHUNK / w.format.group {
        0 => (1, 0),
        count => (count, count),
    };
    // SAFETY: the caller's promise, for all of the calls; a row holds `width` bytes of codes and `groups` scales (and
    // offsets, where the format is not centred), and chunks begin within both.
    unsafe {
        let spread = I::spread(count);
        let mut sums = [[I::zero(); R]; T];
        let mut codes = [I::no_codes(); R];
        let mut grids = [Grid { scales: I::zero(), offsets: I::zero() }; R];
        for start in (0..n).step_by(T) {
            let inputs = if T == 1 { 1 } else { T.min(n - start) };
            for first in 0..stride {
                let (mut packed, mut scales, mut offsets) =
                    ([bytes; R], [&w.scales[..]; R], [&w.offsets[..]; R]);
                for r in 0..R {
                    // The last rows are done twice rather than by code of their own.
                    let row = (rows.start + first + r * stride).min(rows.end - 1);
                    packed[r] = &bytes[row * width..][..width];
                    scales[r] = &w.scales[row * groups..][..groups];
                    if !CENTRED {
                        offsets[r] = &w.offsets[row * groups..][..groups];
                    }
                }
                for t in 0..inputs {
                    sums[t] = [I::zero(); R];
                }
                let (mut at, mut group) = (0, 0);
                for chunk in 0..width.div_ceil(const { chunk_bytes(KIND) }) {
                    for r in 0..R {
                        if T == 1 {
                            // Several rows at a time are too short a run each for the processor to foresee.
                            for line in 0..const { chunk_bytes(KIND).div_ceil(64) } {
                                I::prefetch(packed[r].as_ptr().wrapping_add(at + AHEAD + 64 * line));
                            }
                        }
                        codes[r] = I::unpack::<KIND>(packed[r].as_ptr().add(at), width - at);
                        grids[r].scales = I::numbers(scales[r].as_ptr().add(group), groups - group, spread);
                        if !CENTRED {
                            grids[r].offsets =
                                I::numbers(offsets[r].as_ptr().add(group), groups - group, spread);
                        }
                    }
                    for t in 0..inputs {
                        let x = x.chunk(chunk, start + t);
                        let met = I::meet::<KIND, CENTRED>(x);
                        for r in 0..R {
                            sums[t][r] = I::add::<KIND, CENTRED>(sums[t][r], &codes[r], &grids[r], x, &met);
                        }
                    }
                    at += const { chunk_bytes(KIND) };
                    group += step;
                }
                for r in 0..R {
                    let row = first + r * stride;
                    for t in 0..if row < rows.len() { inputs } else { 0 } {
                        out.of_input(start + t)[row] = I::sum(sums[t][r]);
                    }
                }
            }
        }
    }
}
