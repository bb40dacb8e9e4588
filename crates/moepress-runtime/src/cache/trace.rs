//! Which experts a model used, and what a cache would have made of it.

use super::{ByteCache, ExpertId, Policy};

/// One use of an expert.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Used {
    /// The expert.
    pub id: ExpertId,
    /// The gates of the tokens it was used for, added up.
    pub gates: f32,
}

/// Uses in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Trace {
    /// Every use.
    pub uses: Vec<Used>,
}

/// What a cache came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Replayed {
    /// Uses of experts.
    pub uses: u64,
    /// Of them those whose expert was held.
    pub hits: u64,
    /// Bytes of experts that had to be read.
    pub bytes_read: u64,
}

impl Replayed {
    /// Hits of all uses, 0 to 1.
    pub fn hit_rate(&self) -> f64 {
        self.hits as f64 / self.uses.max(1) as f64
    }
}

/// Replays a trace under a policy.
pub fn replay(
    trace: &Trace,
    budget: u64,
    policy: Box<dyn Policy>,
    bytes: impl Fn(ExpertId) -> u64,
) -> Replayed {
    let (mut cache, mut replayed) = (ByteCache::new(budget, policy), Replayed::default());
    for used in &trace.uses {
        replayed.uses += 1;
        if cache.take(used.id, used.gates).is_some() {
            replayed.hits += 1;
        } else {
            replayed.bytes_read += bytes(used.id);
            cache.offer(used.id, (), bytes(used.id), &[]);
        }
    }
    replayed
}

#[cfg(test)]
mod tests {
    use super::super::{POLICIES, belady};
    use super::*;

    fn trace(experts: &[usize]) -> Trace {
        let used = |&expert: &usize| Used { id: ExpertId { layer: expert % 2, expert }, gates: 0.5 };
        Trace { uses: experts.iter().map(used).collect() }
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
                let best = belady(&trace(uses), room as u64 * 10, |_| 10);
                assert_eq!(best.hits, brute_force(uses, &[], room), "{uses:?} in {room}");
                assert_eq!(
                    (best.uses, best.bytes_read),
                    (uses.len() as u64, (uses.len() as u64 - best.hits) * 10)
                );
                for (name, build) in POLICIES {
                    let found = replay(&trace(uses), room as u64 * 10, build(None), |_| 10);
                    assert!(found.hits <= best.hits, "{name} beats the best on {uses:?} in {room}");
                }
            }
        }
    }

    #[test]
    fn what_was_frequent_before_stays() {
        let before = trace(&[7, 7, 7, 8, 8, 8, 9]);
        let now = trace(&[7, 8, 1, 2, 3, 4, 7, 8]);
        let hits = |name: &str| {
            let (_, build) = POLICIES.into_iter().find(|(known, _)| *known == name).unwrap();
            replay(&now, 20, build(Some(&before)), |_| 10).hits
        };
        assert_eq!((hits("pinned"), hits("lru")), (2, 0));
    }
}
