//! Few inputs: every weight is unpacked once, in registers, and meets up to four inputs.

use super::coding::{Coding, Scaling};
use super::decode::{half, scale, unpack};
use super::table::{ENTRY, ITEM, SEGMENT};
use cubecl::prelude::*;

/// Units that share a row.
pub(crate) const LANES: u32 = 32;

/// The shape of a cube: `planes` × 32 units.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FewShape {
    /// Inputs that are computed together: 1, 2 or 4.
    pub inputs: usize,
    /// Rows of each plane.
    pub rows: usize,
    /// Planes of a cube.
    pub planes: usize,
    /// Whether the hardware's planes are 32 units, and sums of a plane can be left to it.
    pub plane_sums: bool,
}

impl FewShape {
    /// Chunks whose inputs lie in shared memory at a time.
    pub(crate) const fn staged(&self) -> usize {
        128 / self.inputs
    }
}

/// For each item its entries' inputs times the rows of its segment; see [`super::table`].
///
/// Cubes: row blocks × items. Shared memory: inputs, transposed so that lanes read neighbours.
#[cube(launch_unchecked, create_dummy_kernel)]
#[allow(clippy::too_many_arguments)] // buffers of a kernel
pub(crate) fn few<W: Size>(
    x: &[f32],
    words: &[Vector<u32, W>],
    scales: &[u32],
    offsets: &[u32],
    segments: &[u32],
    items: &[u32],
    entries: &[u32],
    out: &mut [f32],
    x_stride: u32,
    out_stride: u32,
    #[comptime] coding: Coding,
    #[comptime] few: FewShape,
) {
    let (inputs, rows_each, chunk_codes) = comptime!((few.inputs, few.rows, coding.chunk()));
    let staged = comptime!(few.staged());
    let units = comptime!(few.planes * LANES as usize);
    let (lane, unit) = (UNIT_POS_X as usize, UNIT_POS as usize);

    let item = item_of();
    if item >= items.len() {
        terminate!();
    }
    let segment = items[item] as usize * SEGMENT;
    let first = items[item + 1] as usize;
    let count = items[item + 2] as usize;
    let first_chunk = segments[segment] as usize;
    let first_scale = segments[segment + 1] as usize;
    let rows = segments[segment + 2] as usize;
    let cols = segments[segment + 3] as usize;
    let x_column = segments[segment + 4] as usize;
    let out_column = segments[segment + 5] as usize;

    let block = CUBE_POS_X as usize * comptime!(few.planes * few.rows);
    if block >= rows {
        terminate!();
    }
    let row = block + UNIT_POS_Y as usize * rows_each;
    let chunks = cols.div_ceil(chunk_codes);
    let groups = groups_of(cols, coding);

    let mut shared = Shared::<[f32]>::new_slice(comptime!(inputs * chunk_codes * (staged + 1)));
    let mut sums = Array::<f32>::new(comptime!(inputs * rows_each));
    let mut levels = Array::<f32>::new(comptime!(rows_each * chunk_codes));
    let mut others =
        Array::<f32>::new(comptime!(if coding.two_sided() { rows_each * chunk_codes } else { 1 }));

    for stage in 0..chunks.div_ceil(staged) {
        sync_cube();
        let stage_chunk = stage * staged;
        for turn in 0..comptime!((inputs * staged * chunk_codes).div_ceil(units)) {
            let at = turn * units + unit;
            let input = at / comptime!(staged * chunk_codes);
            let code = at % comptime!(staged * chunk_codes);
            let column = stage_chunk * chunk_codes + code;
            if input < inputs {
                let mut value = 0.0f32;
                if input < count && column < cols {
                    let from = entries[(first + input) * ENTRY] as usize;
                    value = x[from * x_stride as usize + x_column + column];
                }
                shared[(input * chunk_codes + code % chunk_codes) * comptime!(staged + 1)
                    + code / chunk_codes] = value;
            }
        }
        sync_cube();
        for turn in 0..comptime!(staged / LANES as usize) {
            let local = turn * comptime!(LANES as usize) + lane;
            let chunk = stage_chunk + local;
            if chunk < chunks {
                #[unroll]
                for r in 0..rows_each {
                    let own = last_or(row + r, rows);
                    let from = comptime!(r * chunk_codes);
                    unpack(words, first_chunk + own * chunks + chunk, &mut levels, &mut others, from, coding);
                }
                #[unroll]
                for run in 0..comptime!(chunk_codes / coding.run()) {
                    let code = comptime!(run * coding.run());
                    let group = group_of(chunk * chunk_codes + code, groups, coding);
                    let mut factors = Array::<f32>::new(rows_each);
                    let mut shifts = Array::<f32>::new(rows_each);
                    #[unroll]
                    for r in 0..rows_each {
                        let index = first_scale + last_or(row + r, rows) * groups + group;
                        if comptime!(coding.scaling != Scaling::None) {
                            factors[r] = scale(scales, index, coding.scaling);
                        }
                        if comptime!(coding.offsets) {
                            shifts[r] = half(offsets, index);
                        }
                    }
                    #[unroll]
                    for input in 0..inputs {
                        let mut total = 0.0f32;
                        let mut dots = Array::<f32>::new(rows_each);
                        let mut sides = Array::<f32>::new(rows_each);
                        #[unroll]
                        for step in 0..comptime!(coding.run()) {
                            let place = comptime!((input * chunk_codes + code + step) * (staged + 1));
                            let value = shared[place + local];
                            if comptime!(coding.offsets && !coding.two_sided()) {
                                total += value;
                            }
                            #[unroll]
                            for r in 0..rows_each {
                                dots[r] += value * levels[comptime!(r * chunk_codes + code + step)];
                                if comptime!(coding.two_sided()) {
                                    sides[r] += value * others[comptime!(r * chunk_codes + code + step)];
                                }
                            }
                        }
                        #[unroll]
                        for r in 0..rows_each {
                            let sum = comptime!(input * rows_each + r);
                            if comptime!(coding.scaling == Scaling::None) {
                                sums[sum] += dots[r];
                            } else {
                                sums[sum] += factors[r] * dots[r];
                            }
                            if comptime!(coding.two_sided()) {
                                sums[sum] += shifts[r] * sides[r];
                            } else if comptime!(coding.offsets) {
                                sums[sum] += shifts[r] * total;
                            }
                        }
                    }
                }
            }
        }
    }

    if comptime!(few.plane_sums) {
        #[unroll]
        for input in 0..inputs {
            #[unroll]
            for r in 0..rows_each {
                let sum = plane_sum(sums[comptime!(input * rows_each + r)]);
                if lane == 0 && input < count && row + r < rows {
                    let to = entries[(first + input) * ENTRY + 1] as usize;
                    out[to * out_stride as usize + out_column + row + r] = sum;
                }
            }
        }
    } else {
        // Every lane's part side by side, then one unit per row adds them in order.
        let width = comptime!(LANES as usize + 1);
        let mut parts = Shared::<[f32]>::new_slice(comptime!(few.planes * few.rows * width));
        #[unroll]
        for input in 0..inputs {
            #[unroll]
            for r in 0..rows_each {
                parts[(UNIT_POS_Y as usize * rows_each + r) * width + lane] =
                    sums[comptime!(input * rows_each + r)];
            }
            sync_cube();
            if unit < comptime!(few.planes * few.rows) && input < count && block + unit < rows {
                let mut sum = 0.0f32;
                for part in 0..comptime!(LANES as usize) {
                    sum += parts[unit * width + part];
                }
                let to = entries[(first + input) * ENTRY + 1] as usize;
                out[to * out_stride as usize + out_column + block + unit] = sum;
            }
            sync_cube();
        }
    }
}

/// Where the item of this cube lies, or beyond the last.
#[cube]
pub(crate) fn item_of() -> usize {
    (CUBE_POS_Z as usize * CUBE_COUNT_Y as usize + CUBE_POS_Y as usize) * ITEM
}

/// Scales of a row of `cols`.
#[cube]
pub(crate) fn groups_of(cols: usize, #[comptime] coding: Coding) -> usize {
    if comptime!(coding.group == 0) {
        1usize.runtime()
    } else {
        cols.div_ceil(comptime!(coding.group.max(1)))
    }
}

/// The group of a column, which may lie in the padding of a row.
#[cube]
pub(crate) fn group_of(column: usize, groups: usize, #[comptime] coding: Coding) -> usize {
    if comptime!(coding.group == 0) {
        0usize.runtime()
    } else {
        last_or(column / comptime!(coding.group.max(1)), groups)
    }
}

/// `at`, or the last of `count` where there are fewer.
#[cube]
pub(crate) fn last_or(at: usize, count: usize) -> usize {
    select(at < count, at, count - 1)
}
