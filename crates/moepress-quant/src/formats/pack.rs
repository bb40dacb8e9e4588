//! Codes of 1 to 8 bits as a stream of bytes, lowest bits first.
//!
//! Eight codes of b bits are b bytes. They are moved eight at a time inside a u64: bytes to fields of b bits
//! in three doublings, the same for every width.

const BYTES: u64 = 0x00ff_00ff_00ff_00ff;
const PAIRS: u64 = 0x0000_ffff_0000_ffff;
const QUADS: u64 = 0x0000_0000_ffff_ffff;
/// One in every 32 bits, and in every 16.
const QUADS_ONE: u64 = 0x0000_0001_0000_0001;
const PAIRS_ONE: u64 = 0x0001_0001_0001_0001;

/// Packs codes below 2^`bits` into `out`, of `(codes.len() * bits).div_ceil(8)` bytes. Unused bits are zero.
#[inline(always)]
pub(crate) fn pack(bits: usize, codes: &[u8], out: &mut [u8]) {
    // Constant widths let the compiler turn the shifts and copies below into immediates.
    match bits {
        2 => {
            let whole = codes.as_chunks::<4>().0;
            let quads = whole.iter().map(|&quad| u32::from_le_bytes(quad));
            out.iter_mut().zip(quads).for_each(|(out, x)| *out = (x | x >> 6 | x >> 12 | x >> 18) as u8);
            pack_words(2, &codes[4 * whole.len()..], &mut out[whole.len()..]);
        }
        3 => pack_words(3, codes, out),
        4 => {
            let whole = codes.as_chunks::<2>().0;
            let pairs = whole.iter().map(|&pair| u16::from_le_bytes(pair));
            out.iter_mut().zip(pairs).for_each(|(out, x)| *out = (x | x >> 4) as u8);
            pack_words(4, &codes[2 * whole.len()..], &mut out[whole.len()..]);
        }
        8 => out.copy_from_slice(codes),
        _ => pack_words(bits, codes, out),
    }
}

#[inline(always)]
fn pack_words(bits: usize, codes: &[u8], out: &mut [u8]) {
    let (octets, rest) = codes.as_chunks::<8>();
    let (words, tail) = out.split_at_mut(octets.len() * bits);
    for (octet, word) in octets.iter().zip(words.chunks_exact_mut(bits)) {
        word.copy_from_slice(&gather(bits, u64::from_le_bytes(*octet)).to_le_bytes()[..bits]);
    }
    let mut octet = [0; 8];
    octet[..rest.len()].copy_from_slice(rest);
    tail.copy_from_slice(&gather(bits, u64::from_le_bytes(octet)).to_le_bytes()[..tail.len()]);
}

/// Unpacks `out.len()` codes of `bits` bits.
pub(crate) fn unpack(bits: usize, bytes: &[u8], out: &mut [u8]) {
    match bits {
        2 => unpack_words(2, bytes, out),
        3 => unpack_words(3, bytes, out),
        4 => unpack_words(4, bytes, out),
        _ => unpack_words(bits, bytes, out),
    }
}

#[inline(always)]
fn unpack_words(bits: usize, bytes: &[u8], out: &mut [u8]) {
    let octet = |word: &[u8]| {
        let mut bytes = [0; 8];
        bytes[..word.len()].copy_from_slice(word);
        scatter(bits, u64::from_le_bytes(bytes)).to_le_bytes()
    };
    let (octets, rest) = out.as_chunks_mut::<8>();
    let (words, tail) = bytes.split_at(octets.len() * bits);
    octets.iter_mut().zip(words.chunks_exact(bits)).for_each(|(out, word)| *out = octet(word));
    rest.copy_from_slice(&octet(&tail[..tail.len().min(bits)])[..rest.len()]);
}

/// Eight bytes to eight fields of `bits` bits.
#[inline(always)]
fn gather(bits: usize, x: u64) -> u64 {
    let x = (x & BYTES) | ((x >> 8 & BYTES) << bits);
    let x = (x & PAIRS) | ((x >> 16 & PAIRS) << (2 * bits));
    (x & QUADS) | ((x >> 32) << (4 * bits))
}

/// Eight fields of `bits` bits to eight bytes.
#[inline(always)]
fn scatter(bits: usize, x: u64) -> u64 {
    let low = |fields: usize, ones: u64| ones * ((1 << (fields * bits)) - 1);
    let x = (x & low(4, 1)) | ((x >> (4 * bits) & low(4, 1)) << 32);
    let x = (x & low(2, QUADS_ONE)) | ((x >> (2 * bits) & low(2, QUADS_ONE)) << 16);
    (x & low(1, PAIRS_ONE)) | ((x >> bits & low(1, PAIRS_ONE)) << 8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn fields_run_from_the_lowest_bit() {
        let packed = |bits: usize, codes: &[u8]| {
            let mut out = vec![0xff; (codes.len() * bits).div_ceil(8)];
            pack(bits, codes, &mut out);
            out
        };
        assert_eq!(packed(2, &[1, 2, 3, 0, 1]), [0b00_11_10_01, 0b01]);
        assert_eq!(packed(3, &[1, 2, 7, 5]), [0b11_010_001, 0b0000_1011]);
        assert_eq!(packed(4, &[1, 15, 2]), [0xf1, 0x02]);
        assert_eq!(packed(8, &[7, 200]), [7, 200]);
        assert_eq!(packed(3, &[]), []);
    }

    proptest! {
        #[test]
        fn codes_round_trip(bits in 1usize..=8, raw in proptest::collection::vec(any::<u8>(), 0..140)) {
            let codes: Vec<u8> = raw.iter().map(|c| c >> (8 - bits)).collect();
            let mut bytes = vec![0xaa; (codes.len() * bits).div_ceil(8)];
            pack(bits, &codes, &mut bytes);
            for (i, &code) in codes.iter().enumerate() {
                let bit = |at: usize| bytes[at / 8] >> (at % 8) & 1;
                prop_assert_eq!((0..bits).map(|b| bit(i * bits + b) << b).sum::<u8>(), code);
            }
            let mut out = vec![0xaa; codes.len()];
            unpack(bits, &bytes, &mut out);
            prop_assert_eq!(&out, &codes);
            let unused = bytes.len() * 8 - codes.len() * bits;
            prop_assert!(bytes.last().is_none_or(|last| last.leading_zeros() as usize >= unused));
        }
    }
}
