//! Experts that are read when they are needed, and stay while there is room.
//!
//! Misses are read by all threads, and what the next layer will probably need by a thread of its own (Fate, arXiv
//! 2502.12224): its router run on the hidden states of the layer before.

use super::{Builder, Expert, ExpertStore, LowPlanes};
use crate::RuntimeError;
use crate::cache::{ByteCache, ExpertId, Hit, Policy, Visit};
use moepress_checkpoint::{Share, Source};
use rayon::prelude::*;
use std::collections::BTreeSet;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What keeping experts within a budget came to.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CacheReport {
    /// Uses of experts: one per layer, expert and pass.
    pub uses: u64,
    /// Uses whose expert was in memory since an earlier one.
    pub kept: u64,
    /// Uses whose expert was in memory because it had been read ahead.
    pub ahead: u64,
    /// Uses whose expert was being read ahead, and waited for.
    pub late: u64,
    /// Uses that had their expert read.
    pub missed: u64,
    /// Bytes of experts read, those read ahead included.
    pub bytes_read: u64,
    /// Experts read ahead, of which those that are neither `ahead` nor `late` were of no use.
    pub read_ahead: u64,
    /// Time that passes waited for experts.
    pub stalled: Duration,
    /// Uses that made do with the high bits of an expert, which are always in memory.
    pub low_plane: u64,
}

/// Routed experts within a budget of bytes.
pub(crate) struct Streamed {
    shared: Arc<Shared>,
    /// Experts of each layer that can be in memory at a time.
    most: Vec<usize>,
    low: Option<LowPlanes>,
    ahead: Option<JoinHandle<()>>,
}

struct Shared {
    source: Arc<dyn Source + Send + Sync>,
    /// Bytes of every expert, by layer and index.
    sizes: Vec<Vec<u64>>,
    state: Mutex<State>,
    /// Something that was on its way has arrived, or failed to.
    arrived: Condvar,
    /// There is something to read ahead, or there will be nothing any more.
    expecting: Condvar,
}

struct State {
    cache: ByteCache<Arc<Expert>>,
    /// What the next layer will probably use, and how much of it has been seen to.
    expected: Vec<ExpertId>,
    seen_to: usize,
    /// Nothing will be expected any more.
    closed: bool,
    /// What is being read ahead.
    coming: Option<ExpertId>,
    /// What the pass computes with, which is in memory until it asks for others.
    in_use: BTreeSet<ExpertId>,
    report: CacheReport,
}

impl Streamed {
    /// Experts of `source`, which take `sizes`, in `budget` bytes; `low` are what does for misses with little gate. Nothing exceeds
    /// the budget where it has room for the experts of a token, and with `read_ahead` for one more.
    pub(crate) fn new(
        source: Arc<dyn Source + Send + Sync>,
        sizes: Vec<Vec<u64>>,
        budget: u64,
        policy: Box<dyn Policy>,
        read_ahead: bool,
        low: Option<LowPlanes>,
    ) -> Result<Self, RuntimeError> {
        let most = |layer: &Vec<u64>| {
            let largest = layer.iter().copied().max().unwrap_or(0).max(1);
            ((budget / largest) as usize).saturating_sub(usize::from(read_ahead)).max(1)
        };
        let most = sizes.iter().map(most).collect();
        source.scattered();
        let state = State {
            cache: ByteCache::new(budget, policy),
            expected: vec![],
            seen_to: 0,
            closed: false,
            coming: None,
            in_use: BTreeSet::new(),
            report: CacheReport::default(),
        };
        let (state, arrived, expecting) = (Mutex::new(state), Condvar::new(), Condvar::new());
        let shared = Arc::new(Shared { source, sizes, state, arrived, expecting });
        let start = || {
            let shared = shared.clone();
            std::thread::Builder::new().spawn(move || shared.read_ahead()).map_err(RuntimeError::Thread)
        };
        let ahead = read_ahead.then(start).transpose()?;
        Ok(Self { shared, most, low, ahead })
    }
}

impl Drop for Streamed {
    fn drop(&mut self) {
        if let Some(thread) = self.ahead.take() {
            self.shared.state().closed = true;
            self.shared.expecting.notify_all();
            let _ = thread.join();
        }
    }
}

impl ExpertStore for Streamed {
    fn visit(&self, visit: &Visit) {
        self.shared.state().cache.visit(visit);
    }

    fn experts(&self, layer: usize, wanted: &[(usize, f32)]) -> Result<Vec<Arc<Expert>>, RuntimeError> {
        let ids: Vec<ExpertId> = wanted.iter().map(|&(expert, _)| ExpertId { layer, expert }).collect();
        let mut found: Vec<Option<Arc<Expert>>> = {
            let mut state = self.shared.state();
            let mean = wanted.iter().map(|(_, gates)| gates).sum::<f32>() / wanted.len().max(1) as f32;
            let state = &mut *state;
            state.in_use = ids.iter().copied().collect();
            if state.expected.first().is_some_and(|id| id.layer == layer) {
                // From here on the pass reads itself what it needs.
                state.seen_to = state.expected.len();
            }
            let take = |(&id, &(_, gates)): (&ExpertId, &(usize, f32))| {
                state.report.uses += 1;
                if let Some((expert, hit)) = state.cache.take(id) {
                    let ahead = u64::from(hit == Hit::Ahead);
                    state.report.kept += 1 - ahead;
                    state.report.ahead += ahead;
                    return Some(expert);
                }
                if state.coming == Some(id) {
                    state.report.late += 1;
                    return None;
                }
                let Some(low) = self.low.as_ref().filter(|_| gates < mean) else {
                    state.report.missed += 1;
                    return None;
                };
                state.report.low_plane += 1;
                Some(low.expert(id))
            };
            ids.iter().zip(wanted).map(take).collect()
        };
        if found.iter().any(Option::is_none) {
            let started = Instant::now();
            let missing: Vec<&ExpertId> =
                ids.iter().zip(&found).filter(|(_, found)| found.is_none()).map(|(id, _)| id).collect();
            let read: Vec<Arc<Expert>> =
                missing.par_iter().map(|id| self.shared.wait_or_read(**id)).collect::<Result<_, _>>()?;
            let mut read = read.into_iter();
            found.iter_mut().filter(|found| found.is_none()).for_each(|found| *found = read.next());
            self.shared.state().report.stalled += started.elapsed();
        }
        Ok(found.into_iter().flatten().collect())
    }

    fn most(&self, layer: usize) -> usize {
        self.most[layer]
    }

    fn reads_ahead(&self) -> bool {
        self.ahead.is_some()
    }

    fn expect(&self, layer: usize, experts: &[usize]) {
        if self.ahead.is_none() {
            return;
        }
        let mut state = self.shared.state();
        state.expected = experts.iter().map(|&expert| ExpertId { layer, expert }).collect();
        state.seen_to = 0;
        self.shared.expecting.notify_all();
    }

    fn report(&self) -> Option<CacheReport> {
        Some(self.shared.state().report)
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing under the lock panics halfway through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn bytes(&self, id: ExpertId) -> u64 {
        self.sizes[id.layer][id.expert]
    }

    /// An expert of the pass that was not held a moment ago.
    fn wait_or_read(&self, id: ExpertId) -> Result<Arc<Expert>, RuntimeError> {
        let mut state = self.state();
        while state.coming == Some(id) {
            state = self.arrived.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if let Some((expert, _)) = state.cache.take(id) {
            return Ok(expert);
        }
        let State { cache, in_use, .. } = &mut *state;
        let room = cache.make_room(self.bytes(id), in_use);
        let roomy = room.is_some();
        drop(state);
        let read = self.read(id, room.unwrap_or_default());
        let mut state = self.state();
        match &read {
            Ok(expert) if roomy => state.cache.put(id, expert.clone(), self.bytes(id), false),
            Err(_) if roomy => state.cache.give_up(self.bytes(id)),
            _ => {}
        }
        state.report.bytes_read += self.bytes(id);
        read
    }

    /// Reads an expert, into the memory of those that made room for it.
    fn read(&self, id: ExpertId, evicted: Vec<Arc<Expert>>) -> Result<Arc<Expert>, RuntimeError> {
        let evicted = evicted.into_iter().filter_map(Arc::into_inner).flat_map(Expert::into_weights);
        evicted.for_each(|weights| self.source.reuse(weights));
        let spec = self.source.spec();
        let weights = self.source.share(id.layer, &Share::Experts(vec![id.expert]))?;
        let moe = spec.moe(id.layer).ok_or(RuntimeError::Empty)?;
        Ok(Arc::new(Builder::new(spec, id.layer, weights).expert(moe, id.expert)?))
    }

    /// Reads what is expected, until nothing will be any more.
    fn read_ahead(&self) {
        let mut state = self.state();
        while !state.closed {
            let Some(&id) = state.expected.get(state.seen_to) else {
                state = self.expecting.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            state.seen_to += 1;
            let stays = state.in_use.iter().chain(&state.expected).copied().collect();
            if state.cache.holds(id) {
                continue;
            }
            let Some(evicted) = state.cache.make_room(self.bytes(id), &stays) else { continue };
            state.coming = Some(id);
            drop(state);
            let read = self.read(id, evicted);
            state = self.state();
            // What fails here fails again, and is reported, when it is needed.
            match read {
                Ok(expert) => {
                    state.report.bytes_read += self.bytes(id);
                    state.report.read_ahead += 1;
                    state.cache.put(id, expert, self.bytes(id), true);
                }
                Err(_) => state.cache.give_up(self.bytes(id)),
            }
            state.coming = None;
            self.arrived.notify_all();
        }
    }
}
