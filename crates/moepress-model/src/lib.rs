//! What a Mixture-of-Experts model *is*: shapes, tensor names, the routing rule, and the edits that turn
//! one description into a smaller one. No files and no arithmetic on weights.
//!
//! To add a family, write `families/<family>.rs` and one line in [`families::FAMILIES`].

#![warn(missing_docs)]

mod attention;
mod choose;
mod config;
mod edit;
pub mod families;
mod moe;
mod part;
mod place;
mod spec;
mod tensor;
mod unmerged;
mod validate;

pub use attention::{Attention, Latent, Pairs, QueryKeyNorm, Rope, RopeScaling};
pub use choose::{Mixed, sparse_mixer};
pub use config::{Config, ConfigError};
pub use edit::{Edit, EditError, Group, Solver, await_inputs};
pub use families::{Family, family};
pub use moe::{Activation, Expert, GroupRank, Moe, Routing, RowGroups, Scores, Segment, Shared};
pub use part::{Map, Normed, Part, Projection};
pub use place::{Half, Place, Slice};
pub use spec::{Carried, LayerSpec, Mlp, ModelSpec, Norm, NormKind, Scales};
pub use tensor::{Class, LayerWeights, NameError, Tensor};
pub use unmerged::unmerged;
pub use validate::SpecError;
