//! Files that are there whole or not at all.

use crate::{Error, Result};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

/// Makes a file of this content, in place of one that may be there: an error leaves that one as it was.
///
/// # Errors
/// [`Error::Write`] naming the path.
pub fn replace(path: &Path, content: &[u8]) -> Result<()> {
    // The target of a link is replaced, not the link.
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let is_special = fs::metadata(&target).is_ok_and(|metadata| !metadata.is_file());
    let written = match target.file_name() {
        Some(name) if !is_special => {
            let mut hidden = std::ffi::OsString::from(".");
            hidden.push(name);
            hidden.push(format!(".{}", std::process::id()));
            through(&target.with_file_name(hidden), &target, content)
        }
        // A pipe or a terminal takes the content itself; a rename would take its place.
        _ => fs::write(&target, content),
    };
    written.map_err(|source| Error::Write { path: path.to_owned(), source })
}

fn through(beside: &Path, target: &Path, content: &[u8]) -> io::Result<()> {
    let write = || {
        let mut file = File::create(beside)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(beside, target)
    };
    write().inspect_err(|_| {
        let _ = fs::remove_file(beside);
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_file_is_replaced_and_nothing_else_is_left() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.csv");
        for content in ["long content", "short"] {
            replace(&path, content.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
            assert_eq!(names(directory.path()), ["a.csv"]);
        }
    }

    #[test]
    fn errors_name_the_path_and_leave_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("none").join("a.csv");
        for path in [directory.path(), &missing, Path::new("")] {
            let error = replace(path, b"x").unwrap_err().to_string();
            assert!(error.starts_with(&format!("cannot write {}: ", path.display())), "{error}");
        }
        assert!(names(directory.path()).is_empty());
    }

    #[test]
    fn a_failed_rename_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let taken = directory.path().join("taken");
        fs::create_dir(&taken).unwrap();
        assert!(through(&directory.path().join("beside"), &taken, b"x").is_err());
        assert_eq!(names(directory.path()), ["taken"]);
    }

    #[cfg(unix)]
    #[test]
    fn a_link_stays_and_a_device_is_written_to() {
        let directory = tempfile::tempdir().unwrap();
        let (real, link) = (directory.path().join("real"), directory.path().join("link"));
        fs::write(&real, "old").unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        replace(&link, b"new").unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_to_string(&real).unwrap(), "new");

        let device = directory.path().join("device");
        std::os::unix::fs::symlink("/dev/null", &device).unwrap();
        replace(&device, b"new").unwrap();
        assert!(!fs::metadata("/dev/null").unwrap().is_file());
    }
}
