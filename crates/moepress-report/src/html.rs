//! The report as one page: no script, nothing loaded, light and dark, made to be printed too.

mod charts;
pub(crate) mod element;

use self::charts::{Pair, arcs, bars, heat_maps, histogram, pairs};
use self::element::{definitions, escape, figure, folded, section, table};
use crate::story::{explained, story};
use crate::tables;
use crate::units::{bytes, change, count, fixed, memory, percent, seconds, times};
use moepress_pipeline::{Comparison, Report};

const STYLE: &str = include_str!("html/style.css");

/// Words that a newcomer meets here, and what they mean.
const WORDS: [(&str, &str); 8] = [
    ("expert", "one of many small networks of a layer, of which a router picks a few for every token"),
    (
        "atom",
        "one intermediate channel of an expert: a row of its gate and up matrices with the matching column of down",
    ),
    ("router", "the small matrix of a layer that scores all experts for a token and picks the best"),
    (
        "calibration",
        "running the original on text to measure which parts of it matter, before anything is decided",
    ),
    ("bits per weight", "all bytes of the tensors, scales and offsets included, over the number of weights"),
    (
        "perplexity",
        "exp of the mean surprise per token: how many equally likely tokens would be as hard to guess from",
    ),
    (
        "KL divergence",
        "how far the next-token probabilities are from the original's, in nats per token; 0 where they are the same",
    ),
    ("nat", "the unit of surprise with natural logarithms: 1 nat is 1.44 bits"),
];

/// The report as a self-contained HTML page.
pub fn html(report: &Report) -> String {
    let mut body = header(report) + &answers(report);
    if let Some(gates) = tables::gates(report) {
        let note = "The command fails, with exit code 10, if one of these conditions holds.";
        body += &section("Quality gates", &format!("<p>{note}</p>\n{}", table(&gates)));
    }
    body += &sizes(report);
    if let Some(comparison) = &report.evaluation {
        body += &quality(comparison);
    }
    if let Some(rows) = tables::answers(report) {
        let note = "Questions with known answers: the share of right ones, ± one standard error. flips are the questions \
                    that only one of both models gets right, changed those that they answer differently.";
        body += &section("Questions", &format!("<p>{note}</p>\n{}", table(&rows)));
    }
    body += &experts(report);
    body += &routing(report);
    if let Some(rows) = tables::drift(report) {
        let note = "Both models side by side on the same tokens. Signal to noise is 10 log₁₀(Σ a² / Σ (a − b)²) of the hidden \
                    states after a layer, each model on its own; of the layer alone, of what it adds to the hidden \
                    states of the original. The experts of a token are compared by what became of them.";
        body += &section("On the way through the layers", &format!("<p>{note}</p>\n{}", table(&rows)));
    }
    body += &stages(report);
    body += &losses(report);
    if report.command == "run" {
        body += &calibration(report);
    }
    body += &resources(report);
    if !report.recipe.is_empty() {
        let recipe = format!("<pre tabindex=\"0\">{}</pre>", escape(report.recipe.trim_end()));
        body += &section("Recipe", &recipe);
    }
    let words: Vec<(&str, String)> =
        WORDS.iter().map(|(word, meaning)| (*word, (*meaning).to_owned())).collect();
    body += &section("Words", &definitions(&words));
    let title = format!("{}: {}", base_name(&report.model), tables::headline(report));
    let footer = format!("moepress {}, report version {}", report.moepress, report.schema_version);
    page(&title, &body, &footer)
}

/// A page around a body of elements.
pub(crate) fn page(title: &str, body: &str, footer: &str) -> String {
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n{body}</main>\n\
         <footer>{}</footer>\n</body>\n</html>\n",
        escape(title),
        escape(footer),
    )
}

fn header(report: &Report) -> String {
    let (before, after) = (report.before.total, report.after.total);
    let mut tiles = String::new();
    if report.before != report.after {
        tiles += &tile(
            &format!("{}×", times(before.bytes as f64, after.bytes as f64)),
            "smaller",
            &format!("{} to {} bytes", count(before.bytes), count(after.bytes)),
        );
    }
    tiles += &tile(
        &fixed(report.after.bpw, 2),
        "bits per weight",
        &match report.before == report.after {
            true => format!("{} bytes", count(after.bytes)),
            false => format!("from {}", fixed(report.before.bpw, 2)),
        },
    );
    if let Some(Comparison { original, compact, .. }) = &report.evaluation {
        let b = compact.overall.likelihood.perplexity;
        tiles += &match original.as_ref().map(|original| original.overall.likelihood.perplexity) {
            Some(a) => tile(&change(a, b), "perplexity", &format!("from {} to {}", fixed(a, 2), fixed(b, 2))),
            None => tile(&fixed(b, 2), "perplexity", "the mean over texts"),
        };
        if let Some(divergence) = compact.overall.divergence {
            let kl = format!("KL divergence {} nats", fixed(divergence.mean, 4));
            tiles += &tile(&percent(divergence.top1_agreement), "same likeliest token", &kl);
        }
    }
    let beside = report.against.iter().map(|against| format!(" · beside {against}"));
    let weights = match before.weights == after.weights {
        true => format!("{} weights", count(after.weights)),
        false => format!("{} weights left of {}", count(after.weights), count(before.weights)),
    };
    let facts = format!("{} · {}{} · {weights}", report.model, report.family, beside.collect::<String>());
    let done = if report.command == "run" { "Compressed" } else { "Evaluated" };
    format!(
        "<header>\n<p class=\"kicker\">{done} with moepress</p>\n<h1>{}</h1>\n<p class=\"headline\">{}</p>\n\
         <p class=\"facts\">{}</p>\n<dl class=\"tiles\">\n{tiles}</dl>\n</header>\n",
        escape(base_name(&report.model)),
        escape(&tables::headline(report)),
        escape(&facts),
    )
}

fn tile(value: &str, name: &str, detail: &str) -> String {
    let [value, name, detail] = [value, name, detail].map(escape);
    format!("<div><dt>{name}</dt><dd class=\"value\">{value}</dd><dd>{detail}</dd></div>\n")
}

fn answers(report: &Report) -> String {
    let answers: Vec<String> = story(report)
        .iter()
        .map(|(question, answer)| format!("<div><h3>{question}</h3>\n<p>{}</p></div>\n", escape(answer)))
        .collect();
    format!("<section class=\"answers\">\n{}</section>\n", answers.concat())
}

fn sizes(report: &Report) -> String {
    let compares = report.before != report.after;
    let words = |size: moepress_pipeline::SizeOf| {
        format!("{} at {} bits per weight", bytes(size.bytes), fixed(tables::bpw(size), 2))
    };
    let pair = |(name, before, after): (String, moepress_pipeline::SizeOf, moepress_pipeline::SizeOf)| Pair {
        before: compares.then(|| (before.bytes as f64, bytes(before.bytes))),
        after: (after.bytes as f64, words(after)),
        name,
    };
    let classes = tables::classes(report).into_iter().map(pair).collect();
    let chart = pairs("Bytes of every class of tensors", ["original", "compact"], classes);
    let note = "Scales and offsets are counted. MB are 10⁶ bytes.";
    section("Where the bytes are", &(figure(&chart, note) + &table(&tables::sizes(report))))
}

fn quality(comparison: &Comparison) -> String {
    let Comparison { original, compact, .. } = comparison;
    let pairs_of_texts = tables::beside(original.as_ref(), compact).into_iter().map(|(name, a, b)| {
        let words = match a {
            Some(a) => format!("{} ({})", fixed(b.perplexity, 2), change(a.perplexity, b.perplexity)),
            None => format!("{} ± {}", fixed(b.perplexity, 2), fixed(b.perplexity_stderr, 2)),
        };
        let before = a.map(|a| (a.perplexity, fixed(a.perplexity, 2)));
        Pair { before, after: (b.perplexity, words), name: name.to_owned() }
    });
    let chart = pairs("Perplexity of every text", ["original", "compact"], pairs_of_texts.collect());
    let note = format!(
        "Perplexity on the evaluation texts; lower is better. ± is one standard error, taking tokens as independent. {}.",
        tables::protocol_in_words(&comparison.sampling)
    );
    let files = folded("The files, with their digests", &table(&tables::files(&comparison.sampling)));
    let figures = figure(&chart, &note) + &table(&tables::perplexity(comparison)) + &files;
    let mut sections = section("Perplexity", &figures);
    if let Some(divergence) = tables::divergence(comparison) {
        let overall = &compact.overall;
        let drawn = overall.histogram.as_ref().zip(overall.divergence.as_ref());
        let caption = "Tokens by their divergence, in nats, on a logarithmic scale: the further left, the closer to the \
                       original. The dots below are for orientation: mean divergences that Llama-3-8B has on WikiText-2 in \
                       formats of llama.cpp, as its documentation gives them; another model on another text.";
        let drawn = drawn.map_or_else(String::new, |(h, d)| figure(&histogram(h, d), caption));
        let note = "Kullback-Leibler divergence of the next-token distribution from the original's, over the whole \
                    vocabulary, in nats per token: 0 where both predict the same. Top-1 agreement is the share of \
                    tokens where both find the same next token likeliest. Δp is the change of the probability of the \
                    token that comes.";
        let body = format!("<p>{note}</p>\n{drawn}{}", table(&divergence));
        sections += &section("Distance from the original", &body);
    }
    sections + &section("Speed", &table(&tables::speed(comparison)))
}

fn experts(report: &Report) -> String {
    if report.layers.is_empty() {
        return String::new();
    }
    let note = "One row is one layer, one cell is one expert of the original: the fuller its colour, the more; an outline \
                where there is nothing: an expert that was removed or emptied, or that no calibration token reached. \
                Tokens are calibration tokens, over the mean of their layer. \
                Experts that were merged count an equal part of what they share.";
    section(
        "What is left of the experts",
        &(figure(&heat_maps(&report.layers), note) + &table(&tables::experts(report))),
    )
}

fn routing(report: &Report) -> String {
    let Some(rows) = tables::routing(report) else { return String::new() };
    let experts = report.layers.iter().map(|layer| layer.experts.len()).max().unwrap_or(0);
    let note = "Experts of a layer that the same tokens go to, in the original: the thicker an arc, the larger the share of the \
                tokens of one that also go to the other.";
    let drawn = match report.routing.iter().any(|layer| !layer.pairs.is_empty()) {
        true => figure(&arcs(&report.routing, experts), note),
        false => String::new(),
    };
    let columns = format!("<p class=\"note\">{}.</p>\n", escape(tables::ROUTING));
    section("Routing", &(drawn + &folded("Figures of every layer", &(table(&rows) + &columns))))
}

fn stages(report: &Report) -> String {
    if report.command != "run" {
        return if report.notes.is_empty() {
            String::new()
        } else {
            section("Notes", &decided(&report.notes))
        };
    }
    let mut items = String::new();
    for stage in &report.stages {
        let edits = if stage.edits == 1 {
            "1 edit".to_owned()
        } else {
            format!("{} edits", count(stage.edits as u64))
        };
        let (size, bpw) = (bytes(stage.after.total.bytes), fixed(stage.after.bpw, 2));
        items += &format!(
            "<li><p><strong>{}</strong></p>\n<p>Here {}: {edits}, then {size} at {bpw} bits per weight</p>\n",
            escape(&stage.what),
            explained(&stage.what)
        );
        items += &decided(&stage.notes);
        items += "</li>\n";
    }
    let list = match items.is_empty() {
        true => "<p>None.</p>\n".to_owned(),
        false => format!("<ol class=\"stages\">\n{items}</ol>\n"),
    };
    section("What was done, and what was decided for you", &(decided(&report.notes) + &list))
}

/// What was decided for the user, if anything.
fn decided(notes: &[String]) -> String {
    if notes.is_empty() {
        return String::new();
    }
    let notes: String = notes.iter().map(|note| format!("<li>{}</li>\n", escape(note))).collect();
    format!("<p class=\"kicker\">Decided for you</p>\n<ul>\n{notes}</ul>\n")
}

fn losses(report: &Report) -> String {
    let Some(rows) = tables::losses(report) else { return String::new() };
    let words = |nats: f64| format!("{} nats", fixed(nats, 4));
    let pair = |loss: &moepress_pipeline::LossReport| Pair {
        name: loss.what.clone(),
        before: Some((loss.predicted, words(loss.predicted))),
        after: loss.measured.map_or((0.0, "not measured".to_owned()), |nats| (nats, words(nats))),
    };
    let chart = pairs(
        "Predicted and measured increase of the loss",
        ["predicted", "measured"],
        report.losses.iter().map(pair).collect(),
    );
    let note = "What decisions were taken by, and what came of them: the increase of the negative log-likelihood in nats per \
                token, predicted from the statistics and measured on text.";
    section("Predicted and measured loss", &(figure(&chart, note) + &table(&rows)))
}

fn calibration(report: &Report) -> String {
    match tables::calibration(report) {
        rows if rows.is_empty() => {
            section("Calibration", "<p>Nothing was measured: the recipe did not need it.</p>\n")
        }
        rows => section("Calibration", &definitions(&rows)),
    }
}

fn resources(report: &Report) -> String {
    let bar = |phase: &moepress_pipeline::PhaseReport| {
        let peak = phase.peak_memory_bytes.map_or(String::new(), |peak| format!(", up to {}", memory(peak)));
        (phase.what.clone(), phase.seconds, seconds(phase.seconds) + &peak)
    };
    // Those that take no time are in the other reports.
    let shown = report.phases.iter().filter(|phase| phase.seconds >= report.seconds.total / 500.0);
    let chart = bars("Wall time of every phase", shown.map(bar).collect());
    let note =
        "Wall time of every phase that took any, and the largest resident memory from the start to its end.";
    let figure = if report.phases.is_empty() { String::new() } else { figure(&chart, note) };
    section("Time and memory", &(figure + &definitions(&tables::resources(report))))
}

/// The last part of a path.
pub(crate) fn base_name(path: &str) -> &str {
    path.trim_end_matches('/').rsplit('/').next().unwrap_or(path)
}

#[cfg(test)]
mod tests;
