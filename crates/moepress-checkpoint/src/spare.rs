//! Memory of weights that are no longer needed, for those that are read next. An allocator asked for megabytes again and again,
//! from several threads, ends up with twice of them, and clears every page of new ones.

use std::sync::{Mutex, PoisonError};

/// Bytes below which an allocator does well.
const SMALL: usize = 1 << 15;

/// Buffers, oldest first.
#[derive(Default)]
pub(crate) struct Spare(Mutex<Vec<Vec<u8>>>);

impl Spare {
    /// Keeps a buffer, unless it is small.
    pub(crate) fn give(&self, bytes: Vec<u8>) {
        if bytes.capacity() >= SMALL {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(bytes);
        }
    }

    /// A buffer of `len` bytes of any value, at most an eighth larger than that. Where there is none, as many bytes of others
    /// are freed, so that new ones do not add to what there is.
    pub(crate) fn take(&self, len: usize) -> Option<Vec<u8>> {
        if len < SMALL {
            return None;
        }
        let mut spare = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |bytes: &Vec<u8>| (len..=len + len / 8).contains(&bytes.capacity());
        if let Some(at) = spare.iter().position(fits) {
            let mut bytes = spare.remove(at);
            bytes.resize(len, 0);
            return Some(bytes);
        }
        let mut freed = 0;
        while freed < len && !spare.is_empty() {
            freed += spare.remove(0).capacity();
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_is_taken_and_as_much_of_the_rest_goes() {
        let spare = Spare::default();
        for kib in [1, 64, 128, 64, 256] {
            spare.give(vec![7; kib << 10]);
        }
        let held = || spare.0.lock().unwrap().iter().map(|bytes| bytes.len() >> 10).collect::<Vec<_>>();
        assert_eq!(held(), [64, 128, 64, 256]);
        assert_eq!(spare.take(120 << 10).unwrap().len(), 120 << 10);
        assert_eq!(held(), [64, 64, 256]);
        // Nothing is as large, or as little larger.
        assert!(spare.take(100 << 10).is_none() && spare.take(10).is_none());
        assert_eq!(held(), [256]);
        assert!(spare.take(1 << 20).is_none() && held().is_empty());
    }
}
