//! Where a value is in a recipe: `stages[1].prune_atoms.ratio`.

use std::fmt;

use crate::error::shorten;

/// One step down from a mapping or a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    Key(String),
    Index(usize),
}

/// Steps from the top of the recipe.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Path(pub(crate) Vec<Step>);

impl Path {
    /// Reads `name.name[3].name`.
    pub(crate) fn read(text: &str) -> Result<Self, String> {
        let mut steps = Vec::new();
        for (k, part) in text.split('.').enumerate() {
            let (name, indices) = part.split_at(part.find('[').unwrap_or(part.len()));
            if name.is_empty() || (k > 0 && steps.is_empty()) {
                return Err(wrong(text));
            }
            steps.push(Step::Key(name.into()));
            let mut rest = indices;
            while !rest.is_empty() {
                let (index, after) =
                    rest.strip_prefix('[').and_then(|r| r.split_once(']')).ok_or_else(|| wrong(text))?;
                if !index.bytes().all(|b| b.is_ascii_digit()) {
                    return Err(wrong(text));
                }
                steps.push(Step::Index(index.parse().map_err(|_| wrong(text))?));
                rest = after;
            }
        }
        Ok(Self(steps))
    }

    pub(crate) fn key(&self, key: &str) -> Self {
        self.with(Step::Key(key.into()))
    }

    pub(crate) fn index(&self, index: usize) -> Self {
        self.with(Step::Index(index))
    }

    fn with(&self, step: Step) -> Self {
        Self(self.0.iter().cloned().chain([step]).collect())
    }

    pub(crate) fn starts_with(&self, head: &Self) -> bool {
        self.0.starts_with(&head.0)
    }
}

fn wrong(text: &str) -> String {
    format!("`{}` is not a path such as stages[0].prune_atoms.ratio", shorten(text))
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (k, step) in self.0.iter().enumerate() {
            match step {
                Step::Key(key) if k == 0 => f.write_str(&shorten(key))?,
                Step::Key(key) => write!(f, ".{}", shorten(key))?,
                Step::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_prints() {
        for text in ["model", "stages[1].prune_atoms.ratio", "a[0][12].b"] {
            assert_eq!(Path::read(text).unwrap().to_string(), text);
        }
        for text in
            ["", ".", "a.", ".a", "[1]", "a[", "a[]", "a[-1]", "a[+1]", "a[1]x", "a[99999999999999999999]"]
        {
            assert!(Path::read(text).is_err(), "{text}");
        }
    }
}
