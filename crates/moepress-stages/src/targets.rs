//! The tensors that a stage of quantization is about, and the formats it may use.

use moepress_model::{Class, ModelSpec, Tensor};
use moepress_quant::codec::Packing;
use moepress_quant::formats::{GridRule, implementation_of};
use moepress_quant::{Code, Format, Grouped, Scale};
use moepress_recipe::{Params, RecipeError};

/// Codes a recipe may ask for.
pub(crate) const CODES: [&str; 8] =
    ["ternary", "ternary-asym", "int2", "int3", "int4", "int8", "fp8", "mxfp4"];
/// Parameters of formats.
pub(crate) const OF_FORMAT: [&str; 3] = ["group", "symmetric", "scales"];
/// Classes that have matrices.
pub(crate) const CLASSES: [Class; 5] =
    [Class::Experts, Class::SharedExperts, Class::Attention, Class::Embeddings, Class::DenseMlp];

/// The parameter `group`: how many weights share a scale, or `row`.
fn group(params: &Params) -> Result<usize, RecipeError> {
    const KEY: &str = "group";
    if params.is_text(KEY) {
        return params.word(KEY, None, &["row"]).map(|_| Grouped::ROW);
    }
    let group = params.usize_in(KEY, Some(64), 1..)?;
    match Grouped::GROUPS.contains(&group) && group != Grouped::ROW {
        true => Ok(group),
        false => Err(params.error(KEY, format!("must be 16, 32, 64, 128 or row, is {group}"))),
    }
}

/// The format with codes of that name and the parameters `group`, `symmetric`, which is for integers, and `scales`;
/// mxfp4 has none of them.
pub(crate) fn format(name: &str, params: &Params) -> Result<Grouped, RecipeError> {
    let integers = params.bool("symmetric", Some(false))?;
    let (code, symmetric) = match name {
        "ternary-asym" => (Code::Ternary, false),
        "int2" => (Code::Int(2), integers),
        "int3" => (Code::Int(3), integers),
        "int4" => (Code::Int(4), integers),
        "int8" => (Code::Int(8), integers),
        "fp8" => (Code::Fp8, true),
        "mxfp4" => return Ok(Grouped::MXFP4),
        _ => (Code::Ternary, true),
    };
    let scale = match params.word("scales", Some("f16"), &["f16", "ue5m3"])?.as_str() {
        "ue5m3" => Scale::Ue5m3,
        _ => Scale::F16,
    };
    let format = Grouped { scale, ..Grouped::new(code, group(params)?, symmetric) };
    match format.exists() {
        true => Ok(format),
        false => Err(params.error("scales", format!("cannot be so: there is no format {format}"))),
    }
}

/// The parameter `grid`: how grids of that format are chosen, as is usual for it unless told.
pub(crate) fn grid(format: Grouped, params: &Params) -> Result<Option<GridRule>, RecipeError> {
    if !params.has("grid") {
        return Ok(None);
    }
    let word = params.word("grid", None, &GridRule::ALL.map(GridRule::name))?;
    let rule = GridRule::ALL.into_iter().find(|rule| rule.name() == word);
    match rule.filter(|&rule| implementation_of(format, rule).is_some()) {
        Some(rule) => Ok(Some(rule)),
        None => Err(params.error("grid", format!("cannot be `{word}` for {format}"))),
    }
}

/// The parameter `codec`: how codes are stored.
pub(crate) fn codec(params: &Params) -> Result<Packing, RecipeError> {
    let word = params.word("codec", Some("fields"), &["fields", "best", "planes"])?;
    Ok(match word.as_str() {
        "best" => Packing::Best,
        "planes" => Packing::Planes,
        _ => Packing::Fields,
    })
}

/// The parameter `classes`: which matrices are meant, the routed experts unless told.
pub(crate) fn classes(params: &Params) -> Result<Vec<Class>, RecipeError> {
    classes_or(params, &[Class::Experts])
}

/// The same, these unless told.
pub(crate) fn classes_or(params: &Params, unless_told: &[Class]) -> Result<Vec<Class>, RecipeError> {
    let unless_told: Vec<&str> = unless_told.iter().map(|class| class.name()).collect();
    let words = params.words("classes", Some(&unless_told), &CLASSES.map(Class::name))?;
    Ok(words.iter().filter_map(|word| Class::from_name(word)).collect())
}

/// The matrices of those classes, but for those of low rank: their parts are not rounded.
pub(crate) fn matrices(spec: &ModelSpec, classes: &[Class]) -> Vec<Tensor> {
    let low_rank = |tensor: Tensor| matches!(spec.format(tensor), Some(Format::LowRank(_)));
    let wanted =
        |tensor: &Tensor| tensor.is_measured() && classes.contains(&tensor.class()) && !low_rank(*tensor);
    spec.tensors().into_iter().filter(wanted).collect()
}

/// A line about matrices of those classes that are of low rank, if there are any.
pub(crate) fn left_low_rank(spec: &ModelSpec, stage: &str) -> Option<String> {
    let low_rank = |tensor: &Tensor| matches!(spec.format(*tensor), Some(Format::LowRank(_)));
    match spec.tensors().iter().filter(|tensor| low_rank(tensor)).count() {
        0 => None,
        n => Some(format!("{stage}: {n} matrices of low rank stay as merge_experts made them")),
    }
}

/// Whether any tensor is no longer plain: in a grouped format, chosen or carried out, or of low rank.
pub(crate) fn any_chosen(spec: &ModelSpec) -> bool {
    spec.tensors().into_iter().any(|tensor| !matches!(spec.format(tensor), None | Some(Format::Plain(_))))
}

/// Whether any tensor already has a grouped format, chosen or carried out.
pub(crate) fn any_grouped(spec: &ModelSpec) -> bool {
    spec.tensors().into_iter().any(|tensor| matches!(spec.format(tensor), Some(Format::Grouped(_))))
}
