//! What a Mixture-of-Experts model *is*: shapes, tensor names, the routing rule, and the edits that turn
//! one description into a smaller one. No files and no arithmetic on weights.
//!
//! To add a family, write `families/<family>.rs` and one line in [`families::FAMILIES`].

#![warn(missing_docs)]

mod config;
mod edit;
pub mod families;
mod spec;
mod tensor;

pub use config::{Config, ConfigError};
pub use edit::{Edit, EditError, Group, Solver};
pub use families::{Family, family};
pub use spec::{Attention, Expert, LayerSpec, Mlp, ModelSpec, Moe, Routing, Segment, SpecError};
pub use tensor::{Class, LayerWeights, NameError, Part, Projection, Tensor};
