//! The experts that were used most often stay: counted in a recorded trace, and from then on. Of equally frequent ones
//! the least recently used goes.

use super::{ExpertId, Policy, Trace};
use std::collections::HashMap;

struct Pinned(HashMap<ExpertId, (u64, u64)>);

pub(super) fn build(before: Option<&Trace>) -> Box<dyn Policy> {
    let mut uses: HashMap<ExpertId, (u64, u64)> = HashMap::new();
    for used in before.iter().flat_map(|trace| &trace.uses) {
        uses.entry(used.id).or_default().0 += 1;
    }
    Box::new(Pinned(uses))
}

impl Policy for Pinned {
    fn used(&mut self, id: ExpertId, _gates: f32, now: u64) {
        let (count, last) = self.0.entry(id).or_default();
        *count += 1;
        *last = now;
    }

    fn worth(&self, id: ExpertId, now: u64) -> f64 {
        let (count, last) = self.0.get(&id).copied().unwrap_or_default();
        count as f64 + last as f64 / (now + 1) as f64
    }
}
