//! Damaging files at random, the same on every machine; for tests of what reads them.

/// Splitmix64.
pub(crate) fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A file changed in one to three places: a bit, a character of JSON, a byte less, a byte more, or cut short.
pub(crate) fn mutated(file: &[u8], state: &mut u64) -> Vec<u8> {
    let mut bytes = file.to_vec();
    for _ in 0..=random(state) % 3 {
        let at = random(state) as usize % bytes.len().max(2);
        if bytes.len() <= at {
            break;
        }
        match random(state) % 5 {
            0 => bytes[at] ^= 1 << (random(state) % 8),
            1 => bytes[at] = b"{}[]\",:0123456789-eE. \\"[random(state) as usize % 22],
            2 => drop(bytes.remove(at)),
            3 => bytes.insert(at, bytes[random(state) as usize % bytes.len()]),
            _ => bytes.truncate(at.max(1)),
        }
    }
    bytes
}
