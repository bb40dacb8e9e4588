//! What long work tells its caller, and how it is told to stop.

/// Receives the progress of long work; shared by all threads.
pub trait Progress: Sync {
    /// `done` of `total` units of `phase` are finished. Called in order within a phase, from one thread.
    fn step(&self, phase: &str, done: u64, total: u64);

    /// A decision that was taken for the user, or something worth knowing; one line.
    fn note(&self, line: &str);

    /// Whether the work should end as soon as it can.
    fn cancelled(&self) -> bool;
}

/// Shows nothing, never stops.
pub struct Silent;

impl Progress for Silent {
    fn step(&self, _: &str, _: u64, _: u64) {}

    fn note(&self, _: &str) {}

    fn cancelled(&self) -> bool {
        false
    }
}
