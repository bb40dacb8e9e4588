//! Bars from a common zero.

use crate::html::element::escape;

/// A value of the original, where there is one, and of the result, each with the words for it.
pub(in crate::html) struct Pair {
    pub(in crate::html) name: String,
    pub(in crate::html) before: Option<(f64, String)>,
    pub(in crate::html) after: (f64, String),
}

/// Height of one bar, of the name above it, and of the room below, in pixels.
const BAR: usize = 14;
const NAME: usize = 22;
const ROOM: usize = 10;
/// The longest bar in percent; the rest is for its number.
const LONGEST: f64 = 62.0;

/// One or two bars for each pair, on one scale; `labels` say what the two are.
pub(in crate::html) fn pairs(title: &str, labels: [&str; 2], pairs: Vec<Pair>) -> String {
    let two = pairs.iter().any(|pair| pair.before.is_some());
    let values =
        pairs.iter().flat_map(|pair| pair.before.iter().chain([&pair.after])).map(|(value, _)| *value);
    let largest = values.fold(f64::MIN_POSITIVE, f64::max);
    let step = NAME + if two { 2 * BAR + 2 } else { BAR } + ROOM;
    let mut drawing = String::new();
    for (index, pair) in pairs.iter().enumerate() {
        let top = step * index;
        let name = escape(&pair.name);
        drawing += &format!("<text x=\"0\" y=\"{}\" class=\"name\">{name}</text>\n", top + 16);
        let both = pair.before.iter().map(|bar| ("original", labels[0], bar));
        for (which, (class, label, (value, words))) in
            both.chain([("compact", labels[1], &pair.after)]).enumerate()
        {
            let y = top + NAME + which * (BAR + 2);
            let length = LONGEST * value.max(0.0) / largest;
            let (words, label) = (escape(words), escape(label));
            drawing += &format!(
                "<g><title>{name}, {label}: {words}</title>\
                 <rect x=\"0\" y=\"{y}\" width=\"{length:.3}%\" height=\"{BAR}\" rx=\"2\" class=\"{class}\"/>\
                 <text x=\"{length:.3}%\" dx=\"8\" y=\"{}\">{words}</text></g>\n",
                y + BAR - 3,
            );
        }
    }
    let legend = match two {
        false => String::new(),
        true => format!(
            "<p class=\"legend\"><span class=\"key original\"></span>{} <span class=\"key compact\"></span>{}</p>\n",
            escape(labels[0]),
            escape(labels[1])
        ),
    };
    let (title, height) = (escape(title), step * pairs.len());
    format!(
        "{legend}<svg role=\"img\" aria-label=\"{title}\" width=\"100%\" height=\"{height}\">\n\
         <title>{title}</title>\n{drawing}</svg>\n"
    )
}

/// A bar for each name and value, with the words for it.
pub(in crate::html) fn bars(title: &str, rows: Vec<(String, f64, String)>) -> String {
    let pair = |(name, value, words)| Pair { name, before: None, after: (value, words) };
    pairs(title, ["", ""], rows.into_iter().map(pair).collect())
}
