//! Which routed experts stay in memory when not all of them may.
//!
//! A policy is one file behind [`Policy`] and one line in [`POLICIES`]. The cache is the same for a running model and for
//! the replay of a trace, so that what a replay says is what a model does.

mod belady;
mod gate_mass;
mod lru;
mod pinned;
mod trace;

pub use belady::belady;
pub use trace::{Replayed, Trace, Used, replay};

use std::collections::BTreeMap;

/// A routed expert of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ExpertId {
    /// Its layer.
    pub layer: usize,
    /// Its index there.
    pub expert: usize,
}

/// What is evicted first.
pub trait Policy: Send {
    /// An expert is used at time `now`, for tokens whose gates add up to `gates`. Times ascend.
    fn used(&mut self, id: ExpertId, gates: f32, now: u64);

    /// How much it is worth to keep; the least is evicted, of equals the first by layer and index.
    fn worth(&self, id: ExpertId, now: u64) -> f64;
}

/// Makes a policy from what was used before, if that is known.
pub type MakePolicy = fn(Option<&Trace>) -> Box<dyn Policy>;

/// The policies by name.
pub const POLICIES: [(&str, MakePolicy); 3] =
    [("lru", lru::build), ("pinned", pinned::build), ("gate-mass", gate_mass::build)];

/// Things of known size within a budget of bytes.
pub(crate) struct ByteCache<T> {
    budget: u64,
    bytes: u64,
    now: u64,
    held: BTreeMap<ExpertId, (T, u64)>,
    policy: Box<dyn Policy>,
}

impl<T: Clone> ByteCache<T> {
    pub(crate) fn new(budget: u64, policy: Box<dyn Policy>) -> Self {
        Self { budget, bytes: 0, now: 0, held: BTreeMap::new(), policy }
    }

    /// What is held of an expert that is used now.
    pub(crate) fn take(&mut self, id: ExpertId, gates: f32) -> Option<T> {
        self.now += 1;
        self.policy.used(id, gates, self.now);
        self.held.get(&id).map(|(thing, _)| thing.clone())
    }

    /// What is held of an expert, without its being used.
    pub(crate) fn held(&self, id: ExpertId) -> Option<T> {
        self.held.get(&id).map(|(thing, _)| thing.clone())
    }

    pub(crate) fn holds(&self, id: ExpertId) -> bool {
        self.held.contains_key(&id)
    }

    /// Keeps a thing that is used now, if it is worth at least as much as what would have to go for it.
    pub(crate) fn offer(&mut self, id: ExpertId, thing: T, bytes: u64, stays: &[ExpertId]) {
        let worth = self.policy.worth(id, self.now);
        self.insert(id, thing, bytes, stays, worth);
    }

    /// Keeps a thing that will be used, evicting others until it fits; `stays` names those that must not go. One that
    /// does not fit even then is not kept.
    pub(crate) fn put(&mut self, id: ExpertId, thing: T, bytes: u64, stays: &[ExpertId]) {
        self.insert(id, thing, bytes, stays, f64::INFINITY);
    }

    fn insert(&mut self, id: ExpertId, thing: T, bytes: u64, stays: &[ExpertId], own: f64) {
        if bytes > self.budget || self.held.contains_key(&id) {
            return;
        }
        while self.bytes + bytes > self.budget {
            let worth = |id: &ExpertId| self.policy.worth(*id, self.now);
            let may_go = self.held.keys().filter(|held| !stays.contains(held));
            let victim = may_go.min_by(|a, b| worth(a).total_cmp(&worth(b))).copied();
            let Some(victim) = victim.filter(|victim| worth(victim) <= own) else { return };
            if let Some((_, freed)) = self.held.remove(&victim) {
                self.bytes -= freed;
            }
        }
        self.bytes += bytes;
        self.held.insert(id, (thing, bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(expert: usize) -> ExpertId {
        ExpertId { layer: 0, expert }
    }

    #[test]
    fn the_budget_is_kept_and_the_least_worth_goes() {
        let mut cache = ByteCache::new(100, lru::build(None));
        for (expert, bytes) in [(0, 40), (1, 40), (2, 20)] {
            assert_eq!(cache.take(id(expert), 1.0), None);
            cache.put(id(expert), expert, bytes, &[]);
        }
        assert_eq!(cache.take(id(0), 1.0), Some(0));
        cache.put(id(3), 3, 30, &[]);
        assert!(cache.holds(id(0)) && !cache.holds(id(1)) && cache.holds(id(2)) && cache.bytes == 90);
        // What is too large is not kept, nor what could only replace what must stay.
        cache.put(id(4), 4, 101, &[]);
        cache.put(id(5), 5, 100, &[id(0)]);
        assert!(!cache.holds(id(4)) && !cache.holds(id(5)) && cache.holds(id(0)));
    }
}
