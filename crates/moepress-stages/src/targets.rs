//! The tensors that a stage of quantization is about, and the formats it may use.

use moepress_model::{Class, ModelSpec, Tensor};
use moepress_quant::codec::Packing;
use moepress_quant::{Code, Format, Grouped};
use moepress_recipe::{Params, RecipeError};

const CODES: [(&str, Code); 5] = [
    ("ternary", Code::Ternary),
    ("int2", Code::Int(2)),
    ("int3", Code::Int(3)),
    ("int4", Code::Int(4)),
    ("int8", Code::Int(8)),
];
/// Classes that have matrices.
pub(crate) const CLASSES: [Class; 5] =
    [Class::Experts, Class::SharedExperts, Class::Attention, Class::Embeddings, Class::DenseMlp];

/// The names of the codes a recipe may ask for.
pub(crate) fn code_names() -> [&'static str; 5] {
    CODES.map(|(name, _)| name)
}

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

/// The format of that code name with the parameters `group` and `symmetric`.
pub(crate) fn format(name: &str, params: &Params) -> Result<Format, RecipeError> {
    let group = group(params)?;
    let symmetric = params.bool("symmetric", Some(false))?;
    let code = CODES.iter().find(|(known, _)| *known == name).map_or(Code::Ternary, |(_, code)| *code);
    Ok(Format::Grouped(Grouped::new(code, group, symmetric || code == Code::Ternary)))
}

/// The parameter `codec`: how codes are stored.
pub(crate) fn codec(params: &Params) -> Result<Packing, RecipeError> {
    let word = params.word("codec", Some("fields"), &["fields", "best"])?;
    Ok(if word == "best" { Packing::Best } else { Packing::Fields })
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

/// The matrices of those classes.
pub(crate) fn matrices(spec: &ModelSpec, classes: &[Class]) -> Vec<Tensor> {
    let wanted = |tensor: &Tensor| tensor.is_measured() && classes.contains(&tensor.class());
    spec.tensors().into_iter().filter(wanted).collect()
}

/// Whether any tensor already has a grouped format, chosen or carried out.
pub(crate) fn any_grouped(spec: &ModelSpec) -> bool {
    spec.tensors().into_iter().any(|tensor| matches!(spec.format(tensor), Some(Format::Grouped(_))))
}
