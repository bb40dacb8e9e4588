//! Where routed experts are kept.

use super::{CacheReport, Expert};
use crate::RuntimeError;
use crate::cache::Visit;
use std::sync::Arc;

/// Routed experts by layer and index.
pub(crate) trait ExpertStore: Send + Sync {
    /// The tokens of a pass go to these experts of a layer now.
    fn visit(&self, _visit: &Visit) {}

    /// The experts of these indices of a layer, in that order, each with the gates of the tokens that it is used for.
    /// At most as many as [`Self::most`] says.
    fn experts(&self, layer: usize, wanted: &[(usize, f32)]) -> Result<Vec<Arc<Expert>>, RuntimeError>;

    /// Experts of a layer that can be held at a time, at least one.
    fn most(&self, _layer: usize) -> usize {
        usize::MAX
    }

    /// Whether [`Self::expect`] does anything.
    fn reads_ahead(&self) -> bool {
        false
    }

    /// These experts of a layer will probably be needed soon.
    fn expect(&self, _layer: usize, _experts: &[usize]) {}

    /// What it came to; none where everything is in memory.
    fn report(&self) -> Option<CacheReport> {
        None
    }
}

/// All of them in memory.
pub(crate) struct Resident(pub(crate) Vec<Vec<Arc<Expert>>>);

impl ExpertStore for Resident {
    fn experts(&self, layer: usize, wanted: &[(usize, f32)]) -> Result<Vec<Arc<Expert>>, RuntimeError> {
        Ok(wanted.iter().map(|&(expert, _)| self.0[layer][expert].clone()).collect())
    }
}
