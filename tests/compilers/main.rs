//! Kernels in every backend's language, given to that backend's own compiler.
//!
//! A trial is a kernel and a compiler. A compiler that is not here is counted as ignored, with what `tools/setup` brings it by; one that
//! is here and does not start has failed. A
//! sample of texts is compiled, in which each kernel has each file of each of its slots and each value of each constant;
//! `ASYNCTLS_TEST_TEXTS=all` compiles all, also with checks and with lanes reversed. What is refused is copied to the folder
//! `ASYNCTLS_TEST_KEEP`, if there is one.

mod compile;
mod server;
mod targets;
mod texts;

use compile::{Absent, How, compile};
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

/// What is not here may be left out, but not what is here and broken.
#[cfg(unix)]
fn a_broken_compiler_is_not_a_missing_one() -> Result<(), Failed> {
    let missing = How::Each("no such compiler", &[]).version();
    assert!(matches!(missing, Err(Absent::Missing(_))));
    // One says nothing and fails, the other ends before it answers.
    let broken = How::Each("false", &[]).version();
    assert!(matches!(broken, Err(Absent::Broken(said)) if said.starts_with("false: exit")));
    let broken = server::Server::start(std::process::Command::new("true"));
    assert!(broken.is_err_and(|said| said.contains("true")));
    for (why, name, is_ignored) in [
        (Absent::Broken("it hangs".into()), "FXC: it starts", false),
        (Absent::Missing("wine64".into()), "FXC: 3 texts, for want of wine64", true),
    ] {
        let trial = absent("FXC", 3, why);
        assert_eq!((trial.name(), trial.has_ignored_flag()), (name, is_ignored));
    }
    Ok(())
}

/// The one trial of a compiler that takes no texts.
fn absent(label: &str, texts: usize, why: Absent) -> Trial {
    let (name, problem, is_ignored) = match why {
        Absent::Missing(what) => (
            format!("{label}: {texts} texts, for want of {what}"),
            "it is not here".to_owned(),
            true,
        ),
        Absent::Broken(problem) => (format!("{label}: it starts"), problem, false),
    };
    let test = move || Err(Failed::from(problem));
    Trial::test(name, test).with_ignored_flag(is_ignored)
}

fn main() {
    let arguments = Arguments::from_args();
    let all = std::env::var("ASYNCTLS_TEST_TEXTS").is_ok_and(|which| which == "all");
    let mut trials = Vec::new();
    #[cfg(unix)]
    trials.push(Trial::test(
        "a broken compiler is not a missing one",
        a_broken_compiler_is_not_a_missing_one,
    ));
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
            Err(why) => {
                let count = by_kernel.values().map(|texts| texts.len()).sum();
                trials.push(absent(&label, count, why));
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
