//! Recent gate mass (HybriMoE, arXiv 2504.05897, section 4.3): gates of the tokens that an expert was used for, older
//! ones counting less.

use super::{ExpertId, Policy, Trace, Visit};
use std::collections::HashMap;

/// Uses of experts after which a gate counts half.
const HALF_LIFE: f64 = 2048.0;

#[derive(Default)]
struct GateMass {
    masses: HashMap<ExpertId, (f64, u64)>,
    /// Uses so far.
    now: u64,
}

pub(super) fn build(_: Option<&Trace>) -> Box<dyn Policy> {
    Box::new(GateMass::default())
}

impl Policy for GateMass {
    fn visit(&mut self, visit: &Visit) {
        for (id, used) in visit.ids().zip(&visit.experts) {
            self.now += 1;
            let mass = self.worth(id) + f64::from(used.gates);
            self.masses.insert(id, (mass, self.now));
        }
    }

    fn worth(&self, id: ExpertId) -> f64 {
        let decayed = |&(mass, then): &(f64, u64)| mass * (-((self.now - then) as f64) / HALF_LIFE).exp2();
        self.masses.get(&id).map_or(0.0, decayed)
    }
}
