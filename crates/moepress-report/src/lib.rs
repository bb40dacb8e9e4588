//! The story of a run in the forms people read: a table for the terminal, a page, a text.
//!
//! Numbers become words in one place and are laid out by each form. Whatever comes from the user (names,
//! paths, notes, the recipe) is text everywhere: it cannot become markup or control a terminal.

#![warn(missing_docs)]

mod difference;
mod gates;
mod html;
mod markdown;
#[cfg(test)]
mod sample;
mod story;
mod summary;
mod sweep;
mod tables;
mod units;

pub use difference::{Changed, MetricChange, difference};
pub use gates::{Available, Gate, METRICS, Metric, Needs, junit};
pub use html::html;
pub use markdown::markdown;
pub use summary::summary;
pub use sweep::{sweep_html, sweep_markdown, sweep_summary, sweep_svg};
pub use tables::protocol_in_words;
