//! Least recently used.

use super::{ExpertId, Policy, Trace, Visit};
use std::collections::HashMap;

#[derive(Default)]
struct Lru {
    last: HashMap<ExpertId, u64>,
    /// Uses so far.
    now: u64,
}

pub(super) fn build(_: Option<&Trace>) -> Box<dyn Policy> {
    Box::new(Lru::default())
}

impl Policy for Lru {
    fn visit(&mut self, visit: &Visit) {
        for id in visit.ids() {
            self.now += 1;
            self.last.insert(id, self.now);
        }
    }

    fn worth(&self, id: ExpertId) -> f64 {
        self.last.get(&id).map_or(0.0, |&last| last as f64)
    }
}
