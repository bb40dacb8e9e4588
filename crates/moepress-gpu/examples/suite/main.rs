//! The GPU suite: what a device computes, against definitions, and how fast. `docs/gpu.md` tells how to read it.
//!
//!     suite cuda|wgpu [quick] [kernels] [models] [speed]
//!
//! Without names of parts, all of them; with `quick`, small sizes, as on a software driver.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

#[cfg(feature = "device")]
#[path = "../../tests/common/mod.rs"]
mod common;
#[cfg(feature = "device")]
mod models;
#[cfg(feature = "device")]
mod speed;

#[cfg(not(feature = "device"))]
fn main() {
    println!("built without a device: build with `--features cuda` or `--features wgpu`");
}

#[cfg(feature = "device")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    use moepress_gpu::Gpu;
    use moepress_nn::Backend;

    let words: Vec<String> = std::env::args().skip(1).collect();
    let quick = words.iter().any(|word| word == "quick");
    let backend = match words.first().map(String::as_str) {
        Some("cuda") => Backend::Cuda,
        Some("wgpu") => Backend::Wgpu,
        _ => return Err("say `cuda` or `wgpu`".into()),
    };
    let gpu = Gpu::new(&backend.device()?)?;
    println!("device: {} ({backend}), sums of planes by hardware: {}", gpu.name(), gpu.plane_sums());

    let parts = ["kernels", "models", "speed"];
    let all = !words.iter().any(|word| parts.contains(&word.as_str()));
    let wanted = |part: &str| all || words.iter().any(|word| word == part);
    if wanted("kernels") {
        kernels(&gpu)?;
    }
    if wanted("speed") {
        speed::run(&gpu, quick)?;
    }
    if wanted("models") {
        models::run(backend, quick);
    }
    Ok(())
}

#[cfg(feature = "device")]
fn kernels(gpu: &moepress_gpu::Gpu) -> Result<(), moepress_gpu::GpuError> {
    println!("\nkernels against the f64 reference (largest error, as a share of the bound)");
    for form in common::FORMS {
        let mut worst = 0f64;
        for [n, rows, cols] in [[1, 65, 129], [3, 96, 257], [7, 130, 640], [70, 65, 333], [1, 1000, 4099]] {
            let w = common::store(form, rows, cols, &common::noise(3, rows * cols));
            worst = worst.max(common::worst(gpu, &w, &common::noise(4, n * cols), n, None)?);
        }
        println!("{form:24} {worst:.4} {}", if worst <= 1.0 { "ok" } else { "WRONG" });
    }
    Ok(())
}
