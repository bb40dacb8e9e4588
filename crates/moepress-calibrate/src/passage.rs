//! Windows through a model that is read a layer at a time, to the hidden states after its last layer.

use crate::CalibrateError;
use crate::activations::{Activations, Slot, Spool};
use crate::chunk::Chunk;
use crate::layer::Layer;
use crate::layout::Layout;
use crate::sweep::Sweep;
use moepress_checkpoint::{Progress, Source};
use moepress_nn::{Device, MakeLinear, Tensor};
use moepress_stats::{Needs, Statistics};

/// What came out of the last layer, kept on disk.
pub struct Passage<'a> {
    sweep: Sweep<'a>,
    acts: Activations,
    last: Slot,
}

impl<'a> Passage<'a> {
    /// Carries chunks through all layers of `source`, whose maps `linear` makes, with no more experts of a layer in
    /// memory at a time than `layout` says. The same bits as with all of the model in memory. `phase` names it in
    /// progress. [`close`](Self::close) removes what is kept.
    ///
    /// # Errors
    /// The weights cannot be read or do not fit, the disk fails, or the caller cancelled.
    pub fn new(
        source: &dyn Source,
        linear: MakeLinear<'_>,
        chunks: Vec<Chunk>,
        layout: &Layout,
        spool: Spool,
        phase: &'static str,
        progress: &'a dyn Progress,
    ) -> Result<Self, CalibrateError> {
        let (spec, device, needs) = (source.spec(), Device::flex(), Needs::default());
        let passes = layout.passes(spec, &needs);
        let sweep = Sweep::new(spec, chunks, 1, needs, &device, passes, progress).called(phase);
        let mut acts = Activations::new(Some(spool))?;
        sweep.embed(source, &mut acts)?;
        for layer in 0..spec.layers.len() {
            let mut layer = Layer::new(source, layer, linear, &device, layout.experts);
            sweep.forward(&mut layer, &mut acts, &mut Statistics::default())?;
            acts.drop(Slot::Boundary(layer.index))?;
        }
        Ok(Self { sweep, acts, last: Slot::Boundary(spec.layers.len()) })
    }

    /// Hidden states of a chunk after the last layer, `[tokens, hidden]`; not yet normed.
    ///
    /// # Errors
    /// They cannot be read back.
    pub fn hidden(&self, chunk: usize) -> Result<Tensor<2>, CalibrateError> {
        Ok(self.sweep.rows(self.acts.read(self.last, chunk)?, &self.sweep.chunks[chunk]))
    }

    /// Removes what was kept.
    ///
    /// # Errors
    /// The disk fails.
    pub fn close(self) -> Result<(), CalibrateError> {
        self.acts.close()
    }
}
