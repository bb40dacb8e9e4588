//! What a recipe may not contain, found before a YAML parser sees it.
//!
//! Anchors, aliases, tags, directives, further documents and text over several lines are YAML that a recipe has
//! no use for, and that turns small files into large or surprising ones. The scanner knows just enough YAML to
//! tell them from the same characters inside words, quotes and comments; quotes end on their line, so that the
//! two can never disagree for long.

use crate::error::shorten;

/// The largest recipe accepted, in bytes.
pub const MAX_BYTES: usize = 64 * 1024;

/// What is wrong, and where: line and column from 1.
#[derive(Debug, PartialEq)]
pub(crate) struct Refused {
    pub(crate) line: usize,
    pub(crate) column: usize,
    pub(crate) message: String,
}

/// Checks text without a byte-order mark.
pub(crate) fn check(text: &str) -> Result<(), Refused> {
    if text.len() > MAX_BYTES {
        let message = format!("a recipe is at most {MAX_BYTES} bytes, this is {}", text.len());
        return Err(Refused { line: 1, column: 1, message });
    }
    let mut scan = Scan::default();
    for (number, line) in text.split('\n').enumerate() {
        let chars: Vec<char> = line.strip_suffix('\r').unwrap_or(line).chars().collect();
        scan.line(&chars).map_err(|(at, message)| Refused { line: number + 1, column: at + 1, message })?;
    }
    Ok(())
}

type Found = (usize, String);

#[derive(Default)]
struct Scan {
    flow: usize,       // open brackets
    word_open: bool,   // the line before ended in an unquoted word
    has_content: bool, // a document has begun
}

impl Scan {
    fn line(&mut self, c: &[char]) -> Result<(), Found> {
        if let Some(at) = c.iter().position(|&c| is_forbidden(c)) {
            return Err((at, format!("character {} is not allowed in a recipe", c[at].escape_unicode())));
        }
        let first = c.iter().position(|c| *c != ' ').unwrap_or(c.len());
        match c.get(first) {
            None | Some('#') => return Ok(()),
            Some('\t') => return Err((first, "a tab indents here; YAML wants spaces".into())),
            Some('%') if first == 0 => return Err((0, "YAML directives are not allowed in a recipe".into())),
            Some(next) if self.flow > 0 && self.word_open && !",]}:".contains(*next) => {
                return Err((first, "unquoted text goes on from the line before; put it on one line".into()));
            }
            _ => {}
        }
        if first == 0 && is_marker(c) {
            if self.has_content || c[0] == '.' {
                return Err((0, "a recipe is one document; remove this marker".into()));
            }
            self.has_content = true;
            return self.tokens(c, 3);
        }
        self.has_content = true;
        self.tokens(c, first)
    }

    fn tokens(&mut self, c: &[char], mut at: usize) -> Result<(), Found> {
        self.word_open = false;
        while let Some(&next) = c.get(at) {
            let spaced = at == 0 || is_blank(c.get(at - 1));
            let found = |what: &str| Err((at, format!("{what} not allowed in a recipe")));
            match next {
                ' ' | '\t' => at += 1,
                '#' if spaced => return Ok(()),
                '\'' | '"' => {
                    at =
                        closing_quote(c, at).ok_or((at, "this quote does not end on its line".to_owned()))?;
                    self.word_open = false;
                }
                '&' => return found("anchors (&name) are"),
                '*' => return found("aliases (*name) are"),
                '!' => return found("tags (!name) are"),
                '|' | '>' if self.flow == 0 => return found("text over several lines (| or >) is"),
                '[' | '{' | ']' | '}' | ',' => {
                    self.flow = match next {
                        '[' | '{' => self.flow + 1,
                        ',' => self.flow,
                        _ => self.flow.saturating_sub(1),
                    };
                    self.word_open = false;
                    at += 1;
                }
                '-' | '?' | ':' if is_blank(c.get(at + 1)) || (next == ':' && self.flow > 0) => {
                    self.word_open = false;
                    at += 1;
                }
                _ => {
                    let end = self.end_of_word(c, at);
                    self.word(&c[at..end], c.get(end) == Some(&':'), at)?;
                    self.word_open = true;
                    at = end;
                }
            }
        }
        Ok(())
    }

    fn end_of_word(&self, c: &[char], start: usize) -> usize {
        let in_flow = |c: char| self.flow > 0 && ",[]{}".contains(c);
        (start + 1..c.len())
            .find(|&at| match c[at] {
                ':' => is_blank(c.get(at + 1)) || c.get(at + 1).is_some_and(|&c| in_flow(c)),
                '#' => is_blank(c.get(at - 1)),
                other => in_flow(other),
            })
            .unwrap_or(c.len())
    }

    fn word(&self, word: &[char], is_key: bool, at: usize) -> Result<(), Found> {
        let word: String = word.iter().collect();
        let word = word.trim_end();
        if is_key && word == "<<" {
            return Err((at, "merge keys (<<) are not allowed in a recipe".into()));
        }
        let digits = word.trim_start_matches(['+', '-']);
        let based = ["0x", "0o", "0b"].iter().find_map(|base| digits.strip_prefix(base));
        if based.is_some_and(|d| !d.is_empty() && d.chars().all(|c| c.is_ascii_hexdigit() || c == '_')) {
            return Err((
                at,
                format!(
                    "`{}` is a number to some and a word to others; write it in decimal, or quote it",
                    shorten(word)
                ),
            ));
        }
        Ok(())
    }
}

fn closing_quote(c: &[char], open: usize) -> Option<usize> {
    let mut at = open + 1;
    while at < c.len() {
        match c[at] {
            '\\' if c[open] == '"' => at += 2,
            '\'' if c[open] == '\'' && c.get(at + 1) == Some(&'\'') => at += 2,
            q if q == c[open] => return Some(at + 1),
            _ => at += 1,
        }
    }
    None
}

/// Control characters, and what YAML but not `str::split` takes for the end of a line.
pub(crate) fn is_forbidden(c: char) -> bool {
    (c.is_control() && c != '\t') || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}')
}

fn is_blank(c: Option<&char>) -> bool {
    c.is_none_or(|c| matches!(c, ' ' | '\t'))
}

fn is_marker(c: &[char]) -> bool {
    matches!(c, ['-', '-', '-', ..] | ['.', '.', '.', ..]) && is_blank(c.get(3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lets_ordinary_recipes_through() {
        for text in [
            "",
            "---\na: 1\n",
            "a: b & c * d ! e # & * !\n# &x *y !z\nb: \"&x \\\" *y\" # it's\nc: '&x '' *y'\n",
            "a: it's\nb: don't\r\n",
            "a: [b, 'c, &d', e-f, 1.5, -3]\n",
            "a: {b: [1,\n  2, # two\n  3\n ], c: x\n}\n",
            "path: ../a-b/c.txt\nurl: a:b\nhex: 0x1g\n- -1\n",
        ] {
            assert_eq!(check(text), Ok(()), "{text}");
        }
    }

    #[test]
    fn refuses_with_the_place() {
        for (text, line, column, part) in [
            ("a: &x 1", 1, 4, "anchors"),
            ("a: 1\nb: [1, *x]", 2, 8, "aliases"),
            ("a: !!python/object 1", 1, 4, "tags"),
            ("- ! x", 1, 3, "tags"),
            ("a:\n  <<: 1", 2, 3, "merge"),
            ("a: {<<: 1}", 1, 5, "merge"),
            ("a: 1\n---\nb: 2", 2, 1, "one document"),
            ("a: 1\n...", 2, 1, "one document"),
            ("%YAML 1.1\n---\na: 1", 1, 1, "directives"),
            ("a:\n\tb: 1", 2, 1, "tab"),
            ("a: |\n  &x", 1, 4, "several lines"),
            ("a: 'b\n  c'", 1, 4, "quote"),
            ("a: [foo\n 'bar, &x y, *x']", 2, 2, "line before"),
            ("a: # b\u{2028}c", 1, 7, "character"),
            ("a: b\rc: d", 1, 5, "character"),
            ("a: 0o7", 1, 4, "decimal"),
            ("a: [-0x1F]", 1, 5, "decimal"),
        ] {
            let refused = check(text).expect_err(text);
            assert_eq!((refused.line, refused.column), (line, column), "{text}: {}", refused.message);
            assert!(refused.message.contains(part), "{text}: {}", refused.message);
        }
        assert!(check(&" ".repeat(MAX_BYTES + 1)).is_err());
    }
}
