//! A hub of a few files, on this machine: answers as the real one does, except where a test asks for a fault.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

/// What is wrong with answers that carry a file's content.
#[derive(Clone, Copy, PartialEq)]
pub enum Fault {
    None,
    /// Every first one to a client breaks off half way.
    Interrupted,
    /// As above, and what comes then is the whole file, not the rest.
    IgnoresRanges,
    /// None brings a byte.
    Silent,
    /// There are none, though the files are listed.
    Missing,
}

pub struct State {
    pub commit: String,
    pub files: BTreeMap<String, Vec<u8>>,
    pub fault: Fault,
    /// Paths and ranges that were asked for.
    pub log: Vec<String>,
    /// Answers with content, by path.
    answers: HashMap<String, u32>,
}

pub struct Hub {
    pub endpoint: String,
    state: Arc<Mutex<State>>,
}

pub const REPOSITORY: &str = "tiny/model";

impl Hub {
    pub fn serve(files: BTreeMap<String, Vec<u8>>, fault: Fault) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let (commit, log, answers) = ("a".repeat(40), Vec::new(), HashMap::new());
        let state = Arc::new(Mutex::new(State { commit, files, fault, log, answers }));
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // A client that hangs up is none of the hub's business.
                let _ = answer(stream, &mut shared.lock().unwrap());
            }
        });
        Self { endpoint, state }
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// How many answers carried content, since the last time.
    pub fn downloads(&self) -> u32 {
        self.state().answers.drain().map(|(_, count)| count).sum()
    }
}

/// The files of a folder.
pub fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            (name, std::fs::read(path).unwrap())
        })
        .collect()
}

fn answer(mut stream: TcpStream, state: &mut State) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let request = lines.next().unwrap_or_else(|| Ok(String::new()))?;
    let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut range = None;
    for line in lines {
        let line = line?.to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        range = line.strip_prefix("range: bytes=").map(str::to_owned).or(range);
    }
    state.log.push(format!("{path} {}", range.as_deref().unwrap_or("-")));
    let names_revision = ["main", &state.commit]
        .iter()
        .any(|revision| path == format!("/api/models/{REPOSITORY}/revision/{revision}"));
    if names_revision {
        let siblings: Vec<_> =
            state.files.keys().map(|name| serde_json::json!({"rfilename": name})).collect();
        let body = serde_json::json!({"sha": state.commit, "siblings": siblings}).to_string();
        return write!(
            stream,
            "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
    }
    let prefix = format!("/{REPOSITORY}/resolve/{}/", state.commit);
    let found = path.strip_prefix(&prefix).and_then(|name| state.files.get(name));
    let Some(file) = found.filter(|_| state.fault != Fault::Missing) else {
        return write!(
            stream,
            "HTTP/1.1 404 Not Found\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
        );
    };
    let (first, end) = match range.as_deref().and_then(|range| range.split_once('-')) {
        Some(("0", "0")) => (0, 1),
        Some((first, "")) => (first.parse().unwrap(), file.len()),
        _ => panic!("the range {range:?}"),
    };
    let mut body = &file[first..end];
    let mut announced = body.len();
    if end > 1 {
        let earlier = state.answers.entry(path.clone()).or_default();
        *earlier += 1;
        match state.fault {
            Fault::Interrupted | Fault::IgnoresRanges if *earlier == 1 => {
                body = &body[..body.len() / 2];
            }
            Fault::IgnoresRanges => (body, announced) = (file, file.len()),
            Fault::Silent => body = &[],
            _ => {}
        }
    }
    write!(
        stream,
        "HTTP/1.1 206 Partial Content\r\nconnection: close\r\netag: \"{:016x}\"\r\nx-repo-commit: {}\r\n\
         content-range: bytes {first}-{}/{}\r\ncontent-length: {announced}\r\n\r\n",
        hash(file),
        state.commit,
        end - 1,
        file.len(),
    )?;
    stream.write_all(body)
}

// FNV-1a: any number that tells contents apart.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
