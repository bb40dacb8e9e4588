//! The one table at the end of a run.

use crate::tables;
use crate::units::{bytes, change, count, fixed, percent, times};
use moepress_pipeline::{Comparison, Report};
use std::path::Path;

/// Columns of the names of rows.
const NAME: usize = 40;
/// Columns of a number.
const NUMBER: usize = 15;

/// What the run came to, as plain text of at most 100 columns (paths, which a reader wants to copy, are
/// never shortened). `out` is the directory of the compact checkpoint.
pub fn summary(report: &Report, out: &Path) -> String {
    let mut text = row("", ["original", "compact", "change"]);
    let (before, after) = (report.before.total, report.after.total);
    let smaller = format!("{}x smaller", times(before.bytes as f64, after.bytes as f64));
    text += &row("size", [&bytes(before.bytes), &bytes(after.bytes), &smaller]);
    text += &row(
        "bytes",
        [count(before.bytes), count(after.bytes), change(before.bytes as f64, after.bytes as f64)],
    );
    text += &row(
        "weights",
        [count(before.weights), count(after.weights), change(before.weights as f64, after.weights as f64)],
    );
    let [a, b] = [report.before.bpw, report.after.bpw];
    text += &row("bits per weight", [fixed(a, 2), fixed(b, 2), change(a, b)]);
    if let Some(comparison) = &report.evaluation {
        text += &quality(comparison);
        text += &speed(comparison);
    }
    text += &format!("\ncompact checkpoint  {}\n", plain(&out.display().to_string()));
    text += &format!("report              {}\n", plain(&out.join("report.html").display().to_string()));
    text
}

fn quality(comparison: &Comparison) -> String {
    let Comparison { original, compact, .. } = comparison;
    let mut text = "\nperplexity (lower is better)\n".to_owned();
    for (name, a, b) in tables::beside(original.as_ref(), compact) {
        let b = b.perplexity;
        text += &match a {
            Some(a) => {
                row(&format!("  {name}"), [fixed(a.perplexity, 2), fixed(b, 2), change(a.perplexity, b)])
            }
            None => row(&format!("  {name}"), [String::new(), fixed(b, 2), String::new()]),
        };
    }
    if let Some(divergence) = compact.overall.divergence {
        text += "\npredictions beside the original's\n";
        text += &row("  KL divergence, mean, in nats", ["", &fixed(divergence.mean, 4), ""]);
        text += &row("  same likeliest next token", ["", &percent(divergence.top1_agreement), ""]);
    }
    text
}

fn speed(comparison: &Comparison) -> String {
    let rows = tables::speed(comparison).rows.into_iter();
    let line = |cells: Vec<String>| {
        let ratio = if cells[3] == "-" { String::new() } else { format!("{}x", cells[3]) };
        row(&format!("  {}", cells[0]), [&cells[1], &cells[2], &ratio])
    };
    format!("\ntokens per second\n{}", rows.map(line).collect::<String>())
}

fn row(name: &str, numbers: [impl AsRef<str>; 3]) -> String {
    let numbers: String = numbers.iter().map(|number| format!("{:>NUMBER$}", number.as_ref())).collect();
    let line = format!("{:<NAME$}{numbers}", shortened(name));
    format!("{}\n", line.trim_end())
}

/// A name that fits its column.
fn shortened(name: &str) -> String {
    let name = plain(name);
    match name.chars().count() < NAME {
        true => name,
        false => name.chars().take(NAME - 4).chain("...".chars()).collect(),
    }
}

/// Text without what would move the cursor or change colours.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;

    #[test]
    fn all_rows_within_a_hundred_columns() {
        let text = summary(&sample::evaluated(), Path::new("out/demo"));
        let rows = [
            "size  ",
            "bytes  ",
            "weights  ",
            "bits per weight  ",
            "  novel  ",
            "  all texts  ",
            "  KL divergence, mean",
            "  same likeliest next token",
            "  decoding one sequence",
            "  scoring texts",
            "4.19x smaller",
            "+5.7%",
            "compact checkpoint  out/demo\n",
            "report              out/demo/report.html\n",
        ];
        for row in rows {
            assert!(text.contains(row), "{row:?} is not in\n{text}");
        }
        assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
        assert!(text.is_ascii());
    }

    #[test]
    fn without_evaluation_only_sizes() {
        let text = summary(&sample::plain(), Path::new("out"));
        assert!(text.contains("bits per weight") && !text.contains("perplexity") && !text.contains("second"));
    }

    #[test]
    fn names_do_not_control_the_terminal() {
        let mut report = sample::evaluated();
        for evaluation in
            report.evaluation.iter_mut().flat_map(|c| c.original.iter_mut().chain([&mut c.compact]))
        {
            evaluation.texts[0].name = format!("\u{1b}[31m\n{}", "é".repeat(200));
        }
        let text = summary(&report, Path::new("a\u{7}b"));
        assert!(!text.contains('\u{1b}') && text.contains("a?b"));
        assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
    }
}
