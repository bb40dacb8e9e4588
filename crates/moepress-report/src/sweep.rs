//! A sweep as table, Markdown and drawing.

mod drawing;
mod page;

use crate::markdown::{escape, section, table};
use crate::tables::Table;
use crate::units::{bytes, count, fixed, percent, seconds};
use moepress_pipeline::{PointReport, SweepReport};

pub use drawing::sweep_svg;
pub use page::sweep_html;

/// What the columns are.
const NOTE: &str = "NLL: increase of the mean negative log-likelihood, nats per token, each text counting the same; predicted: \
    what the stages expected it to be; KL: mean Kullback-Leibler divergence from the original, nats per token. ● is on the \
    Pareto front: no point has as few bytes and as good a value, one of them better.";

/// The sweep as Markdown (CommonMark with tables), the drawing beside it.
pub fn sweep_markdown(report: &SweepReport) -> String {
    let original = report
        .original_nll
        .map_or(String::new(), |nll| format!(", {} nats per token on the evaluation texts", fixed(nll, 4)));
    let mut text = format!(
        "# Sweep of {}\n\nThe original has {} bytes{original}. By moepress {}; measured in {}, everything took {}.\n\n\
         ![Size and quality of all points](sweep.svg)\n",
        escape(&report.model),
        count(report.original.total.bytes),
        report.moepress,
        seconds(report.seconds.measure),
        seconds(report.seconds.total),
    );
    text += &section("Points", &format!("{}\n{NOTE}\n", table(&points(report))));
    text.extend(correlation(report).map(|line| format!("\n{}\n", escape(&line))));
    let failed: String = report.points.iter().filter_map(reason).collect();
    if !failed.is_empty() {
        text += &section("Not possible", &failed);
    }
    let stages = |point: &PointReport| {
        let file = point.report.as_ref().map(|file| format!(" ([report]({file}))")).unwrap_or_default();
        format!("- {}: {}{file}\n", escape(&name(point)), escape(&point.stages.join("; ")))
    };
    text + &section("Stages", &report.points.iter().map(stages).collect::<String>())
}

/// The points for a terminal.
pub fn sweep_summary(report: &SweepReport) -> String {
    let table = points(report);
    let rows: Vec<&Vec<String>> = std::iter::once(&table.head).chain(&table.rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..table.head.len()).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, width))| match column {
            0 | 1 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        format!("{}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
    };
    let mut text: String = rows.into_iter().map(line).collect();
    text.extend(correlation(report).map(|line| format!("\n{line}\n")));
    for point in &report.points {
        if let Some(reason) = &point.failed {
            text += &format!("\n{} is not possible: {reason}\n", name(point));
        }
    }
    // What comes from the user cannot control a terminal.
    text.chars().map(|c| if c.is_control() && c != '\n' { ' ' } else { c }).collect()
}

/// A point to a row; those that were not possible have none.
fn points(report: &SweepReport) -> Table {
    let row = |point: &PointReport| {
        let result = point.result.as_ref()?;
        let mark = |value: f64, best: bool| format!("{}{}", fixed(value, 4), if best { " ●" } else { "  " });
        Some(vec![
            point.method.clone(),
            point.budget.clone().unwrap_or_default(),
            bytes(result.bytes),
            percent(result.share),
            fixed(result.bpw, 2),
            mark(result.nll_increase, result.best_nll),
            result.predicted.map_or_else(|| "-".to_owned(), |predicted| fixed(predicted, 4)),
            mark(result.kld, result.best_kld),
            percent(result.top1),
            seconds(result.seconds),
        ])
    };
    let head = [
        "method",
        "budget",
        "size",
        "of original",
        "bpw",
        "NLL",
        "predicted",
        "KL",
        "same top token",
        "wall time",
    ];
    Table::new(&head, report.points.iter().filter_map(row).collect())
}

fn correlation(report: &SweepReport) -> Option<String> {
    let found = report.rank_correlation?;
    Some(format!(
        "Rank correlation (Spearman) of predicted and measured increase over {} points: {}",
        found.points,
        fixed(found.spearman, 3)
    ))
}

fn reason(point: &PointReport) -> Option<String> {
    Some(format!("- {}: {}\n", escape(&name(point)), escape(point.failed.as_ref()?)))
}

/// Method and budget.
fn name(point: &PointReport) -> String {
    match &point.budget {
        Some(budget) => format!("{} at {budget}", point.method),
        None => point.method.clone(),
    }
}

#[cfg(test)]
mod tests;
