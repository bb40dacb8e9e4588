//! Bytes per second of products with few inputs, operations per second of those with many.

use crate::common::{noise, store};
use moepress_gpu::{
    FewShape, Gpu, GpuError, ManyShape, Packer, Plan, Shape, Work, coding_of, fastest, product,
    read_bandwidth,
};
use moepress_quant::codec::Codes;
use moepress_quant::{Packed, Plain, Stored};

const FORMS: [&str; 9] = [
    "ternary-row",
    "ternary-g128",
    "ternary-row:trits",
    "int2-g64",
    "int3-g64",
    "int4-sym-g128",
    "int4-g64",
    "int8-g128",
    "bf16",
];

/// So many equal matrices of a form, and how much of each a launch computes.
struct Case<'a> {
    form: &'a str,
    rows: usize,
    cols: usize,
    matrices: usize,
    /// Matrices of one launch, each by `inputs` inputs.
    together: usize,
    inputs: usize,
}

/// A matrix of a few different rows, over and over: quick to make.
pub fn tall(form: &str, rows: usize, cols: usize) -> Stored {
    let own = 64.min(rows);
    let times = rows / own;
    match store(form, own, cols, &noise(1, own * cols)) {
        Stored::Plain(Plain { dtype, bytes, .. }) => {
            Stored::Plain(Plain { dtype, shape: vec![own * times, cols], bytes: bytes.repeat(times) })
        }
        Stored::Packed(packed) => Stored::Packed(Packed {
            rows: own * times,
            codes: match &packed.codes {
                Codes::Trits(bytes) => Codes::Trits(bytes.repeat(times)),
                codes => Codes::Fields(codes.bytes().repeat(times)),
            },
            scales: packed.scales.repeat(times),
            offsets: packed.offsets.repeat(times),
            ..packed
        }),
    }
}

/// Seconds of one launch, and the bytes of weights that it reads.
fn time(gpu: &Gpu, case: &Case<'_>, shape: Option<Shape>) -> Result<(f64, f64), GpuError> {
    let Case { form, rows, cols, matrices, together, inputs } = *case;
    let stored = tall(form, rows, cols);
    let mut packer = Packer::new(coding_of(&stored)?);
    for _ in 0..matrices {
        packer.push(&stored, 0, 0)?;
    }
    let bytes = packer.bytes() as f64 / matrices as f64 * together as f64;
    let bank = packer.finish(gpu)?;
    let plans = (0..matrices / together).map(|turn| {
        let work: Vec<Work> = (0..together)
            .map(|at| {
                let entries = (0..inputs).map(|i| (i as u32, (at * inputs + i) as u32)).collect();
                Work { segment: turn * together + at, entries }
            })
            .collect();
        Plan::new(gpu, &bank, &work, shape)
    });
    let plans: Vec<Plan> = plans.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect();
    let x = gpu.upload(noise(2, inputs * cols).iter().flat_map(|x| x.to_le_bytes()).collect())?;
    let out = gpu.empty(together * inputs * rows);
    let mut turn = 0;
    let launch = || {
        product(gpu, &bank, &plans[turn % plans.len()], (&x, cols), (&out, rows));
        turn += 1;
    };
    let times = if rows * cols * together * inputs > 1 << 34 { 3 } else { 4 * plans.len().max(8) };
    Ok((fastest(gpu, &out, 5, times, launch)?, bytes))
}

pub fn run(gpu: &Gpu, quick: bool) -> Result<(), GpuError> {
    let small = |n: usize| if quick { n / 16 } else { n };
    let bandwidth = read_bandwidth(gpu, small(2 << 30))?;
    println!("\nread bandwidth: {:.0} GB/s", bandwidth / 1e9);

    println!("\nfew inputs: GB/s of packed weights, per cent of the read bandwidth");
    println!(
        "{:20} {:>26} {:>26} {:>26}",
        "", "one 16384 x 8192, n = 1", "8 of 64 experts, n = 1", "one 16384 x 8192, n = 4"
    );
    for form in FORMS {
        let large = |inputs| Case { form, rows: small(16384), cols: 8192, matrices: 4, together: 1, inputs };
        let experts = Case { form, rows: small(1536), cols: 2048, matrices: 64, together: 8, inputs: 1 };
        let cell = |case: &Case<'_>| -> Result<String, GpuError> {
            let (seconds, bytes) = time(gpu, case, None)?;
            let share = 100.0 * bytes / seconds / bandwidth;
            Ok(format!("{:>9.1} us {:>6.0} {share:>5.1} %", seconds * 1e6, bytes / seconds / 1e9))
        };
        println!("{form:20} {:>26} {:>26} {:>26}", cell(&large(1))?, cell(&experts)?, cell(&large(4))?);
    }

    println!("\nmany inputs: TFLOP/s");
    println!("{:20} {:>22} {:>22}", "", "4096 x 4096, n = 2048", "64 experts, n = 64");
    for form in FORMS {
        let large =
            Case { form, rows: small(4096), cols: 4096, matrices: 1, together: 1, inputs: small(2048) };
        let experts =
            Case { form, rows: small(1536), cols: 2048, matrices: 64, together: 64, inputs: small(64) };
        let cell = |case: &Case<'_>| -> Result<String, GpuError> {
            let (seconds, _) = time(gpu, case, None)?;
            let operations = 2.0 * (case.rows * case.cols * case.together * case.inputs) as f64;
            Ok(format!("{:>9.0} us {:>6.2}", seconds * 1e6, operations / seconds / 1e12))
        };
        println!("{form:20} {:>22} {:>22}", cell(&large)?, cell(&experts)?);
    }

    println!(
        "\nshapes of cubes: GB/s with few inputs (ternary-row, int4-g64, 5 trits a byte), TFLOP/s with many (int4-g64)"
    );
    let plane_sums = gpu.plane_sums();
    for (rows, planes) in [(1, 4), (2, 4), (4, 2), (4, 4), (4, 8), (8, 4), (8, 8)] {
        let mut line = format!("rows {rows}, planes {planes}:");
        for form in ["ternary-row", "int4-g64", "ternary-row:trits"] {
            let case = Case { form, rows: small(16384), cols: 8192, matrices: 4, together: 1, inputs: 1 };
            let shape = Shape::Few(FewShape { inputs: 1, rows, planes, plane_sums });
            let (seconds, bytes) = time(gpu, &case, Some(shape))?;
            line += &format!(" {:>7.0}", bytes / seconds / 1e9);
        }
        println!("{line}");
    }
    for (entries, rows) in [(2, 4), (4, 4), (4, 8), (8, 4), (8, 8)] {
        let case = Case {
            form: "int4-g64",
            rows: small(4096),
            cols: 4096,
            matrices: 1,
            together: 1,
            inputs: small(2048),
        };
        let (seconds, _) = time(gpu, &case, Some(Shape::Many(ManyShape { entries, rows })))?;
        let operations = 2.0 * (case.rows * case.cols * case.inputs) as f64;
        println!("entries {entries}, rows {rows}: {:>7.2}", operations / seconds / 1e12);
    }
    Ok(())
}
