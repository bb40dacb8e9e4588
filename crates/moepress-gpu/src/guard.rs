//! Failures of a driver that burn and CubeCL have no way to return, such as memory that runs out in the middle of a pass:
//! they panic.

use crate::GpuError;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What `work` returns, or the error that a panic in it is.
pub(crate) fn guarded<T, E: From<GpuError>>(work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    // What a pass leaves half done is its own, and goes with it.
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|payload| {
        let text = payload.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("no reason given");
        let line = text.lines().next().unwrap_or_default();
        Err(GpuError::Driver(format!("{line} (too little memory is the usual reason)")).into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error_of_one_line() {
        let failed = guarded::<(), GpuError>(|| std::panic::panic_any(String::from("out of memory\nat 0x0")));
        let message = failed.unwrap_err().to_string();
        assert_eq!(message, "the device failed: out of memory (too little memory is the usual reason)");
        assert!(guarded::<_, GpuError>(|| Ok(1)).is_ok());
    }
}
