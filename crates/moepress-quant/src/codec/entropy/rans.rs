//! Static range asymmetric numeral systems: a sequence of codes as one large number, moved byte by byte.
//!
//! Duda, "Asymmetric numeral systems", arXiv 1311.2540. With frequencies f that add up to 2^k and c the sum of the
//! f before, a code takes the state x to ⌊x / f⌋ · 2^k + c + x mod f; the last k bits then tell which one it was. The
//! state starts at 0 rather than in its normal range, so that short sequences pay for no more than they hold.

use super::frequencies::Frequencies;

/// Once bytes have been moved out, states are at least this.
const LEAST: u32 = 1 << 23;
/// Bytes that one code moves at most: a frequency has no more than 12 bits.
const MOVED: usize = 2;

/// Sequences that are worked on in turn: while one state waits for its product, the others go on.
pub(super) const LANES: usize = 4;

/// What one code does to the state.
#[derive(Clone, Copy, Default)]
struct Step {
    /// From here on, a byte of the state has to be moved out first.
    full: u32,
    /// ⌈2^(31 + `shift`) / f⌉: with it every state below 2^31 is divided exactly (Granlund and Montgomery, "Division
    /// by invariant integers using multiplication", 1994).
    reciprocal: u32,
    shift: u32,
    /// 2^k − f.
    stretch: u32,
    /// c.
    start: u32,
}

impl Step {
    /// The state after the code, of a state below `full`.
    #[inline(always)]
    fn next(&self, x: u32) -> u32 {
        let quotient = (u64::from(x) * u64::from(self.reciprocal)) >> (31 + self.shift);
        // Below 2^31.
        x.wrapping_add(self.start).wrapping_add((quotient as u32).wrapping_mul(self.stretch))
    }
}

/// From codes to bytes.
pub(super) struct Encoder {
    steps: [Step; 256],
}

impl Encoder {
    pub(super) fn new(frequencies: &Frequencies) -> Self {
        let mut steps = [Step::default(); 256];
        let whole = 1u32 << frequencies.bits;
        for (step, (f, start)) in
            steps[usize::from(frequencies.first)..].iter_mut().zip(frequencies.intervals())
        {
            if f > 0 {
                let shift = f.next_power_of_two().trailing_zeros();
                let reciprocal = (1u64 << (31 + shift)).div_ceil(u64::from(f)) as u32;
                *step =
                    Step { full: (f * (LEAST / whole)) << 8, reciprocal, shift, stretch: whole - f, start };
            }
        }
        Self { steps }
    }

    /// The bytes of a sequence of codes that all have a frequency.
    pub(super) fn encode(&self, codes: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(codes.len());
        let mut x = 0;
        for &code in codes.iter().rev() {
            let step = &self.steps[usize::from(code)];
            while x >= step.full {
                bytes.push(x as u8);
                x >>= 8;
            }
            x = step.next(x);
        }
        while x > 0 {
            bytes.push(x as u8);
            x >>= 8;
        }
        bytes.reverse();
        bytes
    }

    /// How many bytes [`encode`](Self::encode) makes of sequences of one length.
    pub(super) fn lengths<const N: usize>(&self, codes: [&[u8]; N]) -> [usize; N] {
        let (mut x, mut lengths) = ([0; N], [0; N]);
        for at in (0..codes.iter().map(|codes| codes.len()).min().unwrap_or(0)).rev() {
            for lane in 0..N {
                let step = &self.steps[usize::from(codes[lane][at])];
                for _ in 0..MOVED {
                    // Without a jump: whether a byte is moved can hardly be foreseen.
                    let full = x[lane] >= step.full;
                    x[lane] = if full { x[lane] >> 8 } else { x[lane] };
                    lengths[lane] += usize::from(full);
                }
                x[lane] = step.next(x[lane]);
            }
        }
        std::array::from_fn(|lane| lengths[lane] + (u32::BITS - x[lane].leading_zeros()).div_ceil(8) as usize)
    }
}

/// From bytes to codes.
pub(super) struct Decoder {
    bits: u32,
    /// For every value of the last k bits of a state the code, f − 1 and the value minus c.
    slots: Vec<Slot>,
}

#[derive(Clone, Copy)]
struct Slot(u32);

impl Slot {
    fn code(self) -> u8 {
        self.0 as u8
    }

    fn frequency(self) -> u32 {
        (self.0 >> 8 & 0xfff) + 1
    }

    fn rest(self) -> u32 {
        self.0 >> 20
    }
}

impl Decoder {
    pub(super) fn new(frequencies: &Frequencies) -> Self {
        let mut slots = Vec::with_capacity(1 << frequencies.bits);
        for (code, (f, _)) in (u32::from(frequencies.first)..).zip(frequencies.intervals()) {
            slots.extend((0..f).map(|rest| Slot(code | (f - 1) << 8 | rest << 20)));
        }
        Self { bits: frequencies.bits, slots }
    }

    /// Reads as many codes of each of the sequences as fit `out`, `[N, codes]`; whether all `bytes` are what an encoder
    /// makes of them. Where they are not, the codes are some that have a frequency.
    pub(super) fn decode<const N: usize>(&self, bytes: [&[u8]; N], out: &mut [u8]) -> bool {
        let count = out.len() / N;
        let mut rest = out;
        let mut out: [&mut [u8]; N] =
            std::array::from_fn(|_| rest.split_off_mut(..count).unwrap_or_default());
        let mut lanes = bytes.map(|bytes| Lane { x: 0, at: 0, bytes });
        lanes.iter_mut().for_each(|lane| lane.take(size_of::<u32>()));
        for at in 0..count {
            for (lane, out) in lanes.iter_mut().zip(&mut out) {
                lane.take(MOVED);
                let slot = self.slots[lane.x as usize & (self.slots.len() - 1)];
                lane.x = slot.frequency() * (lane.x >> self.bits) + slot.rest();
                out[at] = slot.code();
            }
        }
        lanes.iter().all(|lane| lane.x == 0 && lane.at == lane.bytes.len() && lane.bytes.first() != Some(&0))
    }
}

/// A sequence that is being read.
struct Lane<'a> {
    x: u32,
    at: usize,
    bytes: &'a [u8],
}

impl Lane<'_> {
    /// Takes in bytes, at most that many, until the state is in its normal range.
    #[inline(always)]
    fn take(&mut self, most: usize) {
        for _ in 0..most {
            // Without a jump, as in the encoder.
            let byte = self.bytes.get(self.at);
            let moves = (self.x < LEAST) & byte.is_some();
            let more = self.x << 8 | u32::from(byte.copied().unwrap_or(0));
            self.x = if moves { more } else { self.x };
            self.at += usize::from(moves);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encode(frequencies: &Frequencies, codes: &[u8]) -> Vec<u8> {
        let encoder = Encoder::new(frequencies);
        let bytes = encoder.encode(codes);
        let half = codes.len() / 2;
        let halves = [&codes[..half], &codes[half..2 * half]];
        assert_eq!(encoder.lengths(halves), halves.map(|half| encoder.encode(half).len()));
        bytes
    }

    #[test]
    fn by_hand() {
        let frequencies = Frequencies { bits: 2, first: 0, of: vec![2, 1, 1] };
        // From the last code: 0 → 2 → ⌊2 / 2⌋ · 4 = 4 → ⌊4 / 1⌋ · 4 + 3 = 19.
        assert_eq!(encode(&frequencies, &[2, 0, 1]), [19]);
        let mut codes = [9; 3];
        assert!(Decoder::new(&frequencies).decode([&[19]], &mut codes));
        assert_eq!(codes, [2, 0, 1]);
        assert_eq!(encode(&frequencies, &[0; 50]), []);
    }

    fn parts() -> impl Strategy<Value = Frequencies> {
        let weight = prop_oneof![Just(0u64), Just(1), 0u64..1000, 0u64..1 << 20];
        (0u8..4, proptest::collection::vec(weight, 1..250)).prop_filter_map("no code", |(first, of)| {
            let mut counts = [0; 256];
            counts[usize::from(first)..][..of.len()].copy_from_slice(&of);
            Frequencies::fit(&counts)
        })
    }

    proptest! {
        #[test]
        fn codes_round_trip(frequencies in parts(), raw in proptest::collection::vec(any::<u16>(), 0..400), spoil: u16) {
            let occurring: Vec<u8> = (frequencies.first..).zip(&frequencies.of).filter(|(_, f)| **f > 0).map(|(c, _)| c).collect();
            let codes: Vec<u8> = raw.iter().map(|&r| occurring[usize::from(r) % occurring.len()]).collect();
            let bytes = encode(&frequencies, &codes);
            let decoder = Decoder::new(&frequencies);
            let mut out = vec![0; codes.len()];
            prop_assert!(decoder.decode([&bytes], &mut out));
            prop_assert_eq!(&out, &codes);

            let mut twice = vec![0; 3 * codes.len()];
            prop_assert!(decoder.decode([&bytes, &bytes, &bytes], &mut twice));
            prop_assert_eq!(twice, [&codes[..], &codes, &codes].concat());

            // Other bytes are refused, or what an encoder makes of other codes that occur.
            if let [rest @ .., _] = &bytes[..] {
                let mut spoilt = bytes.clone();
                spoilt[usize::from(spoil) % bytes.len()] ^= 1 + (spoil >> 8) as u8 % 255;
                for other in [rest, &spoilt, &[&bytes[..], &[0]].concat(), &[&[0], &bytes[..]].concat()] {
                    if decoder.decode([other], &mut out) {
                        prop_assert_eq!(&encode(&frequencies, &out), other);
                    }
                    prop_assert!(out.iter().all(|code| occurring.contains(code)));
                }
            }
        }
    }
}
