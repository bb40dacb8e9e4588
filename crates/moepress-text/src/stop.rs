//! Strings that end a text.

/// Holds text back while it may be the beginning of a stop string, and ends it where one is complete.
pub struct StopStrings<'a> {
    stops: &'a [String],
    held: String,
}

impl<'a> StopStrings<'a> {
    /// Ends at the first of `stops` to appear; empty ones never do.
    pub fn new(stops: &'a [String]) -> Self {
        Self { stops, held: String::new() }
    }

    /// Adds to the text; returns what can be given out, and whether the text has ended. A stop string and what comes
    /// after it are not given out.
    pub fn push(&mut self, piece: &str) -> (String, bool) {
        self.held.push_str(piece);
        let stops = || self.stops.iter().filter(|stop| !stop.is_empty());
        if let Some(at) = stops().filter_map(|stop| self.held.find(stop.as_str())).min() {
            self.held.truncate(at);
            return (std::mem::take(&mut self.held), true);
        }
        let begins = |at: &usize| stops().any(|stop| stop.starts_with(&self.held[*at..]));
        let at = self.held.char_indices().map(|(at, _)| at).find(begins).unwrap_or(self.held.len());
        let kept = self.held.split_off(at);
        (std::mem::replace(&mut self.held, kept), false)
    }

    /// What is still held back at the end of a text.
    pub fn finish(self) -> String {
        self.held
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes out of pieces, and whether the text ended.
    fn run(stops: &[&str], pieces: &[&str]) -> (String, bool) {
        let stops: Vec<String> = stops.iter().map(|&stop| stop.to_owned()).collect();
        let (mut stop, mut text) = (StopStrings::new(&stops), String::new());
        for piece in pieces {
            let (out, ended) = stop.push(piece);
            text += &out;
            if ended {
                return (text, true);
            }
        }
        (text + &stop.finish(), false)
    }

    #[test]
    fn a_text_ends_before_the_first_stop_string() {
        assert_eq!(run(&["END"], &["one E", "N", "D two"]), ("one ".to_owned(), true));
        assert_eq!(run(&["\n\n", "b\n"], &["a\n", "b\n", "\n"]), ("a\n".to_owned(), true));
        assert_eq!(run(&["ab", "ü"], &["aü", "b"]), ("a".to_owned(), true));
        assert_eq!(run(&["aab"], &["aa", "a", "b"]), ("a".to_owned(), true));
    }

    #[test]
    fn what_only_looks_like_one_is_given_out() {
        assert_eq!(run(&["END"], &["E", "N", "Q E", "N"]), ("ENQ EN".to_owned(), false));
        assert_eq!(run(&[], &["x", "y"]), ("xy".to_owned(), false));
        assert_eq!(run(&[""], &["x"]), ("x".to_owned(), false));
        let stops = ["END".to_owned()];
        let mut stop = StopStrings::new(&stops);
        assert_eq!(stop.push("ab E"), ("ab ".to_owned(), false));
        assert_eq!(stop.push("x"), ("Ex".to_owned(), false));
    }
}
