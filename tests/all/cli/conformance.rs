//! `asynctls conformance` on the test adapter: a few cases of small kernels.

use super::program::{Run, command, run, run_command, text};
use serde_json::Value;

fn conformance(more: &[&str]) -> Run {
    run(&[&["conformance"], more].concat())
}

/// The report without its times.
fn timeless(mut report: Value) -> Value {
    report["seconds"] = 0.into();
    for adapter in report["adapters"].as_array_mut().unwrap() {
        adapter["seconds"] = 0.into();
        adapter["rows"]
            .as_array_mut()
            .unwrap()
            .iter_mut()
            .for_each(|row| row["seconds"] = 0.into());
    }
    report
}

#[test]
fn cases_of_a_kernel_run_and_are_counted() {
    let report = conformance(&["--filter", "stream/", "--json"]).fine().json();
    let modes = report["adapters"][0]["rows"].as_array().unwrap();
    assert!(modes.len() >= 10, "{report}");
    for row in modes {
        assert_eq!((&row["outcome"], &row["runs"]), (&"passed".into(), &1.into()), "{row}");
        assert_eq!((&row["kernel"], &row["variant"]), (&"stream".into(), &"stream".into()));
    }
    let summary = &report["summary"];
    assert_eq!(summary["passed"], modes.len());
    for none in ["failed", "unsupported", "known_failures", "flaky"] {
        assert_eq!(summary[none], 0);
    }
    let limits = &report["adapters"][0]["about"]["limits"];
    assert!(limits["max_storage_buffers"].as_u64() >= Some(8), "{limits}");

    // The same again, apart from its times.
    let again = conformance(&["--filter", "stream/", "--json"]).fine().json();
    assert_eq!(timeless(again), timeless(report));
}

#[test]
fn a_case_runs_by_its_name() {
    let list = conformance(&["--list", "--filter", "stream/*@trusted"]).fine().out;
    let names: Vec<&str> = list.lines().collect();
    assert!(names.len() == 5 && names.contains(&"stream/255-vec4@trusted"), "{list}");
    let shown = conformance(&["--case", names[0]]).fine();
    assert!(shown.out.contains("stream") && shown.err.is_empty(), "{shown:?}");

    for (wrong, error) in [
        (["--case", "stream"], "--case is stream, but no case here has such a name"),
        (["--filter", "no such"], "--filter is no such, but no case here has such a name"),
        (["--adapter", "99"], "no adapter 99"),
    ] {
        let refused = conformance(&wrong);
        assert_eq!(refused.code, Some(2));
        assert!(refused.error().starts_with(error), "{}", refused.error());
    }
}

#[test]
fn a_sample_has_every_kernel() {
    let names = |more: &[&str]| -> Vec<String> {
        let list = conformance(&[&["--list"], more].concat()).fine().out;
        list.lines().map(str::to_owned).collect()
    };
    let kernels = |names: &[String]| -> std::collections::BTreeSet<String> {
        names.iter().map(|name| name.split('/').next().unwrap().to_owned()).collect()
    };
    let (all, some) = (names(&[]), names(&["--quick"]));
    assert!(some.len() * 2 < all.len(), "{} of {}", some.len(), all.len());
    assert_eq!(kernels(&all), kernels(&some));
    assert!(some.iter().all(|name| all.contains(name)));
}

#[test]
fn what_an_adapter_cannot_run_has_not_passed() {
    let normed = ["--filter", "matvec/Q4_1-Store-70x32-*-normed@trusted"];
    let report = conformance(&[&normed[..], &["--json"]].concat()).fine().json();
    let adapter = &report["adapters"][0];
    if adapter["about"]["tier"] == "subgroups-of-8" {
        let summary = &report["summary"];
        assert_eq!((&summary["passed"], &summary["unsupported"]), (&0.into(), &1.into()));
        let why = adapter["rows"][0]["detail"].as_str().unwrap();
        assert!(why.starts_with("the tier is subgroups-of-8 (lanes are emulated), but"), "{why}");
        let shown = conformance(&normed).fine().out;
        assert!(shown.contains(&format!("unsupported: 1: {why}")), "{shown}");
    }
    let mut portable = command(&[&["conformance", "--json"], &normed[..]].concat());
    portable.env("ASYNCTLS_DISABLE", "subgroups");
    let report = run_command(portable, b"").fine().json();
    assert_eq!(report["adapters"][0]["about"]["tier"], "portable");
    assert_eq!(report["summary"]["passed"], 1);
}

#[test]
fn reports_are_files_that_stand_side_by_side() {
    let folder = tempfile::tempdir().unwrap();
    let (json, page) = (folder.path().join("a.json"), folder.path().join("a.html"));
    let case = ["--filter", "stream/1-vec4"];
    let shown = conformance(&[&case[..], &["--json", text(&json)]].concat()).fine();
    assert!(shown.out.contains("kernel"), "{shown:?}");
    let written: Value = serde_json::from_str(&std::fs::read_to_string(&json).unwrap()).unwrap();
    super::json::check(&written);

    let files = ["--report", text(&page), "--compare", text(&json)];
    conformance(&[&case[..], &files].concat()).fine();
    let page = std::fs::read_to_string(&page).unwrap();
    for part in ["<h1>asynctls conformance: ", "stream", "Side by side", "a.json", "<p>None.</p>"] {
        assert!(page.contains(part), "{part}");
    }
    let refused = conformance(&["--report", "-", "--compare", "Cargo.toml"]);
    assert!(refused.error().starts_with("--compare is Cargo.toml, but a report"), "{refused:?}");
    assert_eq!(refused.code, Some(2));
}

#[cfg(unix)]
#[test]
fn an_interrupted_run_shows_what_was_done() {
    use std::process::Command;
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("a.json");
    let child = command(&["conformance", "--json", text(&json)]).spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_secs(4));
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{output:?}");
    let err = String::from_utf8(output.stderr).unwrap();
    let last = err.lines().last().unwrap();
    assert!(last.starts_with("interrupted with ") && last.ends_with(" cases done"), "{err}");
    let report: Value = serde_json::from_str(&std::fs::read_to_string(&json).unwrap()).unwrap();
    super::json::check(&report);
    assert!(report["not_run"].as_u64() > Some(0), "{last}");
    assert_eq!(report["summary"]["failed"], 0);
}
