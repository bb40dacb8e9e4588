//! Recent gate mass (HybriMoE, arXiv 2504.05897, section 4.3): gates of the tokens that an expert was used for, older
//! ones counting less.

use super::{ExpertId, Policy, Trace};
use std::collections::HashMap;

/// Uses of experts after which a gate counts half.
const HALF_LIFE: f64 = 2048.0;

#[derive(Default)]
struct GateMass(HashMap<ExpertId, (f64, u64)>);

pub(super) fn build(_: Option<&Trace>) -> Box<dyn Policy> {
    Box::new(GateMass::default())
}

impl Policy for GateMass {
    fn used(&mut self, id: ExpertId, gates: f32, now: u64) {
        let mass = self.worth(id, now) + f64::from(gates);
        self.0.insert(id, (mass, now));
    }

    fn worth(&self, id: ExpertId, now: u64) -> f64 {
        self.0.get(&id).map_or(0.0, |&(mass, then)| mass * (-((now - then) as f64) / HALF_LIFE).exp2())
    }
}
