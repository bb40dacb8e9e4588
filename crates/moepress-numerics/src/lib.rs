//! Maths on plain arrays: no files, no configuration, no model.
//!
//! Every function is deterministic: ties go to the lower index, and no result depends on the number of threads.

pub mod alignment;
pub mod assignment;
pub mod exact;
pub mod knapsack;
pub mod linalg;
pub mod linkage;
pub mod low_rank;
pub mod ridge;
