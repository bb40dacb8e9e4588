//! What a cache would have made of a trace.

use super::{ByteCache, ExpertId, Hit, Policy, Trace, Visit};
use std::collections::BTreeSet;

/// What a cache came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Replayed {
    /// Uses of experts.
    pub uses: u64,
    /// Of them those whose expert was held since an earlier use.
    pub kept: u64,
    /// Those whose expert was held because it had been read ahead.
    pub ahead: u64,
    /// Experts read ahead.
    pub read_ahead: u64,
    /// Bytes of experts that had to be read, ahead or not.
    pub bytes_read: u64,
}

impl Replayed {
    /// Uses whose expert was held.
    pub fn hits(&self) -> u64 {
        self.kept + self.ahead
    }
}

/// Replays a trace under a policy; with `read_ahead` what a layer is expected to use is read, in no time, while the layer
/// before runs.
pub fn replay(
    trace: &Trace,
    budget: u64,
    policy: Box<dyn Policy>,
    read_ahead: bool,
    bytes: impl Fn(ExpertId) -> u64,
) -> Replayed {
    let mut cache = ByteCache::new(budget, policy);
    let mut replayed = Replayed::default();
    for visit in &trace.visits {
        cache.visit(visit);
        let ids: BTreeSet<ExpertId> = visit.ids().collect();
        let mut missing = Vec::new();
        for &id in &ids {
            replayed.uses += 1;
            match cache.take(id) {
                Some((_, Hit::Kept)) => replayed.kept += 1,
                Some((_, Hit::Ahead)) => replayed.ahead += 1,
                None => missing.push(id),
            }
        }
        for id in missing {
            let own = bytes(id);
            replayed.bytes_read += own;
            // Where the experts of the pass do not all fit, it takes them in turns.
            if cache.make_room(own, &ids).or_else(|| cache.make_room(own, &BTreeSet::new())).is_some() {
                cache.put(id, (), own, false);
            }
        }
        if read_ahead {
            expect(&mut cache, visit, ids, &mut replayed, &bytes);
        }
    }
    replayed
}

/// Reads ahead what is expected of the next layer; what is in use stays, and what is expected.
fn expect(
    cache: &mut ByteCache<()>,
    visit: &Visit,
    mut stays: BTreeSet<ExpertId>,
    replayed: &mut Replayed,
    bytes: &impl Fn(ExpertId) -> u64,
) {
    let next: Vec<ExpertId> =
        visit.expected.iter().map(|&expert| ExpertId { layer: visit.layer + 1, expert }).collect();
    stays.extend(&next);
    for id in next {
        let own = bytes(id);
        if !cache.holds(id) && cache.make_room(own, &stays).is_some() {
            cache.put(id, (), own, true);
            (replayed.read_ahead, replayed.bytes_read) = (replayed.read_ahead + 1, replayed.bytes_read + own);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{POLICIES, Used, belady};
    use super::*;

    fn visit(layer: usize, experts: &[usize], expected: &[usize]) -> Visit {
        let experts = experts.iter().map(|&expert| Used::new(expert)).collect();
        Visit { layer, tokens: 1, experts, expected: expected.to_vec() }
    }

    fn trace(experts: &[usize]) -> Trace {
        Trace { visits: experts.iter().map(|&expert| visit(expert % 2, &[expert], &[])).collect() }
    }

    fn under(name: &str, before: Option<&Trace>) -> Box<dyn Policy> {
        POLICIES.into_iter().find(|(known, _)| *known == name).unwrap().1(before)
    }

    /// The most hits that any choice of what to keep allows, by trying all.
    fn brute_force(uses: &[usize], held: &[usize], room: usize) -> u64 {
        let Some((&now, rest)) = uses.split_first() else { return 0 };
        if held.contains(&now) {
            return 1 + brute_force(rest, held, room);
        }
        let mut best = brute_force(rest, held, room);
        let keep = |mut held: Vec<usize>| {
            held.push(now);
            brute_force(rest, &held, room)
        };
        if held.len() < room {
            return best.max(keep(held.to_vec()));
        }
        for gone in 0..held.len() {
            let mut held = held.to_vec();
            held.remove(gone);
            best = best.max(keep(held));
        }
        best
    }

    #[test]
    fn belady_is_the_best_there_is() {
        let sequences: [&[usize]; 4] = [
            &[1, 2, 3, 4, 1, 2, 5, 1, 2, 3, 4, 5],
            &[1, 2, 1, 3, 1, 4, 1, 5, 2, 1],
            &[1, 2, 3, 1, 2, 3, 1, 2, 3],
            &[],
        ];
        for uses in sequences {
            for room in [0, 1, 2, 3] {
                let (trace, budget) = (trace(uses), room as u64 * 10);
                let best = belady(&trace, budget, |_| 10);
                assert_eq!(best.kept, brute_force(uses, &[], room), "{uses:?} in {room}");
                assert_eq!(
                    (best.uses, best.bytes_read),
                    (uses.len() as u64, (uses.len() as u64 - best.kept) * 10)
                );
                for (name, build) in POLICIES {
                    let found = replay(&trace, budget, build(None), false, |_| 10);
                    assert!(found.hits() <= best.kept, "{name} beats the best on {uses:?} in {room}");
                }
            }
        }
    }

    #[test]
    fn what_was_frequent_before_stays() {
        let before = trace(&[7, 7, 7, 8, 8, 8, 9]);
        let now = trace(&[7, 8, 1, 7, 8, 3, 7, 8]);
        let kept = |name| replay(&now, 30, under(name, Some(&before)), false, |_| 10).kept;
        assert_eq!((kept("pinned"), kept("hit-density")), (4, 4));
        let kept = |name| replay(&now, 20, under(name, Some(&before)), false, |_| 10).kept;
        assert_eq!(kept("lru"), 0);
    }

    #[test]
    fn hits_are_kept_or_read_ahead() {
        // Two layers of four experts, three in memory. Layer 1 is foreseen rightly, half rightly, not at all.
        let visits = [
            visit(0, &[0], &[0, 1]),
            visit(1, &[0, 1], &[]),
            visit(0, &[0], &[2]),
            visit(1, &[2, 3], &[]),
            visit(0, &[0], &[0]),
            visit(1, &[3], &[]),
        ];
        let trace = Trace { visits: visits.to_vec() };
        let found = replay(&trace, 30, under("lru", None), true, |_| 10);
        // Read are 0 of layer 0; ahead 0 and 1 of layer 1; ahead 2, for which 0 goes; 3, for which 1 goes; ahead 0, for
        // which 2 goes, and not 3, so that it is there at the end.
        let expected = Replayed { uses: 8, kept: 3, ahead: 3, read_ahead: 4, bytes_read: 60 };
        assert_eq!((found, found.hits()), (expected, 6));
        let demand = replay(&trace, 30, under("lru", None), false, |_| 10);
        assert_eq!(demand, Replayed { uses: 8, kept: 3, ahead: 0, read_ahead: 0, bytes_read: 50 });
    }
}
