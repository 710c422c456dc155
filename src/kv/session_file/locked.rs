//! A file that one process at a time writes, or several read.

use crate::{Error, Result};
use std::fs::{self, File, Metadata, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::ops::Deref;
use std::path::{Path, PathBuf};

#[derive(Debug)]
pub(super) struct Locked {
    pub(super) file: File,
    pub(super) path: PathBuf,
    pub(super) is_shared: bool,
}

impl Locked {
    /// Opens and locks a regular file to write; `failed` makes the error of what the system refuses.
    pub(super) fn open(
        path: &Path,
        options: &OpenOptions,
        failed: impl Fn(io::Error) -> Error,
    ) -> Result<Self> {
        Self::lock(path, options, false, failed)
    }

    /// Opens and locks a regular file to read. Nothing is written to it, so that it may be where nothing can be.
    pub(super) fn shared(path: &Path, failed: impl Fn(io::Error) -> Error) -> Result<Self> {
        Self::lock(path, OpenOptions::new().read(true), true, failed)
    }

    fn lock(
        path: &Path,
        options: &OpenOptions,
        is_shared: bool,
        failed: impl Fn(io::Error) -> Error,
    ) -> Result<Self> {
        // Before opening, which would wait for a pipe's other end.
        if fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
            let limit = "a regular file is needed";
            return Err(refused(path, "a directory, device, pipe or socket", limit));
        }
        let file = options.open(path).map_err(&failed)?;
        let in_use = || refused(path, "in use", "only one process at a time can go on with it");
        match if is_shared { file.try_lock_shared() } else { file.try_lock() } {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(in_use()),
            // Where nothing can be written, who reads needs no lock.
            Err(TryLockError::Error(_)) if is_shared => {}
            // A file system without locks: that two processes do not write is left to the user.
            Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => {}
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        let file = Self { file, path: path.to_owned(), is_shared };
        // One that was replaced by its compacted self before the lock was had is no longer the one of this name.
        let (ours, named) = (file.metadata(), fs::metadata(path));
        if !is_same(&ours.map_err(&failed)?, &named.map_err(&failed)?) {
            return Err(in_use());
        }
        Ok(file)
    }

    /// Fails if the name no longer leads to this file: what is written to it then, nobody finds.
    pub(super) fn check_name(&self) -> Result<()> {
        let failed = |source| Error::Io { path: self.path.clone(), source };
        let is = match fs::metadata(&self.path) {
            Ok(named) if is_same(&self.file.metadata().map_err(failed)?, &named) => return Ok(()),
            Ok(_) => "another file now",
            Err(error) if error.kind() == ErrorKind::NotFound => "gone",
            Err(error) => return Err(failed(error)),
        };
        Err(refused(&self.path, is, "it can be saved only to the file that was opened"))
    }

    /// Gives the file another name, where another one may be.
    pub(super) fn rename(&mut self, to: &Path) -> io::Result<()> {
        fs::rename(&self.path, to)?;
        self.path = to.to_owned();
        Ok(())
    }
}

fn refused(path: &Path, is: &str, limit: &str) -> Error {
    Error::argument(format!("the session {}", path.display()), is, limit)
}

#[cfg(unix)]
fn is_same(a: &Metadata, b: &Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

// A file's identity, which the system tells nowhere else.
#[cfg(not(unix))]
fn is_same(a: &Metadata, b: &Metadata) -> bool {
    a.len() == b.len() && a.created().ok() == b.created().ok()
}

impl Deref for Locked {
    type Target = File;

    fn deref(&self) -> &File {
        &self.file
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        // Closing leaves the lock to a child process that is being started.
        let _ = self.file.unlock();
    }
}
