//! Products on a device: choosing the kernel and launching it.

use crate::GpuError;
use crate::bank::Bank;
use crate::device::{Buffer, Gpu};
use crate::kernels::few::{LANES, few};
use crate::kernels::many::{SIDE, many};
use crate::kernels::table::{ITEM, Work, tables};
use crate::kernels::{Coding, FewShape, ManyShape};
use cubecl::prelude::{CubeCount, CubeDim};

/// Inputs of a segment, on average, from which on tiles are faster than one input after the other.
const MANY: usize = 9;
/// Cubes along one side of a grid: WebGPU allows 65 535.
const GRID: u32 = 32_768;

/// Which kernel a product runs on, and in which shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Weights in registers.
    Few(FewShape),
    /// Weights in shared memory.
    Many(ManyShape),
}

impl Shape {
    /// The usual one for so many inputs of each segment, on average.
    pub fn usual(gpu: &Gpu, coding: Coding, inputs: usize) -> Self {
        if inputs >= MANY {
            return Self::Many(ManyShape { entries: 4, rows: 4 });
        }
        let inputs = match inputs {
            0 | 1 => 1,
            2 => 2,
            _ => 4,
        };
        // So many registers for unpacked weights.
        let rows = if coding.chunk() > 16 || coding.two_sided() { 2 } else { 4 };
        Self::Few(FewShape { inputs, rows, planes: 4, plane_sums: gpu.plane_sums })
    }

    /// Entries of an item.
    pub fn most(&self) -> usize {
        match self {
            Self::Few(few) => few.inputs,
            Self::Many(many) => many.inputs(),
        }
    }
}

/// Tables of a launch on the device.
pub struct Plan {
    shape: Shape,
    items: Buffer,
    entries: Buffer,
    count: u32,
    /// Rows of the largest segment.
    rows: u32,
}

impl Plan {
    /// Cuts work on the segments of a bank into items. None when there is nothing to do.
    ///
    /// # Errors
    /// The device has no room for the tables.
    pub fn new(
        gpu: &Gpu,
        bank: &Bank,
        work: &[Work],
        shape: Option<Shape>,
    ) -> Result<Option<Self>, GpuError> {
        let rows = |work: &Work| bank.segments.get(work.segment).map_or(0, |segment| segment.rows);
        let busy = || work.iter().filter(|work| !work.entries.is_empty() && rows(work) > 0);
        let (segments, inputs) = busy().fold((0, 0), |(n, sum), work| (n + 1, sum + work.entries.len()));
        let Some(rows) = busy().map(rows).max() else { return Ok(None) };
        let shape = shape.unwrap_or_else(|| Shape::usual(gpu, bank.coding, inputs.div_ceil(segments)));
        let (items, entries) = tables(work, shape.most());
        let count = (items.len() / ITEM) as u32;
        Ok(Some(Self { shape, items: gpu.numbers(&items)?, entries: gpu.numbers(&entries)?, count, rows }))
    }
}

/// For every entry of the plan, its row of x (of `x_stride` numbers) times its segment, into its row of `out` (of
/// `out_stride`). Rows and columns that the plan and the bank name must be inside x and `out`.
#[allow(unsafe_code)] // launches without bound checks
pub fn product(gpu: &Gpu, bank: &Bank, plan: &Plan, x: (&Buffer, usize), out: (&Buffer, usize)) {
    let (y, z) = (plan.count.min(GRID), plan.count.div_ceil(GRID));
    let coding = bank.coding;
    macro_rules! launch {
        ($kernel:ident, $block:expr, $dim:expr, $shape:expr) => {
            // SAFETY: items name segments of the bank and entries of the plan, whose indices were made from them; the
            // caller vouches for x and out.
            unsafe {
                $kernel::launch_unchecked(
                    &gpu.client,
                    CubeCount::Static(plan.rows.div_ceil($block as u32), y, z),
                    $dim,
                    coding.width(),
                    x.0.arg(),
                    bank.words.arg(),
                    bank.scales.arg(),
                    bank.offsets.arg(),
                    bank.table.arg(),
                    plan.items.arg(),
                    plan.entries.arg(),
                    out.0.arg(),
                    x.1 as u32,
                    out.1 as u32,
                    coding,
                    $shape,
                )
            }
        };
    }
    match plan.shape {
        Shape::Few(shape) => {
            launch!(few, shape.planes * shape.rows, CubeDim::new_2d(LANES, shape.planes as u32), shape);
        }
        Shape::Many(shape) => launch!(many, SIDE as usize * shape.rows, CubeDim::new_2d(SIDE, SIDE), shape),
    }
}

/// y = x · Wᵀ, `[n, rows]`, for host inputs `[n, cols]` and the first matrix of a bank: what tests and benchmarks call.
///
/// # Errors
/// x is not `[n, cols]`, or the device fails.
pub fn matmul(
    gpu: &Gpu,
    bank: &Bank,
    x: &[f32],
    n: usize,
    shape: Option<Shape>,
) -> Result<Vec<f32>, GpuError> {
    let Some(segment) = bank.segments.first() else { return Ok(vec![]) };
    let (rows, cols) = (segment.rows as usize, segment.cols as usize);
    if n.checked_mul(cols) != Some(x.len()) {
        return Err(GpuError::Input { n, cols, found: x.len() });
    }
    let work = [Work { segment: 0, entries: (0..n as u32).map(|i| (i, i)).collect() }];
    let Some(plan) = Plan::new(gpu, bank, &work, shape)? else { return Ok(vec![]) };
    let input = gpu.upload(x.iter().flat_map(|x| x.to_le_bytes()).collect())?;
    let out = gpu.empty(n * rows);
    product(gpu, bank, &plan, (&input, cols), (&out, rows));
    gpu.read(&out)
}
