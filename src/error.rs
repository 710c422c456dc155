//! The one error type: every variant names the object, the actual value and the limit it broke.

use crate::units::size;
use std::path::PathBuf;

/// Everything that can go wrong, in terms a user of the library or the command line can act on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A value given by the caller is outside what is allowed.
    #[error("{what} is {value}, but {limit}")]
    Argument {
        /// The thing that was given, such as "the number of blocks".
        what: String,
        /// The value that was given.
        value: String,
        /// The values that would have been allowed.
        limit: String,
    },
    /// A file could not be opened or read.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A file could not be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A file's content is malformed.
    #[error("{}: at byte {offset}: {problem}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Where in the file the offending bytes begin.
        offset: u64,
        /// The fault: the object, its value and the limit.
        problem: String,
    },
    /// A well-formed model that this program cannot run, or that contradicts itself.
    #[error("{0}")]
    Model(String),
    /// No adapter fits the request, or more than one does.
    #[error("{0}")]
    Adapter(String),
    /// The adapter lacks a feature or a limit that a kernel needs.
    #[error("adapter {adapter}: {what} is {value}, but {limit}")]
    Unsupported {
        /// The adapter's name.
        adapter: String,
        /// The limit or feature.
        what: String,
        /// The adapter's value.
        value: String,
        /// The value that is needed.
        limit: String,
    },
    /// The device could not hold an allocation.
    #[error(
        "out of memory: {what} {} ({detail}); a shorter context or a smaller model needs less, another adapter may have more",
        needs(*bytes)
    )]
    OutOfMemory {
        /// The thing that was being allocated.
        what: String,
        /// How many bytes it needs; zero where the device did not say.
        bytes: u64,
        /// The device's words.
        detail: String,
    },
    /// The device is gone: a driver reset, an unplugged card or a destroyed device.
    #[error("the GPU device was lost: {0}; run again, or choose another adapter")]
    DeviceLost(String),
    /// No request is taken at present.
    #[error("{0}; try again later")]
    Busy(String),
    /// A shader does not compile; the place is in the original source file.
    #[error("shader {file}:{line}: {message}")]
    Shader {
        /// The file under `shaders/` that holds the offending line.
        file: String,
        /// The line in that file, from 1.
        line: u32,
        /// The compiler's words.
        message: String,
    },
    /// The GPU refused a command: a defect of this program, reported with the driver's words.
    #[error("the GPU refused a command: {0}")]
    Gpu(String),
}

fn needs(bytes: u64) -> String {
    match bytes {
        0 => "needs more than there is".into(),
        bytes => format!("needs {}", size(bytes)),
    }
}

impl Error {
    /// Whether the device may be gone with all that it held: what CPU memory holds of a session can still be saved.
    pub fn is_loss(&self) -> bool {
        matches!(self, Self::DeviceLost(_) | Self::OutOfMemory { .. })
    }

    /// An [`Error::Argument`] from displayable parts.
    pub fn argument(
        what: impl Into<String>,
        value: impl ToString,
        limit: impl Into<String>,
    ) -> Self {
        Self::Argument { what: what.into(), value: value.to_string(), limit: limit.into() }
    }
}

/// The result of everything here that can fail.
pub type Result<T> = std::result::Result<T, Error>;
