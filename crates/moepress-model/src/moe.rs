//! Routers and experts.

use crate::part::Projection;
use moepress_quant::Format;
use serde::{Deserialize, Serialize};

/// A router and its experts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Moe {
    /// How rows are chosen and weighted.
    pub routing: Routing,
    /// For every router row the expert it leads to. Rows that lead to the same expert (after merging)
    /// add their gates.
    pub router: Vec<usize>,
    /// The experts.
    pub experts: Vec<Expert>,
    /// What joins gate and up.
    pub activation: Activation,
    /// Whether the projections of routed experts have biases.
    pub biases: bool,
    /// The expert that every token goes through besides those it is routed to.
    pub shared: Option<Shared>,
}

/// From the hidden states to the chosen rows and their weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Routing {
    /// Rows chosen per token.
    pub top_k: usize,
    /// From logits to scores.
    pub scores: Scores,
    /// Whether the logits have a bias.
    pub bias: bool,
    /// Whether a bias is added to the scores for the choice alone.
    pub correction: bool,
    /// Groups of rows of which only some are chosen from.
    pub groups: Option<RowGroups>,
    /// The chosen scores are divided by their sum, or by this if it is larger; none when they are not.
    pub renormalise: Option<f64>,
    /// What the chosen scores are multiplied by in the end.
    pub scale: f64,
}

/// From the logits of all rows to their scores.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Scores {
    /// Softmax over all rows.
    Softmax,
    /// Logistic function of each.
    Sigmoid,
    /// SparseMixer (arXiv 2310.00811) as Phi-3.5-MoE runs it: rows are chosen one after the other, each weighted by
    /// a softmax over the rows left that come within 2 `jitter`, relative, of the largest.
    SparseMixer {
        /// Width of the band.
        jitter: f64,
    },
}

/// Equal runs of router rows (DeepSeek-V2, arXiv 2405.04434, section 2.2; DeepSeek-V3, arXiv 2412.19437, section 2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RowGroups {
    /// Groups.
    pub count: usize,
    /// Groups that are chosen from.
    pub kept: usize,
    /// What groups are ranked by.
    pub rank: GroupRank,
}

/// What a group of rows is ranked by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GroupRank {
    /// The largest score of its rows.
    Largest,
    /// The sum of the two largest.
    TopTwo,
}

/// What joins the outputs of gate and up to the atoms h.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Activation {
    /// silu(gate) · up.
    Silu,
    /// g σ(α g) (u + 1) with g = min(gate, limit) and u = up within ±limit (gpt-oss).
    ClampedSwiglu {
        /// Slope in the logistic function.
        alpha: f64,
        /// Largest gate and largest |up|.
        limit: f64,
    },
}

/// The expert that every token goes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shared {
    /// Intermediate channels.
    pub width: usize,
    /// Whether its output is multiplied by the logistic function of a logit of its own.
    pub gated: bool,
    /// Whether its projections have biases.
    pub biases: bool,
}

/// An expert: the sum of its segments.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expert {
    /// Indices of the experts of the original model it was made from, ascending.
    pub sources: Vec<usize>,
    /// Runs of atoms that share formats; an expert without atoms has none and contributes zero (its output
    /// bias, where experts have biases).
    pub segments: Vec<Segment>,
}

/// A run of atoms: a small gated expert of its own.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Segment {
    /// Atoms.
    pub width: usize,
    /// Format of the rows of `gate_proj`.
    pub gate_proj: Format,
    /// Format of the rows of `up_proj`.
    pub up_proj: Format,
    /// Format of the columns of `down_proj`.
    pub down_proj: Format,
}

impl Segment {
    /// A run of `width` atoms with one format throughout.
    pub const fn uniform(width: usize, format: Format) -> Self {
        Self { width, gate_proj: format, up_proj: format, down_proj: format }
    }

    /// Format of one projection.
    pub const fn format(&self, projection: Projection) -> Format {
        match projection {
            Projection::Gate => self.gate_proj,
            Projection::Up => self.up_proj,
            Projection::Down => self.down_proj,
        }
    }

    pub(crate) fn format_mut(&mut self, projection: Projection) -> &mut Format {
        match projection {
            Projection::Gate => &mut self.gate_proj,
            Projection::Up => &mut self.up_proj,
            Projection::Down => &mut self.down_proj,
        }
    }
}

impl Expert {
    /// Atoms of all segments.
    pub fn width(&self) -> usize {
        self.segments.iter().map(|segment| segment.width).sum()
    }
}

impl Routing {
    /// Runs of router rows that are ranked as one; 1 when rows are not grouped.
    pub fn group_count(&self) -> usize {
        self.groups.map_or(1, |groups| groups.count.max(1))
    }

    /// Router rows below which routing does not work: as many as are chosen, and with groups as many in the
    /// groups that are chosen from; two in every group that is ranked by its two largest scores.
    pub fn least_rows(&self) -> usize {
        match self.groups {
            None => self.top_k,
            Some(RowGroups { count, kept, rank }) => {
                let ranked = if rank == GroupRank::TopTwo { 2 } else { 1 };
                count * self.top_k.div_ceil(kept.max(1)).max(ranked)
            }
        }
    }
}

impl Moe {
    /// The group of a router row; 0 when rows are not grouped.
    pub fn group_of(&self, row: usize) -> usize {
        match self.routing.groups {
            Some(groups) => row * groups.count / self.router.len().max(1),
            None => 0,
        }
    }
}
