//! TCESS, task-conditioned expected selection score (PreMoe, arXiv 2505.17639): how much the router wants an expert
//! on the text of a task.
//!
//! `task` names the calibration texts that count, by their files without folder and ending. What an expert is worth:
//!
//! - `score: logit`, the paper's: the mean over the task's tokens of its router logit where that is among the `top`
//!   largest of the token, 0 elsewhere. Logits are taken raw, without the score function, correction or groups of
//!   the router, and may be negative: an expert that is chosen with negative logits is then worth less than one that
//!   never is. The paper's threshold on the probability of the choice is left out: its shipped setting has none.
//! - `score: gate`: the mean over the task's tokens of its gate, by the router's own choice.

use super::Criterion;
use crate::evidence::Evidence;
use crate::stage::StageError;
use moepress_recipe::{Params, RecipeError};
use moepress_stats::{Need, Needs, Of, Quantity};

pub(super) const KEYS: &[&str] = &["task", "score", "top"];

/// Experts of a token that count, unless told; the paper's.
const TOP: usize = 1;

pub(super) fn build(params: &Params) -> Result<Criterion, RecipeError> {
    let task = params.texts("task")?.join(", ");
    let logit = params.word("score", Some("logit"), &["logit", "gate"])? == "logit";
    if !logit && params.has("top") {
        return Err(params.error("top", "is for score: logit; gates are those of all experts of a token"));
    }
    let top = params.usize_in("top", Some(TOP), 1..)?;
    let what = if logit { format!("logit among the top {top}") } else { "gate".to_owned() };
    let params = params.clone();
    let score = move |evidence: &Evidence<'_>, layer: usize| match logit {
        true => logits(&params, top, evidence, layer),
        false => gates(&params, evidence, layer),
    };
    Ok(Criterion {
        name: format!("tcess by {what} on {task}"),
        needs: Needs::of([Need::Routing, Need::Texts]),
        score: Box::new(score),
        signed: logit,
    })
}

/// The texts of the task, by index, and their tokens.
fn task(params: &Params, evidence: &Evidence<'_>) -> Result<(Vec<usize>, f64), StageError> {
    let names: Vec<&str> = evidence.texts.iter().map(String::as_str).collect();
    let words = params.words("task", None, &names)?;
    let texts: Vec<usize> = (0..names.len()).filter(|&text| words.iter().any(|w| w == names[text])).collect();
    let tokens = evidence.stats.get(Of::Model, Quantity::TextTokens)?;
    let sum = texts.iter().map(|&text| tokens[text]).sum::<f64>();
    Ok((texts, sum.max(1.0)))
}

fn logits(
    params: &Params,
    top: usize,
    evidence: &Evidence<'_>,
    layer: usize,
) -> Result<Vec<f64>, StageError> {
    let (texts, tokens) = task(params, evidence)?;
    let experts = evidence.tokens(layer)?.len();
    let places = evidence.spec.moe(layer).map_or(0, |moe| moe.routing.top_k);
    if top > places {
        let message = format!("is {top}, but the router of layer {layer} chooses {places} per token");
        return Err(params.error("top", message).into());
    }
    let sums = evidence.stats.get(Of::Layer(layer), Quantity::TextLogits)?;
    let mut scores = vec![0.0; experts];
    for text in texts {
        for of_place in sums[text * places * experts..][..top * experts].chunks_exact(experts) {
            scores.iter_mut().zip(of_place).for_each(|(score, sum)| *score += sum / tokens);
        }
    }
    Ok(scores)
}

fn gates(params: &Params, evidence: &Evidence<'_>, layer: usize) -> Result<Vec<f64>, StageError> {
    let (texts, tokens) = task(params, evidence)?;
    let experts = evidence.tokens(layer)?.len();
    let sums = evidence.stats.get(Of::Layer(layer), Quantity::TextGates)?;
    let mut scores = vec![0.0; experts];
    for text in texts {
        let of_text = &sums[text * experts..][..experts];
        scores.iter_mut().zip(of_text).for_each(|(score, sum)| *score += sum / tokens);
    }
    Ok(scores)
}

#[cfg(test)]
mod tests {
    use crate::evidence::Evidence;
    use crate::toy::{stage, toy};
    use moepress_model::Edit;
    use moepress_stats::{Of, Quantity, Statistics};

    /// Two texts; per text and place the logit sums of four experts, per text their gate sums.
    fn stats() -> Statistics {
        let mut stats = Statistics::default();
        stats.add(Of::Model, Quantity::TextTokens, vec![10.0, 20.0]).unwrap();
        for layer in 0..2 {
            let of = Of::Layer(layer);
            let novel = [[9.0, 0.0, 1.0, 0.0], [0.0, 9.0, 0.0, 0.0]];
            let code = [[0.0, 0.0, 8.0, -2.0], [0.0, 6.0, 0.0, 9.0]];
            stats.add(of, Quantity::Tokens, vec![9.0, 15.0, 15.0, 21.0]).unwrap();
            stats.add(of, Quantity::TextLogits, [novel, code].concat().concat()).unwrap();
            stats.add(of, Quantity::TextGates, vec![9.0, 5.0, 3.0, 3.0, 0.5, 9.0, 2.0, 8.5]).unwrap();
        }
        stats
    }

    fn kept(keys: &str) -> Result<Vec<usize>, String> {
        let (spec, stats) = (toy(), stats());
        let texts = ["novel".to_owned(), "code".to_owned()];
        let evidence = Evidence { texts: &texts, ..Evidence::new(&spec, &stats) };
        let stage = stage(&format!("prune_experts: {{method: tcess, ratio: 0.5, {keys}}}"));
        match &stage.decide(&evidence).map_err(|e| e.to_string())?.edits[0] {
            Edit::KeepExperts { experts, .. } => Ok(experts.clone()),
            other => Err(format!("{other:?}")),
        }
    }

    #[test]
    fn only_the_task_counts() {
        assert_eq!(kept("task: novel").unwrap(), [0, 2]);
        // Scores 0, 0, 8, −2: of equals the lower stays, below zero is the last.
        assert_eq!(kept("task: code").unwrap(), [0, 2]);
        assert_eq!(kept("task: code, top: 2").unwrap(), [2, 3]);
        assert_eq!(kept("task: code, score: gate").unwrap(), [1, 3]);
        assert_eq!(kept("task: [novel, code], score: gate").unwrap(), [1, 3]);
        assert_eq!(kept("task: [novel, code]").unwrap(), [0, 2]);
    }

    #[test]
    fn what_cannot_be_scored_is_refused() {
        let error = kept("task: cod").unwrap_err();
        assert!(error.starts_with("r.yaml:4:") && error.contains("did you mean `code`?"), "{error}");
        assert!(kept("task: code, top: 3").unwrap_err().contains("chooses 2 per token"));
    }
}
