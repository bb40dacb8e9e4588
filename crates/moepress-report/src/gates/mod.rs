//! Quality gates: conditions on the figures of a report under which a command fails.

mod alike;
mod condition;
mod junit;
mod metric;

pub(crate) use alike::alike;
pub use condition::{Available, Gate};
pub use junit::junit;
pub use metric::{METRICS, Metric, Needs};
