//! What is printed: results on stdout, everything else on stderr.

use crate::failure::{Failure, Reason};
use serde::Serialize;
use std::io::{self, Write};
use std::ops::ControlFlow;

/// Prints part of a result. Breaks when nobody reads any more, which is no failure.
pub fn piece(text: &str) -> Result<ControlFlow<()>, Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(ControlFlow::Continue(())),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ControlFlow::Break(())),
        Err(error) => {
            let full = error.kind() == io::ErrorKind::StorageFull;
            let reason = if full { Reason::NoSpace } else { Reason::Fault };
            Err(Failure::new(reason, format!("cannot write to stdout: {error}")))
        }
    }
}

/// Prints a result.
pub fn result(text: &str) -> Result<(), Failure> {
    piece(text).map(|_| ())
}

/// Prints a result as one JSON document.
pub fn json(document: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(document)
        .map_err(|e| Failure::new(Reason::Fault, format!("cannot encode the result: {e}")))?;
    result(&(text + "\n"))
}

/// One line about an error.
pub fn error(line: &str) {
    stderr(&format!("error: {line}"));
}

/// One line of progress or a note.
pub fn stderr(line: &str) {
    // There is nowhere left to say that stderr is closed.
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// Rows of cells as lines: the first column to the left, the others to the right.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let cell_width =
        |row: &Vec<String>, column| row.get(column).map_or(0, |cell: &String| cell.chars().count());
    let widths: Vec<usize> =
        (0..columns).map(|c| rows.iter().map(|row| cell_width(row, c)).max().unwrap_or(0)).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| match column {
            0 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        format!("{}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

/// Bytes for people: `512 B`, `3.42 MB`.
pub fn bytes(count: u64) -> String {
    let units = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if count < 1000 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1000.0;
    let mut unit = 0;
    // 999.95 would be printed as 1000.
    while value >= 999.95 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    let decimals = if value < 10.0 { 2 } else { 1 };
    format!("{value:.decimals$} {}", units[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_short() {
        let shown = [0, 999, 1000, 999_949, 999_950, 3_420_000, 12_345_678_901].map(bytes);
        assert_eq!(shown, ["0 B", "999 B", "1.00 kB", "999.9 kB", "1.00 MB", "3.42 MB", "12.3 GB"]);
    }

    #[test]
    fn tables_line_up() {
        let row = |cells: &[&str]| cells.iter().map(|cell| (*cell).to_owned()).collect();
        assert_eq!(
            table(&[row(&["", "bpw"]), row(&["experts", "4"]), row(&["ü"])]),
            "         bpw\nexperts    4\nü\n"
        );
    }
}
