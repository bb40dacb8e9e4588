//! What `moepress inspect` prints for people.

use super::words;
use super::{Compact, Document, Range};
use crate::output;
use moepress_model::Class;

impl std::fmt::Display for Range {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.least == self.most {
            true => write!(f, "{}", self.least),
            false => write!(f, "{}–{}", self.least, self.most),
        }
    }
}

pub fn text(model: &Document<'_>) -> String {
    let facts: Vec<String> =
        facts(model).into_iter().map(|(head, words)| format!("{head:<12}{words}\n")).collect();
    let mut text =
        format!("{}\n{}\n{}", facts.concat(), output::table(&classes(model)), output::table(&formats(model)));
    if let Some(compact) = &model.compact {
        text += &inputs(compact);
    }
    text
}

/// Lines of a word and what there is to say.
fn facts(model: &Document<'_>) -> Vec<(&'static str, String)> {
    let mut facts = vec![
        ("path", model.path.clone()),
        match &model.compact {
            None => ("family", format!("{}, plain checkpoint", model.family)),
            Some(c) => (
                "family",
                format!(
                    "{}, compact checkpoint, format version {}, written by {}",
                    model.family, c.format_version, c.written_by
                ),
            ),
        },
        ("layers", words::layers(model)),
    ];
    if let (Some(experts), Some(rows), Some(top), Some(width)) =
        (model.experts, model.router_rows, model.experts_per_token, model.expert_width)
    {
        let rows = match (rows.least, rows.most) == (experts.least, experts.most) {
            true => String::new(),
            false => format!(" behind {rows} router rows"),
        };
        let more = model.mixtures.first().map_or(String::new(), words::experts);
        facts.push((
            "experts",
            format!("{experts} per layer{rows}, {top} per token, {width} channels wide{more}"),
        ));
    }
    for mixture in &model.mixtures {
        let place = match model.mixtures.len() {
            1 => String::new(),
            _ => format!(" ({})", words::named(&mixture.layers)),
        };
        if let Some(shared) = mixture.shared_expert {
            facts.push(("shared", words::shared(shared) + &place));
        }
        facts.push(("routing", words::routing(mixture.routing) + &place));
    }
    facts.push((
        "widths",
        format!(
            "hidden {}, vocabulary {}{}{}, context {}",
            model.hidden,
            model.vocabulary,
            if model.tied_embeddings { " (head tied)" } else { "" },
            if model.head_bias { " (head with a bias)" } else { "" },
            model.context
        ),
    ));
    facts.push(("attention", words::attention(model)));
    facts.extend(words::windows(model).map(|words| ("window", words)));
    facts.push(("positions", words::positions(&model.attention.rope, model.head_dim)));
    facts.push(("norms", words::norms(model)));
    facts.extend(model.notes.iter().map(|note| ("note", note.clone())));
    facts
}

fn size(head: &str, weights: u64, bytes: u64) -> Vec<String> {
    let bpw = 8.0 * bytes as f64 / weights.max(1) as f64;
    vec![head.to_owned(), weights.to_string(), bytes.to_string(), output::bytes(bytes), format!("{bpw:.3}")]
}

fn heads(first: &str) -> Vec<String> {
    [first, "weights", "bytes", "", "bpw"].map(str::to_owned).to_vec()
}

fn classes(model: &Document<'_>) -> Vec<Vec<String>> {
    let mut rows = vec![heads("class")];
    for class in Class::ALL.map(Class::name) {
        if let Some(found) = model.size.classes.get(class) {
            rows.push(size(class, found.weights, found.bytes));
        }
    }
    rows.push(size("total", model.size.total.weights, model.size.total.bytes));
    rows
}

fn formats(model: &Document<'_>) -> Vec<Vec<String>> {
    let mut rows = vec![heads("format")];
    rows[0].insert(1, "tensors".to_owned());
    for (name, used) in &model.formats {
        let mut row = size(name, used.weights, used.bytes);
        row.insert(1, used.tensors.to_string());
        rows.push(row);
    }
    rows
}

fn inputs(compact: &Compact<'_>) -> String {
    let mut text = "\nmade from (SHA-256)\n".to_owned();
    for (kind, files) in compact.inputs {
        let rows = files.iter().map(|(name, digest)| vec![format!("  {kind} {name}"), digest.clone()]);
        text += &output::table(&rows.collect::<Vec<_>>());
    }
    if compact.verified {
        text += &format!("\nverified: all {} files match their digests\n", compact.files);
    }
    text
}
