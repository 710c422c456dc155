//! `asynctls conformance` on the test adapter: a few cases of small kernels.

use super::program::{Run, command, run, run_command, text};
use serde_json::Value;

fn conformance(more: &[&str]) -> Run {
    run(&[&["conformance"], more].concat())
}

/// The report without its times.
fn timeless(mut report: Value) -> Value {
    report["seconds"] = 0.into();
    report["date"] = "".into();
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

/// A file of an exported folder.
fn exported(path: &std::path::Path) -> Value {
    let bytes = std::fs::read(path).unwrap();
    if path.extension().is_some_and(|end| end == "json") {
        return serde_json::from_slice(&bytes).unwrap();
    }
    serde_json::from_reader(flate2::read::GzDecoder::new(&bytes[..])).unwrap()
}

#[test]
fn cases_are_written_to_files_that_need_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let bundle = folder.path().join("bundle");
    // Splits that a merge joins, an index of codes, and products that not every tier can run.
    let cases = [
        "dense_split/d32-*-segments-3-Random@",
        "token_codes/*Random@",
        "matvec/Q4_1-Store-70x32-*-normed@",
    ];
    let mut found = std::collections::BTreeSet::new();
    for part in cases {
        let said = conformance(&["--filter", part, "--export", text(&bundle)]).fine().out;
        let index = exported(&bundle.join("index.json"));
        let listed = index["cases"].as_array().unwrap();
        assert!(
            said.starts_with(&format!("{} cases, ", listed.len())) && !listed.is_empty(),
            "{said}"
        );
        assert_eq!(
            (&index["left_out"], &index["settings"]["filter"]),
            (&Value::Array(vec![]), &part.into())
        );
        super::json::check_as("index.json", &index);
        let tiers: Vec<&str> = index["tiers"]
            .as_array()
            .unwrap()
            .iter()
            .map(|tier| tier["name"].as_str().unwrap())
            .collect();
        // The cooperative tier is none of WebGPU's.
        assert_eq!(tiers, ["subgroups-of-8", "subgroups-of-32", "subgroups", "portable"]);
        for entry in listed {
            let case = exported(&bundle.join(entry["file"].as_str().unwrap()));
            found.extend(super::json::check_as("cases/*.json.gz", &case));
            let runs = case["runs"].as_array().unwrap();
            let of = |tier: &str, mode: &str| {
                runs.iter().find(|run| run["tier"] == tier && run["mode"] == mode).unwrap()
            };
            for tier in tiers.iter().copied() {
                let run = of(tier, "trusted");
                if !run["unsupported"].is_null() {
                    let why = run["unsupported"].as_str().unwrap();
                    assert!(
                        tier == "subgroups-of-8" && why.contains("need lanes that run at once"),
                        "{why}"
                    );
                    continue;
                }
                assert!(!run["checks"].as_array().unwrap().is_empty(), "{run}");
                for dispatch in run["dispatches"].as_array().unwrap() {
                    let number = dispatch["text"].as_u64().unwrap() as usize;
                    let wgsl = case["texts"][number].as_str().unwrap();
                    let calls = wgsl.contains("subgroupAdd(") || wgsl.contains("subgroupMax(");
                    assert!(!calls || wgsl.starts_with("enable subgroups;\n"), "{wgsl}");
                    assert!(!wgsl.starts_with("enable") || tier != "portable");
                }
            }
            assert_eq!(of("portable", "portable")["checks"], of("portable", "trusted")["checks"]);
            if part.starts_with("dense_split") {
                // What splits leave is what the merge finds.
                let run = of("subgroups", "trusted");
                let dispatches = run["dispatches"].as_array().unwrap();
                let buffer = |dispatch: usize, name: &str| -> u64 {
                    let numbers = dispatches[dispatch]["bindings"].as_array().unwrap().iter();
                    let mut numbers = numbers.map(|bound| bound["buffer"].as_u64().unwrap());
                    numbers
                        .rfind(|&number| run["buffers"][number as usize]["name"] == name)
                        .unwrap()
                };
                assert_eq!(buffer(2, "partial_o"), buffer(3, "partial_o"));
                let copied = &run["buffers"][buffer(1, "partial_o") as usize]["copy"];
                assert_eq!(copied["buffer"], buffer(0, "partial_o"));
            }
        }
    }
    // No words of these are listed one by one.
    let rest = super::json::missing("cases/*.json.gz", &found);
    assert_eq!(rest, ["runs[].needs.limits.*"]);
    let refused = conformance(&["--filter", "no such", "--export", text(&bundle)]);
    assert!(refused.error().starts_with("--filter is no such, but no case here"), "{refused:?}");
}

#[test]
fn reports_are_a_table_of_a_page() {
    let folder = tempfile::tempdir().unwrap();
    let (json, page) = (folder.path().join("a.json"), folder.path().join("a.md"));
    conformance(&["--filter", "stream/1-vec4", "--json", text(&json)]).fine();
    let [begin, end] = asynctls::conformance::MARKERS;
    std::fs::write(&page, format!("before\n{begin}\n{end}\nafter\n")).unwrap();
    let files = format!("{0},{0}", text(&json));
    conformance(&["--compare", &files, "--matrix", text(&page)]).fine();
    let page = std::fs::read_to_string(&page).unwrap();
    assert!(page.starts_with("before\n") && page.ends_with("after\n"), "{page}");
    assert!(
        page.contains("| stream | ") && page.matches("| vulkan:llvmpipe").count() == 2,
        "{page}"
    );
    let refused = conformance(&["--compare", text(&json), "--matrix", "Cargo.toml"]);
    assert!(
        refused.error().starts_with("--matrix is Cargo.toml, but it has no line <!--"),
        "{refused:?}"
    );
    assert_eq!(conformance(&["--compare", text(&json)]).code, Some(2));
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
