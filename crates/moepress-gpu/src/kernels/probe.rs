//! What the memory of a device can do at most: what the speed of kernels is compared with.

use cubecl::prelude::*;

/// Units of a cube.
pub(crate) const UNITS: u32 = 256;

/// The sum of a buffer, a part for each unit: all it does is read.
#[cube(launch_unchecked, create_dummy_kernel)]
pub(crate) fn read(words: &[Vector<u32, Const<4>>], out: &mut [u32], rounds: u32) {
    let units = CUBE_COUNT_X as usize * comptime!(UNITS as usize);
    let unit = CUBE_POS_X as usize * comptime!(UNITS as usize) + UNIT_POS as usize;
    let mut sum = Vector::<u32, Const<4>>::new(0u32);
    for round in 0..rounds as usize {
        sum += words[round * units + unit];
    }
    out[unit] = sum.extract(0usize) + sum.extract(1usize) + sum.extract(2usize) + sum.extract(3usize);
}
