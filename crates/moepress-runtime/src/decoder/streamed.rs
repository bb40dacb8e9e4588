//! Experts that are read when they are needed, and stay while there is room.
//!
//! Misses are read by all threads, and what the next layer will probably need by a thread of its own (Fate, arXiv
//! 2502.12224): its router run on the hidden states of the layer before.

use super::{Builder, Expert, ExpertStore};
use crate::RuntimeError;
use crate::cache::{ByteCache, ExpertId, Policy};
use moepress_checkpoint::{Share, Source};
use moepress_model::Moe;
use moepress_quant::Stored;
use rayon::prelude::*;
use std::collections::BTreeSet;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What keeping experts within a budget came to.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CacheReport {
    /// Uses of experts: one per layer, expert and pass.
    pub uses: u64,
    /// Uses whose expert was in memory, or on its way there.
    pub hits: u64,
    /// Bytes of experts read, those read ahead included.
    pub bytes_read: u64,
    /// Experts read ahead.
    pub read_ahead: u64,
    /// Of them those that were used before they were evicted.
    pub read_ahead_used: u64,
    /// Time that passes waited for experts.
    pub stalled: Duration,
    /// Uses that made do with the high bits of an expert, which are always in memory.
    pub low_plane: u64,
}

/// What is done for an expert that is not in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnMiss {
    /// It is read.
    #[default]
    Exact,
    /// It is read if its gates are at least the mean of the experts of the pass at its layer; otherwise the half of its bits
    /// that is always in memory does (HOBBIT, arXiv 2411.01433; D²MoE, arXiv 2504.15299).
    LowPlane,
}

/// The high bits of every expert, by layer and index.
pub(crate) struct LowPlanes {
    experts: Vec<Vec<Arc<Expert>>>,
    /// What they take.
    pub(crate) bytes: u64,
}

impl LowPlanes {
    /// Reads every expert once and keeps the higher half of the bits of codes that are in planes, as codes of their own in
    /// fields; what is not in planes stays whole.
    ///
    /// # Errors
    /// An expert cannot be read, or no codes are in planes.
    pub(crate) fn load(source: &(dyn Source + Send + Sync)) -> Result<Self, RuntimeError> {
        let spec = source.spec();
        let one = |(layer, moe, index): (usize, &Moe, usize)| {
            let (mut bytes, mut halved) = (0, false);
            let mut half = |stored| {
                let coarse = match &stored {
                    Stored::Packed(packed) => packed.coarse(packed.format.bits().div_ceil(2).max(2) as u8),
                    Stored::Plain(_) | Stored::Factored(_) => None,
                };
                halved |= coarse.is_some();
                let kept = coarse.map_or(stored, |coarse| Stored::Packed(coarse).unpacked());
                bytes += kept.stored_bytes();
                kept
            };
            let weights = source.share(layer, &Share::Experts(vec![index]))?;
            let weights = weights.into_iter().map(|(part, stored)| (part, half(stored))).collect();
            Ok((Arc::new(Builder::new(spec, layer, weights).expert(moe, index)?), bytes, halved))
        };
        let (mut experts, mut bytes, mut halved) = (vec![vec![]; spec.layers.len()], 0, false);
        for (layer, moe) in spec.moe_layers() {
            let all: Vec<(Arc<Expert>, u64, bool)> = (0..moe.experts.len())
                .into_par_iter()
                .map(|index| one((layer, moe, index)))
                .collect::<Result<_, RuntimeError>>()?;
            for (expert, own, in_planes) in all {
                experts[layer].push(expert);
                (bytes, halved) = (bytes + own, halved | in_planes);
            }
        }
        if halved { Ok(Self { experts, bytes }) } else { Err(RuntimeError::NoPlanes) }
    }
}

/// Routed experts within a budget of bytes.
pub(crate) struct Streamed {
    shared: Arc<Shared>,
    /// Bytes of the largest expert of each layer.
    largest: Vec<u64>,
    budget: u64,
    low: Option<LowPlanes>,
    ahead: Option<(SyncSender<Vec<ExpertId>>, JoinHandle<()>)>,
}

struct Shared {
    source: Arc<dyn Source + Send + Sync>,
    state: Mutex<State>,
    /// Something that was on its way has arrived, or failed to.
    arrived: Condvar,
}

struct State {
    cache: ByteCache<Arc<Expert>>,
    coming: BTreeSet<ExpertId>,
    /// Read ahead and not used yet.
    early: BTreeSet<ExpertId>,
    report: CacheReport,
}

impl Streamed {
    /// Experts of `source` in `budget` bytes; `largest` are those of the largest expert of each layer, `low` what does for misses
    /// with little gate.
    pub(crate) fn new(
        source: Arc<dyn Source + Send + Sync>,
        budget: u64,
        largest: Vec<u64>,
        policy: Box<dyn Policy>,
        read_ahead: bool,
        low: Option<LowPlanes>,
    ) -> Result<Self, RuntimeError> {
        let state = State {
            cache: ByteCache::new(budget, policy),
            coming: BTreeSet::new(),
            early: BTreeSet::new(),
            report: CacheReport::default(),
        };
        let shared = Arc::new(Shared { source, state: Mutex::new(state), arrived: Condvar::new() });
        let start = || {
            let (sender, receiver) = sync_channel(1);
            let shared = shared.clone();
            let thread = std::thread::Builder::new().spawn(move || shared.read_ahead(&receiver));
            Ok::<_, RuntimeError>((sender, thread.map_err(RuntimeError::Thread)?))
        };
        let ahead = if read_ahead { Some(start()?) } else { None };
        Ok(Self { shared, largest, budget, low, ahead })
    }
}

impl Drop for Streamed {
    fn drop(&mut self) {
        if let Some((sender, thread)) = self.ahead.take() {
            // The thread ends when nobody can send to it any more.
            drop(sender);
            let _ = thread.join();
        }
    }
}

impl ExpertStore for Streamed {
    fn experts(&self, layer: usize, wanted: &[(usize, f32)]) -> Result<Vec<Arc<Expert>>, RuntimeError> {
        let ids: Vec<ExpertId> = wanted.iter().map(|&(expert, _)| ExpertId { layer, expert }).collect();
        let mut found: Vec<Option<Arc<Expert>>> = {
            let mut state = self.shared.state();
            let mean = wanted.iter().map(|(_, gates)| gates).sum::<f32>() / wanted.len().max(1) as f32;
            let take = |(&id, &(_, gates)): (&ExpertId, &(usize, f32))| {
                let held = state.cache.take(id, gates);
                state.report.uses += 1;
                if held.is_some() || state.coming.contains(&id) {
                    state.report.hits += 1;
                    state.report.read_ahead_used += u64::from(state.early.remove(&id));
                    return held;
                }
                let low = self.low.as_ref().filter(|_| gates < mean)?;
                state.report.low_plane += 1;
                Some(low.experts[id.layer][id.expert].clone())
            };
            ids.iter().zip(wanted).map(take).collect()
        };
        if found.iter().any(Option::is_none) {
            let started = Instant::now();
            let missing: Vec<&ExpertId> =
                ids.iter().zip(&found).filter(|(_, found)| found.is_none()).map(|(id, _)| id).collect();
            let read: Vec<Arc<Expert>> = missing
                .par_iter()
                .map(|id| self.shared.wait_or_read(**id, &ids))
                .collect::<Result<_, _>>()?;
            let mut read = read.into_iter();
            found.iter_mut().filter(|found| found.is_none()).for_each(|found| *found = read.next());
            self.shared.state().report.stalled += started.elapsed();
        }
        Ok(found.into_iter().flatten().collect())
    }

    fn most(&self, layer: usize) -> usize {
        (self.budget / self.largest[layer].max(1)).max(1) as usize
    }

    fn reads_ahead(&self) -> bool {
        self.ahead.is_some()
    }

    fn expect(&self, layer: usize, experts: &[usize]) {
        let Some((sender, _)) = &self.ahead else { return };
        let ids = experts.iter().map(|&expert| ExpertId { layer, expert }).collect();
        // When the thread is still busy with what was expected before, this would come too late.
        let _ = sender.try_send(ids);
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

    /// An expert that was not held a moment ago.
    fn wait_or_read(&self, id: ExpertId, stays: &[ExpertId]) -> Result<Arc<Expert>, RuntimeError> {
        let mut state = self.state();
        while state.coming.contains(&id) {
            state = self.arrived.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if let Some(expert) = state.cache.held(id) {
            return Ok(expert);
        }
        // Nobody else reads it meanwhile.
        state.coming.insert(id);
        drop(state);
        let read = self.read(id);
        let mut state = self.state();
        state.coming.remove(&id);
        self.arrived.notify_all();
        let (expert, bytes) = read?;
        state.report.bytes_read += bytes;
        state.cache.offer(id, expert.clone(), bytes, stays);
        Ok(expert)
    }

    fn read(&self, id: ExpertId) -> Result<(Arc<Expert>, u64), RuntimeError> {
        let spec = self.source.spec();
        let weights = self.source.share(id.layer, &Share::Experts(vec![id.expert]))?;
        let bytes = weights.values().map(|stored| stored.stored_bytes()).sum();
        let moe = spec.moe(id.layer).ok_or(RuntimeError::Empty)?;
        let expert = Builder::new(spec, id.layer, weights).expert(moe, id.expert)?;
        Ok((Arc::new(expert), bytes))
    }

    fn read_ahead(&self, expected: &Receiver<Vec<ExpertId>>) {
        for ids in expected {
            for &id in &ids {
                {
                    let mut state = self.state();
                    if state.cache.holds(id) || !state.coming.insert(id) {
                        continue;
                    }
                }
                let read = self.read(id);
                let mut state = self.state();
                // What fails here fails again, and is reported, when it is needed.
                if let Ok((expert, bytes)) = read {
                    state.report.bytes_read += bytes;
                    state.report.read_ahead += 1;
                    state.early.insert(id);
                    state.cache.put(id, expert, bytes, &ids);
                }
                state.coming.remove(&id);
                self.arrived.notify_all();
            }
        }
    }
}
