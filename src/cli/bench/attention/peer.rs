//! Another library's times, measured by a command of the caller's in the same run. It reads one JSON object of shapes from its
//! input and writes an object a line for what it measured.

use super::copies::COLD_BYTES;
use super::report::Row;
use asynctls::attention::Shape;
use asynctls::{Error, Result};
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::process::{Command, Stdio};

#[derive(Serialize)]
struct Wanted {
    kv_heads: u32,
    group: u32,
    head_dim: u32,
    value_dim: u32,
    /// Whether values are the first numbers of the keys.
    shares_values: bool,
    /// Bytes that data have to go over before any is read again.
    cold_bytes: u64,
    /// Sequences and tokens of each.
    cases: Vec<(u32, u32)>,
}

/// One of its lines.
#[derive(Deserialize)]
struct Found {
    batch: u32,
    length: u32,
    name: String,
    median_us: f64,
}

/// Runs the command and sets rows beside the fastest that it found of their case.
pub(super) fn compare(command: &str, shape: &Shape, rows: &mut [Row]) -> Result<()> {
    let mut cases: Vec<(u32, u32)> = rows.iter().map(|row| (row.batch, row.length)).collect();
    cases.dedup();
    let wanted = Wanted {
        kv_heads: shape.kv_heads,
        group: shape.group,
        head_dim: shape.head_dim,
        value_dim: shape.value_dim(),
        shares_values: shape.shares_values(),
        cold_bytes: COLD_BYTES,
        cases,
    };
    for found in run(command, &wanted)? {
        let same = |row: &&mut Row| (row.batch, row.length) == (found.batch, found.length);
        for row in rows.iter_mut().filter(same) {
            if row.peer_us.is_none_or(|us| found.median_us < us) {
                (row.peer, row.peer_us) = (Some(found.name.clone()), Some(found.median_us));
            }
        }
    }
    Ok(())
}

fn run(command: &str, wanted: &Wanted) -> Result<Vec<Found>> {
    let wrong = |limit: String| Error::argument("--peer", command, limit);
    let (shell, flag) = if cfg!(windows) { ("cmd", "/C") } else { ("sh", "-c") };
    let mut child = Command::new(shell)
        .args([flag, command])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| wrong(format!("it could not be run: {error}")))?;
    let shapes = serde_json::to_vec(wanted).expect("numbers");
    // A command that does not read its input may still measure something.
    let _ = child.stdin.take().map(|mut input| input.write_all(&shapes));
    let output =
        child.wait_with_output().map_err(|error| wrong(format!("it was lost: {error}")))?;
    if !output.status.success() {
        return Err(wrong(format!("it ended with {}", output.status)));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    lines
        .map(|line| {
            let found: Found = serde_json::from_str(line)
                .map_err(|error| wrong(format!("it wrote {line:?}: {error}")))?;
            match found.median_us > 0.0 {
                true => Ok(found),
                false => Err(wrong(format!("it wrote a time of {} us", found.median_us))),
            }
        })
        .collect()
}
