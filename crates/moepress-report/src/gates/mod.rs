//! Quality gates: conditions on the figures of a report under which a command fails.

mod condition;
mod junit;
mod metric;

pub use condition::{Available, Gate};
pub use junit::junit;
pub use metric::{METRICS, Metric, Needs};
