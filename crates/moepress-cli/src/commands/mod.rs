//! The commands, one file each: arguments, help, work.

pub mod bench;
pub mod compare;
pub mod doctor;
pub mod eval;
mod experts;
pub mod gates;
pub mod generate;
pub mod init;
pub mod inspect;
pub mod logits;
mod model;
pub mod plan;
mod recipe;
pub mod report;
mod report_file;
mod rules;
pub mod run;
pub mod schema;
pub mod serve;
pub mod stats;
pub mod sweep;

use crate::events::Events;
use crate::failure::Failure;
use crate::interrupt::Interrupt;
use moepress_checkpoint::Files;
use std::sync::Arc;

/// What every command works with.
pub struct Context {
    pub files: Arc<dyn Files>,
    pub interrupt: Interrupt,
    /// Where progress goes beside stderr.
    pub events: Option<Events>,
}

/// How a command ended whose results are complete.
#[derive(Debug)]
pub enum Ending {
    Done,
    /// A line about every gate that failed.
    GatesFailed(Vec<String>),
    /// The first of several things that are not as they should be.
    ChecksFailed(Failure),
}

impl From<Vec<String>> for Ending {
    fn from(lines: Vec<String>) -> Self {
        if lines.is_empty() { Self::Done } else { Self::GatesFailed(lines) }
    }
}
