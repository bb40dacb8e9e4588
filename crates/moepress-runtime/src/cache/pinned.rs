//! The experts that were used most often stay: counted in a recorded trace, and from then on. Of equally frequent ones
//! the least recently used goes.

use super::{ExpertId, Policy, Trace, Visit};
use std::collections::HashMap;

#[derive(Default)]
struct Pinned {
    /// Uses, and when the last was.
    uses: HashMap<ExpertId, (u64, u64)>,
    /// Uses of all.
    now: u64,
}

pub(super) fn build(before: Option<&Trace>) -> Box<dyn Policy> {
    let mut pinned = Pinned::default();
    for id in before.iter().flat_map(|trace| &trace.visits).flat_map(Visit::ids) {
        pinned.uses.entry(id).or_default().0 += 1;
    }
    Box::new(pinned)
}

impl Policy for Pinned {
    fn visit(&mut self, visit: &Visit) {
        for id in visit.ids() {
            self.now += 1;
            let (count, last) = self.uses.entry(id).or_default();
            (*count, *last) = (*count + 1, self.now);
        }
    }

    fn worth(&self, id: ExpertId) -> f64 {
        let (count, last) = self.uses.get(&id).copied().unwrap_or_default();
        count as f64 + last as f64 / (self.now + 1) as f64
    }
}
