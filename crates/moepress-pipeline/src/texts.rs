//! Calibration and evaluation text as windows of token ids.

use crate::PipelineError;
use moepress_checkpoint::{Files, digest};
use moepress_eval::Text;
use moepress_text::{Tokenizer, read_text, windows};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Texts, and where they came from.
pub struct TextSet {
    /// Every file as windows, named by its stem.
    pub texts: Vec<Text>,
    /// SHA-256 of every file, by its name.
    pub digests: BTreeMap<String, String>,
    /// Lines for the report.
    pub notes: Vec<String>,
}

/// Reads and tokenizes files: the first `count` windows of `window` tokens of each.
///
/// # Errors
/// A file is missing, no text, or too short for one window.
pub fn load_texts(
    files: &dyn Files,
    tokenizer: &Tokenizer,
    paths: &[PathBuf],
    window: usize,
    count: usize,
) -> Result<TextSet, PipelineError> {
    let mut set = TextSet { texts: vec![], digests: BTreeMap::new(), notes: vec![] };
    for path in paths {
        let ids = tokenizer.encode(&read_text(files, path)?)?;
        let cut = windows(path, &ids, window, count)?;
        let (found, asked) = (cut.windows.len(), cut.asked);
        if found < asked {
            set.notes.push(format!(
                "{} has {found} windows of {window} tokens, {asked} were asked for",
                path.display()
            ));
        }
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        // Two folders may hold files of one name.
        let repeats = set
            .digests
            .keys()
            .filter(|known| **known == name || known.starts_with(&format!("{name}#")))
            .count();
        let name = if repeats == 0 { name } else { format!("{name}#{}", repeats + 1) };
        set.digests.insert(name, digest(files, path)?);
        set.texts.push(Text { name: stem, windows: cut.windows });
    }
    Ok(set)
}
