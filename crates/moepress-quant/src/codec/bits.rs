//! Numbers of few bits one after the other, the lowest bit of a byte first.

/// Appends numbers to bytes.
pub(super) struct BitWriter {
    bytes: Vec<u8>,
    /// Bits of the last byte that are taken.
    taken: u32,
}

impl BitWriter {
    /// Begins with the byte after those of `bytes`.
    pub(super) fn after(bytes: Vec<u8>) -> Self {
        Self { bytes, taken: 8 }
    }

    /// Appends the lowest `bits` ≤ 32 bits of `value`.
    pub(super) fn push(&mut self, bits: u32, value: u32) {
        for bit in 0..bits {
            if self.taken == 8 {
                self.bytes.push(0);
                self.taken = 0;
            }
            if let Some(last) = self.bytes.last_mut() {
                *last |= ((value >> bit & 1) as u8) << self.taken;
            }
            self.taken += 1;
        }
    }

    /// The bytes; bits left over are zero.
    pub(super) fn finish(self) -> Vec<u8> {
        self.bytes
    }
}

/// Takes numbers from bytes.
pub(super) struct BitReader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> BitReader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// The next `bits` ≤ 32 bits; `None` where fewer are left.
    pub(super) fn take(&mut self, bits: u32) -> Option<u32> {
        let mut value = 0;
        for bit in 0..bits {
            let byte = *self.bytes.get(self.at / 8)?;
            value |= u32::from(byte >> (self.at % 8) & 1) << bit;
            self.at += 1;
        }
        Some(value)
    }
}
