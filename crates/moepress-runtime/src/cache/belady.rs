//! The best that any cache could have done (Belady, IBM Systems Journal 5(2), 1966): evict what is used again last.

use super::{ExpertId, Replayed, Trace, Visit};
use std::collections::{BTreeMap, HashMap};

/// Replays a trace with knowledge of the future, reading nothing before it is used. Best possible of those where all experts
/// are of one size; `bytes` says how large each is.
pub fn belady(trace: &Trace, budget: u64, bytes: impl Fn(ExpertId) -> u64) -> Replayed {
    let uses: Vec<ExpertId> = trace.visits.iter().flat_map(Visit::ids).collect();
    // For every use the next use of the same expert.
    let mut next = vec![usize::MAX; uses.len()];
    let mut seen: HashMap<ExpertId, usize> = HashMap::new();
    for (at, &id) in uses.iter().enumerate().rev() {
        next[at] = seen.insert(id, at).unwrap_or(usize::MAX);
    }
    let mut held: BTreeMap<ExpertId, usize> = BTreeMap::new();
    let (mut size, mut replayed) = (0, Replayed::default());
    for (at, &id) in uses.iter().enumerate() {
        let own = bytes(id);
        replayed.uses += 1;
        if let Some(again) = held.get_mut(&id) {
            replayed.kept += 1;
            *again = next[at];
            continue;
        }
        replayed.bytes_read += own;
        // It may also be better not to keep it.
        while size + own > budget {
            let last = held.iter().max_by_key(|(_, next)| **next).map(|(id, next)| (*id, *next));
            match last {
                Some((gone, again)) if again > next[at] => {
                    held.remove(&gone);
                    size -= bytes(gone);
                }
                _ => break,
            }
        }
        if size + own <= budget {
            held.insert(id, next[at]);
            size += own;
        }
    }
    replayed
}
