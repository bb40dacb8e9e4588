//! What a report comes to, in sentences for someone who has never seen one.

use crate::tables;
use crate::units::{bytes, change, count, fixed, percent, times};
use moepress_eval::{Evaluation, Likelihood};
use moepress_pipeline::{Comparison, Report};

/// The three questions, each with its answer: how much smaller, how much worse and where, what was decided.
pub(crate) fn story(report: &Report) -> Vec<(&'static str, String)> {
    let mut answers = Vec::new();
    if report.before != report.after || report.command == "run" {
        answers.push(("How much smaller?", size(report)));
    }
    if let Some(comparison) = &report.evaluation {
        answers.push((
            if comparison.original.is_some() { "How much worse, and where?" } else { "How good?" },
            { quality(comparison) },
        ));
    }
    if report.command == "run" {
        answers.push(("What was decided?", decisions(report)));
    }
    answers
}

fn size(report: &Report) -> String {
    let (before, after) = (report.before.total, report.after.total);
    let classes = tables::classes(report);
    let saved = |(_, before, after): &(String, _, _)| {
        let (before, after): (&moepress_pipeline::SizeOf, &moepress_pipeline::SizeOf) = (before, after);
        before.bytes.saturating_sub(after.bytes)
    };
    let weights = match before.weights.saturating_sub(after.weights) {
        0 => "All weights are still there, stored in fewer bits".to_owned(),
        fewer => {
            format!("{} of the weights were removed", percent(fewer as f64 / before.weights.max(1) as f64))
        }
    };
    let most = classes.iter().max_by_key(|class| saved(class)).filter(|class| saved(class) > 0);
    let most = most.map_or(String::new(), |class| {
        let share = saved(class) as f64 / before.bytes.saturating_sub(after.bytes).max(1) as f64;
        format!(" {} of what was saved comes from the {}.", percent(share), class.0)
    });
    format!(
        "{} instead of {}: {} times smaller. {weights}; what is left takes {} bits per weight, {} before.{most}",
        bytes(after.bytes),
        bytes(before.bytes),
        times(before.bytes as f64, after.bytes as f64),
        fixed(report.after.bpw, 2),
        fixed(report.before.bpw, 2),
    )
}

fn quality(comparison: &Comparison) -> String {
    let Comparison { original, compact, .. } = comparison;
    let texts = match compact.texts.len() {
        1 => format!("On the text {}", compact.texts[0].name),
        several => format!("Over {several} texts"),
    };
    let b = compact.overall.likelihood.perplexity;
    let Some(original) = original else {
        let nll = compact.overall.likelihood;
        return format!(
            "{texts} the model's perplexity is {} ± {}: it is as unsure of the next token as if it chose among \
             that many.",
            fixed(b, 2),
            fixed(nll.perplexity_stderr, 2)
        );
    };
    let a = original.overall.likelihood.perplexity;
    let mut words = format!(
        "{texts} the perplexity, which is how many tokens the model is in doubt between, went from {} to {} ({}).",
        fixed(a, 2),
        fixed(b, 2),
        change(a, b)
    );
    if let Some([(least, little), (most, much)]) = extremes(original, compact) {
        words += &format!(" It changed least on {least} ({little}) and most on {most} ({much}).");
    }
    if let Some(divergence) = compact.overall.divergence {
        words += &format!(
            " At {} of the {} places it finds the same next token likeliest as the original.",
            percent(divergence.top1_agreement),
            count(compact.overall.by_token.predictions as u64)
        );
    }
    words
}

/// The texts whose perplexity grew least and most, each with its change; none when there is but one.
fn extremes<'a>(original: &Evaluation, compact: &'a Evaluation) -> Option<[(&'a str, String); 2]> {
    let ratio = |(a, b): (&Likelihood, &Likelihood)| b.perplexity / a.perplexity;
    let pairs = original.texts.iter().zip(&compact.texts);
    let mut texts: Vec<_> =
        pairs.map(|(a, b)| (b.name.as_str(), ratio((&a.likelihood, &b.likelihood)))).collect();
    texts.sort_by(|a, b| a.1.total_cmp(&b.1));
    let (first, last) = (texts.first()?, texts.last().filter(|_| texts.len() > 1)?);
    Some([first, last].map(|(name, ratio)| (*name, change(1.0, *ratio))))
}

fn decisions(report: &Report) -> String {
    let stages = match report.stages.len() {
        0 => return "Nothing: the recipe has no stages.".to_owned(),
        1 => "One stage".to_owned(),
        several => format!("{several} stages, one after the other"),
    };
    let steps: Vec<String> = report.stages.iter().map(|stage| explained(&stage.what).to_owned()).collect();
    let notes = report.notes.len() + report.stages.iter().map(|stage| stage.notes.len()).sum::<usize>();
    let notes = match notes {
        0 => "Nothing had to be decided beyond the recipe.".to_owned(),
        1 => "One thing had to be decided beyond the recipe; it is listed below with its stage.".to_owned(),
        several => {
            format!(
                "{several} things had to be decided beyond the recipe; they are listed below with their stages."
            )
        }
    };
    let mut steps: Vec<&str> = steps.iter().map(String::as_str).collect();
    steps.dedup();
    format!("{stages}: {}. {notes}", steps.join(", then "))
}

/// What a stage is for, by the name its line begins with.
pub(crate) fn explained(what: &str) -> &'static str {
    match what.split([' ', ':']).next().unwrap_or_default() {
        "merge_experts" => "experts that do alike are merged into one",
        "prune_experts" => "the experts that matter least are removed",
        "prune_atoms" => "the channels within experts that matter least are removed",
        "assign_bits" => "every matrix is given the precision that the loss can afford",
        "quantize" => "weights are rounded to their precision",
        "compensate" => "what is left is refitted to make up for what was removed",
        "compress" => "what to merge, remove and round is decided together, under one budget",
        _ => "the model is edited",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;

    #[test]
    fn the_questions_of_a_newcomer_are_answered() {
        let story = story(&sample::evaluated());
        let questions: Vec<_> = story.iter().map(|(question, _)| *question).collect();
        assert_eq!(questions, ["How much smaller?", "How much worse, and where?", "What was decided?"]);
        assert!(
            story[0].1.starts_with("3.20 MB instead of 13.4 MB: 4.19 times smaller. 16.4% of the weights")
        );
        assert!(story[0].1.contains("58.0% of what was saved comes from the experts."), "{}", story[0].1);
        assert!(story[1].1.contains("went from 27.94 to 29.52 (+5.7%)"), "{}", story[1].1);
        assert!(story[1].1.contains("At 91.2% of the 6,120 places"), "{}", story[1].1);
        assert!(story[2].1.starts_with("2 stages, one after the other: the channels within experts"));
        let plain = super::story(&sample::plain());
        assert_eq!(plain.len(), 2);
        assert!(
            plain[1].1.ends_with(
                "One thing had to be decided beyond the recipe; it is listed below with its stage."
            )
        );
    }
}
