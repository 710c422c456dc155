//! The beginning of a session file: what it is, and which model and settings it belongs to.

use super::{ALIGNMENT, SessionFile, padded};
use crate::{Error, Result};
use bytemuck::{Pod, Zeroable};
use std::path::Path;

const MAGIC: [u8; 8] = *b"asyncTLS";
const VERSION: u32 = 1;
/// Bytes that names and values of an identity may have as JSON.
const LARGEST_IDENTITY: usize = 1 << 16;

/// The numbers of a header; the identity as JSON follows them.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct FileStart {
    pub magic: [u8; 8],
    pub version: u32,
    pub identity_bytes: u32,
    pub block_bytes: u64,
    /// Of this with zero here, and the identity.
    pub checksum: u32,
    pub padding: u32,
}

/// The identity of a session: its model and settings.
#[derive(Debug)]
pub(super) struct Header {
    identity: Vec<(String, String)>,
    pub block_bytes: usize,
    /// Where it ends in the file.
    pub end: usize,
}

impl FileStart {
    pub(super) fn sealed(mut self, identity: &[u8]) -> Self {
        self.checksum = 0;
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(bytemuck::bytes_of(&self));
        hasher.update(identity);
        self.checksum = hasher.finalize();
        self
    }
}

impl Header {
    pub(super) fn encode(identity: &[(String, String)], block_bytes: u64) -> Result<Vec<u8>> {
        let json = serde_json::to_vec(identity).expect("strings are valid JSON");
        if json.len() > LARGEST_IDENTITY {
            return Err(Error::argument(
                "the description of a session's model and settings",
                format!("{} bytes", json.len()),
                format!("at most {LARGEST_IDENTITY} are allowed"),
            ));
        }
        if block_bytes == 0 || checked_block_bytes(block_bytes).is_none() {
            return Err(Error::argument(
                "the size of a session's block",
                format!("{block_bytes} bytes"),
                format!("it must be from 1 to {}", isize::MAX as usize - ALIGNMENT),
            ));
        }
        let start = FileStart {
            magic: MAGIC,
            version: VERSION,
            identity_bytes: json.len() as u32,
            block_bytes,
            checksum: 0,
            padding: 0,
        };
        let mut bytes = bytemuck::bytes_of(&start.sealed(&json)).to_vec();
        bytes.extend(json);
        bytes.resize(padded(bytes.len()), 0);
        Ok(bytes)
    }

    pub(super) fn read(path: &Path, file: &[u8]) -> Result<Self> {
        let error = |offset: usize, problem: String| Error::File {
            path: path.to_owned(),
            offset: offset as u64,
            problem,
        };
        if file.is_empty() {
            return Err(error(0, "the file is empty, but a session is needed".into()));
        }
        let magic = &file[..file.len().min(MAGIC.len())];
        if magic != MAGIC {
            return Err(error(
                0,
                format!(
                    "this begins with \"{}\", but a session begins with \"{}\"",
                    magic.escape_ascii(),
                    MAGIC.escape_ascii()
                ),
            ));
        }
        let cut = || error(file.len(), "the file ends within the header of a session".into());
        let start = file.get(..size_of::<FileStart>()).ok_or_else(cut)?;
        let start: FileStart = bytemuck::pod_read_unaligned(start);
        if start.version != VERSION {
            let wrote = match start.version {
                turned if turned.swap_bytes() == VERSION => "a machine of the other byte order",
                version => writer(version < VERSION),
            };
            let what = "the format of the file";
            return Err(error(MAGIC.len(), of_other(what, start.version, VERSION, wrote)));
        }
        let identity_bytes = start.identity_bytes as usize;
        if identity_bytes > LARGEST_IDENTITY {
            return Err(error(
                std::mem::offset_of!(FileStart, identity_bytes),
                format!(
                    "the session's description has {identity_bytes} bytes, but at most {LARGEST_IDENTITY} are allowed"
                ),
            ));
        }
        let from = size_of::<FileStart>();
        let end = padded(from + identity_bytes);
        let identity = &file.get(..end).ok_or_else(cut)?[from..from + identity_bytes];
        let found = start.sealed(identity).checksum;
        if found != start.checksum {
            return Err(error(
                0,
                format!(
                    "the session's header is damaged: its checksum is {found:08x}, but {:08x} was written",
                    start.checksum
                ),
            ));
        }
        let identity = serde_json::from_slice(identity)
            .map_err(|json| error(from, format!("the session's description is no list: {json}")))?;
        let block_bytes = checked_block_bytes(start.block_bytes).ok_or_else(|| {
            error(
                std::mem::offset_of!(FileStart, block_bytes),
                format!("a block has {} bytes, which no file can hold", start.block_bytes),
            )
        })?;
        Ok(Self { identity, block_bytes, end })
    }

    /// Fails at the first field in which this is not a session of what is given.
    pub(super) fn expect(
        &self,
        path: &Path,
        identity: &[(String, String)],
        block_bytes: u64,
    ) -> Result<()> {
        let differs = |name: &str, theirs: &str, ours: &str| {
            Error::argument(
                format!("{name} of the session {}", path.display()),
                theirs,
                format!("it would have to be {ours}"),
            )
        };
        for (name, ours) in identity {
            let theirs = value(&self.identity, name).unwrap_or("not given");
            if theirs != ours {
                let versions = [theirs, ours].map(str::parse::<u32>);
                if let ([Ok(theirs), Ok(ours)], SessionFile::FORMAT) = (versions, name.as_str()) {
                    let offset = size_of::<FileStart>() as u64;
                    let problem = of_other(name, theirs, ours, writer(theirs < ours));
                    return Err(Error::File { path: path.to_owned(), offset, problem });
                }
                return Err(differs(name, theirs, ours));
            }
        }
        for (name, theirs) in &self.identity {
            if value(identity, name).is_none() {
                return Err(differs(name, theirs, "absent"));
            }
        }
        if self.block_bytes as u64 != block_bytes {
            let (theirs, ours) = (self.block_bytes.to_string(), block_bytes.to_string());
            return Err(differs("bytes of a block", &theirs, &ours));
        }
        Ok(())
    }
}

fn writer(is_older: bool) -> &'static str {
    if is_older { "an older version of this program" } else { "a newer version of this program" }
}

/// Why a session cannot be read that is whole.
fn of_other(what: &str, theirs: u32, ours: u32, wrote: &str) -> String {
    format!(
        "{what} is {theirs}, as {wrote} writes it, and this one reads {ours}; the file is left as it is: go on with it \
         there, or begin another session"
    )
}

fn value<'a>(identity: &'a [(String, String)], name: &str) -> Option<&'a str> {
    identity.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
}

fn checked_block_bytes(bytes: u64) -> Option<usize> {
    let bytes = usize::try_from(bytes).ok()?;
    (bytes <= isize::MAX as usize - ALIGNMENT).then_some(bytes)
}
