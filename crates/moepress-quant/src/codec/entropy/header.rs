//! What comes before the runs: the frequencies, and how long every run is.

use super::frequencies::{Frequencies, MAX_BITS};
use crate::codec::bits::{BitReader, BitWriter};

/// Bytes of fixed size at the beginning.
const FIXED: usize = 4;
/// Bits of the number of rows of a run.
const MAX_LOG_ROWS: u8 = 10;

/// What the header of a matrix says, but for the lengths of the runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) frequencies: Frequencies,
    /// Rows of a run, a power of two; the last run may have fewer.
    pub(super) rows: usize,
    /// The length of the shortest run.
    shortest: u32,
    /// Bits of what another length has above that.
    width: u32,
}

impl Header {
    /// `None` where the lengths are too great or too different.
    pub(super) fn new(frequencies: Frequencies, rows: usize, lengths: &[usize]) -> Option<Self> {
        let shortest = u32::try_from(lengths.iter().min().copied().unwrap_or(0)).ok()?;
        let spread = lengths.iter().max().map_or(0, |max| max - shortest as usize);
        let width = usize::BITS - spread.leading_zeros();
        (width < 16).then_some(Self { frequencies, rows, shortest, width })
    }

    /// Its bytes, those of the lengths of `runs` runs included.
    pub(super) fn bytes(&self, runs: usize) -> usize {
        let bits =
            (self.frequencies.of.len() - 1) * self.frequencies.bits as usize + runs * self.width as usize;
        FIXED + variable(self.shortest).len() + bits.div_ceil(8)
    }

    pub(super) fn write(&self, lengths: &[usize]) -> Vec<u8> {
        let Frequencies { bits, first, of } = &self.frequencies;
        let last = usize::from(*first) + of.len() - 1;
        let fixed: [u8; FIXED] =
            [(bits | self.width << 4) as u8, self.rows.trailing_zeros() as u8, *first, last as u8];
        let mut out = BitWriter::after([&fixed[..], &variable(self.shortest)].concat());
        of[..of.len() - 1].iter().for_each(|&f| out.push(*bits, u32::from(f)));
        // No longer than `width` bits, as `new` saw.
        lengths.iter().for_each(|&length| out.push(self.width, (length - self.shortest as usize) as u32));
        out.finish()
    }

    /// The header of a matrix of `rows` rows at the beginning of `bytes`, the end of every run, and the beginning of
    /// the first.
    pub(super) fn read(bytes: &[u8], rows: usize) -> Result<(Self, Vec<u32>, usize), &'static str> {
        const SHORT: &str = "end within their header";
        let &[widths, log_rows, first, last, ref rest @ ..] = bytes else { return Err(SHORT) };
        let (bits, width) = (u32::from(widths & 15), u32::from(widths >> 4));
        if !(1..=MAX_BITS).contains(&bits) || last < first || log_rows > MAX_LOG_ROWS {
            return Err("have a header that makes no sense");
        }
        let (shortest, rest) = read_variable(rest).ok_or(SHORT)?;
        let mut reader = BitReader::new(rest);
        let mut left = 1u32 << bits;
        let mut of = Vec::with_capacity(usize::from(last - first) + 1);
        for _ in first..last {
            let f = reader.take(bits).ok_or(SHORT)?;
            left = left.checked_sub(f).ok_or("have frequencies beyond their sum")?;
            of.push(f as u16);
        }
        if left == 0 {
            return Err("have frequencies beyond their sum");
        }
        of.push(left as u16);
        let run = 1usize << log_rows;
        let header = Self { frequencies: Frequencies { bits, first, of }, rows: run, shortest, width };
        let runs = rows.div_ceil(run);
        // Known before any room is made for them.
        let start =
            runs.checked_mul(width as usize).map(|_| header.bytes(runs)).filter(|&s| s <= bytes.len());
        let start = start.ok_or(SHORT)?;
        let lengths =
            (0..runs).map_while(|_| reader.take(width)).map(|more| shortest as usize + more as usize);
        let ends = ends(start, lengths).ok_or("have runs beyond 4 GiB")?;
        match ends.last().map_or(start, |&end| end as usize) {
            end if end == bytes.len() => Ok((header, ends, start)),
            end if end > bytes.len() => Err("end before their last run does"),
            _ => Err("go on after their last run"),
        }
    }
}

/// Where runs of these lengths end when the first begins at `start`; `None` beyond u32.
pub(super) fn ends(start: usize, lengths: impl IntoIterator<Item = usize>) -> Option<Vec<u32>> {
    let mut end = start;
    let next = |length| {
        end = end.checked_add(length)?;
        u32::try_from(end).ok()
    };
    lengths.into_iter().map(next).collect()
}

/// LEB128: seven bits a byte, the lowest first, the highest bit set but in the last byte.
fn variable(mut value: u32) -> Vec<u8> {
    let mut out = Vec::new();
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
    out
}

fn read_variable(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let len = 1 + bytes.iter().take(4).take_while(|&&byte| byte >= 0x80).count();
    let (head, rest) = bytes.split_at_checked(len)?;
    let value = head.iter().rev().fold(0u64, |value, byte| value << 7 | u64::from(byte & 0x7f));
    Some((u32::try_from(value).ok()?, rest)).filter(|_| head[len - 1] < 0x80)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header() -> Header {
        let frequencies = Frequencies { bits: 3, first: 1, of: vec![2, 0, 5, 1] };
        Header::new(frequencies, 4, &[300, 302, 301]).unwrap()
    }

    #[test]
    fn by_hand() {
        let bytes = header().write(&[300, 302, 301]);
        // k = 3 and width 2; 2² rows; codes 1 to 4; 300 = 2 · 128 + 44; 2, 0, 5 in three bits, 0, 2, 1 in two: from the
        // lowest bit 010 000 101 00 01 10.
        assert_eq!(bytes, [0x23, 2, 1, 4, 0xac, 2, 0b0100_0010, 0b0011_0001]);
        assert_eq!(header().bytes(3), bytes.len());
        let whole = [&bytes[..], &[0; 903]].concat();
        assert_eq!(Header::read(&whole, 9), Ok((header(), vec![308, 610, 911], 8)));
        assert_eq!(Header::read(&whole[..910], 9).unwrap_err(), "end before their last run does");
        assert_eq!(Header::read(&[&whole[..], &[0]].concat(), 9).unwrap_err(), "go on after their last run");
        assert_eq!(Header::read(&whole, 13).unwrap_err(), "end before their last run does");
    }

    #[test]
    fn nonsense_is_refused() {
        let bytes = header().write(&[300, 302, 301]);
        let refused = |at: usize, to: u8| {
            let mut bytes = [&bytes[..], &[0; 903]].concat();
            bytes[at] = to;
            Header::read(&bytes, 9).unwrap_err()
        };
        for (at, to) in [(0, 0x20), (0, 0x2d), (1, 11), (3, 0)] {
            assert_eq!(refused(at, to), "have a header that makes no sense");
        }
        assert_eq!(refused(6, 0xff), "have frequencies beyond their sum");
        for end in 0..8 {
            assert_eq!(Header::read(&bytes[..end], 9).unwrap_err(), "end within their header", "{end}");
        }
        assert_eq!(
            Header::read(&[1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0], 1).unwrap_err(),
            "end within their header"
        );
        assert_eq!(Header::read(&[0xf1, 0, 0, 0, 0], usize::MAX).unwrap_err(), "end within their header");
        assert_eq!(
            Header::read(&[1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xf], 9).unwrap_err(),
            "have runs beyond 4 GiB"
        );
        assert!(Header::new(header().frequencies, 1, &[0, 1 << 15]).is_none());
        assert!(Header::new(header().frequencies, 1, &[1, 1 << 15]).is_some());
    }

    proptest! {
        #[test]
        fn variable_numbers_round_trip(value: u32, shift in 0u32..32) {
            let value = value >> shift;
            let (bytes, more) = (variable(value), [variable(value), vec![7]].concat());
            prop_assert_eq!(read_variable(&more), Some((value, &[7][..])));
            prop_assert_eq!(read_variable(&bytes[..bytes.len() - 1]), None);
        }
    }
}
