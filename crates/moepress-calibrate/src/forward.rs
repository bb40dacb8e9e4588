//! The forward half of a sweep.

use crate::CalibrateError;
use crate::routing::RoutingProbe;
use crate::sweep::{Chunk, Sweep};
use moepress_nn::from_rows;
use moepress_nn::{Block, Ignore, to_rows};
use moepress_stats::{Need, Statistics};

impl Sweep<'_> {
    /// One chunk through one layer: the hidden states after it, and what the layer's probe saw.
    pub(crate) fn forward(
        &self,
        block: &Block,
        layer: usize,
        chunk: &Chunk,
        hidden: Vec<f32>,
    ) -> Result<(Vec<f32>, Statistics), CalibrateError> {
        let mut stats = Statistics::default();
        let x = from_rows(hidden, [chunk.tokens(), self.hidden], &self.device);
        let y = if self.needs.has(Need::Routing) {
            let mut probe = RoutingProbe::new(layer);
            let y = block.forward(x, chunk.batch, &self.rotary, None, &mut probe);
            probe.finish(&mut stats)?;
            y
        } else {
            block.forward(x, chunk.batch, &self.rotary, None, &mut Ignore)
        };
        Ok((to_rows(y), stats))
    }
}
