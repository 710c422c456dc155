//! Results of finished units of work, in a file that an interrupted evaluation goes on from.
//!
//! The file is JSON Lines. Its first line is `{"asynctls_results":1,"settings":{...}}`: the version of the format, and
//! all that the results depend on. Each further line is `{"key":"...","value":...}`: one unit of work and its result.

mod settings;

use crate::{Error, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::{self, File, TryLockError};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// The results of finished units of work by their keys.
#[derive(Debug)]
pub struct Store {
    results: HashMap<String, Box<RawValue>>,
    journal: Option<Journal>,
}

/// The file behind a store, locked as long as it is open.
#[derive(Debug)]
struct Journal {
    path: PathBuf,
    file: File,
    /// Where its last whole line ends.
    end: u64,
}

/// A line of the file but the first.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<'a> {
    key: Cow<'a, str>,
    #[serde(borrow)]
    value: &'a RawValue,
}

impl Store {
    /// A store that ends with the program.
    pub fn memory() -> Self {
        Self { results: HashMap::new(), journal: None }
    }

    /// Opens a file of results, or begins one.
    ///
    /// A line that a crash cut short is taken away, its unit of work is to be done again. Anything else that is not as
    /// it was written is an error and stays as it is, above all a file with results of other settings and a file
    /// of another kind. Only one store at a time may have a file open.
    pub fn open(path: &Path, settings: &impl Serialize) -> Result<Self> {
        let header = settings::header(settings)?;
        let mut journal = Journal::open(path)?;
        let results = journal.read(&header)?;
        Ok(Self { results, journal: Some(journal) })
    }

    /// The result of a unit of work, if it is finished.
    pub fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>> {
        let Some(raw) = self.results.get(key) else { return Ok(None) };
        serde_json::from_str(raw.get()).map(Some).map_err(|problem| {
            let limit = format!("it should be another kind of value: {problem}");
            Error::argument(self.name(key), raw, limit)
        })
    }

    /// Keeps the result of a unit of work; when this returns, it is on the disk.
    ///
    /// Each unit has one result, and it must read back as it was, which a float that is NaN or infinite does not: a
    /// number that may be missing is an `Option`.
    pub fn put<T>(&mut self, key: &str, value: &T) -> Result<()>
    where
        T: Serialize + DeserializeOwned + PartialEq,
    {
        if let Some(former) = self.results.get(key) {
            let limit = "each unit of work has one result, and this one is finished";
            return Err(Error::argument(self.name(key), format!("already {former}"), limit));
        }
        let raw = to_raw_value(value)
            .ok()
            .filter(|raw| serde_json::from_str(raw.get()).is_ok_and(|read: T| read == *value));
        let raw = raw.ok_or_else(|| {
            let limit = "it must read back from JSON as it was, without NaN or infinity";
            Error::argument(self.name(key), "not what JSON can hold", limit)
        })?;
        if let Some(journal) = &mut self.journal {
            journal.append(&json(&Line { key: key.into(), value: &raw })?)?;
        }
        self.results.insert(key.into(), raw);
        Ok(())
    }

    /// How many units of work are finished.
    pub fn len(&self) -> usize {
        self.results.len()
    }

    /// Whether no unit of work is finished.
    pub fn is_empty(&self) -> bool {
        self.results.is_empty()
    }

    fn name(&self, key: &str) -> String {
        match &self.journal {
            Some(journal) => format!("the result of {key} in {}", journal.path.display()),
            None => format!("the result of {key}"),
        }
    }
}

impl Journal {
    fn open(path: &Path) -> Result<Self> {
        // A pipe, or what else is no file, may never end.
        if fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
            let limit = "results are kept in a file that can be read again";
            return Err(Error::argument(path.display().to_string(), "not a file", limit));
        }
        let unwritable = |source| Error::Write { path: path.to_owned(), source };
        let mut options = File::options();
        let file = options.read(true).write(true).create(true).truncate(false).open(path);
        let file = file.map_err(unwritable)?;
        file.try_lock().map_err(|refused| match refused {
            TryLockError::WouldBlock => {
                let limit = "only one evaluation at a time can add to it; wait for the other, or name another file";
                Error::argument(path.display().to_string(), "in use", limit)
            }
            TryLockError::Error(source) => unwritable(source),
        })?;
        Ok(Self { path: path.to_owned(), file, end: 0 })
    }

    /// Reads all results and makes the file ready for more.
    fn read(&mut self, header: &str) -> Result<HashMap<String, Box<RawValue>>> {
        let Self { path, file, end } = self;
        let unreadable = |source| Error::Io { path: path.clone(), source };
        let mut reader = BufReader::new(&*file);
        let mut line = Vec::new();
        // A file of another kind may have a first line of any length.
        let longest = header.len().max(settings::LONGEST) as u64;
        reader.by_ref().take(longest).read_until(b'\n', &mut line).map_err(unreadable)?;
        if let Some(rest) = header.as_bytes().strip_prefix(&line[..])
            && !rest.is_empty()
        {
            // A new file, or one whose first line a crash cut short.
            *end = line.len() as u64;
            self.append(&header[line.len()..])?;
            return Ok(HashMap::new());
        }
        settings::check(path, &line, header)?;

        let mut results = HashMap::new();
        let mut number = 1;
        loop {
            *end += line.len() as u64;
            line.clear();
            reader.read_until(b'\n', &mut line).map_err(unreadable)?;
            if !line.ends_with(b"\n") {
                break;
            }
            number += 1;
            let malformed = |problem: String| Error::File {
                path: path.clone(),
                offset: *end,
                problem: format!(
                    "line {number} {problem}; mend or delete the line, or name another file"
                ),
            };
            let Line { key, value } =
                serde_json::from_slice(&line[..line.len() - 1]).map_err(|problem| {
                    // The parser sees one line, whose number is not 1.
                    let problem = problem.to_string().replace(" at line 1 column ", " at column ");
                    malformed(format!("is not a key and a value: {problem}"))
                })?;
            if results.contains_key(&*key) {
                return Err(malformed(format!("is a second result of {key}")));
            }
            results.insert(key.into_owned(), value.to_owned());
        }
        if !line.is_empty() {
            let unwritable = |source| Error::Write { path: path.clone(), source };
            file.set_len(*end).map_err(unwritable)?;
        }
        Ok(results)
    }

    /// Writes after the last whole line.
    fn append(&mut self, text: &str) -> Result<()> {
        let Self { path, file, end } = self;
        let mut write = || {
            file.seek(SeekFrom::Start(*end))?;
            file.write_all(text.as_bytes())?;
            file.sync_data()
        };
        if let Err(source) = write() {
            // The part of the line that a full disk took must not stand before the next one.
            let _ = file.set_len(*end);
            return Err(Error::Write { path: path.clone(), source });
        }
        *end += text.len() as u64;
        Ok(())
    }
}

/// A value as a line of JSON.
fn json(value: &impl Serialize) -> Result<String> {
    let text = serde_json::to_string(value).map_err(|problem| {
        Error::argument("a line of results", "not written", format!("it must be JSON: {problem}"))
    })?;
    Ok(text + "\n")
}

#[cfg(test)]
mod tests;
