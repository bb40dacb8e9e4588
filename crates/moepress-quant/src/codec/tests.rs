//! Every codec on every format: nothing is lost, sizes are known beforehand, and what is no code is refused.

use super::*;
use crate::{Packed, Stored};
use proptest::prelude::*;

fn grouped(name: &str) -> Grouped {
    match name.parse() {
        Ok(Format::Grouped(grouped)) => grouped,
        other => panic!("{name}: {other:?}"),
    }
}

const FORMATS: [&str; 9] = [
    "ternary-row",
    "ternary-g16",
    "int2-g32",
    "int3-sym-g64",
    "int4-row",
    "int8-g128",
    "int8-sym-row",
    "fp8-row",
    "mxfp4",
];

/// Numbers from a seed, as xorshift64* makes them.
fn random(seed: u64) -> impl FnMut() -> u32 {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    move || {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as u32
    }
}

/// Codes of which that share is one and the same, and the others fall off from it.
fn codes(format: Grouped, n: usize, share: f64, seed: u64) -> Vec<u8> {
    let (mut random, levels) =
        (random(seed), (0..=u8::MAX).take_while(|&code| format.has(code)).count() as u32);
    let mut code = || {
        let common = f64::from(random()) / f64::from(u32::MAX) < share || share == 1.0;
        let far = (random() % levels).min(random() % levels).min(random() % levels);
        (if common { 0 } else { far }) as u8
    };
    (0..n).map(|_| code()).collect()
}

fn matrix(format: Grouped, rows: usize, cols: usize, codes: Codes) -> Packed {
    let groups = rows * format.row_groups(cols);
    let scale =
        |at: usize| if format == Grouped::MXFP4 { at as u16 % 255 } else { 0x2c00 + at as u16 % 0x400 };
    let scales = (0..groups).map(scale).collect();
    let offsets = if format.has_offsets() { vec![0xb800; groups] } else { vec![] };
    Packed { format, rows, cols, codes, scales, offsets }
}

/// The codec that is best, once everything has been compared with bit fields.
fn check(format: Grouped, rows: usize, cols: usize, codes: &[u8]) -> Codec {
    let fields = matrix(format, rows, cols, Codes::pack(format, rows, cols, codes, Packing::Fields));
    assert_eq!(fields.codes.codec(), Codec::Fields);
    let best = fields.clone().repacked(Packing::Best);
    for packed in [&fields, &best] {
        let mut read = vec![9; rows * cols];
        packed.read_codes(0, &mut read);
        assert!(read == codes, "{} {rows} × {cols} in {:?}", Format::Grouped(format), packed.codes.codec());
        assert_eq!(Stored::Packed(packed.clone()).validate(), Ok(()));
    }
    let bits = |values: Vec<f32>| values.into_iter().map(f32::to_bits).collect::<Vec<_>>();
    assert!(bits(best.to_f32()) == bits(fields.to_f32()));
    for (packed, packing) in [(&fields, Packing::Fields), (&best, Packing::Best)] {
        assert_eq!(packed.stored_bytes(), stored_bytes(format, rows, cols, codes, packing));
    }
    assert!(best.stored_bytes() <= fields.stored_bytes());
    // Rows from the middle, one and several.
    for first in [0, rows / 3, rows.saturating_sub(1)] {
        let until = rows.min(first + 5);
        for end in [rows.min(first + 1), until] {
            let mut some = vec![9; (end - first) * cols];
            best.read_codes(first, &mut some);
            assert!(some == codes[first * cols..end * cols]);
        }
    }
    assert_eq!(best.clone().repacked(Packing::Fields), fields);
    best.codes.codec()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn every_codec_is_lossless(
        rows in 0usize..70, cols in prop_oneof![Just(1usize), 0usize..300],
        share in prop_oneof![Just(0.0), Just(0.3), Just(0.885), Just(1.0)], seed: u64,
    ) {
        for name in FORMATS {
            let format = grouped(name);
            check(format, rows, cols, &codes(format, rows * cols, share, seed));
        }
    }

    #[test]
    fn what_is_damaged_is_refused(name in 0..FORMATS.len(), seed: u64, at: usize, flip in 1u8.., cut: usize) {
        let (format, rows, cols) = (grouped(FORMATS[name]), 41, 67);
        let best = Codes::pack(format, rows, cols, &codes(format, rows * cols, 0.9, seed), Packing::Best);
        prop_assert_eq!(best.codec(), Codec::Entropy);
        let bytes = best.bytes();
        let validated = |bytes: Vec<u8>| {
            let entropy = Entropy::parse(rows, cols, bytes)?;
            let packed = matrix(format, rows, cols, Codes::Entropy(entropy));
            Stored::Packed(packed.clone()).validate().map(|()| packed)
        };
        prop_assert!(validated(bytes[..cut % bytes.len()].to_vec()).is_err());
        prop_assert!(validated([bytes, &[0]].concat()).is_err());
        let mut spoilt = bytes.to_vec();
        spoilt[at % bytes.len()] ^= flip;
        // Another table may describe other codes; then they are codes of the format.
        if let Ok(packed) = validated(spoilt) {
            let mut codes = vec![0; rows * cols];
            packed.read_codes(0, &mut codes);
            prop_assert!(codes.iter().all(|&code| usize::from(code) < format.levels()));
        }
    }
}

#[test]
fn sparse_codes_come_near_their_entropy() {
    let format = grouped("ternary-row");
    for (share, rows, cols) in
        [(0.6, 512, 512), (0.885, 512, 512), (0.885, 32, 192), (0.885, 192, 32), (0.6, 32, 128)]
    {
        let mut codes = codes(format, rows * cols, share, 5);
        codes
            .iter_mut()
            .enumerate()
            .filter(|(_, code)| **code > 0)
            .for_each(|(at, code)| *code = 1 + (at % 2) as u8);
        let zeros = codes.iter().filter(|&&code| code == 0).count() as f64 / codes.len() as f64;
        let entropy = -zeros * zeros.log2() - (1.0 - zeros) * ((1.0 - zeros) / 2.0).log2();
        let packed = Codes::pack(format, rows, cols, &codes, Packing::Best);
        let bits = packed.bytes().len() as f64 * 8.0 / codes.len() as f64;
        // Beginnings, ends and lengths of runs, the table and the header.
        let more = if codes.len() > 100_000 { 0.02 } else { 0.05 };
        assert!(bits < entropy + more, "{rows} × {cols}, {zeros} zeros: {bits} bits, entropy {entropy}");
    }
}

#[test]
fn the_smallest_codec_is_chosen() {
    let (ternary, int4) = (grouped("ternary-row"), grouped("int4-row"));
    let even = |format: Grouped, n: usize| -> Vec<u8> {
        (0..n).map(|at| (at * 7 % format.levels()) as u8).collect()
    };
    assert_eq!(check(ternary, 64, 100, &even(ternary, 6400)), Codec::Trits);
    assert_eq!(check(ternary, 8, 4, &even(ternary, 32)), Codec::Fields, "one byte either way");
    assert_eq!(check(int4, 64, 100, &even(int4, 6400)), Codec::Fields);
    assert_eq!(check(int4, 64, 100, &codes(int4, 6400, 0.0, 3)), Codec::Entropy);
    for (rows, cols) in [(0, 0), (0, 9), (9, 0)] {
        assert_eq!(check(ternary, rows, cols, &[]), Codec::Fields);
    }
    // All alike, they would be no bytes at all.
    assert_eq!(check(ternary, 2, 2500, &vec![1; 5000]), Codec::Entropy);
    assert_eq!(check(ternary, 70, 3000, &vec![1; 210_000]), Codec::Trits);
}

#[test]
fn what_cannot_occur_is_refused() {
    let (ternary, int8) = (grouped("ternary-g16"), grouped("int8-row"));
    let error =
        |format, codes| Stored::Packed(matrix(format, 4, 12, codes)).validate().unwrap_err().to_string();
    let mut trits = vec![242; 12];
    assert_eq!(Stored::Packed(matrix(ternary, 4, 12, Codes::Trits(trits.clone()))).validate(), Ok(()));
    assert!(error(int8, Codes::Trits(trits.clone())).contains("are trits, but the format is not ternary"));
    assert!(
        error(ternary, Codes::Trits(trits[1..].to_vec())).contains("codes has 11 elements instead of 12")
    );
    trits[7] = 243;
    assert!(error(ternary, Codes::Trits(trits)).contains("from row 2 on hold a byte that is no five trits"));
    assert!(error(ternary, Codes::Fields(vec![3; 12])).contains("from row 0 on hold a 3"));
    let fp8 = grouped("fp8-row");
    assert!(
        error(fp8, Codes::Fields([[0x7e; 20], [0xff; 20], [0; 20]].concat()[..48].to_vec()))
            .contains("from row 1 on hold a NaN")
    );
    assert!(
        error(fp8, Codes::Entropy(Entropy::encode(12, &[0x7f; 48], usize::MAX).unwrap())).contains("others")
    );
    let sparse = |rows: usize, cols, levels| {
        let codes: Vec<u8> = (0..rows * cols).map(|at| if at % 17 == 0 { levels } else { 0 }).collect();
        Codes::Entropy(Entropy::encode(cols, &codes, usize::MAX).unwrap())
    };
    assert!(error(ternary, sparse(4, 12, 3)).contains("are others than the format has"));
    assert!(error(int8, sparse(2000, 12, 9)).contains("of a matrix of another shape"));
    assert!(error(int8, sparse(4, 13, 9)).contains("are cut short or damaged"));
    let bomb = |cols| Packed { cols, ..matrix(int8, 4, 12, sparse(4, 12, 9)) };
    for cols in [usize::MAX, 1 << 40, 20_000] {
        let error = Stored::Packed(bomb(cols)).validate().unwrap_err().to_string();
        assert!(error.contains("are too many for their bytes"), "{error}");
    }
}

#[test]
fn threads_change_nothing() {
    let format = grouped("int4-row");
    let codes = codes(format, 700 * 90, 0.2, 8);
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| Codes::pack(format, 700, 90, &codes, Packing::Best))
    };
    assert_eq!(run(1), run(4));
}
