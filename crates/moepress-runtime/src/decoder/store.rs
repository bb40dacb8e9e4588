//! Where routed experts are kept.

use super::Expert;
use crate::RuntimeError;
use std::sync::Arc;

/// Routed experts by layer and index.
pub(crate) trait ExpertStore: Send + Sync {
    /// The experts of these indices of a layer, in that order.
    fn experts(&self, layer: usize, wanted: &[usize]) -> Result<Vec<Arc<Expert>>, RuntimeError>;
}

/// All of them in memory.
pub(crate) struct Resident(pub(crate) Vec<Vec<Arc<Expert>>>);

impl ExpertStore for Resident {
    fn experts(&self, layer: usize, wanted: &[usize]) -> Result<Vec<Arc<Expert>>, RuntimeError> {
        Ok(wanted.iter().map(|&expert| self.0[layer][expert].clone()).collect())
    }
}
