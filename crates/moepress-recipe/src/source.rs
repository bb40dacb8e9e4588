//! Where the values of a recipe came from, to say so in errors.

use std::path::PathBuf;

use crate::error::RecipeError;
use crate::locate::locate;
use crate::path::Path;

#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) file: PathBuf,
    /// Without a byte-order mark.
    pub(crate) text: String,
    /// What each `--set` changed, and the argument as given.
    pub(crate) sets: Vec<(Path, String)>,
}

impl Source {
    /// An error at the place that holds `path`, or at the nearest one above it.
    pub(crate) fn error(&self, path: &Path, message: impl Into<String>) -> RecipeError {
        let set = self
            .sets
            .iter()
            .rev()
            .find(|(head, _)| path.starts_with(head))
            .map(|(_, argument)| argument.as_str().into());
        let place = if set.is_some() { None } else { locate(&self.text, path) };
        let mut error = self.error_at(place, path, message.into());
        error.set = set;
        error
    }

    pub(crate) fn error_at(
        &self,
        place: Option<(usize, usize)>,
        path: &Path,
        message: String,
    ) -> RecipeError {
        RecipeError {
            file: self.file.clone(),
            set: None,
            line: place.and_then(|p| p.0.try_into().ok()),
            column: place.and_then(|p| p.1.try_into().ok()),
            path: path.to_string(),
            message,
        }
    }
}
