//! Planes: one bit of every code in each, the highest first. The first b planes of codes of B bits are the planes of
//! their b highest bits, so that a reader may do with the beginning (matryoshka weights, arXiv 2504.15299).

/// The lowest bit of every byte.
const ONES: u64 = 0x0101_0101_0101_0101;
/// Moves those bits into the highest byte, the lowest byte's to its lowest bit.
const GATHER: u64 = 0x0102_0408_1020_4080;
/// Of byte i bit i.
const DIAGONAL: u64 = 0x8040_2010_0804_0201;

/// Bytes of a row in one plane; every row starts on a byte.
pub(super) const fn row_bytes(cols: usize) -> usize {
    cols.div_ceil(8)
}

/// Packs codes of `bits` bits, `[rows, cols]`, into planes, `[bits, rows, row_bytes]`.
pub(super) fn pack(bits: usize, rows: usize, cols: usize, codes: &[u8]) -> Vec<u8> {
    let width = row_bytes(cols);
    let mut out = vec![0; bits * rows * width];
    if cols == 0 {
        return out;
    }
    for (row, codes) in codes.chunks_exact(cols).enumerate() {
        for (at, codes) in codes.chunks(8).enumerate() {
            let mut octet = [0; 8];
            octet[..codes.len()].copy_from_slice(codes);
            let octet = u64::from_le_bytes(octet);
            for plane in 0..bits {
                let ones = octet >> (bits - 1 - plane) & ONES;
                out[(plane * rows + row) * width + at] = (ones.wrapping_mul(GATHER) >> 56) as u8;
            }
        }
    }
    out
}

/// Unpacks the rows from `first` on of `bits` planes of `rows` rows into `out`, a whole number of rows.
pub(super) fn unpack(bits: usize, rows: usize, cols: usize, planes: &[u8], first: usize, out: &mut [u8]) {
    let width = row_bytes(cols);
    for (out, row) in out.chunks_exact_mut(cols).zip(first..) {
        for (at, out) in out.chunks_mut(8).enumerate() {
            let octet = (0..bits).fold(0u64, |codes, plane| {
                let byte = u64::from(planes[(plane * rows + row) * width + at]);
                let spread = byte.wrapping_mul(ONES) & DIAGONAL;
                // A byte that is not 0 reaches 128 with 127 more.
                codes << 1 | (spread.wrapping_add(127 * ONES) >> 7 & ONES)
            });
            out.copy_from_slice(&octet.to_le_bytes()[..out.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn planes_by_hand() {
        // Codes 5, 2, 7: the highest bits 1 0 1, then 0 1 1, then 1 0 1.
        assert_eq!(pack(3, 1, 3, &[5, 2, 7]), [0b101, 0b110, 0b101]);
        assert_eq!(pack(2, 2, 1, &[1, 2]), [0, 1, 1, 0]);
        assert_eq!(pack(8, 4, 0, &[]), []);
    }

    proptest! {
        #[test]
        fn the_first_planes_are_those_of_the_highest_bits(
            bits in 1usize..=8, rows in 0usize..5, cols in 1usize..40, raw in proptest::collection::vec(any::<u8>(), 200),
        ) {
            let codes: Vec<u8> = raw[..rows * cols].iter().map(|code| code >> (8 - bits)).collect();
            let planes = pack(bits, rows, cols, &codes);
            for fewer in 1..=bits {
                let highest: Vec<u8> = codes.iter().map(|code| code >> (bits - fewer)).collect();
                let beginning = &planes[..fewer * rows * row_bytes(cols)];
                prop_assert_eq!(beginning, &pack(fewer, rows, cols, &highest)[..]);
                for first in 0..rows {
                    let mut out = vec![0xaa; (rows - first) * cols];
                    unpack(fewer, rows, cols, beginning, first, &mut out);
                    prop_assert_eq!(&out[..], &highest[first * cols..]);
                }
            }
        }
    }
}
