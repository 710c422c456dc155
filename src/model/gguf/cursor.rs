//! Reading little-endian fields one after another, with errors that say which field and where.

use std::fmt::{self, Display};
use std::path::Path;

use crate::{Error, Result};

/// The format's own limit on a metadata key; kept for tensor names too, so that no name fills memory or a message.
const LONGEST_NAME: u64 = 65_535;

/// A position in a file's bytes.
pub(super) struct Cursor<'a> {
    path: &'a Path,
    size: usize,
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub(super) fn new(path: &'a Path, bytes: &'a [u8]) -> Self {
        Self { path, size: bytes.len(), rest: bytes }
    }

    /// The size of the whole file.
    pub(super) fn size(&self) -> u64 {
        self.size as u64
    }

    /// The offset in the file of the next byte.
    pub(super) fn at(&self) -> u64 {
        (self.size - self.rest.len()) as u64
    }

    /// How many bytes follow.
    fn left(&self) -> u64 {
        self.rest.len() as u64
    }

    /// The error for a field at `offset`.
    pub(super) fn fail(&self, offset: u64, problem: impl Into<String>) -> Error {
        Error::File { path: self.path.to_owned(), offset, problem: problem.into() }
    }

    /// The next `count` bytes, which hold `what`.
    pub(super) fn take(&mut self, count: usize, what: &dyn Display) -> Result<&'a [u8]> {
        let (taken, rest) =
            self.rest.split_at_checked(count).ok_or_else(|| self.cut(count, what))?;
        self.rest = rest;
        Ok(taken)
    }

    /// The next `N` bytes, for the `from_le_bytes` of the type of that size.
    pub(super) fn array<const N: usize>(&mut self, what: &dyn Display) -> Result<[u8; N]> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or_else(|| self.cut(N, what))?;
        self.rest = rest;
        Ok(*taken)
    }

    pub(super) fn u32(&mut self, what: &dyn Display) -> Result<u32> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, what: &dyn Display) -> Result<u64> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// One byte that must be 0 or 1.
    pub(super) fn bool(&mut self, what: &dyn Display) -> Result<bool> {
        let at = self.at();
        match self.array(what)? {
            [0] => Ok(false),
            [1] => Ok(true),
            [other] => Err(self.fail(at, format!("{what} is {other}, but a bool is 0 or 1"))),
        }
    }

    /// Checks `count`, read at `offset`, against the bytes left: each counted thing takes at least `least` of them.
    ///
    /// This is what makes it safe to allocate for a count before reading what it counts.
    pub(super) fn fits(
        &self,
        offset: u64,
        count: u64,
        least: usize,
        what: &dyn Display,
    ) -> Result<usize> {
        let most = self.rest.len() / least;
        usize::try_from(count).ok().filter(|count| *count <= most).ok_or_else(|| {
            let left = self.left();
            self.fail(
                offset,
                format!("{what} is {count}, but the {left} bytes left hold at most {most}"),
            )
        })
    }

    /// A string: its length in bytes, then UTF-8.
    pub(super) fn string(&mut self, what: &dyn Display) -> Result<&'a str> {
        self.text(u64::MAX, what)
    }

    /// A string that names something, and so is short.
    pub(super) fn name(&mut self, what: &dyn Display) -> Result<&'a str> {
        self.text(LONGEST_NAME, what)
    }

    fn text(&mut self, longest: u64, what: &dyn Display) -> Result<&'a str> {
        let length_at = self.at();
        let count = self.u64(&format_args!("the length of {what}"))?;
        let length = self.fits(length_at, count, 1, &format_args!("the length of {what}"))?;
        if count > longest {
            let problem =
                format!("the length of {what} is {count}, but at most {longest} is allowed");
            return Err(self.fail(length_at, problem));
        }
        let at = self.at();
        let bytes = self.take(length, what)?;
        std::str::from_utf8(bytes).map_err(|error| {
            let good = error.valid_up_to();
            self.fail(at + good as u64, format!("{what} is not UTF-8 after its first {good} bytes"))
        })
    }

    fn cut(&self, count: usize, what: &dyn Display) -> Error {
        let left = self.left();
        self.fail(self.at(), format!("{what} takes {count} bytes, but only {left} are left"))
    }
}

/// A name from the file as messages show it: quoted, control characters escaped, and cut when very long.
pub(super) struct Quoted<'a>(pub(super) &'a str);

impl Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 80;
        match self.0.char_indices().nth(SHOWN) {
            Some((end, _)) => write!(f, "{:?}...", &self.0[..end]),
            None => write!(f, "{:?}", self.0),
        }
    }
}
