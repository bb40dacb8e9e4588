//! Statistics as files: measured in shards, added, and taken up by a run. Specified in `docs/statistics.md`.

mod file;
mod given;
mod header;
mod measure;
mod merge;
mod shard;

pub use file::StatisticsFile;
pub(crate) use given::{Given, Wanted};
pub use header::StatisticsHeader;
pub use measure::{Measure, measure};
pub use merge::merge;
pub use shard::Shard;

use crate::texts::TextSet;

/// The windows of all texts, in order.
pub(crate) fn all_windows(set: &TextSet) -> Vec<Vec<u32>> {
    let windows = set.texts.iter().flat_map(|text| &text.windows);
    windows.map(|window| window.ids.clone()).collect()
}

/// For each of those windows the text it is from.
pub(crate) fn text_of_windows(set: &TextSet) -> Vec<usize> {
    let texts = set.texts.iter().enumerate();
    texts.flat_map(|(index, text)| std::iter::repeat_n(index, text.windows.len())).collect()
}

#[cfg(test)]
mod tests;
