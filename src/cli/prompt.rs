//! Where prompts come from.

use asynctls::{Error, Result, utf8};
use std::fs::File;
use std::io::{BufRead, Read};
use std::path::Path;

/// Bytes that a prompt may have: far more than fills any context, and little enough to read into memory.
const MOST: u64 = 64 << 20;

/// A prompt given as an argument.
pub fn from_argument(text: &str) -> Result<String> {
    not_empty("--prompt", text.to_owned())
}

/// A text in a file that this option names, or on standard input for `-`, without the newline that editors put at the end.
pub fn from_file(what: &str, path: &Path) -> Result<String> {
    if is_stdin(path) {
        return from_stdin();
    }
    not_empty(what, without_newline(read_text(what, path)?))
}

/// Whether a file's name stands for standard input.
pub fn is_stdin(path: &Path) -> bool {
    path == Path::new("-")
}

/// A file of text, named by this option.
pub fn read_text(what: &str, path: &Path) -> Result<String> {
    let io = |source| Error::Io { path: path.to_owned(), source };
    let bytes = read(what, File::open(path).map_err(io)?, io)?;
    utf8::text(bytes).map_err(|not| Error::File {
        path: path.to_owned(),
        offset: not.offset as u64,
        problem: format!("{}, but {what} takes UTF-8", not.problem),
    })
}

/// All of standard input.
pub fn from_stdin() -> Result<String> {
    let bytes = read("the prompt on standard input", std::io::stdin().lock(), stdin_error)?;
    not_empty("the prompt on standard input", without_newline(utf8(bytes)?))
}

/// The next line of standard input that is not blank; `None` at the end.
pub fn next_question() -> Result<Option<String>> {
    loop {
        let mut line = Vec::new();
        let mut input = std::io::stdin().lock().take(MOST + 1);
        if input.read_until(b'\n', &mut line).map_err(stdin_error)? == 0 {
            return Ok(None);
        }
        check_length("the question", line.len())?;
        let line = utf8(line)?;
        let question = line.trim_end_matches(['\n', '\r']);
        if !question.trim().is_empty() {
            return Ok(Some(question.to_owned()));
        }
    }
}

fn read(what: &str, input: impl Read, io: impl Fn(std::io::Error) -> Error) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    input.take(MOST + 1).read_to_end(&mut bytes).map_err(io)?;
    check_length(what, bytes.len())?;
    Ok(bytes)
}

fn check_length(what: &str, bytes: usize) -> Result<()> {
    if bytes as u64 > MOST {
        return Err(Error::argument(
            what,
            format!("more than {MOST} bytes"),
            "that is more than a context holds",
        ));
    }
    Ok(())
}

fn stdin_error(source: std::io::Error) -> Error {
    Error::Io { path: "standard input".into(), source }
}

fn utf8(bytes: Vec<u8>) -> Result<String> {
    utf8::text(bytes).map_err(|not| {
        let limit = format!("{}, at byte {}, where UTF-8 is needed", not.problem, not.offset);
        Error::argument("standard input", "no text", limit)
    })
}

fn without_newline(mut text: String) -> String {
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    text
}

fn not_empty(what: &str, text: String) -> Result<String> {
    if text.is_empty() {
        return Err(Error::argument(what, "empty", "at least one character is needed"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_newline_at_the_end_goes() {
        for (text, kept) in [("a\n\n", "a\n"), ("a\r\n", "a"), ("a ", "a "), ("\na", "\na")] {
            assert_eq!(without_newline(text.into()), kept);
        }
    }
}
