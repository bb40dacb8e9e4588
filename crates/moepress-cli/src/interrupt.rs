//! SIGINT and SIGTERM: the first asks for an end that leaves nothing behind, the second ends at once.

use crate::failure::{Failure, Reason};
use signal_hook::consts::{SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::flag;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Whether a signal came.
#[derive(Clone, Default)]
pub struct Interrupt {
    /// 0 until one comes.
    signal: Arc<AtomicUsize>,
}

impl Interrupt {
    /// Starts to listen.
    pub fn install() -> Result<Self, Failure> {
        let interrupt = Self::default();
        let came = Arc::new(AtomicBool::new(false));
        let listening = |e| Failure::new(Reason::Fault, format!("cannot listen for signals: {e}"));
        // Unheeded, so that a write beyond the limit of file sizes fails like one to a full disk.
        flag::register(SIGXFSZ, Arc::default()).map_err(listening)?;
        for signal in [SIGINT, SIGTERM] {
            // In this order: the first signal finds `came` unset and sets it, the second finds it set.
            flag::register_conditional_shutdown(signal, 128 + signal, came.clone())
                .and_then(|_| flag::register(signal, came.clone()))
                .and_then(|_| flag::register_usize(signal, interrupt.signal.clone(), signal as usize))
                .map_err(listening)?;
        }
        Ok(interrupt)
    }

    /// Whether the work should end.
    pub fn came(&self) -> bool {
        self.signal.load(Ordering::Relaxed) != 0
    }

    /// An error if the work should end.
    pub fn check(&self) -> Result<(), Failure> {
        let ended = || Failure::new(Reason::Interrupted(2), "interrupted");
        if self.came() { Err(self.blame(ended())) } else { Ok(()) }
    }

    /// Names the signal in a failure that a signal caused.
    pub fn blame(&self, failure: Failure) -> Failure {
        match (failure.reason, self.signal.load(Ordering::Relaxed)) {
            (Reason::Interrupted(_), signal @ 1..=127) => {
                Failure { reason: Reason::Interrupted(signal as u8), ..failure }
            }
            _ => failure,
        }
    }
}
