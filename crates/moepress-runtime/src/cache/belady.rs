//! The best that any cache could have done (Belady, IBM Systems Journal 5(2), 1966): evict what is used again last.

use super::{ExpertId, Replayed, Trace};
use std::collections::{BTreeMap, HashMap};

/// Replays a trace with knowledge of the future. Best possible where all experts are of one size; `bytes` says how large
/// each is.
pub fn belady(trace: &Trace, budget: u64, bytes: impl Fn(ExpertId) -> u64) -> Replayed {
    // For every use the next use of the same expert.
    let mut next = vec![usize::MAX; trace.uses.len()];
    let mut seen: HashMap<ExpertId, usize> = HashMap::new();
    for (at, used) in trace.uses.iter().enumerate().rev() {
        next[at] = seen.insert(used.id, at).unwrap_or(usize::MAX);
    }
    let mut held: BTreeMap<ExpertId, usize> = BTreeMap::new();
    let (mut size, mut replayed) = (0, Replayed::default());
    for (at, used) in trace.uses.iter().enumerate() {
        let own = bytes(used.id);
        replayed.uses += 1;
        if let Some(again) = held.get_mut(&used.id) {
            replayed.hits += 1;
            *again = next[at];
            continue;
        }
        replayed.bytes_read += own;
        // It may also be better not to keep it.
        while size + own > budget {
            let last = held.iter().max_by_key(|(_, next)| **next).map(|(id, next)| (*id, *next));
            match last {
                Some((id, again)) if again > next[at] => {
                    held.remove(&id);
                    size -= bytes(id);
                }
                _ => break,
            }
        }
        if size + own <= budget {
            held.insert(used.id, next[at]);
            size += own;
        }
    }
    replayed
}
