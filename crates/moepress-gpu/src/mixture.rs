//! The routed experts of one layer on a device: a launch for gate and up, one for the activation, one for down, one for
//! the gated sum, whatever the number of tokens, experts and segments. Where experts of a layer are in different formats,
//! products take one launch for each.

use crate::GpuError;
use crate::bank::{Bank, Packer, coding_of};
use crate::device::{Buffer, Gpu};
use crate::kernels::mixture::{Gate, PAIR, UNITS, activate, combine};
use crate::kernels::{Coding, Work};
use crate::launch::{Plan, product};
use cubecl::prelude::{CubeCount, CubeDim};
use moepress_model::{Activation, LayerWeights, ModelSpec, Moe, Part, Projection, Tensor as Name};
use moepress_nn::{BlockError, Mixture, Routed, Tensor};
use moepress_quant::Stored;
use std::collections::BTreeMap;

/// Matrices of one format, with the expert and the segment that each belongs to.
struct Group {
    bank: Bank,
    owners: Vec<(usize, usize)>,
}

/// The experts of a layer.
pub(crate) struct Experts {
    gpu: Gpu,
    /// Gate and up.
    inward: Vec<Group>,
    /// Down.
    outward: Vec<Group>,
    hidden: usize,
    /// Atoms of the widest expert.
    width: usize,
    /// Segments of every expert.
    segments: Vec<usize>,
    gate: Gate,
    /// Biases of gate and up, `[experts, 2 · width]`, and of down, `[experts, hidden]`.
    biases: Option<(Buffer, Buffer)>,
}

/// Groups in the making.
#[derive(Default)]
struct Groups(BTreeMap<Coding, (Packer, Vec<(usize, usize)>)>);

impl Groups {
    fn push(
        &mut self,
        stored: &Stored,
        columns: (usize, usize),
        owner: (usize, usize),
    ) -> Result<(), GpuError> {
        let coding = coding_of(stored)?;
        let (packer, owners) = self.0.entry(coding).or_insert_with(|| (Packer::new(coding), vec![]));
        owners.push(owner);
        packer.push(stored, columns.0, columns.1).map(drop)
    }

    fn finish(self, gpu: &Gpu) -> Result<Vec<Group>, GpuError> {
        let group = |(packer, owners): (Packer, _)| Ok(Group { bank: packer.finish(gpu)?, owners });
        self.0.into_values().map(group).collect()
    }
}

impl Experts {
    /// Takes the routed experts out of the weights of a layer.
    ///
    /// # Errors
    /// A matrix is missing or misshapen, or the device has no room.
    pub(crate) fn new(
        gpu: &Gpu,
        spec: &ModelSpec,
        layer: usize,
        moe: &Moe,
        weights: &mut LayerWeights,
    ) -> Result<Self, GpuError> {
        let mut take = |part: Part| {
            let name = Name::Layer(layer, part);
            let stored = weights.remove(&part).filter(|stored| Some(stored.shape()) == spec.shape(name));
            stored.ok_or(GpuError::Block(BlockError { tensor: name }))
        };
        let width = moe.experts.iter().map(|expert| expert.width()).max().unwrap_or(0);
        let (mut inward, mut outward) = (Groups::default(), Groups::default());
        let mut atom_biases = vec![0.0; if moe.biases { moe.experts.len() * 2 * width } else { 0 }];
        let mut output_biases = Vec::new();
        for (expert, shape) in moe.experts.iter().enumerate() {
            let mut first = 0;
            for (segment, run) in shape.segments.iter().enumerate() {
                for (projection, at) in [(Projection::Gate, first), (Projection::Up, width + first)] {
                    let stored = take(Part::Expert { expert, segment, projection })?;
                    inward.push(&stored, (0, at), (expert, segment))?;
                    if moe.biases {
                        let bias = take(Part::ExpertBias { expert, segment, projection })?.to_f32();
                        atom_biases[expert * 2 * width + at..][..bias.len()].copy_from_slice(&bias);
                    }
                }
                let stored = take(Part::Expert { expert, segment, projection: Projection::Down })?;
                outward.push(&stored, (first, 0), (expert, segment))?;
                first += run.width;
            }
            if moe.biases {
                output_biases.extend(take(Part::ExpertOutputBias { expert })?.to_f32());
            }
        }
        let floats = |values: Vec<f32>| gpu.upload(values.iter().flat_map(|v| v.to_le_bytes()).collect());
        Ok(Self {
            inward: inward.finish(gpu)?,
            outward: outward.finish(gpu)?,
            hidden: spec.hidden,
            width,
            segments: moe.experts.iter().map(|expert| expert.segments.len()).collect(),
            gate: match moe.activation {
                Activation::Silu => Gate::Silu,
                Activation::ClampedSwiglu { alpha, limit } => {
                    Gate::ClampedSwiglu { alpha: (alpha as f32).to_bits(), limit: (limit as f32).to_bits() }
                }
            },
            biases: match moe.biases {
                true => Some((floats(atom_biases)?, floats(output_biases)?)),
                false => None,
            },
            gpu: gpu.clone(),
        })
    }

    fn run(&self, x: &Buffer, gates: &Buffer, routed: &Routed, tokens: usize) -> Result<Buffer, GpuError> {
        let (gpu, hidden, width) = (&self.gpu, self.hidden, self.width);
        // Pairs of expert and token, sorted by expert; and the same in the order of tokens.
        let mut firsts = Vec::with_capacity(routed.tokens.len());
        let (mut experts, mut of_token) = (Vec::new(), vec![Vec::new(); tokens]);
        for (expert, chosen) in routed.tokens.iter().enumerate() {
            firsts.push(experts.len() as u32);
            for &token in chosen {
                let segments = self.segments.get(expert).copied().unwrap_or(0);
                of_token[token as usize].extend([experts.len() as u32, expert as u32, segments as u32]);
                experts.push(expert as u32);
            }
        }
        let count = experts.len();
        let most = self.segments.iter().copied().max().unwrap_or(0);
        let both = gpu.empty(count * 2 * width);
        let atoms = gpu.empty(count * width);
        let parts = gpu.empty(most * count * hidden);
        let out = gpu.empty(tokens * hidden);

        let run = |groups: &[Group],
                   x: (&Buffer, usize),
                   out: (&Buffer, usize),
                   entry: &dyn Fn(u32, u32, u32) -> (u32, u32)| {
            for group in groups {
                let work = group.owners.iter().enumerate().map(|(at, &(expert, segment))| {
                    let pairs = (firsts[expert]..).zip(&routed.tokens[expert]);
                    let entries = pairs.map(|(pair, &token)| entry(pair, token, segment as u32)).collect();
                    Work { segment: at, entries }
                });
                let work: Vec<Work> = work.collect();
                if let Some(plan) = Plan::new(gpu, &group.bank, &work, None)? {
                    product(gpu, &group.bank, &plan, x, out);
                }
            }
            Ok::<(), GpuError>(())
        };
        run(&self.inward, (x, hidden), (&both, 2 * width), &|pair, token, _| (token, pair))?;
        self.activate(&both, &gpu.numbers(&experts)?, &atoms, count * width);
        run(&self.outward, (&atoms, width), (&parts, hidden), &|pair, _, segment| {
            (pair, segment * count as u32 + pair)
        })?;

        let starts = of_token.iter().scan(0, |start, pairs| {
            *start += (pairs.len() / PAIR) as u32;
            Some(*start)
        });
        let starts: Vec<u32> = std::iter::once(0).chain(starts).collect();
        let tables = (gpu.numbers(&starts)?, gpu.numbers(&of_token.concat())?);
        self.combine(&parts, gates, &tables, &out, [tokens, count]);
        Ok(out)
    }

    #[allow(unsafe_code)] // launches without bound checks
    fn activate(&self, both: &Buffer, experts: &Buffer, atoms: &Buffer, count: usize) {
        if count == 0 {
            return;
        }
        let cubes = (count as u32).div_ceil(UNITS);
        let (biases, biased) = self.biases.as_ref().map_or((both, false), |biases| (&biases.0, true));
        // SAFETY: units beyond `count` end at once; rows of `both` and `experts` are as many as `count` names.
        unsafe {
            activate::launch_unchecked(
                &self.gpu.client,
                CubeCount::Static(cubes.min(32_768), cubes.div_ceil(32_768), 1),
                CubeDim::new_1d(UNITS),
                both.arg(),
                experts.arg(),
                biases.arg(),
                atoms.arg(),
                self.width as u32,
                count as u32,
                self.gate,
                biased,
            );
        }
    }

    #[allow(unsafe_code)] // launches without bound checks
    fn combine(
        &self,
        parts: &Buffer,
        gates: &Buffer,
        tables: &(Buffer, Buffer),
        out: &Buffer,
        [tokens, count]: [usize; 2],
    ) {
        let (biases, biased) = self.biases.as_ref().map_or((parts, false), |biases| (&biases.1, true));
        // SAFETY: the tables name pairs below `count` and experts below those of `gates`.
        unsafe {
            combine::launch_unchecked(
                &self.gpu.client,
                CubeCount::Static((self.hidden as u32).div_ceil(UNITS), tokens as u32, 1),
                CubeDim::new_1d(UNITS),
                parts.arg(),
                gates.arg(),
                tables.0.arg(),
                tables.1.arg(),
                biases.arg(),
                out.arg(),
                self.hidden as u32,
                count as u32,
                self.segments.len() as u32,
                biased,
            );
        }
    }
}

impl Mixture for Experts {
    fn forward(&self, x: Tensor<2>, routed: &Routed) -> Tensor<2> {
        let [tokens, hidden] = x.dims();
        let gates = self.gpu.buffer(routed.gates.clone());
        let x = self.gpu.buffer(x);
        // Tables are small: a device without room for them has failed, which the read of the result reports.
        let out = self.run(&x, &gates, routed, tokens).unwrap_or_else(|_| self.gpu.empty(tokens * hidden));
        self.gpu.tensor(out, [tokens, hidden])
    }
}
