//! Where outputs may be.

use crate::failure::Failure;
use moepress_checkpoint::Files;
use std::io::ErrorKind;
use std::path::{Component, Path, PathBuf, absolute};

/// Where a recipe's result goes: `--out`, else the recipe's `output`, else `out/` and the recipe's name.
pub fn output(given: Option<&Path>, recipe_output: Option<&Path>, recipe: &Path) -> PathBuf {
    let stem = recipe.file_stem().unwrap_or(recipe.as_os_str());
    given.or(recipe_output).map_or_else(|| Path::new("out").join(stem), Path::to_owned)
}

/// Makes the folder that an output goes to where nobody named one; where somebody did, it has to be there.
pub fn make_default(files: &dyn Files, given: Option<&Path>, out: &Path) -> Result<(), Failure> {
    let Some(folder) = out.parent().filter(|folder| given.is_none() && !folder.as_os_str().is_empty()) else {
        return Ok(());
    };
    match files.create_dir(folder) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(Failure::usage(format!(
            "{}: cannot be made: {error} (choose another place with --out)",
            folder.display()
        ))),
        _ => Ok(()),
    }
}

/// Checks that an output cannot touch a directory, which `what` names: it is not that, not inside, and not
/// around it.
pub fn apart(out: &Path, what: &str, dir: &Path) -> Result<(), Failure> {
    let (there, here) = (resolved(out), resolved(dir));
    let refuse = |how: &str| {
        let (out, dir) = (out.display(), dir.display());
        Err(Failure::usage(format!("output {out} {how} the {what} directory {dir} (choose another place)")))
    };
    if there == here {
        refuse("is")
    } else if there.starts_with(&here) {
        refuse("is inside")
    } else if here.starts_with(&there) {
        refuse("contains")
    } else {
        Ok(())
    }
}

/// The path without links and dots, as far as it exists; what does not exist yet is taken as written.
fn resolved(path: &Path) -> PathBuf {
    let mut real = PathBuf::new();
    for component in absolute(path).unwrap_or_else(|_| path.to_owned()).components() {
        match component {
            Component::ParentDir => {
                real.pop();
            }
            component => real.push(component),
        }
        if let Ok(canonical) = real.canonicalize() {
            real = canonical;
        }
    }
    real
}

/// The nearest directory at or above `path` that exists: whose file system will hold it.
pub fn existing(path: &Path) -> PathBuf {
    let path = resolved(path);
    path.ancestors().find(|ancestor| ancestor.is_dir()).unwrap_or(Path::new("/")).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_decides() {
        let (flag, key, recipe) = (Path::new("a"), Path::new("b"), Path::new("recipes/demo.yaml"));
        assert_eq!(output(Some(flag), Some(key), recipe), flag);
        assert_eq!(output(None, Some(key), recipe), key);
        assert_eq!(output(None, None, recipe), Path::new("out/demo"));
    }

    #[test]
    fn inputs_are_out_of_reach() {
        let dir = tempfile::tempdir().unwrap();
        let model = dir.path().join("model");
        std::fs::create_dir(&model).unwrap();
        std::os::unix::fs::symlink(&model, dir.path().join("link")).unwrap();
        let refused =
            |out: &str| apart(&dir.path().join(out), "model", &model).err().map(|failure| failure.message);
        for (out, how) in [
            ("model", "is the"),
            ("model/", "is the"),
            ("new/../model", "is the"),
            ("link", "is the"),
            ("model/a/b", "is inside"),
            ("link/a", "is inside"),
            ("", "contains"),
            ("model/..", "contains"),
        ] {
            let message = refused(out).unwrap_or_default();
            assert!(message.contains(how), "{out}: {message:?}");
        }
        for out in ["model2", "mode", "model.out", "link/../other"] {
            assert_eq!(refused(out), None, "{out}");
        }
    }
}
