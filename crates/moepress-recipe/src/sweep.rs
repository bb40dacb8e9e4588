//! A sweep: lists of stages that share model, text and everything else, each at several budgets.
//!
//! ```yaml
//! version: 1
//! model: models/qwen3-moe
//! calibration: {files: [novel.txt]}
//! evaluate: {files: [held_out.txt]}
//! budgets: [0.25, 0.5]                     # what $budget stands for, one after the other; --budgets goes before it
//! methods:
//!   HEAPr:
//!     - prune_atoms: {ratio: $budget}
//!   int4:                                  # without $budget: one point
//!     - quantize: {format: int4}
//!   loss-aware:
//!     budgets: [2.5, 3.5]                  # its own
//!     stages:
//!       - assign_bits: {bpw: $budget, formats: [int2, int4]}
//!       - quantize
//! ```
//!
//! A recipe is a sweep of one method, with the name of its file. Where $budget is nowhere in it, budgets take the place
//! of the budget of the last stage that has one.

use std::path::Path as FilePath;

use serde_yaml::{Mapping, Value};

use crate::error::RecipeError;
use crate::guard;
use crate::params::{Params, describe};
use crate::path::Path;
use crate::recipe::{self, Recipe};
use crate::tree;

/// What a budget takes the place of.
const BUDGET: &str = "$budget";

/// Parameters of stages that are budgets.
const BUDGETS: [&str; 3] = ["budget", "bpw", "ratio"];

/// Most points of a sweep.
const MOST_POINTS: usize = 1000;

/// Methods to compare.
#[derive(Debug, Clone, PartialEq)]
pub struct Sweep {
    /// In the order written; at least one, with at least one point together.
    pub curves: Vec<Curve>,
}

/// A list of stages at several budgets.
#[derive(Debug, Clone, PartialEq)]
pub struct Curve {
    /// Its name.
    pub name: String,
    /// At least one.
    pub points: Vec<Point>,
}

/// A list of stages at one budget.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    /// The budget as it was written; none where the stages do not depend on it.
    pub budget: Option<String>,
    /// The recipe of that point.
    pub recipe: Recipe,
}

/// Reads the sweep in `text` as [`parse`](crate::parse) reads a recipe. `budgets`, numbers or sizes as a recipe has
/// them, go before those of the sweep for methods that have none of their own.
pub fn parse_sweep(
    text: &str,
    file: &FilePath,
    overrides: &[String],
    budgets: &[String],
) -> Result<Sweep, RecipeError> {
    let top = recipe::top(text, file, overrides)?;
    let folder = file.parent().unwrap_or(FilePath::new(""));
    let mut given: Vec<Value> =
        budgets.iter().map(|word| read_budget(&top, word)).collect::<Result<_, _>>()?;
    if !top.has("methods") {
        top.only(&recipe::KEYS)?;
        let stages = top.list("stages")?;
        let at = Path::default().key("stages");
        let name = file.file_stem().unwrap_or_default().to_string_lossy();
        let stages = if stages.iter().any(holds) { stages.to_vec() } else { with_budget(stages) };
        return Ok(Sweep { curves: vec![curve(&top, folder, &name, &stages, at, &given)?] });
    }
    let shared = recipe::KEYS.into_iter().filter(|key| !["stages", "gates"].contains(key));
    top.only(&shared.chain(["budgets", "methods"]).collect::<Vec<_>>())?;
    if top.has("budgets") && budgets.is_empty() {
        given = values(&top, "budgets")?;
    }
    let methods = top.mapping("methods")?.ok_or_else(|| top.error("methods", "is missing"))?;
    // The tree has no keys but text.
    let names = methods.map.keys().filter_map(Value::as_str);
    let curves: Vec<Curve> =
        names.map(|name| method(&top, &methods, folder, name, &given)).collect::<Result<_, _>>()?;
    match curves.iter().map(|curve| curve.points.len()).sum() {
        0 => Err(top.error("methods", "is empty")),
        1..=MOST_POINTS => Ok(Sweep { curves }),
        points => Err(top.error("methods", format!("make {points} points, more than {MOST_POINTS}"))),
    }
}

fn method(
    top: &Params,
    methods: &Params,
    folder: &FilePath,
    name: &str,
    given: &[Value],
) -> Result<Curve, RecipeError> {
    let at = methods.path.key(name);
    let (stages, at, own) = match methods.map.get(name) {
        Some(Value::Sequence(stages)) => (stages.clone(), at, None),
        Some(Value::Mapping(_)) => {
            let keys = methods.mapping(name)?.ok_or_else(|| methods.error(name, "has no value"))?;
            keys.only(&["budgets", "stages"])?;
            let own = if keys.has("budgets") { Some(values(&keys, "budgets")?) } else { None };
            (keys.list("stages")?.to_vec(), at.key("stages"), own)
        }
        _ => {
            return Err(
                methods.error(name, "must be a list of stages, or a mapping of `budgets` and `stages`")
            );
        }
    };
    if own.is_some() && !stages.iter().any(holds) {
        return Err(methods.error(name, format!("has budgets, but {BUDGET} nowhere in its stages")));
    }
    curve(top, folder, name, &stages, at, own.as_deref().unwrap_or(given))
}

fn curve(
    top: &Params,
    folder: &FilePath,
    name: &str,
    stages: &[Value],
    at: Path,
    budgets: &[Value],
) -> Result<Curve, RecipeError> {
    let point = |budget: Option<&Value>| {
        let replaced = |stage| budget.map_or_else(|| Value::clone(stage), |budget| replaced(stage, budget));
        let stages: Vec<Value> = stages.iter().map(replaced).collect();
        let recipe = recipe::read(top, folder, Some((&stages, at.clone())))?;
        Ok(Point { budget: budget.map(word), recipe })
    };
    let depends = stages.iter().any(holds);
    if depends && budgets.is_empty() {
        return Err(top
            .source
            .error(&at, "depends on a budget, but no budgets are given (such as --budgets 0.25,0.5)"));
    }
    let points = match depends {
        true => budgets.iter().map(|budget| point(Some(budget))).collect::<Result<_, _>>()?,
        false => vec![point(None)?],
    };
    Ok(Curve { name: name.to_owned(), points })
}

/// The stages with [`BUDGET`] for the budget of the last one that has any.
fn with_budget(stages: &[Value]) -> Vec<Value> {
    let mut stages = stages.to_vec();
    let budget = |stage: &mut Value| {
        let params = stage.as_mapping_mut()?.values_mut().next()?.as_mapping_mut()?;
        let key = BUDGETS.into_iter().find(|key| params.contains_key(key))?;
        *params.get_mut(key)? = BUDGET.into();
        Some(())
    };
    let _ = stages.iter_mut().rev().find_map(budget);
    stages
}

/// A list of budgets.
fn values(params: &Params, key: &str) -> Result<Vec<Value>, RecipeError> {
    let list = params.list(key)?;
    let wrong = |value: &&Value| !(value.is_number() || value.as_str().is_some_and(|text| text != BUDGET));
    match list.iter().find(wrong) {
        Some(value) => Err(params.error(key, format!("must be numbers or sizes, not {}", describe(value)))),
        None if list.is_empty() => Err(params.error(key, "is empty")),
        None => Ok(list.to_vec()),
    }
}

/// A budget from the command line.
fn read_budget(top: &Params, word: &str) -> Result<Value, RecipeError> {
    let value = guard::check(word).ok().and_then(|()| tree::build(word).ok());
    match value.filter(|value| value.is_number() || value.is_string()) {
        Some(value) => Ok(value),
        None => Err(top.source.error(&Path::default(), format!("--budgets: `{word}` is no number or size"))),
    }
}

/// A budget as it was written.
fn word(budget: &Value) -> String {
    match budget {
        Value::String(text) => text.clone(),
        other => describe(other),
    }
}

fn holds(value: &Value) -> bool {
    match value {
        Value::String(text) => text == BUDGET,
        Value::Sequence(list) => list.iter().any(holds),
        Value::Mapping(map) => map.values().any(holds),
        _ => false,
    }
}

fn replaced(value: &Value, budget: &Value) -> Value {
    match value {
        Value::String(text) if text == BUDGET => budget.clone(),
        Value::Sequence(list) => list.iter().map(|value| replaced(value, budget)).collect::<Vec<_>>().into(),
        Value::Mapping(map) => {
            let pair = |(key, value): (&Value, &Value)| (key.clone(), replaced(value, budget));
            Value::Mapping(map.iter().map(pair).collect::<Mapping>())
        }
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "version: 1\nmodel: m\ncalibration: {files: [a.txt]}\n";

    fn read(rest: &str, budgets: &[&str]) -> Result<Sweep, String> {
        let budgets: Vec<String> = budgets.iter().map(|&word| word.to_owned()).collect();
        parse_sweep(&format!("{HEAD}{rest}"), FilePath::new("r/s.yaml"), &[], &budgets)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn budgets_take_their_place_in_every_method() {
        let text = "\
budgets: [0.25, 4.2GiB]
methods:
  HEAPr: [{prune_atoms: {ratio: $budget}}]
  both:
    budgets: [3]
    stages:
      - prune_atoms: {ratio: 0.5}
      - assign_bits: {bpw: $budget, formats: [int4]}
  fixed: [{quantize: {format: int4}}]
";
        let points = |sweep: &Sweep| -> Vec<(String, Vec<Option<String>>)> {
            let budgets = |curve: &Curve| curve.points.iter().map(|point| point.budget.clone()).collect();
            sweep.curves.iter().map(|curve| (curve.name.clone(), budgets(curve))).collect()
        };
        let some = |word: &str| Some(word.to_owned());
        let sweep = read(text, &[]).unwrap();
        let wanted = |shared: Vec<Option<String>>| {
            vec![
                ("HEAPr".to_owned(), shared),
                ("both".to_owned(), vec![some("3")]),
                ("fixed".to_owned(), vec![None]),
            ]
        };
        assert_eq!(points(&sweep), wanted(vec![some("0.25"), some("4.2GiB")]));
        let first = &sweep.curves[0].points[0].recipe;
        assert_eq!(first.stages[0].params.f64_in("ratio", None, ..).unwrap(), 0.25);
        assert!(first.resolved_yaml().contains("ratio: 0.25"));
        let sizes = &sweep.curves[0].points[1].recipe.stages[0].params;
        assert_eq!(sizes.bytes("ratio").unwrap(), Some(4_509_715_660));
        assert_eq!(points(&read(text, &["1", "0.5"]).unwrap()), wanted(vec![some("1"), some("0.5")]));
        assert_eq!(sweep.curves[0].points[0].recipe.model, FilePath::new("r/m"));
    }

    #[test]
    fn a_recipe_is_one_method() {
        let text = "stages:\n  - prune_atoms: {ratio: 0.5}\n  - assign_bits: {bpw: 3}\n  - quantize\n";
        let sweep = read(text, &["2", "2.5"]).unwrap();
        assert_eq!((sweep.curves.len(), sweep.curves[0].name.as_str()), (1, "s"));
        let [two, more] = &sweep.curves[0].points[..] else { panic!("{sweep:?}") };
        assert_eq!((two.budget.as_deref(), more.budget.as_deref()), (Some("2"), Some("2.5")));
        let yaml = more.recipe.resolved_yaml();
        assert!(yaml.contains("bpw: 2.5") && yaml.contains("ratio: 0.5"), "{yaml}");
        assert!(read(text, &[]).unwrap_err().contains("no budgets are given"));
        let own = "stages:\n  - prune_atoms: {ratio: $budget}\n  - assign_bits: {bpw: 3}\n";
        let yaml = read(own, &["0.5"]).unwrap().curves[0].points[0].recipe.resolved_yaml();
        assert!(yaml.contains("bpw: 3") && yaml.contains("ratio: 0.5"), "{yaml}");
        let fixed = read("stages: [quantize]\n", &["0.5"]).unwrap();
        assert_eq!(fixed.curves[0].points.len(), 1);
    }

    #[test]
    fn errors_point_at_the_line() {
        for (rest, wanted) in [
            ("methods: {}\n", "methods: is empty"),
            ("budgets: [1]\nstages: []\n", "unknown key `budgets`"),
            ("methods: {a: [s]}\ngates: {fail_if: [x]}\n", "unknown key `gates`"),
            ("stages: []\nmethods: {}\n", "unknown key `stages`"),
            ("methods: {a: [{s: {x: $budget}}]}\n", "methods.a: depends on a budget, but no budgets"),
            ("methods: {a: {budgets: [1], stages: [s]}}\n", "methods.a: has budgets, but $budget nowhere"),
            ("methods: {a: 1}\n", "methods.a: must be a list of stages"),
            ("methods: {a: {stage: []}}\n", "did you mean `stages`?"),
            ("budgets: [[1]]\nmethods: {a: [s]}\n", "budgets: must be numbers or sizes, not a list"),
            ("budgets: []\nmethods: {a: [s]}\n", "budgets: is empty"),
        ] {
            let error = read(rest, &[]).unwrap_err();
            assert!(error.starts_with("r/s.yaml:") && error.contains(wanted), "{error}");
        }
        let sweep = read("budgets: [2]\nmethods:\n  a:\n    - s: {ratio: $budget}\n", &[]).unwrap();
        let params = &sweep.curves[0].points[0].recipe.stages[0].params;
        let error = params.f64_in("ratio", None, 0.0..1.0).unwrap_err().to_string();
        assert_eq!(error, "r/s.yaml:7:11: methods.a[0].s.ratio: must be at least 0 and below 1, is 2");
        assert!(read("methods: {a: [s]}\n", &["[1]"]).unwrap_err().contains("--budgets: `[1]` is no number"));
    }
}
