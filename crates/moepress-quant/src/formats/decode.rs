//! From packed codes to f32, by table: several codes at once give the levels they stand for.

use super::float::{self, FP8};
use super::{Grid, implementation};
use crate::{Code, Grouped};

/// The levels of `CODES` neighbouring codes for each of the `ENTRIES` values of their bits.
type Table<const CODES: usize, const ENTRIES: usize> = [[f32; CODES]; ENTRIES];

static TERNARY: Table<4, 256> = table([0.0, 1.0, -1.0, 0.0]);
static INT2: Table<4, 256> = table(whole::<4>());
static INT3: Table<2, 64> = table(whole::<8>());
static INT4: Table<2, 256> = table(whole::<16>());
static FP4: Table<2, 256> = table(float::FP4);

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
        Code::Ternary if !format.symmetric => row.decode(out, |bytes, grid, out| {
            let level = |code| two_sided(code & 3, grid);
            for (out, byte) in out.chunks_mut(4).zip(bytes) {
                out.iter_mut().enumerate().for_each(|(at, out)| *out = level(byte >> (2 * at)));
            }
        }),
        Code::Ternary => row.decode(out, |bytes, grid, out| look_up::<2, _, _>(&TERNARY, bytes, grid, out)),
        Code::Int(2) => row.decode(out, |bytes, grid, out| look_up::<2, _, _>(&INT2, bytes, grid, out)),
        Code::Int(3) => row.decode(out, |bytes, grid, out| look_up::<3, _, _>(&INT3, bytes, grid, out)),
        Code::Int(4) => row.decode(out, |bytes, grid, out| look_up::<4, _, _>(&INT4, bytes, grid, out)),
        Code::Int(_) => row.decode(out, read_bytes),
        Code::Fp4 => row.decode(out, |bytes, grid, out| look_up::<4, _, _>(&FP4, bytes, grid, out)),
        Code::Fp8 => row.decode(out, |bytes, grid, out| read_levels(&FP8, bytes, grid, out)),
    }
}

/// As [`decode_row`], from one code a byte.
pub fn decode_codes(format: Grouped, codes: &[u8], scales: &[u16], offsets: &[u16], out: &mut [f32]) {
    if implementation(format).is_none() {
        return out.fill(f32::NAN);
    }
    let row = Row { format, codes, scales, offsets };
    match format.code {
        Code::Ternary if !format.symmetric => row.groups(out, format.group, |codes, grid, out| {
            codes.iter().zip(out).for_each(|(&code, out)| *out = two_sided(code, grid));
        }),
        Code::Ternary => row.groups(out, format.group, |codes, grid, out| {
            let level = |code: u8| f32::from(code & 1) - f32::from(code >> 1);
            codes.iter().zip(out).for_each(|(&code, out)| *out = grid.scale * level(code) + grid.offset);
        }),
        Code::Int(_) => row.groups(out, format.group, read_bytes),
        Code::Fp4 => row.groups(out, format.group, |c, grid, out| read_levels(&float::FP4, c, grid, out)),
        Code::Fp8 => row.groups(out, format.group, |c, grid, out| read_levels(&FP8, c, grid, out)),
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
            let mut grid = self.format.grid(scale, self.offsets.get(group).copied().unwrap_or(0));
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

/// Reads codes of a byte each as scale · level + offset.
#[inline(always)]
fn read_levels<const LEVELS: usize>(levels: &[f32; LEVELS], codes: &[u8], grid: Grid, out: &mut [f32]) {
    let level = |code: u8| levels[usize::from(code) % LEVELS];
    codes.iter().zip(out).for_each(|(&code, out)| *out = grid.scale * level(code) + grid.offset);
}

/// The value of a ternary code whose negative level is the offset.
#[inline(always)]
fn two_sided(code: u8, grid: Grid) -> f32 {
    match code {
        1 => grid.scale,
        2 => grid.offset,
        _ => 0.0,
    }
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

/// 0, 1, 2 and so on.
const fn whole<const LEVELS: usize>() -> [f32; LEVELS] {
    let (mut levels, mut at) = ([0.0; LEVELS], 0);
    while at < LEVELS {
        levels[at] = at as f32;
        at += 1;
    }
    levels
}

/// The table of codes that stand for `levels`, lowest bits first.
const fn table<const LEVELS: usize, const CODES: usize, const ENTRIES: usize>(
    levels: [f32; LEVELS],
) -> Table<CODES, ENTRIES> {
    let mut table = [[0.0; CODES]; ENTRIES];
    let mut entry = 0;
    while entry < ENTRIES {
        let (mut codes, mut at) = (entry, 0);
        while at < CODES {
            table[entry][at] = levels[codes % LEVELS];
            (codes, at) = (codes / LEVELS, at + 1);
        }
        entry += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Scale;
    use crate::formats::pack;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn rows_read_as_the_format_defines(
            at: usize,
            raw in proptest::collection::vec(any::<u8>(), 0..300),
            parts in proptest::collection::vec((any::<u16>(), any::<u16>()), 19),
        ) {
            let all: Vec<Grouped> = Grouped::all().collect();
            let format = all[at % all.len()];
            let (format_of, groups) = (implementation(format).unwrap(), format.row_groups(raw.len()));
            let codes: Vec<u8> = raw.iter().map(|c| c >> (8 - format.bits())).collect();
            let mut bytes = vec![0; format.row_bytes(codes.len())];
            pack::pack(format.bits(), &codes, &mut bytes);
            let scale = |bits: u16| match format.scale {
                Scale::F16 => bits & 0xbbff,
                Scale::Ue5m3 => bits & 0x3b80,
                Scale::E8m0 => bits % 255,
            };
            let scales: Vec<u16> = parts[..groups].iter().map(|p| scale(p.0)).collect();
            let offsets: Vec<u16> = parts[..groups].iter().map(|p| p.1 & 0xbbff).collect();
            let offsets = if format.has_offsets() { offsets } else { Vec::new() };
            let mut row = vec![f32::NAN; codes.len()];
            decode_row(format, &bytes, &scales, &offsets, &mut row);
            let mut same = vec![f32::NAN; codes.len()];
            decode_codes(format, &codes, &scales, &offsets, &mut same);
            let has = |(_, (code, _)): &(usize, (&u8, &f32))| format.has(**code);
            for (col, (&code, &weight)) in codes.iter().zip(&row).enumerate().filter(has) {
                prop_assert_eq!(weight.to_bits(), same[col].to_bits());
                let at = col / format.group;
                let grid = format.grid(scales[at], offsets.get(at).copied().unwrap_or(0));
                prop_assert_eq!(weight, format_of.value(code, grid), "column {} of {}", col, format);
            }
        }
    }

    #[test]
    fn no_format_reads_as_nan() {
        let mut out = [0.0; 3];
        let format = Grouped::new(Code::Int(5), 32, false);
        decode_row(format, &[0; 2], &[0], &[0], &mut out);
        assert!(out.iter().all(|v| v.is_nan()));
    }
}
