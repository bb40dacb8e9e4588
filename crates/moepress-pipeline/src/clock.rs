//! What the phases of a run take.

use crate::PhaseReport;
use moepress_checkpoint::peak_memory;
use std::time::Instant;

/// Measures phases that follow each other without gaps.
pub struct Clock {
    started: Instant,
    at: Instant,
    phases: Vec<PhaseReport>,
}

impl Clock {
    /// The first phase begins.
    pub fn start() -> Self {
        let now = Instant::now();
        Self { started: now, at: now, phases: vec![] }
    }

    /// A phase ends, and the next begins; its wall time in seconds.
    pub fn lap(&mut self, what: impl Into<String>) -> f64 {
        let now = Instant::now();
        let seconds = (now - self.at).as_secs_f64();
        self.at = now;
        self.phases.push(PhaseReport { what: what.into(), seconds, peak_memory_bytes: peak_memory() });
        seconds
    }

    /// Seconds since the first phase began.
    pub fn total(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }

    /// All phases so far.
    pub fn phases(self) -> Vec<PhaseReport> {
        self.phases
    }
}
