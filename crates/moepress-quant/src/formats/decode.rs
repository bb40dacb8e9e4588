//! From packed codes to f32, by table: several codes at once give the levels they stand for.

use super::{Grid, implementation};
use crate::{Code, Grouped};

/// The levels of `CODES` neighbouring codes for each of the `ENTRIES` values of their bits.
type Table<const CODES: usize, const ENTRIES: usize> = [[f32; CODES]; ENTRIES];

static TERNARY: Table<4, 256> = table([0, 1, -1, 0]);
static INT2: Table<4, 256> = table([0, 1, 2, 3]);
static INT3: Table<2, 64> = table([0, 1, 2, 3, 4, 5, 6, 7]);
static INT4: Table<2, 256> = table([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);

/// Reads one packed row into `out`, whose length is the number of columns.
///
/// `codes`, `scales` and `offsets` are the row's parts as in [`Packed`](crate::Packed). A format that does
/// not exist, which [`Stored::validate`](crate::Stored::validate) refuses, reads as NaN.
pub fn decode_row(format: Grouped, codes: &[u8], scales: &[u16], offsets: &[u16], out: &mut [f32]) {
    if implementation(format).is_none() {
        return out.fill(f32::NAN);
    }
    let row = Row { format, codes, scales, offsets };
    match format.code {
        Code::Ternary => row.decode(out, |bytes, grid, out| look_up::<2, _, _>(&TERNARY, bytes, grid, out)),
        Code::Int(2) => row.decode(out, |bytes, grid, out| look_up::<2, _, _>(&INT2, bytes, grid, out)),
        Code::Int(3) => row.decode(out, |bytes, grid, out| look_up::<3, _, _>(&INT3, bytes, grid, out)),
        Code::Int(4) => row.decode(out, |bytes, grid, out| look_up::<4, _, _>(&INT4, bytes, grid, out)),
        Code::Int(_) => row.decode(out, read_bytes),
    }
}

/// As [`decode_row`], from one code a byte.
pub fn decode_codes(format: Grouped, codes: &[u8], scales: &[u16], offsets: &[u16], out: &mut [f32]) {
    if implementation(format).is_none() {
        return out.fill(f32::NAN);
    }
    let row = Row { format, codes, scales, offsets };
    match format.code {
        Code::Ternary => row.groups(out, format.group, |codes, grid, out| {
            let level = |code: u8| f32::from(code & 1) - f32::from(code >> 1);
            codes.iter().zip(out).for_each(|(&code, out)| *out = grid.scale * level(code) + grid.offset);
        }),
        Code::Int(_) => row.groups(out, format.group, read_bytes),
    }
}

struct Row<'a> {
    format: Grouped,
    codes: &'a [u8],
    scales: &'a [u16],
    offsets: &'a [u16],
}

impl Row<'_> {
    /// Calls `read` with the bytes, the grid and the place of every group.
    #[inline(always)]
    fn decode(&self, out: &mut [f32], read: impl Fn(&[u8], Grid, &mut [f32])) {
        // A full group of any width ends on a byte, since groups are multiples of eight.
        self.groups(out, self.format.row_bytes(self.format.group), read);
    }

    /// The same for groups of `width` bytes.
    #[inline(always)]
    fn groups(&self, out: &mut [f32], width: usize, read: impl Fn(&[u8], Grid, &mut [f32])) {
        // Symmetric integers are scale · code − scale · middle: both products and the sum are exact.
        let middle = match self.format.code {
            Code::Int(bits) if self.format.symmetric => f32::from(1u8 << (bits - 1)),
            _ => 0.0,
        };
        let groups = out.chunks_mut(self.format.group).zip(self.codes.chunks(width)).zip(self.scales);
        for (group, ((out, bytes), &scale)) in groups.enumerate() {
            let mut grid = Grid::from_bits(scale, self.offsets.get(group).copied().unwrap_or(0));
            grid.offset -= grid.scale * middle;
            read(bytes, grid, out);
        }
    }
}

/// Reads codes of a byte each as scale · code + offset.
#[inline(always)]
fn read_bytes(bytes: &[u8], grid: Grid, out: &mut [f32]) {
    bytes.iter().zip(out).for_each(|(&code, out)| *out = grid.scale * f32::from(code) + grid.offset);
}

/// Reads `out.len()` codes of `BITS` bits as scale · level + offset.
#[inline(always)]
fn look_up<const BITS: usize, const CODES: usize, const ENTRIES: usize>(
    table: &Table<CODES, ENTRIES>,
    bytes: &[u8],
    grid: Grid,
    out: &mut [f32],
) {
    // Eight codes of b bits are b bytes.
    let octet = |bytes: &[u8]| {
        let word = bytes.iter().rev().fold(0u32, |word, &byte| word << 8 | u32::from(byte));
        let mut out = [0.0; 8];
        for (at, out) in out.as_chunks_mut::<CODES>().0.iter_mut().enumerate() {
            let levels = &table[(word >> (at * CODES * BITS)) as usize % ENTRIES];
            out.iter_mut().zip(levels).for_each(|(out, level)| *out = grid.scale * level + grid.offset);
        }
        out
    };
    let ((octets, rest), words) = (out.as_chunks_mut::<8>(), bytes.as_chunks::<BITS>().0);
    octets.iter_mut().zip(words).for_each(|(out, word)| *out = octet(word));
    if !rest.is_empty() {
        // Fewer than eight codes may still fill all bytes of a word.
        rest.copy_from_slice(&octet(&bytes[octets.len() * BITS..])[..rest.len()]);
    }
}

/// The table of codes that stand for `levels`, lowest bits first.
const fn table<const LEVELS: usize, const CODES: usize, const ENTRIES: usize>(
    levels: [i8; LEVELS],
) -> Table<CODES, ENTRIES> {
    let mut table = [[0.0; CODES]; ENTRIES];
    let mut entry = 0;
    while entry < ENTRIES {
        let (mut codes, mut at) = (entry, 0);
        while at < CODES {
            table[entry][at] = levels[codes % LEVELS] as f32;
            (codes, at) = (codes / LEVELS, at + 1);
        }
        entry += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Format;
    use crate::formats::pack;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn rows_read_as_the_format_defines(
            name in prop_oneof![Just("ternary"), Just("int2"), Just("int3"), Just("int4"), Just("int8")],
            symmetric: bool,
            group in 0..Grouped::GROUPS.len(),
            raw in proptest::collection::vec(any::<u8>(), 0..300),
            parts in proptest::collection::vec((0u16..0x7c00, any::<bool>(), 0u16..0x7c00, any::<bool>()), 19),
        ) {
            let sym = if symmetric && name != "ternary" { "-sym" } else { "" };
            let Ok(Format::Grouped(format)) = format!("{name}{sym}-row").parse() else { unreachable!() };
            let group = Grouped::GROUPS[group];
            let format = Grouped { group, ..format };
            let (format_of, groups) = (implementation(format).unwrap(), format.row_groups(raw.len()));
            let codes: Vec<u8> = raw.iter().map(|c| c >> (8 - format.bits())).collect();
            let mut bytes = vec![0; format.row_bytes(codes.len())];
            pack::pack(format.bits(), &codes, &mut bytes);
            let signed = |bits: u16, minus: bool| bits | u16::from(minus) << 15;
            let scales: Vec<u16> = parts[..groups].iter().map(|p| signed(p.0, p.1)).collect();
            let offsets: Vec<u16> = parts[..groups].iter().map(|p| signed(p.2, p.3)).collect();
            let offsets = if format.has_offsets() { offsets } else { Vec::new() };
            let mut row = vec![f32::NAN; codes.len()];
            decode_row(format, &bytes, &scales, &offsets, &mut row);
            let mut same = vec![f32::NAN; codes.len()];
            decode_codes(format, &codes, &scales, &offsets, &mut same);
            for (col, (&code, &weight)) in codes.iter().zip(&row).enumerate() {
                prop_assert_eq!(weight.to_bits(), same[col].to_bits());
                let offset = offsets.get(col / group).copied().unwrap_or(0);
                let grid = Grid::from_bits(scales[col / group], offset);
                prop_assert_eq!(weight, format_of.value(code, grid), "column {} of {:?}", col, format);
            }
        }
    }

    #[test]
    fn no_format_reads_as_nan() {
        let mut out = [0.0; 3];
        let format = Grouped { code: Code::Int(5), group: 32, symmetric: false };
        decode_row(format, &[0; 2], &[0], &[0], &mut out);
        assert!(out.iter().all(|v| v.is_nan()));
    }
}
