//! The small text files of a model folder.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

use serde::Deserialize;
#[cfg(feature = "text")]
use serde_json::{Map, Value};

use crate::{Error, Result, utf8};

/// Bytes that a configuration may have; the longest published ones have about a million.
#[cfg(feature = "text")]
const MOST: u64 = 16 << 20;

/// The whole text of a file of at most `most` bytes; `None` if there is no such file.
pub fn text(path: &Path, most: u64) -> Result<Option<String>> {
    let io = |source| Error::Io { path: path.to_owned(), source };
    let file = match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        file => file.map_err(io)?,
    };
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > most {
        return Err(problem(path, format!("it has more than {most} bytes, which is the most")));
    }
    utf8::text(bytes).map(Some).map_err(|error| {
        let utf8::NotText { offset, problem: what } = error;
        problem(path, format!("{what} at byte {offset}, but UTF-8 is needed"))
    })
}

/// A file's JSON, parsed.
pub fn parse<'a, T: Deserialize<'a>>(path: &Path, text: &'a str) -> Result<T> {
    serde_json::from_str(text).map_err(|error| problem(path, error.to_string()))
}

/// A configuration: an object, which is empty if there is no such file.
#[cfg(feature = "text")]
pub fn object(path: &Path) -> Result<Map<String, Value>> {
    text(path, MOST)?.map_or_else(|| Ok(Map::new()), |text| parse(path, &text))
}

/// An error about a file; what parsers say of it can quote all of it.
pub fn problem(path: &Path, problem: impl AsRef<str>) -> Error {
    let problem: String = problem.as_ref().chars().take(500).collect();
    Error::Model(format!("{}: {problem}", path.display()))
}

/// The beginning of a text from a file, which can have any length.
pub fn short(text: &str) -> String {
    text.chars().take(80).collect()
}

/// An error that names the file from which its cause was read.
#[cfg(feature = "text")]
pub fn named(path: &Path, error: Error) -> Error {
    match error {
        Error::Model(message) => problem(path, message),
        other => other,
    }
}
