//! Least recently used.

use super::{ExpertId, Policy, Trace};
use std::collections::HashMap;

#[derive(Default)]
struct Lru(HashMap<ExpertId, u64>);

pub(super) fn build(_: Option<&Trace>) -> Box<dyn Policy> {
    Box::new(Lru::default())
}

impl Policy for Lru {
    fn used(&mut self, id: ExpertId, _gates: f32, now: u64) {
        self.0.insert(id, now);
    }

    fn worth(&self, id: ExpertId, _now: u64) -> f64 {
        self.0.get(&id).map_or(0.0, |&last| last as f64)
    }
}
