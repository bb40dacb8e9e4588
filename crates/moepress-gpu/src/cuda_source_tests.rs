//! The CUDA C++ of every kernel, compiled for cards that are not here.

use crate::kernels::few::{LANES, few};
use crate::kernels::many::{SIDE, many};
use crate::kernels::mixture::{Gate, UNITS, activate, combine};
use crate::kernels::{Coding, FewShape, ManyShape};
use cubecl::Compiler;
use cubecl::ir::features::Plane;
use cubecl::ir::{
    ContiguousElements, DeviceIdentity, DeviceProperties, HardwareProperties, MemoryDeviceProperties,
    MmaProperties, TargetProperties,
};
use cubecl::prelude::*;
use cubecl::server::Handle;
use cubecl_cpp::cuda::mma::manual::contiguous_elements_cuda;
use cubecl_cpp::register_supported_types;
use cubecl_cpp::shared::{CompilationOptions, CppCompiler, CppSupportedFeatures};
use cubecl_cpp::target::Cuda;
use cubecl_environment::stream::StreamId;
use moepress_quant::codec::Codec;
use moepress_quant::{Dtype, Format, Grouped};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

/// What a card of compute capability `sm` says of itself, as far as kernels ask.
fn properties(sm: u32) -> (Arc<DeviceProperties>, Arc<TargetProperties>, CompilationOptions) {
    let hardware = HardwareProperties {
        load_width: 128,
        vector_register_count: None,
        plane_size_min: 32,
        plane_size_max: 32,
        max_bindings: 1024,
        max_shared_memory_size: 99 * 1024,
        max_cube_count: (i32::MAX as u32, 65_535, 65_535),
        max_units_per_cube: 1024,
        max_cube_dim: (1024, 1024, 64),
        num_streaming_multiprocessors: Some(108),
        num_cpu_cores: None,
        last_level_cache_size: None,
        num_tensor_cores: Some(4),
        min_tensor_cores_dim: Some(8),
        max_vector_size: 16,
        cube_mma_reserved_shared_memory: 0,
    };
    let identity =
        DeviceIdentity { name: format!("sm_{sm}"), fingerprint: format!("ptx_sm{sm}"), physical: None };
    let timing = cubecl::profile::TimingMethod::Device;
    let memory = MemoryDeviceProperties::new(8 << 30, 512);
    let mut device = DeviceProperties::new(Default::default(), memory, hardware, timing, identity);
    register_supported_types(&mut device);
    device.features.plane.insert(Plane::Ops);
    device.features.plane.insert(Plane::Sync);
    let rows = cubecl::cmma::MatrixLayout::RowMajor;
    let mma = MmaProperties {
        register_size_bits: 32,
        const_plane_size: 32,
        register_layout_a: rows,
        register_layout_b: cubecl::cmma::MatrixLayout::ColMajor,
        register_layout_acc: rows,
        register_duplication_a: 1,
        register_duplication_b: 1,
        register_duplication_acc: 1,
        contiguous_elements: ContiguousElements::new(contiguous_elements_cuda),
    };
    let features = CppSupportedFeatures { grid_constants: true, clusters: sm >= 90, ..Default::default() };
    let options = CompilationOptions { warp_size: 32, supports_features: features, ..Default::default() };
    (Arc::new(device), Arc::new(TargetProperties { mma }), options)
}

/// A buffer that no device has.
#[allow(unsafe_code)]
fn buffer() -> BufferArg {
    struct Nobody;
    let service = cubecl_common::device::ServiceId::of::<Nobody>(cubecl_common::device::DeviceId::new(0, 0));

    // SAFETY: it is never read.
    unsafe { BufferArg::from_raw_parts(Handle::new(service, StreamId { value: 0 }, 4096), 1024) }
}

/// Name and source of every kernel for a card: both products for every coding of every format, and what lies between.
fn sources(sm: u32) -> Vec<(String, String)> {
    let (device, target, options) = properties(sm);
    let source = |kernel: Box<dyn CubeKernel>| {
        CppCompiler::<Cuda>::default().compile(kernel.define(), &options).unwrap().to_string()
    };
    let count = || CubeCount::Static(1, 1, 1);
    let mut sources = Vec::new();
    let mut codings: Vec<Coding> = [Dtype::Bf16, Dtype::F16, Dtype::F32].map(Coding::plain).to_vec();
    // The width of whole groups is a number in the source: one width stands for those that runs divide alike.
    for format in Grouped::all().filter(|format| [16, 64, Grouped::ROW].contains(&format.group)) {
        let ternary = Format::Grouped(format).to_string().starts_with("ternary");
        codings.push(Coding::grouped(format, Codec::Fields));
        codings.extend(ternary.then(|| Coding::grouped(format, Codec::Trits)));
    }
    for (at, &coding) in codings.iter().enumerate() {
        let shape = FewShape { inputs: [1, 2, 4][at % 3], rows: 2, planes: 4, plane_sums: at % 2 == 0 };
        let kernel = few::create_dummy_kernel(
            device.clone(),
            target.clone(),
            count(),
            CubeDim::new_2d(LANES, 4),
            coding.width(),
            buffer(),
            buffer(),
            buffer(),
            buffer(),
            buffer(),
            buffer(),
            buffer(),
            buffer(),
            1,
            1,
            coding,
            shape,
        );
        sources.push((format!("few-{at}"), source(Box::new(kernel))));
        let kernel = many::create_dummy_kernel(
            device.clone(),
            target.clone(),
            count(),
            CubeDim::new_2d(SIDE, SIDE),
            coding.width(),
            buffer(),
            buffer(),
            buffer(),
            buffer(),
            buffer(),
            buffer(),
            buffer(),
            buffer(),
            1,
            1,
            coding,
            ManyShape { entries: 4, rows: 4 },
        );
        sources.push((format!("many-{at}"), source(Box::new(kernel))));
    }
    for (name, gate) in [
        ("silu", Gate::Silu),
        ("clamped", Gate::ClampedSwiglu { alpha: 1.7f32.to_bits(), limit: 7f32.to_bits() }),
    ] {
        let kernel = activate::create_dummy_kernel(
            device.clone(),
            target.clone(),
            count(),
            CubeDim::new_1d(UNITS),
            buffer(),
            buffer(),
            buffer(),
            buffer(),
            1,
            1,
            gate,
            true,
        );
        sources.push((format!("activate-{name}"), source(Box::new(kernel))));
    }
    let kernel = combine::create_dummy_kernel(
        device,
        target,
        count(),
        CubeDim::new_1d(UNITS),
        buffer(),
        buffer(),
        buffer(),
        buffer(),
        buffer(),
        buffer(),
        1,
        1,
        1,
        true,
    );
    sources.push(("combine".into(), source(Box::new(kernel))));
    sources
}

/// Skipped, with the reason printed, only where the PyPI wheels of NVRTC are missing.
#[test]
fn nvrtc_compiles_every_kernel() {
    let folder = tempfile::tempdir().unwrap();
    for sm in [80, 90] {
        for (name, source) in sources(sm) {
            std::fs::write(folder.path().join(format!("{name}.sm_{sm}.cu")), source).unwrap();
        }
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/nvrtc.py");
    let python = std::env::var("PYTHON").unwrap_or_else(|_| "python3".into());
    let run = Command::new(python).arg(script).arg(folder.path()).output().unwrap();
    let text = String::from_utf8_lossy(&run.stdout);
    match run.status.code() {
        Some(77) => eprintln!("skipped: {text}"),
        code => assert_eq!(code, Some(0), "{text}{}", String::from_utf8_lossy(&run.stderr)),
    }
}
