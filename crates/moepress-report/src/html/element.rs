//! Text and tables as elements.

use crate::tables::Table;

/// Text as it is, in content and in attributes.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\n' | '\t' => out.push(c),
            _ if c.is_control() => out.push('\u{fffd}'),
            _ => out.push(c),
        }
    }
    out
}

pub(crate) fn section(heading: &str, body: &str) -> String {
    format!("<section>\n<h2>{}</h2>\n{body}</section>\n", escape(heading))
}

pub(crate) fn figure(graphic: &str, caption: &str) -> String {
    format!("<figure>\n{graphic}<figcaption>{}</figcaption>\n</figure>\n", escape(caption))
}

/// What a reader may want to open.
pub(crate) fn folded(summary: &str, body: &str) -> String {
    format!("<details>\n<summary>{}</summary>\n{body}</details>\n", escape(summary))
}

pub(crate) fn definitions(rows: &[(&str, String)]) -> String {
    let rows =
        rows.iter().map(|(name, value)| format!("<dt>{}</dt><dd>{}</dd>\n", escape(name), escape(value)));
    format!("<dl class=\"facts\">\n{}</dl>\n", rows.collect::<String>())
}

/// A table that scrolls by itself where the page is narrow.
pub(crate) fn table(table: &Table) -> String {
    let head: String =
        table.head.iter().map(|cell| format!("<th scope=\"col\">{}</th>", escape(cell))).collect();
    let rows: String = table.rows.iter().map(|cells| row(cells)).collect();
    let total = table.total.iter().map(|cells| format!("<tfoot>\n{}</tfoot>\n", row(cells)));
    format!(
        "<div class=\"scroll\" tabindex=\"0\">\n<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}</tbody>\n{}</table>\n</div>\n",
        total.collect::<String>()
    )
}

fn row(cells: &[String]) -> String {
    let cell = |(index, cell): (usize, &String)| match (index, cell.strip_prefix('-')) {
        (0, _) => format!("<th scope=\"row\">{}</th>", escape(cell)),
        (_, _) if cell == "failed" => "<td class=\"failed\">✗ failed</td>".to_owned(),
        (_, _) if cell == "passed" => "<td class=\"passed\">✓ passed</td>".to_owned(),
        (_, Some("")) => "<td>–</td>".to_owned(),
        // A minus is as wide as a plus.
        (_, Some(number)) => format!("<td>−{}</td>", escape(number)),
        (_, None) => format!("<td>{}</td>", escape(cell)),
    };
    format!("<tr>{}</tr>\n", cells.iter().enumerate().map(cell).collect::<String>())
}
