//! What a sweep comes to does not depend on the memory it may have, nor on the number of threads.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::{Reference, all, files, model};
use moepress_calibrate::{CalibrateError, Layout, Means, Spool, Work, sweep, sweep_as};
use moepress_checkpoint::{Progress, Silent, Source};
use moepress_nn::Device;
use moepress_stats::{Need, Needs, Statistics};
use std::sync::atomic::{AtomicU64, Ordering};

fn needs() -> Needs {
    let formats = ["int2-g32", "ternary-g64"].map(|format| format.parse().unwrap());
    Needs { formats: formats.into(), ..Needs::of(Need::ALL) }
}

/// Sweeps a golden checkpoint, in the way of working given or as the limit says.
fn measure(
    name: &str,
    way: Result<Layout, Option<u64>>,
    progress: &dyn Progress,
) -> Result<Statistics, CalibrateError> {
    let dir = tempfile::tempdir().unwrap();
    let spool = Some(Spool { files: files(), dir: dir.path().join("spool") });
    let (model, windows, needs) = (model(name), Reference::of(name).ids(), needs());
    let mut means = Means { device: Device::flex(), memory: None, spool };
    let result = match way {
        Ok(layout) => sweep_as(&model, &windows, &needs, &means, &layout, progress),
        Err(limit) => {
            means.memory = limit;
            sweep(&model, &windows, &needs, &means, progress)
        }
    };
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "{name}: the spool is left behind");
    result
}

fn least(name: &str) -> Layout {
    let (model, windows, needs) = (model(name), Reference::of(name).ids(), needs());
    let tokens = windows.len() * windows[0].len();
    let (window, threads) = (windows[0].len(), rayon::current_num_threads());
    let work = Work { tokens, window, threads, needs: &needs, packed: false };
    let layout = Layout::least(model.spec(), &work);
    assert!(layout.spooled && layout.experts == 1 && layout.spool > 0);
    layout
}

#[test]
fn any_way_of_working_gives_the_same_bits() {
    for name in all() {
        let whole = measure(&name, Err(None), &Silent).unwrap();
        assert!(whole.iter().count() > 20);
        for (spooled, experts) in [(true, 1), (false, 3), (true, 1 << 20)] {
            let way = Layout { spooled, experts, ..least(&name) };
            let found = measure(&name, Ok(way), &Silent).unwrap();
            for ((key, a), (other, b)) in whole.iter().zip(found.iter()) {
                assert!(key == other && a == b, "{name}: {key} and {other} differ with {way:?}");
            }
            assert_eq!(whole.iter().count(), found.iter().count());
        }
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    let with = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| measure("deepseek_v3", Ok(least("deepseek_v3")), &Silent).unwrap())
    };
    assert!(with(1) == with(3));
}

#[test]
fn too_little_memory_is_refused_with_the_least() {
    let least = least("mixtral").peak / 20 * 21 + 21;
    assert!(measure("mixtral", Err(Some(least)), &Silent).is_ok());
    let Err(CalibrateError::Memory { needed, .. }) = measure("mixtral", Err(Some(1 << 20)), &Silent) else {
        panic!("a mebibyte was enough");
    };
    assert!(needed <= least && measure("mixtral", Err(Some(needed)), &Silent).is_ok());
    assert!(measure("mixtral", Err(Some(needed - 1)), &Silent).is_err());
}

#[test]
fn progress_ends_at_what_was_announced_and_an_end_cleans_up() {
    #[derive(Default)]
    struct Count(AtomicU64, AtomicU64, u64);
    impl Progress for Count {
        fn step(&self, _: &str, done: u64, all: u64) {
            assert!(done <= all);
            self.0.store(done, Ordering::Relaxed);
            self.1.store(all, Ordering::Relaxed);
        }
        fn cancelled(&self) -> bool {
            self.2 > 0 && self.0.load(Ordering::Relaxed) >= self.2
        }
        fn note(&self, _: &str) {}
    }
    for way in [Err(None), Ok(least("glm4_moe"))] {
        let progress = Count::default();
        measure("glm4_moe", way, &progress).unwrap();
        assert_eq!(progress.0.into_inner(), progress.1.into_inner());
        let stopped = measure("glm4_moe", way, &Count(0.into(), 0.into(), 3));
        assert!(matches!(stopped, Err(CalibrateError::Cancelled)));
    }
}
