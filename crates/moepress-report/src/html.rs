//! The report as one page: no script, nothing loaded, light and dark, made to be printed too.

mod charts;
mod element;

use self::charts::{Pair, heat_map, pairs};
use self::element::{definitions, escape, figure, section, table};
use crate::tables;
use crate::units::{bytes, count, fixed, percent, times};
use moepress_pipeline::{Comparison, Report};

const STYLE: &str = include_str!("html/style.css");

/// The report as a self-contained HTML page.
pub fn html(report: &Report) -> String {
    let mut body = header(report) + &sizes(report);
    if let Some(comparison) = &report.evaluation {
        body += &quality(comparison);
    }
    body += &experts(report);
    if let Some(routing) = tables::routing(report) {
        let note = format!("<p class=\"note\">{}.</p>\n", escape(tables::ROUTING));
        body += &section("Routing", &(table(&routing) + &note));
    }
    body += &stages(report);
    body += &calibration(report);
    body += &resources(report);
    body += &section("Recipe", &format!("<pre tabindex=\"0\">{}</pre>", escape(report.recipe.trim_end())));
    let footer = format!("moepress {}, report version {}", escape(report.moepress), report.schema_version);
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{}: {}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n{body}</main>\n\
         <footer>{footer}</footer>\n</body>\n</html>\n",
        escape(base_name(&report.model)),
        escape(&tables::headline(report)),
    )
}

fn header(report: &Report) -> String {
    let (before, after) = (report.before.total, report.after.total);
    let mut tiles = tile(
        &format!("{}×", times(before.bytes as f64, after.bytes as f64)),
        "smaller",
        &format!("{} to {} bytes", count(before.bytes), count(after.bytes)),
    );
    let bpw = format!("from {}", fixed(report.before.bpw, 2));
    tiles += &tile(&fixed(report.after.bpw, 2), "bits per weight", &bpw);
    if let Some(Comparison { original, compact, .. }) = &report.evaluation {
        let [a, b] = [original, compact].map(|e| e.overall.likelihood.perplexity);
        tiles += &tile(
            &crate::units::change(a, b),
            "perplexity",
            &format!("from {} to {}", fixed(a, 2), fixed(b, 2)),
        );
        if let Some(divergence) = compact.overall.divergence {
            let kl = format!("KL divergence {} nats", fixed(divergence.mean, 4));
            tiles += &tile(&percent(divergence.top1_agreement), "same likeliest token", &kl);
        }
    }
    let facts = format!(
        "{} · {} · {} weights left of {}",
        report.model,
        report.family,
        count(after.weights),
        count(before.weights)
    );
    format!(
        "<header>\n<p class=\"kicker\">Compressed with moepress</p>\n<h1>{}</h1>\n<p class=\"headline\">{}</p>\n\
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

fn sizes(report: &Report) -> String {
    let pair = |(name, before, after): (String, moepress_pipeline::SizeOf, moepress_pipeline::SizeOf)| Pair {
        before: (before.bytes as f64, bytes(before.bytes)),
        after: (
            after.bytes as f64,
            format!("{} at {} bits per weight", bytes(after.bytes), fixed(tables::bpw(after), 2)),
        ),
        name,
    };
    let chart =
        pairs("Bytes of every class of tensors", tables::classes(report).into_iter().map(pair).collect());
    let note = "Scales and offsets are counted. MB are 10⁶ bytes.";
    section("Where the bytes are", &(figure(&chart, note) + &table(&tables::sizes(report))))
}

fn quality(comparison: &Comparison) -> String {
    let Comparison { original, compact, .. } = comparison;
    let texts =
        original.texts.iter().zip(&compact.texts).map(|(a, b)| (a.name.as_str(), a.likelihood, b.likelihood));
    let overall = ("all texts", original.overall.likelihood, compact.overall.likelihood);
    let pair = |(name, a, b): (&str, _, _)| (name.to_owned(), a, b);
    let chart = texts.chain([overall]).map(pair).map(|(name, a, b)| Pair {
        before: (a.perplexity, fixed(a.perplexity, 2)),
        after: (
            b.perplexity,
            format!("{} ({})", fixed(b.perplexity, 2), crate::units::change(a.perplexity, b.perplexity)),
        ),
        name,
    });
    let chart = pairs("Perplexity of every text", chart.collect());
    let note = "Perplexity on the evaluation texts of the recipe; lower is better. \
                ± is one standard error, taking tokens as independent.";
    let mut sections =
        section("Perplexity", &(figure(&chart, note) + &table(&tables::perplexity(comparison))));
    if let Some(divergence) = tables::divergence(comparison) {
        let note = "Kullback-Leibler divergence of the next-token distribution from the original's, over the whole \
                    vocabulary, in nats per token: 0 where both predict the same. Top-1 agreement is the share of \
                    tokens where both find the same next token likeliest.";
        sections += &section("Distance from the original", &format!("<p>{note}</p>\n{}", table(&divergence)));
    }
    sections + &section("Speed", &table(&tables::speed(comparison)))
}

fn experts(report: &Report) -> String {
    if report.layers.is_empty() {
        return String::new();
    }
    let note = "One cell is one expert of the original: the fuller its colour, the more of its atoms (intermediate channels) are \
                left; an outline is one that was removed or emptied. A mark below it: no calibration token reached it. \
                Experts that were merged count an equal part of what they share.";
    section(
        "What is left of the experts",
        &(figure(&heat_map(&report.layers), note) + &table(&tables::experts(report))),
    )
}

fn stages(report: &Report) -> String {
    let mut items = String::new();
    for stage in &report.stages {
        let edits = if stage.edits == 1 {
            "1 edit".to_owned()
        } else {
            format!("{} edits", count(stage.edits as u64))
        };
        let (size, bpw) = (bytes(stage.after.total.bytes), fixed(stage.after.bpw, 2));
        items += &format!(
            "<li><p><strong>{}</strong></p>\n<p>{edits}, then {size} at {bpw} bits per weight</p>\n",
            escape(&stage.what)
        );
        items += &decided(&stage.notes);
        items += "</li>\n";
    }
    let list = match items.is_empty() {
        true => "<p>None.</p>\n".to_owned(),
        false => format!("<ol class=\"stages\">\n{items}</ol>\n"),
    };
    section("Stages", &(decided(&report.notes) + &list))
}

/// What was decided for the user, if anything.
fn decided(notes: &[String]) -> String {
    if notes.is_empty() {
        return String::new();
    }
    let notes: String = notes.iter().map(|note| format!("<li>{}</li>\n", escape(note))).collect();
    format!("<p class=\"kicker\">Decided for you</p>\n<ul>\n{notes}</ul>\n")
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
    let tables = [tables::timings(report), tables::memory_use(report)].map(|rows| table(&rows)).concat();
    let threads = format!("<p class=\"note\">On {} threads.</p>\n", count(report.threads as u64));
    section("Time and memory", &format!("<div class=\"columns\">\n{tables}</div>\n{threads}"))
}

/// The last part of a path.
fn base_name(path: &str) -> &str {
    path.trim_end_matches('/').rsplit('/').next().unwrap_or(path)
}

#[cfg(test)]
mod tests;
