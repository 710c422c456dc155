//! A file that one process at a time has.

use crate::{Error, Result};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::ops::Deref;
use std::path::Path;

#[derive(Debug)]
pub(super) struct Locked(pub File);

impl Locked {
    /// Opens and locks a regular file; `failed` makes the error of what the system refuses.
    pub(super) fn open(
        path: &Path,
        options: &OpenOptions,
        failed: impl Fn(io::Error) -> Error,
    ) -> Result<Self> {
        let refused = |value, limit| {
            Err(Error::argument(format!("the session {}", path.display()), value, limit))
        };
        let in_use = || refused("in use", "only one process at a time can go on with it");
        // Before opening, which would wait for a pipe's other end.
        if fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
            return refused("a directory, device, pipe or socket", "a regular file is needed");
        }
        let file = options.open(path).map_err(&failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return in_use(),
            // A file system without locks: that two processes do not write is left to the user.
            Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => {}
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        let file = Self(file);
        // One that was replaced by its compacted self before the lock was had is no longer the one of this name.
        let (ours, named) = (file.metadata(), fs::metadata(path));
        if ours.map_err(&failed)?.len() != named.map_err(&failed)?.len() {
            return in_use();
        }
        Ok(file)
    }
}

impl Deref for Locked {
    type Target = File;

    fn deref(&self) -> &File {
        &self.0
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        // Closing leaves the lock to a child process that is being started.
        let _ = self.0.unlock();
    }
}
