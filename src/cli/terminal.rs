//! Standard output and error: text that streams, one-line errors.

use super::{Failure, Outcome, option_names};
use asynctls::Error;
pub use asynctls::units::size;
use serde::Serialize;
use std::io::{Write, stderr, stdout};

/// Writes to standard output at once.
pub fn print(text: &str) -> Outcome<()> {
    let mut out = stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|source| {
        if source.kind() == std::io::ErrorKind::BrokenPipe {
            Failure::BrokenPipe
        } else {
            unwritable(source)
        }
    })
}

/// The version of the shapes that `docs/json.md` describes: one more where a field goes or means something else.
pub const SCHEMA: u32 = 1;

/// The beginning of every command's object.
#[derive(Serialize)]
struct Tagged<'a, T: Serialize> {
    command: &'a str,
    schema: u32,
    #[serde(flatten)]
    value: &'a T,
}

/// Writes a command's result as one line of JSON to standard output.
pub fn print_json(command: &str, value: &impl Serialize) -> Outcome<()> {
    print(&tagged(command, value)?)
}

/// A command's result as one line of JSON.
pub fn tagged(command: &str, value: &impl Serialize) -> Outcome<String> {
    Ok(format!("{}\n", to_json(&Tagged { command, schema: SCHEMA, value })?))
}

/// A value as JSON.
pub fn to_json(value: &(impl Serialize + ?Sized)) -> Outcome<String> {
    serde_json::to_string(value).map_err(|e| unwritable(e.into()))
}

fn unwritable(source: std::io::Error) -> Failure {
    let limit = format!("the result goes there: {source}");
    Failure::Error(Error::argument("standard output", "not writable", limit))
}

/// Writes a line to standard error; where nobody reads it, nothing is lost.
pub fn note(line: &str) {
    let _ = writeln!(stderr(), "{line}");
}

/// Shows an error in one line.
pub fn error(error: &Error) {
    note(&format!("error: {}", one_line(&option_names::message(error))));
}

/// One line of visible characters: what lists things line by line is joined, and what comes from files cannot command
/// the terminal.
pub fn one_line(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    visible(&lines.join("; ").replace(":; ", ": "))
}

/// The text with control characters spelled out.
pub fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for symbol in text.chars() {
        if symbol.is_control() {
            shown.extend(symbol.escape_default());
        } else {
            shown.push(symbol);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_one_visible_line() {
        assert_eq!(
            one_line("no adapter 9; there are:\n  0  a\n  1  b"),
            "no adapter 9; there are: 0  a; 1  b"
        );
        assert_eq!(one_line("bell \u{7} and \u{1b}[31m"), "bell \\u{7} and \\u{1b}[31m");
    }
}
