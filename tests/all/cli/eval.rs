//! `asynctls eval` and `asynctls calibrate`, on prompts small enough for a software adapter: blocks of 16 tokens, so that
//! a few hundred tokens hold enough of them to choose from.

use super::program::{Run, command, model, run_command, text};
use super::tiny::Tiny;
use serde_json::{Value, json};
use std::path::Path;
use std::time::{Duration, Instant};

const ESSAY: &str = "demo/britannica-1911-shakespeare.txt";

fn run(arguments: &[&str]) -> Run {
    run_with(&model(), arguments)
}

fn run_with(model: &str, arguments: &[&str]) -> Run {
    let (evaluation, rest) = arguments.split_at(1 + usize::from(arguments[0] == "eval"));
    run_command(command(&[evaluation, &["--model", model], rest].concat()), b"")
}

fn refused(arguments: &[&str], parts: &[&str]) {
    let run = run(arguments);
    assert_eq!((run.code, run.out.as_str()), (Some(2), ""), "{arguments:?}: {run:?}");
    for part in parts {
        assert!(run.error().contains(part), "{arguments:?}: {part}: {}", run.error());
    }
}

fn numbers(report: &Value, field: &str) -> Vec<f64> {
    let rows = report["results"].as_array().unwrap();
    rows.iter().map(|row| row[field].as_f64().unwrap()).collect()
}

const SMALL: [&str; 4] = ["--block-size", "16", "--budget", "3+20"];

#[test]
fn perplexity_stands_beside_dense_and_dense_alone_is_the_same() {
    let tiny = Tiny::new(&json!({}));
    let run = |arguments: &[&str]| run_with(text(tiny.path()), arguments);
    let folder = tempfile::tempdir().unwrap();
    let (csv, plot) = (folder.path().join("p.csv"), folder.path().join("p.svg"));
    let window =
        ["eval", "perplexity", "--text", ESSAY, "--length", "330", "--prefill", "256", "--json"];
    let outputs = ["--csv", text(&csv), "--plot", text(&plot), "--scorer", "codes,none/none"];
    let report = run(&[&window[..], &SMALL, &outputs].concat()).fine().json();
    let perplexities = numbers(&report, "perplexity");
    assert_eq!(report["scored_tokens"], 74);
    assert_eq!(report["perplexity"], perplexities[1]);
    assert_eq!(report["dense_perplexity"], perplexities[0]);
    // Selecting everything is dense but for rounding; selecting a few is not.
    assert!((perplexities[2] / perplexities[0] - 1.0).abs() < 5e-4, "{perplexities:?}");
    assert!((perplexities[1] / perplexities[0] - 1.0).abs() > 5e-4, "{perplexities:?}");
    let rows = std::fs::read_to_string(&csv).unwrap();
    assert_eq!(rows.lines().count(), 75);
    assert!(std::fs::read_to_string(&plot).unwrap().contains("<svg"));

    let alone = run(&[&window[..], &["--attention", "dense", "--block-size", "16"]].concat());
    assert_eq!(alone.fine().json()["perplexity"], report["dense_perplexity"]);
}

#[test]
fn retrieval_finds_a_needle_and_an_interrupted_run_ends_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, parts) = (folder.path().join("whole.jsonl"), folder.path().join("parts.jsonl"));
    let grid = [
        "eval",
        "retrieval",
        "--text",
        ESSAY,
        "--lengths",
        "420",
        "--depths",
        "2",
        "--samples",
        "1",
        "--scorer",
        "codes",
        "--json",
    ];
    let with = |state: &Path, more: &[&str]| -> Vec<String> {
        let all = [&grid[..], &SMALL, &["--state", text(state)], more].concat();
        all.into_iter().map(String::from).collect()
    };
    let arguments = |list: &[String]| -> Vec<String> { list.to_vec() };
    let plot = folder.path().join("map.svg");
    let first = arguments(&with(&whole, &["--plot", text(&plot)]));
    let report = run(&first.iter().map(String::as_str).collect::<Vec<_>>()).fine().json();
    assert_eq!(numbers(&report, "score")[0], 1.0, "{report}");
    assert_eq!(report["results"][1]["samples"], 2);
    assert!(std::fs::read_to_string(&plot).unwrap().contains("<svg"));

    // Killed once a part is finished: what is done is done.
    let model = model();
    let second = with(&parts, &[]);
    let second: Vec<&str> = second.iter().map(String::as_str).collect();
    let mut child =
        command(&[&second[..2], &["--model", &model], &second[2..]].concat()).spawn().unwrap();
    let began = Instant::now();
    let lines = || std::fs::read_to_string(&parts).map_or(0, |text| text.lines().count());
    while lines() < 2 && began.elapsed() < Duration::from_secs(300) {
        std::thread::sleep(Duration::from_millis(20));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let done = lines();
    assert!((2..4).contains(&done), "{done} lines");
    let resumed = run(&second).fine().json();
    assert_eq!(resumed["results"], report["results"]);
    let sorted = |path: &Path| {
        let text = std::fs::read_to_string(path).unwrap();
        text.lines().skip(1).map(String::from).collect::<Vec<_>>()
    };
    assert_eq!(sorted(&parts), sorted(&whole));

    // Finished parts of other settings are not mixed in.
    let other: Vec<&str> = [&second[..], &["--seed", "5"]].concat();
    refused(&other, &["seed", text(&parts)]);
}

#[test]
fn prompts_without_a_needle_are_asked_once_a_sample() {
    let folder = tempfile::tempdir().unwrap();
    let (csv, plot) = (folder.path().join("r.csv"), folder.path().join("r.svg"));
    let grid = ["eval", "retrieval", "--tasks", "frequent-words", "--lengths", "330", "--json"];
    let more = ["--attention", "dense", "--samples", "1"];
    let outputs = ["--csv", text(&csv), "--plot", text(&plot)];
    let report = run(&[&grid[..], &more, &outputs].concat()).fine().json();
    assert_eq!(report["results"][0]["samples"], 1, "{report}");
    let rows = std::fs::read_to_string(&csv).unwrap();
    assert_eq!(rows.lines().count(), 2, "{rows}");
    assert!(rows.lines().nth(1).unwrap().starts_with("frequent-words,330,,dense,"), "{rows}");
    // The picture has depths, at each of which the one score stands.
    assert!(std::fs::read_to_string(&plot).unwrap().contains("<svg"));
}

#[test]
fn recall_gives_the_oracle_one_and_names_heads() {
    let folder = tempfile::tempdir().unwrap();
    let (csv, plot) = (folder.path().join("r.csv"), folder.path().join("r.svg"));
    let grid = [
        "eval",
        "recall",
        "--lengths",
        "400",
        "--depths",
        "1",
        "--samples",
        "1",
        "--steps",
        "3",
        "--json",
    ];
    let more = ["--scorer", "codes,oracle/oracle", "--csv", text(&csv), "--plot", text(&plot)];
    let report = run(&[&grid[..], &SMALL, &more].concat()).fine().json();
    let shares = numbers(&report, "share_of_oracle");
    assert!(shares[0] < 1.0 && shares[0] > 0.8, "{shares:?}");
    assert!((shares[1] - 1.0).abs() < 1e-3, "{shares:?}");
    let losses: Vec<f64> = numbers(&report, "level1_loss");
    assert!(losses[1].abs() < 1e-3 && losses[0] > losses[1], "{losses:?}");
    assert_eq!(report["heads"].as_array().unwrap().len(), 2 * 30 * 9);
    assert!(!report["needle_heads"].as_array().unwrap().is_empty());
    assert_eq!(std::fs::read_to_string(&csv).unwrap().lines().count(), 1 + 2 * 30 * 9);
    assert!(std::fs::read_to_string(&plot).unwrap().contains("<svg"));
}

#[test]
fn a_trace_holds_what_was_selected() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trace.safetensors");
    let steps = [
        "eval",
        "trace",
        "--text",
        ESSAY,
        "--length",
        "256",
        "--steps",
        "3",
        "--output",
        text(&path),
    ];
    run(&[&steps[..], &SMALL, &["--scorer", "codes", "--with", "scores,keys"]].concat()).fine();
    let trace = asynctls::eval::trace::Selections::read(&path).unwrap();
    assert_eq!(trace.positions, [256, 257, 258]);
    for blocks in trace.blocks.iter().flatten().flatten() {
        assert_eq!(blocks.len(), 3);
        // Between the sink and the four recent blocks.
        assert!(blocks.iter().all(|b| (1..12).contains(b)), "{blocks:?}");
    }
}

#[test]
fn stored_channels_are_written_used_and_checked() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("channels.json");
    let format = ["--index-channels", "16"];
    let make = ["calibrate", "--text", ESSAY, "--length", "300", "--json", "--output", text(&path)];
    let made = run(&[&make[..], &format].concat()).fine().json();
    assert_eq!(made["channels"], 16);
    let prompt = ["generate", "--raw", "--prompt", "1 2 3 4", "--max-tokens", "2", "--json"];
    let report = run(&[&prompt[..], &["--channels", text(&path), "--index-bits", "8"]].concat())
        .fine()
        .json();
    let settings = &report["settings"];
    assert_eq!(settings["stored_channels"], made["id"]);
    assert_eq!((&settings["index_channels"], &settings["index_bits"]), (&16.into(), &8.into()));

    refused(&[&prompt[..], &["--channels", ESSAY]].concat(), &["no set of index channels"]);
    refused(&[&prompt[..], &["--channels", "absent.json"]].concat(), &["absent.json"]);
}

#[test]
fn bad_requests_name_the_option_the_value_and_the_limit() {
    let folder = tempfile::tempdir().unwrap();
    let binary = folder.path().join("binary");
    std::fs::write(&binary, b"ab\xff").unwrap();
    let short = folder.path().join("short");
    std::fs::write(&short, "A few words.").unwrap();
    let perplexity = |more: &[&str], parts: &[&str]| {
        refused(&[&["eval", "perplexity"][..], more].concat(), parts);
    };
    perplexity(&["--text", "absent.txt"], &["absent.txt"]);
    perplexity(&["--text", text(&binary)], &["not UTF-8", "byte 2"]);
    perplexity(&["--text", text(&short)], &["--text", "4 tokens where 4096 are needed"]);
    perplexity(&["--text", ESSAY, "--length", "9000"], &["--length is 9000", "8192"]);
    perplexity(&["--text", ESSAY, "--length", "64", "--prefill", "64"], &["--prefill is 64", "64"]);
    perplexity(&["--text", ESSAY, "--budget", "lots"], &["--budget is lots", "25%+256"]);
    perplexity(&["--text", ESSAY, "--scorer", "best"], &["--scorer is best", "minmax"]);
    perplexity(&["--text", ESSAY, "--scorer", "codes/minmax"], &["--scorer is codes/minmax"]);
    perplexity(&["--text", ESSAY, "--blocks", "0"], &["--blocks is 0", "25%"]);
    perplexity(&["--text", ESSAY, "--tokens", "0"], &["--tokens", "1.."]);
    perplexity(&["--text", ESSAY, "--scorer", "codes,codes"], &["named twice"]);
    perplexity(
        &["--text", ESSAY, "--index-channels", "12"],
        &["--index-channels is 12", "multiple of 8"],
    );
    perplexity(&["--text", ESSAY, "--index-bits", "3"], &["--index-bits is 3", "2, 4 or 8"]);
    perplexity(&["--text", ESSAY, "--block-size", "48"], &["--block-size is 48", "16, 32"]);
    perplexity(&["--text", ESSAY, "--state", ESSAY, "--length", "64"], &[ESSAY]);
    let retrieval = |more: &[&str], parts: &[&str]| {
        refused(&[&["eval", "retrieval"][..], more].concat(), parts);
    };
    retrieval(&["--tasks", "niah"], &["niah"]);
    retrieval(&["--lengths", "9000"], &["--lengths is 9000 tokens", "8192"]);
    retrieval(&["--lengths", "4294967295"], &["--lengths is 4294967295 tokens", "8192"]);
    retrieval(&["--lengths", "0"], &["--lengths is 0", "at least one"]);
    retrieval(&["--lengths", "150"], &["150"]);
    retrieval(&["--haystack", "essay"], &["--haystack is essay", "--text FILE"]);
    retrieval(&["--depths", "0"], &["--depths"]);
}

#[test]
fn what_would_be_left_out_is_refused() {
    let parts = ["--attention is dense", "use two-level"];
    refused(&["eval", "recall", "--attention", "dense"], &parts);
    let trace = ["eval", "trace", "--text", ESSAY, "--output", "absent/trace.safetensors"];
    refused(&[&trace[..], &["--attention", "dense"]].concat(), &parts);
    for (option, list) in [("--scorer", "codes,minmax"), ("--budget", "3+20,4+20")] {
        refused(&[&trace[..], &[option, list]].concat(), &[option, list, "one selection"]);
    }
    let plot = ["eval", "perplexity", "--text", ESSAY, "--length", "128", "--plot", "absent/p.svg"];
    for more in [&["--attention", "dense"][..], &["--prefill", "100"]] {
        refused(&[&plot[..], more].concat(), &["--plot is absent/p.svg", "64 tokens"]);
    }
    let run = run(&["calibrate", "--text", ESSAY, "--output", "absent/c", "--index-bits", "8"]);
    assert_eq!(run.code, Some(2), "{run:?}");
}
