//! A model with edits applied on the way from the disk.

use moepress_checkpoint::{CheckpointError, RawTensor, Share, Source};
use moepress_model::{Edit, EditError, LayerWeights, ModelSpec, Tensor, await_inputs, unmerged};
use moepress_quant::Stored;
use moepress_stages::{ApplyError, apply, apply_outside, sources};
use std::path::Path;

/// A source seen through a list of edits; nothing is kept but the list.
#[derive(Clone)]
pub struct Edited<'a> {
    source: &'a dyn Source,
    edits: Vec<Edit>,
    spec: ModelSpec,
}

impl<'a> Edited<'a> {
    /// The source as it is.
    pub fn new(source: &'a dyn Source) -> Self {
        Self { source, edits: vec![], spec: source.spec().clone() }
    }

    /// Adds edits after those there are.
    ///
    /// # Errors
    /// They do not fit the model as it is by then.
    pub fn push(&mut self, edits: Vec<Edit>) -> Result<(), EditError> {
        self.spec = self.spec.after(&edits)?;
        self.edits.extend(edits);
        Ok(())
    }

    /// The same model with the matrices left plain that can be rounded only when their inputs are known.
    ///
    /// # Errors
    /// Never in practice: edits that fit with these fit without.
    pub fn unrounded(&self) -> Result<Self, EditError> {
        let mut unrounded = Self::new(self.source);
        let edits = self.edits.iter().zip(await_inputs(&self.edits));
        unrounded.push(edits.filter(|(_, waits)| !waits).map(|(edit, _)| edit.clone()).collect())?;
        Ok(unrounded)
    }

    /// The same model, same in routing, with its experts apart, all their atoms and nothing rounded.
    ///
    /// # Errors
    /// Never in practice: an edit of experts does not depend on their atoms.
    pub fn original(&self) -> Result<Self, EditError> {
        let mut original = Self::new(self.source);
        original.push(unmerged(self.source.spec(), &self.edits))?;
        Ok(original)
    }

    /// All edits so far.
    pub fn edits(&self) -> &[Edit] {
        &self.edits
    }

    fn failed(&self, error: &ApplyError) -> CheckpointError {
        CheckpointError::bad_input(Path::new("model"), "weights", error)
    }
}

impl Source for Edited<'_> {
    fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    fn tensor(&self, tensor: Tensor) -> Result<Stored, CheckpointError> {
        apply_outside(tensor, self.source.tensor(tensor)?, &self.edits).map_err(|e| self.failed(&e))
    }

    fn layer(&self, layer: usize) -> Result<LayerWeights, CheckpointError> {
        let weights = self.source.layer(layer)?;
        apply(self.source.spec(), layer, weights, &self.edits).map_err(|e| self.failed(&e))
    }

    fn share(&self, layer: usize, share: &Share) -> Result<LayerWeights, CheckpointError> {
        let of_source = match share {
            Share::Core => Share::Core,
            Share::Experts(experts) => Share::Experts(sources(layer, experts, &self.edits)),
        };
        let weights = self.source.share(layer, &of_source)?;
        apply(self.source.spec(), layer, weights, &self.edits).map_err(|e| self.failed(&e))
    }

    fn carried(&self, name: &str) -> Result<RawTensor, CheckpointError> {
        self.source.carried(name)
    }
}
