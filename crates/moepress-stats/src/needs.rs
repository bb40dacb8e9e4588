//! What stages ask a sweep to measure.

use crate::ladders::LadderNeed;
use moepress_quant::Format;
use std::collections::BTreeSet;

/// A group of statistics that is measured together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Need {
    /// Tokens, gates and outputs per expert, pairs of experts, router gram. Forward only.
    Routing,
    /// Outputs of every expert over all tokens, routed to it or not. Forward only, at the price of running all experts.
    MeanOutputs,
    /// Energy and gradient per atom. Forward and backward.
    Atoms,
    /// Row and column weights of every linear map. Forward and backward.
    Fisher,
}

impl Need {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Routing, Self::MeanOutputs, Self::Atoms, Self::Fisher];

    /// The name in statistics files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Routing => "routing",
            Self::MeanOutputs => "mean_outputs",
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
    /// Formats whose rounding cost is wanted for every tensor; asks for [`Need::Fisher`] too.
    pub formats: BTreeSet<Format>,
    /// Ladders that are wanted; they ask for [`Need::Fisher`], [`Need::Atoms`] and [`Need::Routing`] too.
    pub ladders: Option<LadderNeed>,
}

impl Needs {
    /// The needs of these groups.
    pub fn of(groups: impl IntoIterator<Item = Need>) -> Self {
        Self { groups: groups.into_iter().collect(), ..Self::default() }
    }

    /// Adds the needs of another stage.
    pub fn join(&mut self, other: &Self) {
        self.groups.extend(&other.groups);
        self.formats.extend(&other.formats);
        self.ladders = self.ladders.take().or_else(|| other.ladders.clone());
    }

    /// Whether nothing has to be measured.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
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
