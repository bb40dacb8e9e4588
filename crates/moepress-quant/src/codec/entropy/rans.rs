//! Static range asymmetric numeral systems: a sequence of codes as one large number, moved byte by byte.
//!
//! Duda, "Asymmetric numeral systems", arXiv 1311.2540. With frequencies f that add up to 2^k and c the sum of the
//! f before, a code takes the state x to ⌊x / f⌋ · 2^k + c + x mod f; the last k bits then tell which one it was. The
//! state starts at 0 rather than in its normal range, so that short sequences pay for no more than they hold.

use super::frequencies::Frequencies;

/// Once bytes have been moved out, states are at least this.
const LEAST: u32 = 1 << 23;

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

    /// Codes a sequence, from its last code to its first, and hands every byte to `emit`, from the last to the first.
    #[inline(always)]
    pub(super) fn encode(&self, codes: &[u8], mut emit: impl FnMut(u8)) {
        let mut x = 0u32;
        for &code in codes.iter().rev() {
            let step = &self.steps[usize::from(code)];
            while x >= step.full {
                emit(x as u8);
                x >>= 8;
            }
            let quotient = (u64::from(x) * u64::from(step.reciprocal)) >> (31 + step.shift);
            x += step.start + quotient as u32 * step.stretch;
        }
        while x > 0 {
            emit(x as u8);
            x >>= 8;
        }
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

    /// Reads `out.len()` codes; whether `bytes` are what an encoder makes of them. If not, they are some codes that have
    /// a frequency.
    pub(super) fn decode(&self, bytes: &[u8], out: &mut [u8]) -> bool {
        let (mut x, mut at) = (0u32, 0);
        for out in out {
            while x < LEAST && at < bytes.len() {
                x = x << 8 | u32::from(bytes[at]);
                at += 1;
            }
            let slot = self.slots[x as usize & (self.slots.len() - 1)];
            *out = slot.code();
            x = slot.frequency() * (x >> self.bits) + slot.rest();
        }
        x == 0 && at == bytes.len() && bytes.first() != Some(&0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encode(frequencies: &Frequencies, codes: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        Encoder::new(frequencies).encode(codes, |byte| bytes.push(byte));
        bytes.reverse();
        bytes
    }

    #[test]
    fn by_hand() {
        let frequencies = Frequencies { bits: 2, first: 0, of: vec![2, 1, 1] };
        // From the last code: 0 → 2 → ⌊2 / 2⌋ · 4 = 4 → ⌊4 / 1⌋ · 4 + 3 = 19.
        assert_eq!(encode(&frequencies, &[2, 0, 1]), [19]);
        let mut codes = [9; 3];
        assert!(Decoder::new(&frequencies).decode(&[19], &mut codes));
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
            prop_assert!(decoder.decode(&bytes, &mut out));
            prop_assert_eq!(&out, &codes);

            // Other bytes are refused, or what an encoder makes of other codes that occur.
            if let [rest @ .., _] = &bytes[..] {
                let mut spoilt = bytes.clone();
                spoilt[usize::from(spoil) % bytes.len()] ^= 1 + (spoil >> 8) as u8 % 255;
                for other in [rest, &spoilt, &[&bytes[..], &[0]].concat(), &[&[0], &bytes[..]].concat()] {
                    if decoder.decode(other, &mut out) {
                        prop_assert_eq!(&encode(&frequencies, &out), other);
                    }
                    prop_assert!(out.iter().all(|code| occurring.contains(code)));
                }
            }
        }
    }
}
