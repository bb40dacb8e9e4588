//! Which experts a model used.

use super::ExpertId;

/// One use of an expert by the tokens of a pass.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Used {
    /// Its index in the layer.
    pub expert: usize,
    /// Tokens that went to it.
    pub tokens: usize,
    /// Their gates, added up.
    pub gates: f32,
}

/// The tokens of a pass at one layer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Visit {
    /// The layer.
    pub layer: usize,
    /// How many tokens.
    pub tokens: usize,
    /// Experts that they go to, ascending.
    pub experts: Vec<Used>,
    /// Experts that the next layer would choose for the hidden states before the MLP of this one.
    pub expected: Vec<usize>,
}

impl Visit {
    /// Its experts.
    pub fn ids(&self) -> impl Iterator<Item = ExpertId> {
        self.experts.iter().map(|used| ExpertId { layer: self.layer, expert: used.expert })
    }
}

/// Visits in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Trace {
    /// Every visit of a layer.
    pub visits: Vec<Visit>,
}

impl Trace {
    /// Uses of experts.
    pub fn uses(&self) -> usize {
        self.visits.iter().map(|visit| visit.experts.len()).sum()
    }
}

#[cfg(test)]
impl Used {
    /// For one token.
    pub(crate) fn new(expert: usize) -> Self {
        Self { expert, tokens: 1, gates: 0.5 }
    }
}
