//! What chat templates expect beside Jinja, as transformers defines it.

use super::Capped;
use minijinja::value::{Kwargs, Value};
use minijinja::{Environment, Error, ErrorKind, State};
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};
use std::io::{self, Write};

/// Bytes of JSON that one unit of fuel pays for, as in the library's own filter.
const BYTES_PER_FUEL: usize = 4;
/// Spaces of an indent at most.
const MAX_INDENT: usize = 16;

/// Adds `raise_exception`, `strftime_now` and `tojson`.
pub(super) fn add(environment: &mut Environment<'static>) {
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", strftime_now);
    environment.add_filter("tojson", to_json);
}

fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

/// The date that templates name where they cannot ask for one, 26 July 2024: today's would make every run differ.
fn strftime_now(format: String) -> Result<String, Error> {
    let mut text = String::new();
    let mut letters = format.chars();
    while let Some(letter) = letters.next() {
        if letter != '%' {
            text.push(letter);
            continue;
        }
        text.push_str(match letters.next() {
            Some('a') => "Fri",
            Some('A') => "Friday",
            Some('b') => "Jul",
            Some('B') => "July",
            Some('d') => "26",
            Some('m') => "07",
            Some('y') => "24",
            Some('Y') => "2024",
            Some('j') => "208",
            Some('F') => "2024-07-26",
            Some('H' | 'M' | 'S') => "00",
            Some('I') => "12",
            Some('p') => "AM",
            Some('T') => "00:00:00",
            Some('%') => "%",
            Some('-') => match letters.next() {
                Some('d') => "26",
                Some('m') => "7",
                _ => return Err(unknown(&format)),
            },
            _ => return Err(unknown(&format)),
        });
    }
    Ok(text)
}

fn unknown(format: &str) -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("strftime_now does not know the format {format:?}"))
}

/// Python's `json.dumps` with `ensure_ascii=False`: nothing is escaped for HTML, and spaces follow `,` and `:`.
fn to_json(state: &State, value: Value, options: Kwargs) -> Result<String, Error> {
    let wrong = |what: &str| Error::new(ErrorKind::InvalidOperation, format!("tojson: {what}"));
    let indent: Option<usize> = options.get("indent")?;
    if options.get::<Option<bool>>("ensure_ascii")? == Some(true) {
        return Err(wrong("ensure_ascii=true is not supported"));
    }
    options.assert_all_used()?;
    // Lists share their items, so that a small value may be a text without end.
    let fuel = state.fuel_levels().map_or(0, |(_, left)| left);
    let mut output = Capped { bytes: vec![], limit: (fuel as usize).saturating_mul(BYTES_PER_FUEL) };
    let written = match indent {
        None => value.serialize(&mut Serializer::with_formatter(&mut output, Spaced)),
        Some(indent) if indent > MAX_INDENT => return Err(wrong("indent is above 16")),
        Some(indent) => {
            let spaces = " ".repeat(indent);
            let formatter = PrettyFormatter::with_indent(spaces.as_bytes());
            value.serialize(&mut Serializer::with_formatter(&mut output, formatter))
        }
    };
    written.map_err(
        |error| if error.is_io() { ErrorKind::OutOfFuel.into() } else { wrong(&error.to_string()) },
    )?;
    state.consume_fuel((output.bytes.len() / BYTES_PER_FUEL) as u64)?;
    String::from_utf8(output.bytes).map_err(|error| wrong(&error.to_string()))
}

/// One line, with a space after every `,` and `:`.
struct Spaced;

impl Formatter for Spaced {
    fn begin_array_value<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }
}
