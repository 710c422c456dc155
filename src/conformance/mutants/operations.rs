//! Every operation of every shader replaced in turn by one that is easily written instead: bounds off by one, minimum for maximum, the
//! other sign, the other direction. `cargo test --release --lib every_operation -- --ignored --nocapture`, and with
//! `ASYNCTLS_TEST_FILES=select/,lib/rank_` those of such files alone.
//!
//! Such mutants may run for ever or write anywhere, so each file's are tried in a process of their own, which checks bounds.

use super::{Bench, all_adapters, asked, fastest_first, sources, text};
use crate::conformance::Trial;
use crate::gpu::Adapter;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// What stands in a shader, and what may stand there by mistake.
const SWAPS: &[(&str, &str)] = &[
    (" < ", " <= "),
    (" <= ", " < "),
    (" > ", " >= "),
    (" >= ", " > "),
    (" == ", " != "),
    (" != ", " == "),
    (" && ", " || "),
    (" || ", " && "),
    (" + ", " - "),
    (" - ", " + "),
    (" * ", " + "),
    (" / ", " * "),
    (" % ", " / "),
    (" & ", " | "),
    (" | ", " & "),
    (" ^ ", " | "),
    (" << ", " >> "),
    (" >> ", " << "),
    (" += ", " -= "),
    (" -= ", " += "),
    (" *= ", " += "),
    (" |= ", " &= "),
    (" &= ", " |= "),
    ("min(", "max("),
    ("max(", "min("),
];

/// The mutants that no case sees, as lines `file: line as it is then`. It has to be right for the files that are tried;
/// `UPDATE_GOLDENS=1` makes it so.
const UNSEEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/unseen_mutants.txt");

/// How long a case of a mutant may take: some compile for seconds.
const LIMIT: Duration = Duration::from_secs(40);
/// A device holds the kernels of so many mutants.
const TO_A_DEVICE: usize = 16;
/// In the environment of a process that tries a file's mutants: what it has to do.
const WORK: &str = "ASYNCTLS_TEST_MUTANTS";
/// With what the lines of such a process begin, among those of its harness.
const MARK: &str = "mutants: ";

/// A shader with one operation that is another.
struct Mutant {
    line: usize,
    /// The line as it is now.
    changed: String,
    text: String,
}

impl Mutant {
    fn name(&self, file: &str) -> String {
        format!("{file}: {}", self.changed)
    }
}

/// The mutants of a text, in its order.
fn mutants(sound: &str) -> Vec<Mutant> {
    let mut found = Vec::new();
    let mut at = 0;
    for (number, line) in sound.split_inclusive('\n').enumerate() {
        let code = &line[..line.find("//").unwrap_or(line.len())];
        for (from, to) in SWAPS {
            for (column, _) in code.match_indices(from) {
                // A name that ends like another is not this one.
                let before = code[..column].chars().next_back();
                let is_name = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
                if from.ends_with('(') && is_name {
                    continue;
                }
                let start = at + column;
                let text = format!("{}{to}{}", &sound[..start], &sound[start + from.len()..]);
                let changed = format!("{}{to}{}", &line[..column], &line[column + from.len()..]);
                found.push(Mutant { line: number + 1, changed: changed.trim().to_owned(), text });
            }
        }
        at += line.len();
    }
    found
}

/// A file's mutants from one on, and the trials that may see them, for a process.
#[derive(Serialize, Deserialize)]
struct Work {
    adapter: String,
    file: String,
    from: usize,
    trials: Vec<String>,
}

/// What such a process says.
#[derive(Debug, Serialize, Deserialize)]
enum News {
    /// It tries a mutant by another trial next.
    Tries(usize),
    /// That trial saw the mutant, or the kernel was refused.
    Seen(usize),
    /// None of the trials did.
    Survives(usize),
}

/// The lines of [`UNSEEN`]: those that say what it is, and the others.
fn unseen() -> (Vec<String>, Vec<String>) {
    let text = std::fs::read_to_string(UNSEEN).unwrap();
    text.lines().map(str::to_owned).partition(|line| line.starts_with('#'))
}

#[test]
fn mutants_that_no_case_sees_are_such_as_are_tried() {
    let (_, unseen) = unseen();
    assert!(unseen.is_sorted(), "{UNSEEN}");
    for file in unseen.iter().map(|line| line.split(": ").next().unwrap()).collect::<BTreeSet<_>>()
    {
        let mut tried: Vec<_> =
            mutants(&text(file)).into_iter().map(|one| one.name(file)).collect();
        for line in unseen.iter().filter(|line| line.starts_with(&format!("{file}: "))) {
            let at = tried.iter().position(|name| name == line);
            tried.swap_remove(
                at.unwrap_or_else(|| panic!("{UNSEEN} has {line}, which is no mutant")),
            );
        }
    }
}

#[test]
fn operations_are_replaced_one_at_a_time_and_comments_are_left() {
    let sound = "let a = b + c; // d + e\nlet f = max(arg_max(g), a < h);\n//! needs x > 1\n";
    let lines: Vec<_> = mutants(sound).into_iter().map(|one| (one.line, one.changed)).collect();
    let want = [
        (1, "let a = b - c; // d + e"),
        (2, "let f = max(arg_max(g), a <= h);"),
        (2, "let f = min(arg_max(g), a < h);"),
    ];
    assert_eq!(lines, want.map(|(line, changed)| (line, changed.to_owned())));
}

#[test]
#[ignore = "hours: every operation of every shader that runs here"]
fn every_operation_is_seen() {
    if let Ok(work) = std::env::var(WORK) {
        let work = std::fs::read_to_string(work).unwrap();
        return try_mutants(&serde_json::from_str(&work).unwrap());
    }
    let adapter = &fastest_first()[0];
    let all = asked(adapter);
    // Lanes in another order are for barriers.
    let trials = all.iter().filter(|trial| trial.mode.name != "reversed");
    let mut by_file = Bench::new(adapter).by_file(trials);
    for trials in by_file.values_mut() {
        // Different ones first: neighbours see the same.
        trials.sort_by_cached_key(|trial| {
            let mut hasher = DefaultHasher::new();
            trial.name().hash(&mut hasher);
            hasher.finish()
        });
    }
    let parts = std::env::var("ASYNCTLS_TEST_FILES").unwrap_or_default();
    by_file.retain(|file, _| parts.split(',').any(|part| file.contains(part)));
    assert!(!by_file.is_empty(), "no case runs such a file");
    let tried: Vec<String> = by_file.keys().cloned().collect();
    let left = Mutex::new(by_file.into_iter().collect::<Vec<_>>());
    let survivors = Mutex::new(Vec::new());
    let next = || left.lock().unwrap().pop();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some((file, trials)) = next() {
                    let found = survivors_of(adapter, &file, &trials);
                    survivors.lock().unwrap().extend(found);
                }
            });
        }
    });
    let mut survivors = survivors.into_inner().unwrap();
    survivors.sort();
    let (about, known) = unseen();
    let is_tried = |line: &String| tried.iter().any(|file| line.starts_with(&format!("{file}: ")));
    let (known, others): (Vec<_>, Vec<_>) = known.into_iter().partition(is_tried);
    if std::env::var_os("UPDATE_GOLDENS").is_some() {
        let mut lines = [survivors, others].concat();
        lines.sort();
        return std::fs::write(UNSEEN, [about, lines].concat().join("\n") + "\n").unwrap();
    }
    let without = |some: &[String], others: &[String]| {
        let mut others = others.to_vec();
        let is_new = |line: &&String| {
            let at = others.iter().position(|other| other == *line);
            at.map(|at| others.swap_remove(at)).is_none()
        };
        some.iter().filter(is_new).cloned().collect::<Vec<_>>().join("\n")
    };
    let (new, seen) = (without(&survivors, &known), without(&known, &survivors));
    assert!(
        new.is_empty() && seen.is_empty(),
        "no case sees\n{new}\nand some case sees by now\n{seen}"
    );
}

/// The mutants of a file that no trial sees.
fn survivors_of(adapter: &Adapter, file: &str, trials: &[&Trial]) -> Vec<String> {
    let sound = text(file);
    let mutants = mutants(&sound);
    let mut work = Work {
        adapter: adapter.label(),
        file: file.to_owned(),
        from: 0,
        trials: trials.iter().map(|trial| trial.name()).collect(),
    };
    let (mut survivors, mut ended) = (Vec::new(), 0);
    while work.from < mutants.len() {
        let mut process = Process::new(&work);
        let mut tried = None;
        while let Some(news) = process.news() {
            match news {
                News::Tries(number) => tried = Some(number),
                News::Seen(number) => work.from = number + 1,
                News::Survives(number) => {
                    work.from = number + 1;
                    let mutant = &mutants[number];
                    println!("line {} of {}", mutant.line, mutant.name(file));
                    survivors.push(mutant.name(file));
                }
            }
        }
        if work.from < mutants.len() {
            // What hangs or ends its process is seen.
            let number = tried.expect("a process for mutants that tries one");
            (work.from, ended) = (number + 1, ended + 1);
        }
    }
    println!(
        "{file}: {} mutants, {} of which no case sees; {ended} hung or ended their process",
        mutants.len(),
        survivors.len()
    );
    survivors
}

/// A process that tries a file's mutants.
struct Process {
    child: Child,
    lines: Receiver<String>,
    _work: tempfile::NamedTempFile,
}

impl Process {
    fn new(work: &Work) -> Self {
        let file = tempfile::NamedTempFile::new().unwrap();
        serde_json::to_writer(&file, work).unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--nocapture", "--exact"])
            .arg("conformance::mutants::operations::every_operation_is_seen")
            .env(WORK, file.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            out.lines().map_while(Result::ok).all(|line| sender.send(line).is_ok())
        });
        Self { child, lines, _work: file }
    }

    /// What it says next; nothing once it has ended, or hangs.
    fn news(&mut self) -> Option<News> {
        loop {
            let line = self.lines.recv_timeout(LIMIT).ok()?;
            if let Some(news) = line.split_once(MARK).map(|(_, news)| news) {
                return Some(serde_json::from_str(news).unwrap());
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Tries a file's mutants in this process.
fn try_mutants(work: &Work) {
    let say = |news: News| println!("{MARK}{}", serde_json::to_string(&news).unwrap());
    let adapter = all_adapters().into_iter().find(|one| one.label() == work.adapter).unwrap();
    let all = asked(&adapter);
    let by_name: HashMap<String, &Trial> = all.iter().map(|trial| (trial.name(), trial)).collect();
    let mut trials: Vec<&Trial> = work.trials.iter().map(|name| by_name[name]).collect();
    let checked = || Bench { checks: true, ..Bench::new(&adapter) };
    let mut bench = checked();
    for (number, mutant) in mutants(&text(&work.file)).into_iter().enumerate().skip(work.from) {
        if number % TO_A_DEVICE == 0 {
            bench = checked();
        }
        let mutant = sources(&work.file, mutant.text);
        let seen = trials.iter().position(|trial| {
            say(News::Tries(number));
            // What is no program, or ends the device, is seen by whoever runs it.
            bench.sees(trial, mutant).unwrap_or(true)
        });
        match seen {
            Some(at) => {
                say(News::Seen(number));
                // What saw one sees the next, most often.
                trials[..=at].rotate_right(1);
            }
            None => say(News::Survives(number)),
        }
    }
}
