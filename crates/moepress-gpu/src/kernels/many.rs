//! Many inputs: tiles of weights are unpacked into shared memory and meet tiles of inputs.

use super::coding::{Coding, Scaling};
use super::decode::{half, scale, unpack};
use super::few::{group_of, groups_of, item_of};
use super::table::{ENTRY, SEGMENT};
use cubecl::prelude::*;

/// Units along each side of a cube.
pub(crate) const SIDE: u32 = 16;
const UNITS: usize = (SIDE * SIDE) as usize;

/// The shape of a tile: 16 · `entries` inputs times 16 · `rows` rows, and so many of each for one unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ManyShape {
    /// Inputs of a unit.
    pub entries: usize,
    /// Rows of a unit.
    pub rows: usize,
}

impl ManyShape {
    /// Inputs of a tile.
    pub const fn inputs(&self) -> usize {
        SIDE as usize * self.entries
    }
}

/// As [`super::few::few`], for items of up to [`ManyShape::inputs`] entries. Cubes: row blocks × items, of 16 × 16 units.
#[cube(launch_unchecked, create_dummy_kernel)]
#[allow(clippy::too_many_arguments)] // buffers of a kernel
pub(crate) fn many<W: Size>(
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
    #[comptime] many: ManyShape,
) {
    let side = comptime!(SIDE as usize);
    let (tile_inputs, tile_rows) = comptime!((SIDE as usize * many.entries, SIDE as usize * many.rows));
    let chunk_codes = comptime!(coding.chunk());
    // Chunks of a row, and columns, of a step.
    let depth = comptime!(if coding.chunk() > 20 { 1usize } else { 2usize });
    let columns = comptime!(depth * chunk_codes);
    let unit = UNIT_POS as usize;

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

    let block = CUBE_POS_X as usize * tile_rows;
    if block >= rows {
        terminate!();
    }
    let chunks = cols.div_ceil(chunk_codes);
    let groups = groups_of(cols, coding);

    // Column by column, a number of padding after each, so that neither writing nor reading meets a bank twice.
    let mut inputs = Shared::<[f32]>::new_slice(comptime!(columns * (tile_inputs + 1)));
    let mut weights = Shared::<[f32]>::new_slice(comptime!(columns * (tile_rows + 1)));
    let mut levels = Array::<f32>::new(chunk_codes);
    let mut others = Array::<f32>::new(comptime!(if coding.two_sided() { chunk_codes } else { 1 }));
    let mut sums = Array::<f32>::new(comptime!(many.entries * many.rows));

    for step in 0..chunks.div_ceil(depth) {
        sync_cube();
        for turn in 0..comptime!((tile_inputs * columns).div_ceil(UNITS)) {
            let at = turn * UNITS + unit;
            let input = at / columns;
            let column = step * columns + at % columns;
            if input < tile_inputs {
                let mut value = 0.0f32;
                if input < count && column < cols {
                    let from = entries[(first + input) * ENTRY] as usize;
                    value = x[from * x_stride as usize + x_column + column];
                }
                inputs[at % columns * comptime!(tile_inputs + 1) + input] = value;
            }
        }
        for turn in 0..comptime!((tile_rows * depth).div_ceil(UNITS)) {
            let at = turn * UNITS + unit;
            let (row, place) = (block + at / depth, at % depth * chunk_codes);
            let chunk = step * depth + at % depth;
            if at < comptime!(tile_rows * depth) {
                let to = place * comptime!(tile_rows + 1) + at / depth;
                if row < rows && chunk < chunks {
                    unpack(
                        words,
                        first_chunk + row * chunks + chunk,
                        &mut levels,
                        &mut others,
                        0usize,
                        coding,
                    );
                    #[unroll]
                    for run in 0..comptime!(chunk_codes / coding.run()) {
                        let code = comptime!(run * coding.run());
                        let group = group_of(chunk * chunk_codes + code, groups, coding);
                        let index = first_scale + row * groups + group;
                        let mut factor = 1.0f32;
                        let mut shift = 0.0f32;
                        if comptime!(coding.scaling != Scaling::None) {
                            factor = scale(scales, index, coding.scaling);
                        }
                        if comptime!(coding.offsets) {
                            shift = half(offsets, index);
                        }
                        #[unroll]
                        for more in 0..comptime!(coding.run()) {
                            let mut weight = levels[comptime!(code + more)];
                            if comptime!(coding.scaling != Scaling::None) {
                                weight *= factor;
                            }
                            if comptime!(coding.two_sided()) {
                                weight += shift * others[comptime!(code + more)];
                            } else if comptime!(coding.offsets) {
                                weight += shift;
                            }
                            weights[to + comptime!((code + more) * (tile_rows + 1))] = weight;
                        }
                    }
                } else {
                    #[unroll]
                    for code in 0..chunk_codes {
                        weights[to + comptime!(code * (tile_rows + 1))] = 0.0f32;
                    }
                }
            }
        }
        sync_cube();
        for column in 0..columns {
            let mut row = Array::<f32>::new(many.rows);
            #[unroll]
            for r in 0..comptime!(many.rows) {
                row[r] =
                    weights[column * comptime!(tile_rows + 1) + UNIT_POS_X as usize + comptime!(r * side)];
            }
            #[unroll]
            for e in 0..comptime!(many.entries) {
                let value =
                    inputs[column * comptime!(tile_inputs + 1) + UNIT_POS_Y as usize + comptime!(e * side)];
                #[unroll]
                for r in 0..comptime!(many.rows) {
                    sums[comptime!(e * many.rows + r)] += value * row[r];
                }
            }
        }
    }

    #[unroll]
    for e in 0..comptime!(many.entries) {
        let input = UNIT_POS_Y as usize + comptime!(e * side);
        if input < count {
            let to = entries[(first + input) * ENTRY + 1] as usize;
            #[unroll]
            for r in 0..comptime!(many.rows) {
                let row = block + UNIT_POS_X as usize + comptime!(r * side);
                if row < rows {
                    out[to * out_stride as usize + out_column + row] = sums[comptime!(e * many.rows + r)];
                }
            }
        }
    }
}
