//! What stages ask a sweep to measure.

use crate::ladders::LadderNeed;
use crate::weights::{WeightNeed, WeightNeeds};
use moepress_quant::Format;
use std::collections::BTreeSet;

/// A group of statistics that is measured together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Need {
    /// Tokens, gates and outputs per expert, pairs of experts, router gram. Forward only.
    Routing,
    /// Outputs of every expert over all tokens, routed to it or not. Forward only, at the price of running all experts.
    MeanOutputs,
    /// Router logits and gates by the text that tokens are from. Forward only.
    Texts,
    /// How little the experts of a layer turn its hidden states. Forward only.
    Cosine,
    /// What rounding one expert does to what it adds, for every format asked for. Forward only, at the price of
    /// running the experts once more per format.
    RoundedOutputs,
    /// Experts of consecutive layers and tokens. Forward only; describes, and decides nothing.
    Locality,
    /// Energy and gradient per atom. Forward and backward.
    Atoms,
    /// Row and column weights of every linear map. Forward and backward.
    Fisher,
}

impl Need {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Routing,
        Self::MeanOutputs,
        Self::Texts,
        Self::Cosine,
        Self::RoundedOutputs,
        Self::Locality,
        Self::Atoms,
        Self::Fisher,
    ];

    /// The name in statistics files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Routing => "routing",
            Self::MeanOutputs => "mean_outputs",
            Self::Texts => "texts",
            Self::Cosine => "cosine",
            Self::RoundedOutputs => "rounded_outputs",
            Self::Locality => "locality",
            Self::Atoms => "atoms",
            Self::Fisher => "fisher",
        }
    }

    /// The group of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|need| need.name() == name)
    }
}

/// The union of what several stages ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Groups of statistics.
    pub groups: BTreeSet<Need>,
    /// Formats whose rounding is weighed: of every tensor with [`Need::Fisher`], of every expert with
    /// [`Need::RoundedOutputs`].
    pub formats: BTreeSet<Format>,
    /// Ladders that are wanted; they ask for [`Need::Fisher`], [`Need::Atoms`] and [`Need::Routing`] too.
    pub ladders: Option<LadderNeed>,
    /// What is measured of weights alone; takes no text.
    pub weights: WeightNeeds,
}

impl Needs {
    /// The needs of these groups.
    pub fn of(groups: impl IntoIterator<Item = Need>) -> Self {
        Self { groups: groups.into_iter().collect(), ..Self::default() }
    }

    /// The same, and this of weights alone.
    pub fn and_weights(mut self, need: WeightNeed) -> Self {
        self.weights.insert(need);
        self
    }

    /// Adds the needs of another stage.
    pub fn join(&mut self, other: &Self) {
        self.groups.extend(&other.groups);
        self.formats.extend(&other.formats);
        self.ladders = self.ladders.take().or_else(|| other.ladders.clone());
        self.weights.extend(&other.weights);
    }

    /// Whether nothing has to be measured on text.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// Whether the rounding of every tensor is weighed by its row and column weights.
    pub fn weighs_tensors(&self) -> bool {
        self.has(Need::Fisher) && !self.formats.is_empty()
    }

    /// Whether a group is asked for.
    pub fn has(&self, need: Need) -> bool {
        self.groups.contains(&need)
    }

    /// Whether a backward sweep is needed.
    pub fn backward(&self) -> bool {
        self.has(Need::Atoms) || self.has(Need::Fisher)
    }
}
