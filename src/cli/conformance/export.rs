//! Cases as files that run without this program, in a browser too.

use super::super::progress::bar;
use super::super::terminal::{note, print, to_json, visible};
use super::super::{Outcome, interrupt};
use asynctls::conformance::{BUNDLE, Choice, Exporter, Settings, TierNeeds, tier_needs};
use asynctls::gpu::Adapter;
use asynctls::units::size;
use asynctls::{Error, file};
use flate2::{Compression, write::GzEncoder};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Bytes of a case's file above which a sample does without it: those of all cases are some tens of megabytes then.
const SAMPLE_BYTES: usize = 384 << 10;

/// What is there, for who runs it.
#[derive(Serialize)]
struct Index {
    bundle: u32,
    version: &'static str,
    settings: Settings,
    /// The best first.
    tiers: Vec<TierNeeds>,
    cases: Vec<Entry>,
    left_out: Vec<LeftOut>,
}

#[derive(Serialize)]
struct Entry {
    case: String,
    kernel: &'static str,
    file: String,
    bytes: usize,
    names: BTreeSet<String>,
}

#[derive(Serialize)]
struct LeftOut {
    case: String,
    why: String,
}

/// Writes the chosen cases to a folder, and an index of them, in place of those that may be there: what does not end leaves these
/// as they were.
pub fn run(
    folder: &Path,
    adapter: &Adapter,
    choice: &Choice,
    settings: Settings,
) -> Outcome<ExitCode> {
    let by_case = Exporter::trials(choice);
    if by_case.is_empty() {
        return Err(super::no_such_case(choice).into());
    }
    let _keeping = interrupt::Keeping::new();
    let unfinished = Unfinished::new(folder)?;
    let mut exporter = pollster::block_on(Exporter::new(adapter))?;
    let bar = bar("conformance cases", by_case.len() as u64, false);
    let version = env!("CARGO_PKG_VERSION");
    let (cases, left_out) = (Vec::new(), Vec::new());
    let mut index =
        Index { bundle: BUNDLE, version, settings, tiers: tier_needs(), cases, left_out };
    for (number, trials) in by_case.iter().enumerate() {
        if interrupt::asked() {
            note(&format!(
                "interrupted after {number} of {} cases; {} is as it was",
                by_case.len(),
                visible(&folder.to_string_lossy())
            ));
            return Ok(interrupt::exit_code());
        }
        let exported = pollster::block_on(exporter.export(trials));
        let (case, kernel) = (exported.case, exported.kernel);
        match exported.bundle.map(|text| packed(&text)) {
            Err(why) => index.left_out.push(LeftOut { case, why }),
            Ok(bytes) if choice.quick && bytes.len() > SAMPLE_BYTES => {
                let why = format!(
                    "it takes more than {}, too much for a sample",
                    size(SAMPLE_BYTES as u64)
                );
                index.left_out.push(LeftOut { case, why });
            }
            Ok(bytes) => {
                let name = format!("{number:04}.json.gz");
                file::replace(&unfinished.0.join(&name), &bytes)?;
                let (file, bytes, names) = (format!("cases/{name}"), bytes.len(), exported.names);
                index.cases.push(Entry { case, kernel, file, bytes, names });
            }
        }
        bar.inc(1);
    }
    if let (true, Some(LeftOut { case, why })) = (index.cases.is_empty(), index.left_out.first()) {
        return Err(Error::argument(
            "--export",
            case,
            format!("none of its cases can be written down: {why}"),
        )
        .into());
    }
    remove_former(folder)?;
    for case in &index.cases {
        let (from, path) =
            (unfinished.0.join(&case.file["cases/".len()..]), folder.join(&case.file));
        std::fs::rename(from, &path).map_err(|source| Error::Write { path, source })?;
    }
    file::replace(&folder.join("index.json"), to_json(&index)?.as_bytes())?;
    print(&said(&index, folder))?;
    Ok(ExitCode::SUCCESS)
}

/// Where cases are written until all are there. What it holds goes with it.
struct Unfinished(PathBuf);

impl Unfinished {
    fn new(folder: &Path) -> Outcome<Self> {
        let path = folder.join(".unfinished-cases");
        // Of an export that was killed.
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path)
            .map_err(|source| Error::Write { path: path.clone(), source })?;
        Ok(Self(path))
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Removes what an earlier export wrote: its index first, which names the rest.
fn remove_former(folder: &Path) -> Outcome<()> {
    let remove = |path: PathBuf| match std::fs::remove_file(&path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::Write { path, source })
        }
        _ => Ok(()),
    };
    remove(folder.join("index.json"))?;
    let cases = folder.join("cases");
    std::fs::create_dir_all(&cases)
        .map_err(|source| Error::Write { path: cases.clone(), source })?;
    let unread = |source| Error::Write { path: cases.clone(), source };
    for entry in std::fs::read_dir(&cases).map_err(unread)? {
        let path = entry.map_err(unread)?.path();
        if path.to_string_lossy().ends_with(".json.gz") {
            remove(path)?;
        }
    }
    Ok(())
}

fn packed(text: &str) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    // A vector takes all.
    let written = gzip.write_all(text.as_bytes()).and_then(|()| gzip.finish());
    written.expect("a vector takes what is written")
}

fn said(index: &Index, folder: &Path) -> String {
    let bytes: usize = index.cases.iter().map(|case| case.bytes).sum();
    let mut text = format!(
        "{} cases, {}, in {}\n",
        index.cases.len(),
        size(bytes as u64),
        visible(&folder.to_string_lossy())
    );
    let mut reasons = BTreeMap::<&str, usize>::new();
    for one in &index.left_out {
        *reasons.entry(&one.why).or_default() += 1;
    }
    for (why, count) in reasons {
        text += &format!("left out: {count}: {}\n", visible(why));
    }
    text
}
