//! A model on a device: the blocks of burn, with packed maps and mixtures in the kernels of this crate.

use crate::GpuError;
use crate::device::Gpu;
use crate::guard::guarded;
use crate::map::Packed;
use crate::mixture::Experts;
use moepress_checkpoint::Source;
use moepress_model::ModelSpec;
use moepress_nn::{
    Block, Builder, Device, Embedding, Head, Ignore, KeyValues, Linear, Rotary, Tensor, dense, from_rows,
    to_rows,
};
use moepress_quant::{Dtype, Plain, Stored};
use moepress_runtime::{Blocks, DeviceDecoder, Model, RuntimeError, Span};
use std::any::Any;
use std::sync::{Arc, Mutex, PoisonError};

/// The weights of a model in the memory of a device.
struct Parts {
    spec: ModelSpec,
    embedding: Embedding,
    head: Head,
    blocks: Vec<Block>,
    device: Device,
}

impl Parts {
    fn load(source: &dyn Source, device: Device) -> Result<Self, GpuError> {
        let (spec, gpu) = (source.spec().clone(), Gpu::new(&device)?);
        let needed = spec.unpacked().total_bytes();
        if let Some(there) = gpu.memory().filter(|&there| there < needed) {
            return Err(GpuError::Memory { device: gpu.name().to_owned(), there, needed });
        }
        // What went wrong inside a map that has no way to say so.
        let failed: Mutex<Option<GpuError>> = Mutex::new(None);
        let linear = |stored: Arc<Stored>| -> Box<dyn Linear> {
            match Packed::new(&gpu, &stored) {
                Ok(map) => Box::new(map),
                Err(error) => {
                    failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                    // Never run: loading fails below.
                    dense(&Stored::Plain(Plain::from_f32(Dtype::F32, vec![1, 1], &[0.0])), &device)
                }
            }
        };
        let tensor = |name| source.tensor(name).map_err(GpuError::from);
        let embedding = Embedding::new(&spec, tensor)?;
        let head = Head::new(&spec, tensor, Some(&embedding), &linear, &device)?;
        let mut blocks = Vec::with_capacity(spec.layers.len());
        for layer in 0..spec.layers.len() {
            let mut weights = source.layer(layer)?;
            let mixture = match spec.moe(layer) {
                Some(moe) => Some(Experts::new(&gpu, &spec, layer, moe, &mut weights)?),
                None => None,
            };
            let mut block = Builder::new(&spec, layer, weights, &linear, &device).core()?;
            if let Some(mixture) = mixture {
                block.put_mixture(Box::new(mixture));
            }
            blocks.push(block);
        }
        match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error),
            None => Ok(Self { spec, embedding, head, blocks, device }),
        }
    }
}

/// Loads a model to be run on a device.
///
/// # Errors
/// A weight cannot be read or does not fit the description, or the device has no room for it.
pub(crate) fn load(source: &dyn Source, device: Device) -> Result<Model, GpuError> {
    let parts = Parts::load(source, device)?;
    Ok(Model::on_device(parts.spec.clone(), Box::new(parts)))
}

/// Loads a model to be evaluated on a device.
///
/// # Errors
/// As [`load`].
pub(crate) fn load_blocks(source: &dyn Source, device: Device) -> Result<Blocks, GpuError> {
    let Parts { spec, embedding, head, blocks, device } = Parts::load(source, device)?;
    Ok(Blocks::on_device(spec, embedding, head, blocks, device))
}

impl DeviceDecoder for Parts {
    fn cache(&self) -> Box<dyn Any + Send> {
        Box::new(vec![KeyValues::default(); self.blocks.len()])
    }

    fn forward(
        &self,
        ids: &[u32],
        spans: &[Span],
        caches: Option<Vec<&mut (dyn Any + Send)>>,
    ) -> Result<Vec<f32>, RuntimeError> {
        guarded(|| self.pass(ids, spans, caches))
    }

    fn logits(&self, hidden: &[f32]) -> Result<Vec<f32>, RuntimeError> {
        let rows = hidden.len() / self.spec.hidden.max(1);
        guarded(|| read(self.head.logits(from_rows(hidden.to_vec(), [rows, self.spec.hidden], &self.device))))
    }
}

impl Parts {
    /// Hidden states after the last layer, as [`DeviceDecoder::forward`] has them.
    fn pass(
        &self,
        ids: &[u32],
        spans: &[Span],
        caches: Option<Vec<&mut (dyn Any + Send)>>,
    ) -> Result<Vec<f32>, RuntimeError> {
        let attention = &self.spec.attention;
        let rotary = |span: &Span| {
            Rotary::part(attention, span.start..span.start + span.tokens, span.length, &self.device)
        };
        let rotaries: Vec<Rotary> = spans.iter().map(rotary).collect();
        let mut caches: Vec<&mut Vec<KeyValues>> =
            caches.into_iter().flatten().filter_map(|cache| cache.downcast_mut()).collect();
        let mut x = self.embedding.embed(ids, &self.device);
        for (layer, block) in self.blocks.iter().enumerate() {
            let mut first = 0;
            let mut attended = Vec::with_capacity(spans.len());
            for (index, (span, rotary)) in spans.iter().zip(&rotaries).enumerate() {
                let own = x.clone().slice([first..first + span.tokens, 0..self.spec.hidden]);
                let cache = caches.get_mut(index).and_then(|cache| cache.get_mut(layer));
                attended.push(block.attend(own, 1, rotary, cache, &mut Ignore));
                first += span.tokens;
            }
            x = block.finish(Tensor::cat(attended, 0), &mut Ignore);
        }
        read(x)
    }
}

/// Waits for the device.
fn read(x: Tensor<2>) -> Result<Vec<f32>, RuntimeError> {
    let expected = x.shape().num_elements();
    let values = to_rows(x);
    match values.len() == expected {
        true => Ok(values),
        false => Err(RuntimeError::Device("the device failed".into())),
    }
}
