//! Five ternary codes a byte: c₀ + 3 c₁ + 9 c₂ + 27 c₃ + 81 c₄, at most 242.

/// Codes of a byte.
const CODES: usize = 5;
/// Values of a byte.
pub(super) const VALUES: usize = 243;

/// The codes of every byte; of those that no encoder writes, zeros.
static TABLE: [[u8; CODES]; 256] = table();

/// Bytes of a row; every row starts on a byte.
pub(super) const fn row_bytes(cols: usize) -> usize {
    cols.div_ceil(CODES)
}

/// Packs one row of codes below 3.
pub(super) fn pack(codes: &[u8], out: &mut [u8]) {
    for (codes, out) in codes.chunks(CODES).zip(out) {
        *out = codes.iter().rev().fold(0, |byte, code| 3 * byte + code);
    }
}

/// Unpacks one row.
pub(super) fn unpack(bytes: &[u8], out: &mut [u8]) {
    let (whole, rest) = out.as_chunks_mut::<CODES>();
    whole.iter_mut().zip(bytes).for_each(|(out, &byte)| *out = TABLE[usize::from(byte)]);
    if let Some(&last) = bytes.get(whole.len()) {
        rest.copy_from_slice(&TABLE[usize::from(last)][..rest.len()]);
    }
}

const fn table() -> [[u8; CODES]; 256] {
    let mut table = [[0; CODES]; 256];
    let mut byte = 0;
    while byte < VALUES {
        let (mut rest, mut at) = (byte, 0);
        while at < CODES {
            table[byte][at] = (rest % 3) as u8;
            (rest, at) = (rest / 3, at + 1);
        }
        byte += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_hand() {
        let (codes, mut bytes) = ([2, 1, 0, 0, 1, 2, 2, 2, 2, 2, 1], [0; 3]);
        pack(&codes, &mut bytes);
        assert_eq!(bytes, [2 + 3 + 81, 242, 1]);
        let mut out = [9; 11];
        unpack(&bytes, &mut out);
        assert_eq!(out, codes);
        unpack(&[255; 3], &mut out);
        assert_eq!(out, [0; 11]);
    }
}
