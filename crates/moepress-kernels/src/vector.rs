//! Loops over f32 vectors that a decoder needs between its products, each compiled for several widths of vectors.
//!
//! The loops add in one order whatever the width, so that all processors get the same sums.

/// Running sums: enough independent chains of additions to hide their latency.
const LANES: usize = 64;

/// Defines functions that run, by the processor, in versions compiled for AVX-512, AVX2 or the baseline. `F` is how each folds.
macro_rules! by_processor {
    ($($(#[$doc:meta])* $visible:vis fn $name:ident $(<$t:ident>)? ($($arg:ident: $type:ty),* $(,)?) $(-> $out:ty)? $body:block)*) => {$(
        $(#[$doc])*
        $visible fn $name $(<$t: Number>)? ($($arg: $type),*) $(-> $out)? {
            #[inline(always)]
            fn body<F: crate::vector::Fold $(, $t: Number)?>($($arg: $type),*) $(-> $out)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
                fn avx512 $(<$t: Number>)? ($($arg: $type),*) $(-> $out)? {
                    body::<crate::vector::Wide $(, $t)?>($($arg),*)
                }
                #[target_feature(enable = "avx2")]
                fn avx2 $(<$t: Number>)? ($($arg: $type),*) $(-> $out)? {
                    body::<crate::vector::Plain $(, $t)?>($($arg),*)
                }
                match crate::vector::width() {
                    // SAFETY: the processor has what the function is compiled for.
                    crate::vector::Width::Avx512 => return unsafe { avx512($($arg),*) },
                    // SAFETY: as above.
                    crate::vector::Width::Avx2 => return unsafe { avx2($($arg),*) },
                    crate::vector::Width::Baseline => {}
                }
            }
            body::<crate::vector::Plain $(, $t)?>($($arg),*)
        }
    )*};
}

pub(crate) use by_processor;

/// The widest vectors of a processor.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Width {
    Baseline,
    Avx2,
    Avx512,
}

/// Of this processor.
#[cfg(target_arch = "x86_64")]
pub(crate) fn width() -> Width {
    let wide = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl");
    if wide {
        return Width::Avx512;
    }
    if is_x86_feature_detected!("avx2") { Width::Avx2 } else { Width::Baseline }
}

/// A stored number that is read as f32.
pub(crate) trait Number: Copy {
    fn read(self) -> f32;
}

impl Number for f32 {
    #[inline(always)]
    fn read(self) -> f32 {
        self
    }
}

/// Little-endian f32.
impl Number for [u8; 4] {
    #[inline(always)]
    fn read(self) -> f32 {
        f32::from_le_bytes(self)
    }
}

/// Little-endian bf16.
impl Number for [u8; 2] {
    #[inline(always)]
    fn read(self) -> f32 {
        f32::from_bits(u32::from(u16::from_le_bytes(self)) << 16)
    }
}

by_processor! {
    /// y = rows · x: the dot products of x with each of y.len() rows of its length.
    pub(crate) fn dots_of<T>(x: &[f32], rows: &[T], y: &mut [f32]) {
        for (i, y) in y.iter_mut().enumerate() {
            *y = dot::<F, T>(x, &rows[i * x.len()..(i + 1) * x.len()]);
        }
    }

    /// out += Σⱼ weights[j] · rows[j], each row as long as `out`.
    pub fn mix(weights: &[f32], rows: &[f32], out: &mut [f32]) {
        let width = out.len();
        let (blocks, rest) = out.as_chunks_mut::<LANES>();
        for (block, out) in blocks.iter_mut().enumerate() {
            let mut sums = *out;
            for (j, weight) in weights.iter().enumerate() {
                let row = &rows[j * width + block * LANES..][..LANES];
                for lane in 0..LANES {
                    sums[lane] += weight * row[lane];
                }
            }
            *out = sums;
        }
        for (j, weight) in weights.iter().enumerate() {
            let row = &rows[(j + 1) * width - rest.len()..(j + 1) * width];
            for i in 0..row.len() {
                rest[i] += weight * row[i];
            }
        }
    }

    /// Scores to their softmax. A sink is one more score whose share is dropped.
    pub fn softmax(scores: &mut [f32], sink: Option<f32>) {
        // What is left of a block is padded with scores whose share is nothing.
        let (blocks, rest) = scores.as_chunks_mut::<LANES>();
        let mut last = [f32::NEG_INFINITY; LANES];
        last[..rest.len()].copy_from_slice(rest);
        let mut most = last;
        for block in blocks.iter() {
            for lane in 0..LANES {
                // Not `max`, which is slower; a NaN that is lost here turns up in the sum.
                most[lane] = if block[lane] > most[lane] { block[lane] } else { most[lane] };
            }
        }
        let mut largest = sink.unwrap_or(f32::NEG_INFINITY);
        for lane in 0..LANES {
            largest = if most[lane] > largest { most[lane] } else { largest };
        }
        let mut sums = [0.0f32; LANES];
        for block in blocks.iter_mut() {
            for lane in 0..LANES {
                block[lane] = exp(block[lane] - largest);
                sums[lane] += block[lane];
            }
        }
        for lane in 0..LANES {
            last[lane] = exp(last[lane] - largest);
            sums[lane] += last[lane];
        }
        rest.copy_from_slice(&last[..rest.len()]);
        let inverse = 1.0 / (F::fold(sums) + sink.map_or(0.0, |sink| exp(sink - largest)));
        for score in scores.iter_mut() {
            *score *= inverse;
        }
    }

    /// gate = silu(gate) · up.
    pub fn silu_times(gate: &mut [f32], up: &[f32]) {
        for (gate, up) in gate.iter_mut().zip(up) {
            *gate = *gate / (1.0 + exp(-*gate)) * up;
        }
    }

    /// gate = g σ(alpha g) (u + 1) with g = min(gate, limit) and u = up within ±limit.
    pub fn clamped_swiglu(gate: &mut [f32], up: &[f32], alpha: f32, limit: f32) {
        for (gate, up) in gate.iter_mut().zip(up) {
            // Comparisons that leave NaN as it is.
            let g = if *gate > limit { limit } else { *gate };
            let u = if *up > limit { limit } else if *up < -limit { -limit } else { *up };
            *gate = g / (1.0 + exp(-alpha * g)) * (u + 1.0);
        }
    }

    /// Σ x².
    pub fn squares(x: &[f32]) -> f32 {
        dot::<F, f32>(x, x)
    }
}

/// Σ x · row.
#[inline(always)]
fn dot<F: Fold, T: Number>(x: &[f32], row: &[T]) -> f32 {
    let ((x, x_rest), (row, row_rest)) = (x.as_chunks::<LANES>(), row.as_chunks::<LANES>());
    let mut sums = [0.0; LANES];
    for (x, row) in x.iter().zip(row) {
        for lane in 0..LANES {
            sums[lane] += x[lane] * row[lane].read();
        }
    }
    if !x_rest.is_empty() {
        // Padded: sums whose lanes are counted at run time would be kept in memory.
        let (mut x, mut row) = ([0.0; LANES], [0.0; LANES]);
        for (lane, (from, w)) in x_rest.iter().zip(row_rest).enumerate() {
            (x[lane], row[lane]) = (*from, w.read());
        }
        for lane in 0..LANES {
            sums[lane] += x[lane] * row[lane];
        }
    }
    F::fold(sums)
}

/// The sum of all lanes, halves onto halves: in that order on all processors.
pub(crate) trait Fold {
    fn fold(sums: [f32; LANES]) -> f32;
}

pub(crate) struct Plain;

impl Fold for Plain {
    #[inline(always)]
    fn fold(sums: [f32; LANES]) -> f32 {
        let mut half = [0.0; 32];
        for i in 0..32 {
            half[i] = sums[i] + sums[i + 32];
        }
        for i in 0..16 {
            half[i] += half[i + 16];
        }
        for i in 0..8 {
            half[i] += half[i + 8];
        }
        for i in 0..4 {
            half[i] += half[i + 4];
        }
        (half[0] + half[2]) + (half[1] + half[3])
    }
}

/// The same with AVX-512, which compilers take to pieces of two lanes.
#[cfg(target_arch = "x86_64")]
pub(crate) struct Wide;

#[cfg(target_arch = "x86_64")]
impl Fold for Wide {
    #[inline(always)]
    fn fold(sums: [f32; LANES]) -> f32 {
        use std::arch::x86_64::*;
        // SAFETY: only named by what `by_processor` compiles for AVX-512 with DQ; each load is of sixteen of the lanes.
        unsafe {
            let at = |lane: usize| sums.as_ptr().wrapping_add(lane);
            let (low, low_half) = (_mm512_loadu_ps(at(0)), _mm512_loadu_ps(at(32)));
            let (high, high_half) = (_mm512_loadu_ps(at(16)), _mm512_loadu_ps(at(48)));
            let sixteen = _mm512_add_ps(_mm512_add_ps(low, low_half), _mm512_add_ps(high, high_half));
            let eight = _mm256_add_ps(_mm512_castps512_ps256(sixteen), _mm512_extractf32x8_ps::<1>(sixteen));
            let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
        }
    }
}

/// eˣ to 2 units in the last place; 0 below −87, infinite above 88.7.
#[inline(always)]
fn exp(x: f32) -> f32 {
    // x = n ln 2 + r with |r| ≤ ln 2 / 2, ln 2 in two parts (Cody and Waite); then the series of e^r.
    const ROUND: f32 = 12_582_912.0;
    let clamped = if x > 89.0 { 89.0 } else { x };
    let clamped = if clamped < -88.0 { -88.0 } else { clamped };
    let n = (clamped * std::f32::consts::LOG2_E + ROUND) - ROUND;
    let r = (clamped - n * 0.693_359_4) - n * -2.121_944_4e-4;
    let series = 1.0 / 720.0;
    let series = series * r + 1.0 / 120.0;
    let series = series * r + 1.0 / 24.0;
    let series = series * r + 1.0 / 6.0;
    let series = series * r + 0.5;
    let series = (series * r) * r + r + 1.0;
    // 2^n in two factors, for n = 128; n is whole and within −127..=129, or NaN.
    let half = ((n + ROUND).to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32) >> 1;
    let power = |n: i32| f32::from_bits((n.wrapping_add(127) as u32) << 23);
    let whole = ((n + ROUND).to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
    let result = series * power(half) * power(whole.wrapping_sub(half));
    if x < -87.0 {
        0.0
    } else if x.is_nan() {
        x
    } else {
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponentials() {
        for i in -8700..=8870 {
            let x = i as f32 / 100.0;
            let wanted = f64::from(x).exp();
            assert!((f64::from(exp(x)) - wanted).abs() <= 3e-7 * wanted, "{x}: {} for {wanted}", exp(x));
        }
        assert_eq!((exp(0.0), exp(-1e30), exp(f32::NEG_INFINITY), exp(90.0)), (1.0, 0.0, 0.0, f32::INFINITY));
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn folded_in_the_same_order() {
        let sums: [f32; LANES] = std::array::from_fn(|i| (i as f32 * 0.7).sin() * 10f32.powi(i as i32 % 5));
        #[cfg(target_arch = "x86_64")]
        if width() == Width::Avx512 {
            assert_eq!(Wide::fold(sums).to_bits(), Plain::fold(sums).to_bits());
        }
        let (x, rows): (Vec<f32>, Vec<f32>) =
            ((0..150).map(|i| (i as f32).cos()).collect(), (0..450).map(|i| (i as f32).sin()).collect());
        for cols in [1, 64, 65, 150] {
            let (mut y, mut mixed) = ([0.0; 3], vec![0.5; cols]);
            dots_of(&x[..cols], &rows[..3 * cols], &mut y);
            mix(&y, &rows[..3 * cols], &mut mixed);
            for (y, row) in y.iter().zip(rows.chunks(cols)) {
                let wanted: f64 = x.iter().zip(row).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
                assert!((f64::from(*y) - wanted).abs() < 1e-4);
            }
            for (i, mixed) in mixed.iter().enumerate() {
                let wanted: f32 = (0..3).map(|j| y[j] * rows[j * cols + i]).sum();
                assert!((mixed - 0.5 - wanted).abs() < 1e-4);
            }
        }
    }

    #[test]
    fn softmax_is_that_of_the_definition() {
        for n in [1, 5, 64, 150] {
            let scores: Vec<f32> = (0..n).map(|i| (i * 37 % 23) as f32 / 3.0 - 4.0).collect();
            for sink in [None, Some(2.5f32)] {
                let mut found = scores.clone();
                softmax(&mut found, sink);
                let total: f64 = scores.iter().chain(&sink).map(|s| f64::from(*s).exp()).sum();
                for (found, score) in found.iter().zip(&scores) {
                    assert!((f64::from(*found) - f64::from(*score).exp() / total).abs() < 1e-6);
                }
            }
        }
        let mut damaged = [1.0, f32::NAN, 2.0];
        softmax(&mut damaged, None);
        assert!(damaged.iter().all(|x| x.is_nan()));
    }

    #[test]
    fn gates_and_sums() {
        let (gate, up) = ([-3.0f32, 0.0, 0.5, 9.0], [2.0f32, 1.0, -8.0, 0.25]);
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        let mut silu = gate;
        silu_times(&mut silu, &up);
        let mut clamped = gate;
        clamped_swiglu(&mut clamped, &up, 1.702, 7.0);
        for i in 0..4 {
            let (g, u) = (f64::from(gate[i]), f64::from(up[i]));
            assert!((f64::from(silu[i]) - g * sigmoid(g) * u).abs() < 1e-5);
            let (g, u) = (g.min(7.0), u.clamp(-7.0, 7.0));
            assert!((f64::from(clamped[i]) - g * sigmoid(1.702 * g) * (u + 1.0)).abs() < 1e-5);
        }
        let mut out = [1.0, 2.0];
        mix(&[0.5, -1.0], &[2.0, 4.0, 1.0, 1.0], &mut out);
        assert_eq!((out, squares(&[3.0, 4.0])), ([1.0, 3.0], 25.0));
    }
}
