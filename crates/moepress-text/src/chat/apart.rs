//! Work on a template in a thread of its own, because fuel does not bound all that a template can do: lists that
//! share their items grow without end when they are compared or become text, and deep ones need stack to drop.

use moepress_checkpoint::used_memory;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread::Builder;
use std::time::{Duration, Instant};

/// Bytes of stack, reserved and not used: enough for the deepest value that the fuel can make.
const STACK: usize = 512 << 20;
const PERIOD: Duration = Duration::from_millis(10);

/// What work may take.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    /// Bytes that the memory of the process grows by.
    pub(super) memory: u64,
    pub(super) time: Duration,
}

/// The result of `work`, or why there is none. A thread that takes too much is left behind, since nothing can end
/// it but the end of the process.
pub(super) fn apart<T: Send + 'static>(
    limits: Limits,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, String> {
    let (started, before) = (Instant::now(), used_memory());
    let (sender, receiver) = sync_channel(1);
    // A receiver that has gone wants no result.
    let work = move || drop(sender.send(work()));
    Builder::new().stack_size(STACK).spawn(work).map_err(|error| format!("has no thread: {error}"))?;
    loop {
        match receiver.recv_timeout(PERIOD) {
            Ok(result) => return Ok(result),
            Err(RecvTimeoutError::Disconnected) => return Err("broke off at an unexpected value".into()),
            Err(RecvTimeoutError::Timeout) => {}
        }
        let grown = before.and_then(|before| used_memory()?.checked_sub(before));
        if grown.is_some_and(|grown| grown > limits.memory) {
            return Err(format!("takes more than {} bytes of memory", limits.memory));
        }
        if started.elapsed() > limits.time {
            return Err(format!("takes more than {} seconds", limits.time.as_secs_f64()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread::sleep;

    const LIMITS: Limits = Limits { memory: 64 << 20, time: Duration::from_secs(9) };

    #[test]
    fn work_is_watched() {
        assert_eq!(apart(LIMITS, || 3), Ok(3));
        let long = || sleep(Duration::from_millis(500));
        let short = Limits { time: Duration::from_millis(50), ..LIMITS };
        assert_eq!(apart(short, long), Err("takes more than 0.05 seconds".into()));
        let broken = || std::iter::empty::<u8>().next().unwrap();
        assert_eq!(apart(LIMITS, broken), Err("broke off at an unexpected value".into()));
        let large = || {
            let bytes = std::hint::black_box(vec![1u8; 192 << 20]);
            sleep(Duration::from_millis(500));
            bytes[7]
        };
        assert_eq!(apart(LIMITS, large), Err("takes more than 67108864 bytes of memory".into()));
    }
}
