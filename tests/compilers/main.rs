//! Kernels in every backend's language, given to that backend's own compiler.
//!
//! A trial is a kernel and a compiler. A compiler that is not here is counted as ignored, with what `tools/setup` brings it by. A
//! sample of texts is compiled, in which each kernel has each file of each of its slots and each value of each constant;
//! `ASYNCTLS_TEST_TEXTS=all` compiles all, also with checks and with lanes reversed. What is refused is copied to the folder
//! `ASYNCTLS_TEST_KEEP`, if there is one.

mod compile;
mod server;
mod targets;
mod texts;

use compile::{How, compile};
use libtest_mimic::{Arguments, Failed, Trial};
use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use targets::{TARGETS, Target};
use texts::{Text, texts};

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a target said of all that it was given.
#[derive(Default)]
struct Tally {
    accepted: usize,
    of: usize,
    seconds: f64,
    slowest: (f64, &'static str),
}

fn run(target: &Target, texts: &[Text], tally: &Mutex<Tally>) -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let mut problems = Vec::new();
    let mut paths = Vec::new();
    for (i, text) in texts.iter().enumerate() {
        match target.given(text) {
            Ok(bytes) => {
                let path = folder.path().join(format!("{i}.{}", target.ending()));
                fs::write(&path, bytes)?;
                paths.push(path);
            }
            Err(problem) => problems.push(format!("not written: {problem}")),
        }
    }
    let verdicts = compile(target.how, &paths)?;
    let mut tally = lock(tally);
    tally.of += texts.len();
    for (path, verdict) in paths.iter().zip(verdicts) {
        tally.accepted += usize::from(verdict.accepted);
        tally.seconds += verdict.seconds;
        if verdict.seconds > tally.slowest.0 {
            tally.slowest = (verdict.seconds, texts[0].file);
        }
        if !verdict.accepted {
            if let Some(kept) = std::env::var_os("ASYNCTLS_TEST_KEEP") {
                let name = texts[0].file.replace('/', "-");
                let name = format!("{name}-{}", path.file_name().unwrap().to_string_lossy());
                fs::copy(path, Path::new(&kept).join(name))?;
            }
            problems.push(verdict.messages);
        }
    }
    if problems.is_empty() {
        return Ok(());
    }
    let count = format!("{} of {} are refused\n", problems.len(), texts.len());
    problems.sort();
    problems.dedup_by_key(|problem| problem.lines().next().unwrap_or_default().to_owned());
    Err(Failed::from(count + &problems.join("\n")))
}

/// A compiler that accepts anything would be of no use.
fn refuses(target: &Target) -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join(format!("0.{}", target.ending()));
    fs::write(&path, "no kernel")?;
    match compile(target.how, &[path])?[0].accepted {
        true => Err(Failed::from("it takes a file that is no kernel")),
        false => Ok(()),
    }
}

fn main() {
    let arguments = Arguments::from_args();
    let all = std::env::var("ASYNCTLS_TEST_TEXTS").is_ok_and(|which| which == "all");
    let mut trials = Vec::new();
    let mut tallies = Vec::new();
    // Most take the same tiers' texts, which are many.
    let mut by_tiers = HashMap::new();
    for target in TARGETS {
        let label = target.label();
        let (tiers, checks) = (target.tiers, target.takes_checks());
        let by_kernel =
            by_tiers.entry((tiers, checks)).or_insert_with(|| texts(tiers, all, checks));
        let version = match target.how.version() {
            Ok(version) => version,
            Err(missing) => {
                let count: usize = by_kernel.values().map(|texts| texts.len()).sum();
                let name = format!("{label}: {count} texts, for want of {missing}");
                let test = || Err(Failed::from("it is not here"));
                trials.push(Trial::test(name, test).with_ignored_flag(true));
                continue;
            }
        };
        let tally = Arc::<Mutex<Tally>>::default();
        tallies.push((label.clone(), version, target.tiers, tally.clone()));
        if target.how != How::Nothing {
            let name = format!("{label}: what is no kernel");
            trials.push(Trial::test(name, move || refuses(target)));
        }
        for (file, texts) in by_kernel {
            let (tally, texts) = (tally.clone(), texts.clone());
            let name = format!("{label}: {file}");
            trials.push(Trial::test(name, move || run(target, &texts, &tally)));
        }
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    for (label, version, tiers, tally) in tallies {
        let Tally { accepted, of, seconds, slowest } = *lock(&tally);
        if of > 0 {
            println!(
                "| {label} | {version} | {} | {accepted} of {of} | {seconds:.0} s | {}, {:.1} s |",
                tiers.join(", "),
                slowest.1,
                slowest.0
            );
        }
    }
    conclusion.exit();
}
