//! Which routed experts stay in memory when not all of them may.
//!
//! A policy is one file behind [`Policy`] and one line in [`POLICIES`]. The cache is the same for a running model and for
//! the replay of a trace, so that what a replay says is what a model does.

mod belady;
mod gate_mass;
mod hit_density;
mod lru;
mod pinned;
mod replay;
mod trace;

pub use belady::belady;
pub use replay::{Replayed, replay};
pub use trace::{Trace, Used, Visit};

use std::collections::{BTreeMap, BTreeSet};

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
    /// The tokens of a pass go to these experts of a layer now.
    fn visit(&mut self, visit: &Visit);

    /// How much it is worth to keep an expert; the least is evicted, of equals the first by layer and index.
    fn worth(&self, id: ExpertId) -> f64;
}

/// Makes a policy from what was used before, if that is known.
pub type MakePolicy = fn(Option<&Trace>) -> Box<dyn Policy>;

/// The policies by name.
pub const POLICIES: [(&str, MakePolicy); 4] = [
    ("lru", lru::build),
    ("pinned", pinned::build),
    ("gate-mass", gate_mass::build),
    ("hit-density", hit_density::build),
];

/// Why an expert that is used is in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hit {
    /// It was used before and has stayed.
    Kept,
    /// It was read ahead of its first use.
    Ahead,
}

/// Things of known size within a budget of bytes, which holds for what is being read too: room is made first.
pub(crate) struct ByteCache<T> {
    budget: u64,
    /// Of what is held, and of what room is made for.
    bytes: u64,
    held: BTreeMap<ExpertId, (T, u64)>,
    /// Read ahead and not used yet.
    early: BTreeSet<ExpertId>,
    policy: Box<dyn Policy>,
}

impl<T: Clone> ByteCache<T> {
    pub(crate) fn new(budget: u64, policy: Box<dyn Policy>) -> Self {
        Self { budget, bytes: 0, held: BTreeMap::new(), early: BTreeSet::new(), policy }
    }

    pub(crate) fn visit(&mut self, visit: &Visit) {
        self.policy.visit(visit);
    }

    /// What is held of an expert that is used now, and why.
    pub(crate) fn take(&mut self, id: ExpertId) -> Option<(T, Hit)> {
        let (thing, _) = self.held.get(&id)?;
        Some((thing.clone(), if self.early.remove(&id) { Hit::Ahead } else { Hit::Kept }))
    }

    pub(crate) fn holds(&self, id: ExpertId) -> bool {
        self.held.contains_key(&id)
    }

    /// Makes room for `bytes` by evicting what is worth least, but none of `stays`; returns that, or `None` where it would not
    /// do. The room is taken until [`Self::put`] fills it or [`Self::give_up`].
    pub(crate) fn make_room(&mut self, bytes: u64, stays: &BTreeSet<ExpertId>) -> Option<Vec<T>> {
        let movable = self.held.iter().filter(|(id, _)| !stays.contains(id)).map(|(_, (_, bytes))| bytes);
        if self.bytes - movable.sum::<u64>() + bytes > self.budget {
            return None;
        }
        let mut evicted = Vec::new();
        while self.bytes + bytes > self.budget {
            let worth = |id: &ExpertId| self.policy.worth(*id);
            let may_go = self.held.keys().filter(|held| !stays.contains(held));
            let victim = may_go.min_by(|a, b| worth(a).total_cmp(&worth(b))).copied();
            let (thing, freed) = victim.and_then(|victim| self.held.remove(&victim))?;
            victim.iter().for_each(|victim| _ = self.early.remove(victim));
            self.bytes -= freed;
            evicted.push(thing);
        }
        self.bytes += bytes;
        Some(evicted)
    }

    /// Holds a thing that room was made for.
    pub(crate) fn put(&mut self, id: ExpertId, thing: T, bytes: u64, ahead: bool) {
        self.held.insert(id, (thing, bytes));
        if ahead {
            self.early.insert(id);
        }
    }

    /// Room that was made is not needed.
    pub(crate) fn give_up(&mut self, bytes: u64) {
        self.bytes -= bytes;
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
        let use_now = |cache: &mut ByteCache<usize>, expert: usize, bytes, stays: &[usize]| {
            cache.visit(&Visit { layer: 0, tokens: 1, experts: vec![Used::new(expert)], expected: vec![] });
            let hit = cache.take(id(expert)).map(|(_, hit)| hit);
            if hit.is_none() && cache.make_room(bytes, &stays.iter().copied().map(id).collect()).is_some() {
                cache.put(id(expert), expert, bytes, false);
            }
            hit
        };
        for (expert, bytes) in [(0, 40), (1, 40), (2, 20)] {
            assert_eq!(use_now(&mut cache, expert, bytes, &[]), None);
        }
        assert_eq!(use_now(&mut cache, 0, 40, &[]), Some(Hit::Kept));
        assert_eq!(use_now(&mut cache, 3, 30, &[]), None);
        assert!(cache.holds(id(0)) && !cache.holds(id(1)) && cache.holds(id(2)) && cache.bytes == 90);
        // For what could only replace what must stay, nothing goes.
        use_now(&mut cache, 5, 100, &[0]);
        assert!(!cache.holds(id(5)) && cache.bytes == 90);
        // Room counts before it is filled, and a thing read ahead is a hit of its own kind, once.
        assert_eq!(cache.make_room(50, &BTreeSet::new()), Some(vec![2, 0]));
        assert!(cache.bytes == 80 && cache.holds(id(3)));
        cache.put(id(6), 6, 50, true);
        assert_eq!(use_now(&mut cache, 6, 50, &[]), Some(Hit::Ahead));
        assert_eq!(use_now(&mut cache, 6, 50, &[]), Some(Hit::Kept));
        assert_eq!(cache.make_room(10, &BTreeSet::new()), Some(vec![]));
        assert_eq!(cache.make_room(91, &BTreeSet::new()), None);
        cache.give_up(10);
        assert_eq!(cache.bytes, 80);
    }
}
