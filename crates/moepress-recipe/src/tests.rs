//! Recipes as users write them, and as they should not.

use std::path::{Path, PathBuf};

use crate::{MAX_BYTES, Mtp, Params, Recipe, RecipeError, parse};
use proptest::prelude::*;

const RECIPE: &str = "\
version: 1
model: ../fixtures/demo
calibration: {files: [a.txt, sub/b.txt], window: 128}
stages:
  - prune_atoms: {method: heapr, ratio: 0.25, keep: [gate, up], size: 4.2GiB}
  - merge_experts:
      groups: 4 # per layer
      exact: true
  - quantize
evaluate:
  files: [\"c d.txt\"]
output: out/small
";

fn read(text: &str, sets: &[&str]) -> Result<Recipe, RecipeError> {
    let sets: Vec<String> = sets.iter().map(|s| s.to_string()).collect();
    parse(text, Path::new("recipes/r.yaml"), &sets)
}

fn refusal(text: &str, sets: &[&str]) -> String {
    read(text, sets).map(|r| r.resolved_yaml()).unwrap_err().to_string()
}

fn stage(text: &str, sets: &[&str]) -> Params {
    read(text, sets).unwrap().stages[0].params.clone()
}

/// A recipe with one stage `s`.
fn with(params: &str) -> Params {
    stage(&format!("version: 1\nmodel: m\nstages:\n  - s: {params}\n"), &[])
}

#[test]
fn reads_a_whole_recipe() {
    let recipe = read(RECIPE, &[]).unwrap();
    assert_eq!(recipe.model, PathBuf::from("recipes/../fixtures/demo"));
    assert_eq!(recipe.output, Some("out/small".into()));
    let calibration = recipe.calibration.unwrap();
    let files = ["recipes/a.txt", "recipes/sub/b.txt"].map(|path| crate::TextFile::new(path.into()));
    assert_eq!(calibration.files, files);
    assert_eq!((calibration.window, calibration.windows), (128, 16));
    let evaluate = recipe.evaluate.unwrap();
    assert_eq!((evaluate.window, evaluate.windows), (256, 24));
    let names: Vec<&str> = recipe.stages.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(names, ["prune_atoms", "merge_experts", "quantize"]);
    let prune = &recipe.stages[0].params;
    prune.only(&["method", "ratio", "keep", "size"]).unwrap();
    assert_eq!(prune.word("method", None, &["heapr", "reap"]).unwrap(), "heapr");
    assert_eq!(prune.f64_in("ratio", None, 0.0..1.0).unwrap(), 0.25);
    assert_eq!(prune.words("keep", None, &["gate", "up", "down"]).unwrap(), ["gate", "up"]);
    assert_eq!(prune.bytes("size").unwrap(), Some(4_509_715_660));
    assert_eq!(prune.bytes("other").unwrap(), None);
    let merge = &recipe.stages[1].params;
    assert_eq!(merge.usize_in("groups", None, 1..).unwrap(), 4);
    assert!(merge.bool("exact", None).unwrap() && !merge.has("method"));
    assert_eq!(merge.word("method", Some("hc_smoe"), &["hc_smoe"]).unwrap(), "hc_smoe");
    assert_eq!(merge.words("keep", Some(&["up"]), &["up"]).unwrap(), ["up"]);
    let bare = parse("version: 1\nmodel: m\nstages: []\n", Path::new("r.yaml"), &[]).unwrap();
    assert_eq!((bare.model, bare.calibration, bare.output), ("m".into(), None, None));
}

#[test]
fn resolves_to_the_same_recipe() {
    let sets =
        ["prune_atoms.ratio=0.5", "calibration.windows=4", "quantize.format=int4", "quantize.note='1e3'"];
    let mut recipe = read(RECIPE, &sets).unwrap();
    let resolved = recipe.resolved_yaml();
    let again = read(&resolved, &[]).unwrap();
    assert_eq!(again.resolved_yaml(), resolved);
    recipe.output = None;
    assert_eq!(recipe, again);
    let want = "\
version: 1
model: ../fixtures/demo
calibration:
  files:
  - a.txt
  - sub/b.txt
  window: 128
  windows: 4
stages:
- prune_atoms:
    method: heapr
    ratio: 0.5
    keep:
    - gate
    - up
    size: 4.2GiB
- merge_experts:
    groups: 4
    exact: true
- quantize:
    format: int4
    note: '1e3'
evaluate:
  files:
  - c d.txt
  window: 256
  windows: 24
";
    assert_eq!(resolved, want);
}

#[test]
fn layers_that_predict_several_tokens() {
    let bare = "version: 1\nmodel: m\nstages: []\n";
    let recipe = |sets: &[&str]| read(bare, sets).unwrap();
    assert_eq!((recipe(&[]).mtp, recipe(&[]).resolved_yaml().as_str()), (Mtp::Drop, bare));
    for (set, mtp, line) in [("mtp=keep", Mtp::Keep, "mtp: keep"), ("mtp=drop", Mtp::Drop, "mtp: drop")] {
        let recipe = recipe(&[set]);
        assert_eq!(recipe.mtp, mtp);
        assert_eq!(recipe.resolved_yaml(), format!("version: 1\nmodel: m\n{line}\nstages: []\n"));
        assert_eq!(read(&recipe.resolved_yaml(), &[]).unwrap(), recipe);
    }
    let error = refusal("version: 1\nmodel: m\nmtp: kep\nstages: []\n", &[]);
    let want = "recipes/r.yaml:3:1: mtp: unknown word `kep`; did you mean `keep`? (known: drop, keep)";
    assert_eq!(error, want);
    assert!(refusal("version: 1\nmodel: m\nmtp: true\nstages: []\n", &[]).contains("mtp: must be"));
}

#[test]
fn points_at_the_line() {
    let recipe = read(RECIPE, &[]).unwrap();
    let prune = &recipe.stages[0].params;
    for (error, want) in [
        (
            prune.only(&["methods", "ratio", "keep", "size"]).unwrap_err(),
            "5:19: stages[0].prune_atoms.method: unknown key `method`; did you mean `methods`? (known: methods, ratio, keep, size)",
        ),
        (
            prune.f64_in("ratio", None, 0.5..=1.0).unwrap_err(),
            "5:34: stages[0].prune_atoms.ratio: must be at least 0.5 and at most 1, is 0.25",
        ),
        (
            prune.words("keep", None, &["gate", "ups"]).unwrap_err(),
            "5:60: stages[0].prune_atoms.keep[1]: unknown word `up`; did you mean `ups`? (known: gate, ups)",
        ),
        (prune.usize_in("missing", None, ..).unwrap_err(), "5:5: stages[0].prune_atoms.missing: is missing"),
        (
            recipe.stages[1].params.error("groups", "one group per expert at most"),
            "7:7: stages[1].merge_experts.groups: one group per expert at most",
        ),
        (
            recipe.stages[2].unknown(&["quantise"]),
            "9:5: stages[2].quantize: unknown stage `quantize`; did you mean `quantise`? (known: quantise)",
        ),
    ] {
        assert_eq!(error.to_string(), format!("recipes/r.yaml:{want}"));
    }
}

#[test]
fn refuses_wrong_values() {
    for (value, want) in [
        ("1.5", "must be at least 0 and below 1, is 1.5"),
        ("-0.1", "must be at least 0 and below 1, is -0.1"),
        (".nan", "must be a number, is .nan"),
        (".inf", "must be a number, is .inf"),
        ("half", "must be a number, is the text `half`"),
        ("\"0.5\"", "must be a number, is the text `0.5`"),
        ("[0.5]", "must be a number, is a list"),
        ("true", "must be a number, is true"),
        ("", "has no value"),
    ] {
        let params = with(&format!("{{x: {value}}}"));
        let error = params.f64_in("x", Some(0.5), 0.0..1.0).unwrap_err();
        assert_eq!(error.to_string(), format!("recipes/r.yaml:4:9: stages[0].s.x: {want}"));
        assert_eq!(
            (error.line, error.path.as_str(), error.message.as_str()),
            (Some(4), "stages[0].s.x", want)
        );
    }
    for value in ["4.0", "1e3", "-1", "'4'", "99999999999999999999"] {
        let text = format!("version: 1\nmodel: m\nstages:\n  - s: {{x: {value}}}\n");
        assert!(
            read(&text, &[]).and_then(|r| r.stages[0].params.usize_in("x", None, ..)).is_err(),
            "{value}"
        );
    }
    assert!(
        with("{x: 0}")
            .usize_in("x", None, 1..=8)
            .unwrap_err()
            .message
            .contains("at least 1 and at most 8, is 0")
    );
    assert!(
        with("{x: no}").bool("x", None).unwrap_err().message.ends_with("true or false, is the text `no`")
    );
    assert!(with("{x: 12}").text("x", None).unwrap_err().message.contains("quote it"));
    assert!(with("{x: ''}").text("x", None).is_err());
    assert_eq!(with("{x: a}").words("x", None, &["a"]).unwrap(), ["a"]);
    assert!(with("{x: b}").words("x", None, &["a"]).is_err() && with("{x: 1}").texts("x").is_err());
    assert!(with("{x: [a, a]}").words("x", None, &["a"]).unwrap_err().message.contains("twice"));
    for value in ["0", "-1", "1.5", "4 gb", "[1]"] {
        assert!(with(&format!("{{x: {value}}}")).bytes("x").is_err(), "{value}");
    }
}

#[test]
fn refuses_wrong_recipes() {
    for (text, want) in [
        ("", "recipes/r.yaml: a recipe is a mapping with the keys version, model and stages"),
        ("model: m\n", "recipes/r.yaml: version: is missing"),
        ("version: 2\n", "recipes/r.yaml:1:1: version: must be at least 1 and at most 1, is 2"),
        (
            "version: 1\nmodell: m\n",
            "recipes/r.yaml:2:1: modell: unknown key `modell`; did you mean `model`? \
             (known: version, model, mtp, calibration, limits, stages, evaluate, gates, output)",
        ),
        ("version: 1\nmodel: m\nmodel: n\n", "recipes/r.yaml:3:1: model: is given twice"),
        ("version: 1\nmodel: m\n", "recipes/r.yaml: stages: is missing"),
        ("version: 1\nmodel: m\nstages: s\n", "recipes/r.yaml:3:1: stages: must be a list, is the text `s`"),
        (
            "version: 1\nmodel: m\ncalibration: {window: 9}\nstages: []\n",
            "recipes/r.yaml:3:1: calibration.files: is missing",
        ),
        (
            "version: 1\nmodel: m\ncalibration: {files: [a], windw: 9}\nstages: []\n",
            "recipes/r.yaml:3:27: calibration.windw: unknown key `windw`; did you mean `window`? (known: files, window, windows, seed, bos, min_tokens, below_min_tokens, describe)",
        ),
        (
            "version: 1\nmodel: m\nstages:\n  - s:\n    ratio: 0.5\n",
            "recipes/r.yaml:5:5: stages[0].ratio: must be the name of a stage, or one name with its parameters: \
             `- name: {key: value}`; indent parameters further than the name",
        ),
        (
            "version: 1\nmodel: m\nstages:\n  - s: 4\n",
            "recipes/r.yaml:4:5: stages[0].s: the parameters of a stage are a mapping: `{key: value}`",
        ),
        ("a: &x 1\n", "recipes/r.yaml:1:4: anchors (&name) are not allowed in a recipe"),
        ("\"a\\tb\": 1\n", "recipes/r.yaml:1:1: text is one line without control characters"),
        ("a: \"\\n\"\n", "recipes/r.yaml:1:4: a: text is one line without control characters"),
    ] {
        assert_eq!(refusal(text, &[]), want);
    }
    assert!(refusal("a: {b: 1\n", &[]).contains(": not valid YAML: "));
    assert!(refusal("1: a\n", &[]).contains("a word as key"));
    assert!(refusal(&format!("a: {}{}\n", "[".repeat(17), "]".repeat(17)), &[]).contains("16 deep"));
    assert!(refusal(&"[".repeat(MAX_BYTES), &[]).contains("r.yaml:"));
    assert!(refusal(&"#".repeat(MAX_BYTES + 1), &[]).contains("at most 65536 bytes"));
    assert!(read(&format!("\u{feff}{RECIPE}"), &[]).is_ok());
    assert!(read(&RECIPE.replace('\n', "\r\n"), &[]).is_ok());
}

#[test]
fn refuses_an_alias_bomb() {
    let mut bomb = String::from("a: &a [x, x]\n");
    for k in 1..40 {
        bomb += &format!("a{k}: &b{k} [*b{k}, *b{k}]\n");
    }
    assert_eq!(refusal(&bomb, &[]), "recipes/r.yaml:1:4: anchors (&name) are not allowed in a recipe");
}

#[test]
fn set_changes_what_it_names() {
    let ratio = |sets: &[&str]| stage(RECIPE, sets).f64_in("ratio", None, ..).unwrap();
    assert_eq!(ratio(&["stages[0].prune_atoms.ratio=0.5"]), 0.5);
    assert_eq!(ratio(&["prune_atoms.ratio=0.5", "prune_atoms.ratio=0.75"]), 0.75);
    assert_eq!(
        stage(RECIPE, &["prune_atoms={ratio: 1, a: [x, y]}"]).words("a", None, &["x", "y"]).unwrap().len(),
        2
    );
    let recipe =
        read("version: 1\nmodel: m\nstages: [s]\n", &["evaluate.files=[e.txt]", "model=n", "s.x=a=b"])
            .unwrap();
    assert_eq!(
        (recipe.model, recipe.evaluate.unwrap().files[0].path.clone()),
        ("recipes/n".into(), "recipes/e.txt".into())
    );
    assert_eq!(recipe.stages[0].params.text("x", None).unwrap(), "a=b");
}

#[test]
fn set_errors_name_the_argument() {
    let params = stage(RECIPE, &["prune_atoms.ratio=1.5"]);
    let error = params.f64_in("ratio", None, 0.0..1.0).unwrap_err();
    assert_eq!(
        error.to_string(),
        "--set prune_atoms.ratio=1.5: stages[0].prune_atoms.ratio: must be at least 0 and below 1, is 1.5"
    );
    assert_eq!(error.line, None);
    let twice = "version: 1\nmodel: m\nstages: [s, s]\n";
    for (text, set, want) in [
        (twice, "s.x=1", "several stages are named `s`; write stages[0].s or stages[1].s"),
        (
            twice,
            "modle=1",
            "unknown key or stage `modle`; did you mean `model`? (known: version, model, mtp, calibration, limits, stages, evaluate, gates, output, s)",
        ),
        (twice, "model", "write --set PATH=VALUE"),
        (twice, "model=", "model: has no value"),
        (twice, "model.x=1", "model: is not a mapping"),
        (twice, "stages[2].s.x=1", "stages: has 2 entries, counted from 0"),
        (twice, "stages.s=1", "stages: is not a mapping"),
        (twice, "model=&a b", "model: anchors (&name) are not allowed in a recipe"),
        (twice, "calibration={files: [a], files: [b]}", "calibration: is given twice"),
        (twice, "[0]=1", "`[0]` is not a path such as stages[0].prune_atoms.ratio"),
    ] {
        assert_eq!(refusal(text, &[set]), format!("--set {set}: {want}"));
    }
    let wrong = refusal(twice, &["calibration={files: [a], window: 1}"]);
    assert!(wrong.ends_with(": calibration.window: must be at least 2 and at most 1048576, is 1"), "{wrong}");
}

/// Uses every getter on whatever the stages hold; errors must be one line.
fn exercise(text: &str, set: &str) {
    let Ok(mut recipe) = read(text, &[set]).or_else(|_| read(text, &[])) else {
        let message = refusal(text, &[]);
        assert_eq!(message.lines().count(), 1, "{message}");
        return;
    };
    let resolved = recipe.resolved_yaml();
    recipe.output = None;
    assert_eq!(read(&resolved, &[]).as_ref(), Ok(&recipe));
    for stage in recipe.stages {
        for key in ["method", "ratio", "keep", "size", "groups"] {
            let p = &stage.params;
            let _ = (p.f64_in(key, None, ..), p.usize_in(key, None, ..), p.bool(key, None), p.bytes(key));
            let _ = (
                p.word(key, None, &["a"]),
                p.words(key, None, &["a"]),
                p.only(&["b"]),
                stage.unknown(&["c"]),
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn never_panics(edits in prop::collection::vec((any::<prop::sample::Index>(), 0usize..6, "[ -~\\n]{0,3}|[\\t\"'&*!|<>{}\\[\\],:#-]{1,4}|\\PC|\u{feff}|\u{85}|\r"), 1..6), set in "([a-z_]{0,12}(\\[[0-9]\\])?\\.?){0,3}=?[ -~]{0,8}") {
        let mut text: Vec<char> = RECIPE.chars().collect();
        for (at, removed, inserted) in edits {
            let at = at.index(text.len() + 1);
            let end = text.len().min(at + removed);
            text.splice(at..end, inserted.chars());
        }
        exercise(&text.into_iter().collect::<String>(), &set);
    }
}
