//! What `--batch` writes: a JSON object a line, after those that are there already.

use super::lines::Line;
use crate::cli::report::Finish;
use crate::cli::terminal::note;
use asynctls::{Error, Result};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// What came of a line.
#[derive(Debug, Serialize)]
pub struct Answered {
    /// The line's number.
    pub line: usize,
    /// Its name.
    pub id: Value,
    /// What was made of it.
    #[serde(flatten)]
    pub made: Made,
}

/// An answer, or why there is none.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum Made {
    /// An answer.
    Answer {
        /// The text.
        text: String,
        /// Its token ids.
        tokens: Vec<u32>,
        /// Why it ended.
        finish: Finish,
        /// Tokens of the prompt.
        prompt_tokens: u32,
        /// Of these, those that were there already.
        reused_tokens: u32,
        /// The seed of its draws, if there were any.
        #[serde(skip_serializing_if = "Option::is_none")]
        seed: Option<u64>,
    },
    /// Why there is none.
    Failed {
        /// In a line.
        error: String,
    },
}

/// What is read of a result.
#[derive(Deserialize)]
struct There {
    line: usize,
    id: Value,
    error: Option<IgnoredAny>,
}

/// The file, with which nobody else works.
pub struct Results {
    path: PathBuf,
    file: File,
    /// Results that were there and tell of a failure.
    pub failed: usize,
}

impl Results {
    /// Opens the file, cuts off a last line that is half written, and tells how many of the first lines it has results of.
    ///
    /// # Errors
    /// For a file that has something else in it, and one that another process writes.
    pub fn open(path: &Path, lines: &[Line]) -> Result<(Self, usize)> {
        let write = |source| Error::Write { path: path.to_owned(), source };
        let is_special = std::fs::metadata(path).is_ok_and(|there| !there.is_file());
        if is_special {
            let limit = "a run goes on in it, so it must be a file";
            return Err(Error::argument("--out", path.display(), limit));
        }
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).open(path);
        let mut file = file.map_err(write)?;
        if let Err(std::fs::TryLockError::WouldBlock) = file.try_lock() {
            let limit = "another run writes to it";
            return Err(Error::argument("--out", path.display(), limit));
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)
            .map_err(|source| Error::Io { path: path.to_owned(), source })?;
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
        let (there, half) = bytes.split_at(whole);
        let (done, failed) = check(path, there, half, lines)?;
        if !half.is_empty() {
            note(&format!(
                "note: the last line of {} is half written, and done again",
                path.display()
            ));
        }
        file.set_len(whole as u64).map_err(write)?;
        file.seek(SeekFrom::End(0)).map_err(write)?;
        Ok((Self { path: path.to_owned(), file, failed }, done))
    }

    /// Adds a line.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn add(&mut self, result: &Answered) -> Result<()> {
        let write = |source| Error::Write { path: self.path.clone(), source };
        let mut line = serde_json::to_vec(result).map_err(|error| write(error.into()))?;
        line.push(b'\n');
        self.file.write_all(&line).map_err(write)
    }
}

// How many results are there, if they are the first lines', and how many of these tell of a failure.
fn check(path: &Path, there: &[u8], half: &[u8], lines: &[Line]) -> Result<(usize, usize)> {
    let other = |at: usize, why: &str| {
        let limit = format!("line {} of it {why}: name a file that is not there yet", at + 1);
        Error::argument("--out", path.display(), limit)
    };
    let (mut done, mut failed) = (0, 0);
    for (at, text) in there.split_inclusive(|byte| *byte == b'\n').enumerate() {
        let Ok(result) = serde_json::from_slice::<There>(text) else {
            return Err(other(at, "is no result"));
        };
        let is_of = |line: &Line| line.number == result.line && line.id == result.id;
        if !lines.get(at).is_some_and(is_of) {
            return Err(other(at, "is the result of another prompt"));
        }
        done += 1;
        failed += usize::from(result.error.is_some());
    }
    // What is cut off is ours.
    let begins = b"{\"line\":";
    let known = half.len().min(begins.len());
    if half[..known] != begins[..known] {
        return Err(other(done, "is no result"));
    }
    Ok((done, failed))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines() -> Vec<Line> {
        let line = |number: usize, id: &str| {
            let object = serde_json::json!({"id": id, "prompt": "a"});
            let mut line: Line = serde_json::from_value(object).unwrap();
            line.number = number;
            line
        };
        vec![line(1, "a"), line(3, "b")]
    }

    fn failed(line: usize, id: &str) -> Answered {
        Answered { line, id: id.into(), made: Made::Failed { error: "no".into() } }
    }

    #[test]
    fn a_file_goes_on_where_it_ended() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("r");
        let (mut results, done) = Results::open(&path, &lines()).unwrap();
        assert_eq!(done, 0);
        let busy = Results::open(&path, &lines()).err().unwrap().to_string();
        assert!(busy.ends_with("another run writes to it"), "{busy}");
        results.add(&failed(1, "a")).unwrap();
        drop(results);
        let first = std::fs::read_to_string(&path).unwrap();
        assert_eq!(first, "{\"line\":1,\"id\":\"a\",\"error\":\"no\"}\n");
        for half in ["{", "{\"line\":3,\"id\":\"b\",\"te"] {
            std::fs::write(&path, format!("{first}{half}")).unwrap();
            let (results, done) = Results::open(&path, &lines()).unwrap();
            assert_eq!((done, results.failed), (1, 1));
            assert_eq!(std::fs::read_to_string(&path).unwrap(), first);
        }
    }

    #[test]
    fn what_is_something_else_stays_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("r");
        for (text, problem) in [
            ("notes", "line 1 of it is no result"),
            ("{\"line\":1,\"id\":\"a\"}\n\n", "line 2 of it is no result"),
            ("{\"line\":2,\"id\":\"a\"}\n", "line 1 of it is the result of another prompt"),
            ("{\"line\":1,\"id\":\"b\"}\n", "line 1 of it is the result of another prompt"),
            (
                "{\"line\":1,\"id\":\"a\"}\n{\"line\":3,\"id\":\"b\"}\n{\"line\":4,\"id\":\"b\"}\n",
                "line 3 of it is the result of another prompt",
            ),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = Results::open(&path, &lines()).err().unwrap().to_string();
            assert!(error.contains(problem), "{text}: {error}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
        let error = Results::open(folder.path(), &lines()).err().unwrap().to_string();
        assert!(error.contains("must be a file"), "{error}");
    }
}
