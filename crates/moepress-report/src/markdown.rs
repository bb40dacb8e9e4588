//! The report as a text for wikis and pull requests.

use crate::story::story;
use crate::tables::{self, Table};
use crate::units::{bytes, count, fixed};
use moepress_pipeline::Report;

/// The report as Markdown (CommonMark with tables).
pub fn markdown(report: &Report) -> String {
    let mut text = format!("# {}\n\n", escape(&tables::headline(report)));
    let done = if report.command == "run" { "compressed" } else { "evaluated" };
    text += &format!(
        "{} ({}), {done} by moepress {}{}.\n",
        escape(&report.model),
        escape(&report.family),
        report.moepress,
        report.against.iter().map(|against| format!(", beside {}", escape(against))).collect::<String>(),
    );
    for (question, answer) in story(report) {
        text += &format!("\n**{question}** {}\n", escape(&answer));
    }
    if let Some(gates) = tables::gates(report) {
        text += &section("Quality gates", &table(&gates));
    }
    text += &section("Size", &table(&tables::sizes(report)));
    if let Some(comparison) = &report.evaluation {
        let protocol = format!("\n{}.\n", escape(&tables::protocol_in_words(&comparison.sampling)));
        text += &section("Perplexity", &(table(&tables::perplexity(comparison)) + &protocol));
        if let Some(divergence) = tables::divergence(comparison) {
            let heading = "Kullback-Leibler divergence from the original, nats per token";
            text += &section(heading, &table(&divergence));
        }
        text += &section("Evaluated on", &table(&tables::files(&comparison.sampling)));
        text += &section("Speed", &table(&tables::speed(comparison)));
    }
    if let Some(answers) = tables::answers(report) {
        text += &section("Questions", &table(&answers));
    }
    if let Some(drift) = tables::drift(report) {
        text += &section("On the way through the layers", &table(&drift));
    }
    if let Some(losses) = tables::losses(report) {
        text += &section("Predicted and measured loss", &table(&losses));
    }
    text += &section("Stages", &stages(report));
    if !report.layers.is_empty() {
        text += &section("Experts", &table(&tables::experts(report)));
    }
    if let Some(routing) = tables::routing(report) {
        text += &section("Routing", &format!("{}\n{}.\n", table(&routing), tables::ROUTING));
    }
    let listed = |rows: Vec<(&'static str, String)>| -> String {
        rows.iter().map(|(name, value)| format!("- {name}: {}\n", escape(value))).collect()
    };
    let calibration = tables::calibration(report);
    if !calibration.is_empty() {
        text += &section("Calibration", &listed(calibration));
    }
    let resources = table(&tables::phases(report)) + "\n" + &listed(tables::resources(report));
    text += &section("Time and memory", &resources);
    if report.recipe.is_empty() { text } else { text + &section("Recipe", &fenced(&report.recipe)) }
}

fn stages(report: &Report) -> String {
    let mut text: String =
        report.notes.iter().map(|note| format!("Decided for you: {}\n\n", escape(note))).collect();
    for (number, stage) in (1..).zip(&report.stages) {
        let edits = count(stage.edits as u64);
        let (size, bpw) = (bytes(stage.after.total.bytes), fixed(stage.after.bpw, 2));
        text += &format!(
            "{number}. {}: {edits} edits, then {size} at {bpw} bits per weight\n",
            escape(&stage.what)
        );
        text.extend(stage.notes.iter().map(|note| format!("   - decided for you: {}\n", escape(note))));
    }
    if text.is_empty() { "None.\n".to_owned() } else { text }
}

pub(crate) fn section(heading: &str, body: &str) -> String {
    format!("\n## {heading}\n\n{body}")
}

pub(crate) fn table(table: &Table) -> String {
    let line = |cells: &[String]| {
        let cells: Vec<String> = cells.iter().map(|cell| escape(cell)).collect();
        format!("| {} |\n", cells.join(" | "))
    };
    let rule = format!("|---|{}\n", "---:|".repeat(table.head.len().saturating_sub(1)));
    let rows: String = table.rows.iter().chain(&table.total).map(|row| line(row)).collect();
    line(&table.head) + &rule + &rows
}

/// Text as it is: no markup, on one line.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            _ if c.is_control() => out.push(' '),
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '\\' | '`' | '*' | '_' | '[' | ']' | '|' | '#' | '~' | '!' => out.extend(['\\', c]),
            _ => out.push(c),
        }
    }
    out
}

/// A block of code whose fence no line of it can close.
fn fenced(code: &str) -> String {
    let longest = code.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest.max(2) + 1);
    format!("{fence}yaml\n{}\n{fence}\n", code.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;

    #[test]
    fn every_table_has_rows_of_one_length() {
        let text = markdown(&sample::evaluated());
        for block in text.split("\n\n").filter(|block| block.starts_with('|')) {
            let bars: Vec<usize> = block.lines().map(|line| line.matches('|').count()).collect();
            assert!(bars.len() > 2 && bars.iter().all(|n| *n == bars[0]), "{block}");
        }
        for heading in [
            "Size",
            "Perplexity",
            "Kullback",
            "Stages",
            "Experts",
            "Routing",
            "Calibration",
            "Time",
            "Recipe",
        ] {
            assert!(text.contains(&format!("\n## {heading}")), "{heading}");
        }
        assert!(!markdown(&sample::plain()).contains("Perplexity"));
    }

    #[test]
    fn user_text_is_no_markup() {
        assert_eq!(escape("a|b\n<i> *x* `y`"), "a\\|b &lt;i> \\*x\\* \\`y\\`");
        assert_eq!(fenced("a: ````\n"), "`````yaml\na: ````\n`````\n");
        let text = markdown(&sample::hostile());
        assert!(!text.split("## Recipe").next().unwrap().contains("<script"));
    }
}
