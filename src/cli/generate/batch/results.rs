//! What `--batch` writes: a JSON object a line, in the order of the prompts, after those that are there already. Results whose turn
//! has not come stand in a file beside until it has: whenever a run is cut off, nothing that was answered is lost.

use super::lines::Line;
use crate::cli::report::Finish;
use crate::cli::terminal::note;
use asynctls::{Error, Result};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
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
    /// CRC-32 of its text.
    pub checksum: String,
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
    // Earlier builds wrote none.
    checksum: Option<String>,
    error: Option<IgnoredAny>,
}

impl There {
    fn is_of(&self, line: &Line) -> bool {
        let is_same = self.checksum.as_ref().is_none_or(|checksum| *checksum == line.checksum);
        line.number == self.line && line.id == self.id && is_same
    }
}

/// The file, with which nobody else works.
pub struct Results {
    out: Lines,
    /// Lines whose results are in it, the first ones.
    written: usize,
    /// Results of lines that follow others without; they are in the file beside.
    early: BTreeMap<usize, Vec<u8>>,
    beside: PathBuf,
    /// That file, while it is needed.
    waiting: Option<Lines>,
    /// Results that were there and tell of a failure.
    pub failed: usize,
}

impl Results {
    /// Opens the file, and the one beside it where there is one. A last line that is half written is cut off.
    ///
    /// # Errors
    /// For a file that has something else in it, and one that another process writes.
    pub fn open(path: &Path, lines: &[Line]) -> Result<Self> {
        let is_special = std::fs::metadata(path).is_ok_and(|there| !there.is_file());
        if is_special {
            let limit = "a run goes on in it, so it must be a file";
            return Err(Error::argument("--out", path.display(), limit));
        }
        let (is_new, beside) = (!path.exists(), beside(path));
        if is_new && beside.exists() {
            let limit = format!(
                "{} has results of a run that wrote there, and was cut off: remove it, or name another file",
                beside.display()
            );
            return Err(Error::argument("--out", format!("{}, a new file", path.display()), limit));
        }
        let mut out = Lines::open(path)?;
        if let Err(std::fs::TryLockError::WouldBlock) = out.file.try_lock() {
            let limit = "another run writes to it";
            return Err(Error::argument("--out", path.display(), limit));
        }
        let there = out.read(path, lines)?;
        let (written, mut failed) = (there.found.len(), 0);
        for (at, found) in there.found.iter().enumerate() {
            if found.of != at {
                return Err(other(path, path, at, OF_ANOTHER));
            }
            failed += usize::from(found.has_failed);
        }
        let (mut early, mut waiting) = (BTreeMap::new(), None);
        if beside.exists() {
            let mut lines_beside = Lines::open(&beside)?;
            let there = lines_beside.read(path, lines)?;
            for found in there.found.into_iter().filter(|found| found.of >= written) {
                failed += usize::from(found.has_failed);
                early.insert(found.of, found.line);
            }
            lines_beside.cut(there.whole)?;
            waiting = Some(lines_beside);
        }
        if out.cut(there.whole)? {
            note(&format!(
                "note: the last line of {} is half written, and done again",
                path.display()
            ));
        }
        let mut results = Self { out, written, early, beside, waiting, failed };
        results.write_early()?;
        Ok(results)
    }

    /// Whether there is a result of the line at this place.
    pub fn has(&self, at: usize) -> bool {
        at < self.written || self.early.contains_key(&at)
    }

    /// How many results there are.
    pub fn count(&self) -> usize {
        self.written + self.early.len()
    }

    /// Adds what came of the line at this place.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn add(&mut self, at: usize, result: &Answered) -> Result<()> {
        let write = |source| Error::Write { path: self.out.path.clone(), source };
        let mut line = serde_json::to_vec(result).map_err(|error| write(error.into()))?;
        line.push(b'\n');
        if at != self.written {
            let waiting = match &mut self.waiting {
                Some(waiting) => waiting,
                none => none.insert(Lines::open(&self.beside)?),
            };
            waiting.add(&line)?;
        }
        self.early.insert(at, line);
        self.write_early()
    }

    // Writes those whose turn has come.
    fn write_early(&mut self) -> Result<()> {
        while let Some(line) = self.early.remove(&self.written) {
            self.out.add(&line)?;
            self.written += 1;
        }
        if self.early.is_empty()
            && let Some(Lines { path, file }) = self.waiting.take()
        {
            drop(file);
            return std::fs::remove_file(&path).map_err(|source| Error::Write { path, source });
        }
        Ok(())
    }
}

/// A file of results.
struct Lines {
    path: PathBuf,
    file: File,
}

/// What is in one.
struct Content {
    found: Vec<Found>,
    /// Bytes of whole lines.
    whole: u64,
}

/// A result that is there.
struct Found {
    /// The place of its line.
    of: usize,
    line: Vec<u8>,
    has_failed: bool,
}

impl Lines {
    fn open(path: &Path) -> Result<Self> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).open(path);
        let path = path.to_owned();
        match file {
            Ok(file) => Ok(Self { path, file }),
            Err(source) => Err(Error::Write { path, source }),
        }
    }

    // The results of these lines, where `out` is what the user named.
    fn read(&mut self, out: &Path, lines: &[Line]) -> Result<Content> {
        let mut bytes = Vec::new();
        let read = self.file.read_to_end(&mut bytes);
        read.map_err(|source| Error::Io { path: self.path.clone(), source })?;
        let other = |at: usize, why: &str| other(out, &self.path, at, why);
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
        let (there, half) = bytes.split_at(whole);
        let mut found = Vec::new();
        for (at, line) in there.split_inclusive(|byte| *byte == b'\n').enumerate() {
            let Ok(result) = serde_json::from_slice::<There>(line) else {
                return Err(other(at, "is no result"));
            };
            let of = lines.binary_search_by_key(&result.line, |line| line.number);
            let Some(of) = of.ok().filter(|of| result.is_of(&lines[*of])) else {
                return Err(other(at, OF_ANOTHER));
            };
            found.push(Found { of, line: line.to_vec(), has_failed: result.error.is_some() });
        }
        // What is cut off is ours.
        let begins = b"{\"line\":";
        let known = half.len().min(begins.len());
        if half[..known] != begins[..known] {
            return Err(other(found.len(), "is no result"));
        }
        Ok(Content { found, whole: whole as u64 })
    }

    // Goes on behind so many bytes; whether there were more.
    fn cut(&mut self, bytes: u64) -> Result<bool> {
        let write = |source| Error::Write { path: self.path.clone(), source };
        let end = self.file.seek(SeekFrom::End(0)).map_err(write)?;
        self.file.set_len(bytes).map_err(write)?;
        self.file.seek(SeekFrom::Start(bytes)).map_err(write)?;
        Ok(end > bytes)
    }

    fn add(&mut self, line: &[u8]) -> Result<()> {
        let written = self.file.write_all(line);
        written.map_err(|source| Error::Write { path: self.path.clone(), source })
    }
}

const OF_ANOTHER: &str = "is the result of another prompt";

fn other(out: &Path, path: &Path, at: usize, why: &str) -> Error {
    let whose = if path == out { "it".into() } else { path.display().to_string() };
    let limit = format!("line {} of {whose} {why}: name a file that is not there yet", at + 1);
    Error::argument("--out", out.display(), limit)
}

// Where results are whose turn has not come.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".early");
    path.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines() -> Vec<Line> {
        let line = |number: usize, id: &str| {
            let object = serde_json::json!({"id": id, "prompt": "a"});
            let mut line: Line = serde_json::from_value(object).unwrap();
            (line.number, line.checksum) = (number, format!("of {id}"));
            line
        };
        vec![line(1, "a"), line(3, "b"), line(4, "c"), line(5, "d")]
    }

    fn failed(line: usize, id: &str) -> Answered {
        let checksum = format!("of {id}");
        Answered { line, id: id.into(), checksum, made: Made::Failed { error: "no".into() } }
    }

    #[test]
    fn a_file_goes_on_where_it_ended() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("r");
        let mut results = Results::open(&path, &lines()).unwrap();
        assert_eq!(results.count(), 0);
        let busy = Results::open(&path, &lines()).err().unwrap().to_string();
        assert!(busy.ends_with("another run writes to it"), "{busy}");
        results.add(0, &failed(1, "a")).unwrap();
        drop(results);
        let first = std::fs::read_to_string(&path).unwrap();
        assert_eq!(first, "{\"line\":1,\"id\":\"a\",\"checksum\":\"of a\",\"error\":\"no\"}\n");
        for half in ["{", "{\"line\":3,\"id\":\"b\",\"te"] {
            std::fs::write(&path, format!("{first}{half}")).unwrap();
            let results = Results::open(&path, &lines()).unwrap();
            assert_eq!((results.count(), results.failed), (1, 1));
            assert_eq!(std::fs::read_to_string(&path).unwrap(), first);
        }
    }

    #[test]
    fn results_wait_for_their_turn_in_a_file_beside() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("r");
        let beside = folder.path().join("r.early");
        let mut results = Results::open(&path, &lines()).unwrap();
        results.add(2, &failed(4, "c")).unwrap();
        results.add(1, &failed(3, "b")).unwrap();
        assert!(!results.has(0) && results.has(1) && results.has(2) && !results.has(3));
        // Killed, in the middle of a line.
        drop(results);
        let mut file = OpenOptions::new().append(true).open(&beside).unwrap();
        file.write_all(b"{\"line\":5,").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "");
        let mut results = Results::open(&path, &lines()).unwrap();
        assert_eq!((results.count(), results.failed), (2, 2));
        assert!(!results.has(0) && results.has(1) && results.has(2) && !results.has(3));
        results.add(3, &failed(5, "d")).unwrap();
        drop(results);
        let mut results = Results::open(&path, &lines()).unwrap();
        assert_eq!(results.count(), 3);
        results.add(0, &failed(1, "a")).unwrap();
        assert!(!beside.exists());
        drop(results);
        let whole = std::fs::read_to_string(&path).unwrap();
        let ids: Vec<char> = whole.lines().map(|line| line.as_bytes()[16] as char).collect();
        assert_eq!(ids, ['a', 'b', 'c', 'd'], "{whole}");
        // Killed between the two files: what stands in both counts once.
        let (first, rest) = whole.split_at(whole.len() / 2);
        std::fs::write(&path, first).unwrap();
        std::fs::write(&beside, whole.lines().nth(1).unwrap().to_owned() + "\n" + rest).unwrap();
        let results = Results::open(&path, &lines()).unwrap();
        assert_eq!((results.count(), results.failed, beside.exists()), (4, 4, false));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), whole);
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
            ("{\"line\":3,\"id\":\"b\"}\n", "line 1 of it is the result of another prompt"),
            (
                "{\"line\":1,\"id\":\"a\",\"checksum\":\"of b\"}\n",
                "line 1 of it is the result of another prompt",
            ),
            (
                "{\"line\":1,\"id\":\"a\"}\n{\"line\":3,\"id\":\"b\"}\n{\"line\":9,\"id\":\"b\"}\n",
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
        let (path, beside) = (folder.path().join("s"), folder.path().join("s.early"));
        std::fs::write(&beside, "notes\n").unwrap();
        // Who removed the results wants them anew.
        let error = Results::open(&path, &lines()).err().unwrap().to_string();
        assert!(error.contains("s.early has results of a run that wrote there"), "{error}");
        assert!(!path.exists());
        std::fs::write(&path, "").unwrap();
        let error = Results::open(&path, &lines()).err().unwrap().to_string();
        assert!(error.contains("s.early is no result"), "{error}");
        assert_eq!(std::fs::read_to_string(&beside).unwrap(), "notes\n");
    }
}
