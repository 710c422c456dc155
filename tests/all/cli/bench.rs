//! `asynctls bench`, with shapes small enough for a software adapter.

use super::program::{Run, run, text};
use asynctls::engine::LayerView;
use asynctls::eval::trace::{Recorded, Trace};
use serde_json::Value;
use std::collections::HashMap;
#[cfg(unix)]
use std::time::Duration;

const SMALL: [&str; 7] =
    ["--model-shape", "tiny", "--block-size", "16", "--tokens", "64", "--json"];

fn offload(more: &[&str]) -> Run {
    run(&[&["bench", "offload"], more].concat())
}

fn small(more: &[&str]) -> Run {
    offload(&[&SMALL[..], more].concat())
}

/// Figures that must be numbers, and those that are missing where nothing was moved or there is no clock.
fn check_figures(row: &Value) {
    let number = |field: &str| row[field].as_f64();
    for field in ["step_ms", "mean_step_ms", "ratio", "kv_gpu_bytes"] {
        assert!(
            number(field).is_some_and(|value| value.is_finite() && value > 0.0),
            "{field}: {row}"
        );
    }
    for field in ["gather_bytes_per_second", "hidden", "kernels_ms", "slowdown"] {
        assert!(
            row[field].is_null() || number(field).is_some_and(f64::is_finite),
            "{field}: {row}"
        );
    }
    assert!(number("hidden").is_none_or(|share| (0.0..=1.0001).contains(&share)), "{row}");
    assert_eq!(row["faithful"], true, "{row}");
}

#[test]
fn offload_attends_what_was_listed_and_misses_what_was_asked() {
    let folder = tempfile::tempdir().unwrap();
    let (plot, timeline) = (folder.path().join("p.svg"), folder.path().join("t.svg"));
    let report = small(&[
        "--context",
        "1536",
        "--blocks",
        "8",
        "--misses",
        "10%,25%",
        "--steps",
        "6",
        "--weights",
        "f16,q4_0",
        "--plot",
        text(&plot),
        "--timeline",
        text(&timeline),
    ]);
    let report = report.fine().json();
    let rows = report["results"].as_array().unwrap();
    assert_eq!(rows.len(), 2 * 3 * 5);
    for row in rows {
        check_figures(row);
        assert_eq!(row["steps"], 6);
        let rule = row["rule"].as_str().unwrap();
        if rule == "gpu" {
            assert!(row["miss_rate"].is_null(), "{row}");
            continue;
        }
        // Of 768 blocks.
        let (asked, found) = (row["asked_misses"].as_f64().unwrap(), row["miss_rate"].as_f64());
        assert!(found.is_some_and(|found| (found - asked).abs() < 0.03), "{row}");
        assert_eq!(row["bytes_a_step"].as_f64().unwrap() > 0.0, asked > 0.0, "{row}");
        assert!(row["kv_host_bytes"].as_u64().unwrap() > 0, "{row}");
        // The same blocks are attended as with everything on the GPU.
        let same = if rule == "exact" { Value::from(6) } else { Value::Null };
        assert_eq!(row["same_tokens"], same, "{row}");
    }
    for path in [&plot, &timeline] {
        assert!(std::fs::read_to_string(path).unwrap().contains("<svg"));
    }
}

/// A CPU that stands still for 50 ms, at any place, while the GPU goes on: whoever waits for the other, none waits forever,
/// and nothing else is attended.
#[cfg(unix)]
#[test]
fn offload_attends_the_same_on_a_machine_that_stalls() {
    let arguments = ["--context", "1536", "--blocks", "8", "--misses", "25%", "--steps", "40"];
    let all = [&["bench", "offload"], &SMALL[..], &arguments].concat();
    let mut child = super::program::command(&all).spawn().unwrap();
    let id = child.id().to_string();
    let kill = |signal: &str| {
        std::process::Command::new("kill").args([signal, id.as_str()]).status().unwrap()
    };
    let mut stalls = 0;
    while child.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(3 + stalls * 37 % 50));
        if kill("-STOP").success() {
            std::thread::sleep(Duration::from_millis(50));
            kill("-CONT");
        }
        stalls += 1;
        assert!(stalls < 2000, "it never ends");
    }
    assert!(stalls > 10, "{stalls} stalls");
    let output = child.wait_with_output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let rows = report["results"].as_array().unwrap();
    assert_eq!(rows.len(), 2 * 5);
    for row in rows {
        check_figures(row);
        let same = if row["rule"] == "exact" { Value::from(40) } else { Value::Null };
        assert_eq!(row["same_tokens"], same, "{row}");
    }
}

#[test]
fn offload_keeps_bytes_in_half_the_cpu_memory() {
    let more = ["--context", "1024", "--blocks", "4", "--misses", "25%", "--steps", "2"];
    let rules = ["--timing", "lagged,exact", "--kv-type", "q8_0"];
    let report = small(&[&more[..], &rules].concat()).fine().json();
    assert_eq!(report["kv_type"], "q8_0");
    for row in report["results"].as_array().unwrap() {
        let share = row["kv_host_bytes"].as_f64().unwrap() / report["kv_bytes"].as_f64().unwrap();
        assert!((0.5..=17.0 / 32.0).contains(&share), "{row}");
        assert_eq!(row["faithful"], true, "{row}");
    }
}

#[test]
fn offload_calls_all_on_the_gpu_as_its_rule_does() {
    let shape = ["--model-shape", "tiny", "--block-size", "16", "--tokens", "64"];
    let more = ["--context", "512", "--blocks", "4", "--misses", "0%", "--steps", "1"];
    let shown = offload(&[&shape[..], &more, &["--timing", "gpu,exact"]].concat()).fine().out;
    for part in ["of KV cache", " x gpu ", "yes; 1 of 1 tokens as gpu"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    assert!(!shown.contains("resident"), "{shown}");
}

#[test]
fn offload_replays_a_trace() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trace.safetensors");
    let view = |step: u32, layer: u32| LayerView {
        blocks: [0, 1]
            .map(|head| {
                let other = |i| u32::from(i == layer % 6 && head == step % 2);
                (0..6).map(|i| 1 + i * 4 + other(i)).collect()
            })
            .into(),
        tokens: vec![vec![]; 2],
        ..LayerView::default()
    };
    let steps = (0..12).map(|step| (0..8).map(|layer| view(step, layer)).collect()).collect();
    let inputs = (0..12).map(|step| (1, 600 + step)).collect();
    let trace = Trace { inputs, steps, prompt: Vec::new() };
    trace.write(&path, Recorded::default(), HashMap::new()).unwrap();

    let replay = ["--trace", text(&path), "--timing", "gpu,lagged,exact"];
    let report = small(&replay).fine().json();
    let rows = report["results"].as_array().unwrap();
    assert_eq!((rows.len(), &report["blocks"]), (2 * 3, &"6".into()));
    for row in rows {
        check_figures(row);
        assert_eq!(row["steps"], 4);
    }
    // One of six blocks of each head differs between odd and even steps, and both have room.
    assert!(rows.iter().filter_map(|row| row["miss_rate"].as_f64()).all(|rate| rate < 0.1));

    let refused = |more: &[&str], parts: &[&str]| {
        let run = offload(&[&["--trace", text(&path)], more].concat());
        assert_eq!((run.code, run.out.as_str()), (Some(2), ""), "{run:?}");
        for part in parts {
            assert!(run.error().contains(part), "{part}: {}", run.error());
        }
    };
    refused(&[], &["--trace is 8 layers of 2 KV heads", "30 of 3"]);
    refused(&["--model-shape", "tiny"], &["--trace is 6 blocks", "position 600", "64 tokens"]);
    refused(&["--blocks", "7"], &["cannot be used with"]);
}

#[test]
fn bad_requests_are_refused_in_one_line() {
    for (options, parts) in [
        (&["--model-shape", "gpt"][..], &["--model-shape is gpt", "qwen3-8b"][..]),
        (&["--weights", "q9"], &["--weights is q9", "q4_0"]),
        (
            &["--weights", "q4_k", "--model-shape", "tiny"],
            &["the type of weights is Q4_K", "64 weights"],
        ),
        (&["--misses", "101%"], &["--misses", "from 0% to 100%"]),
        (&["--misses", "-1"], &["--misses", "from 0% to 100%"]),
        (&["--context", "20"], &["--context is 20", "steps go before"]),
        (&["--context", "512", "--blocks", "20"], &["--context is 512 tokens", "30 hot slots"]),
        (&["--hot-blocks", "3", "--blocks", "8"], &["--hot-blocks is 3", "8 blocks"]),
        (&["--timing", "soon"], &["--timing", "soon"]),
        (&["--steps", "0"], &["--steps", "1.."]),
        (&["--trace", "absent"], &["cannot read absent"]),
        (&["--trace", "Cargo.toml"], &["this is no trace"]),
        (&["--block-size", "48"], &["--block-size is 48", "16, 32"]),
        (&["--block-size", "0"], &["--block-size is 0", "16, 32"]),
        (&["--block-size", "4294967295"], &["--block-size is 4294967295", "16, 32"]),
        (&["--context", "4294967295"], &["--context", "1..=1073741824"]),
        (
            &["--context", "33553920", "--timing", "exact"],
            &["the context is 33553920 tokens", "GB of CPU memory"],
        ),
        (&["--context", "33553920", "--timing", "gpu"], &["--context is 33553920 tokens", "GB"]),
        (
            &["--context", "1073741824", "--timing", "gpu"],
            &["the context is 1073741824 tokens", "a dispatch scores at most 33553920"],
        ),
        (&["--blocks", "4294967295"], &["--context is 8192", "4294967295 hot slots"]),
        (&["--hot-blocks", "4294967295"], &["--context is 8192", "steps go before its end"]),
        (&["--misses", "1e-300%"], &["--context is 8192", "steps go before its end"]),
    ] {
        let run = offload(options);
        assert_eq!((run.code, run.out.as_str()), (Some(2), ""), "{options:?}: {run:?}");
        for part in parts {
            assert!(run.error().contains(part), "{options:?}: {part}: {}", run.error());
        }
    }
}

fn attention(more: &[&str]) -> Run {
    let small =
        ["bench", "attention", "--model-shape", "tiny", "--memory", "40M", "--samples", "3"];
    run(&[&small[..], more].concat())
}

#[test]
fn attention_is_measured_beside_dense_and_beside_a_peer() {
    let folder = tempfile::tempdir().unwrap();
    let (csv, plot) = (folder.path().join("a.csv"), folder.path().join("a.svg"));
    // It says that it is twice as fast with one kernel as with the other, and knows one case alone.
    let peer = r#"cat > shapes.json; for us in 8 4; do
        echo '{"batch": 2, "length": 1024, "name": "of '$us'", "median_us": '$us'}'; done"#;
    let peer = format!("cd {}; {peer}", text(folder.path()));
    let report = attention(&[
        "--lengths",
        "100,1024",
        "--batches",
        "1,2",
        "--scorer",
        "codes,mean-std/none",
        "--blocks",
        "2",
        "--tokens",
        "64",
        "--json",
        "--peer",
        &peer,
        "--csv",
        text(&csv),
        "--plot",
        text(&plot),
    ])
    .fine()
    .json();
    let rows = report["results"].as_array().unwrap();
    assert_eq!(rows.len(), 12);
    let of = |batch: u32, length: u32, method: &str| {
        let is = |row: &&Value| {
            row["batch"] == batch && row["length"] == length && row["method"] == method
        };
        rows.iter().find(is).unwrap_or_else(|| panic!("no {method} at {batch} x {length}"))
    };
    for row in rows {
        let number = |field: &str| row[field].as_f64().unwrap_or_else(|| panic!("{field}: {row}"));
        let [p10, median, p90] = ["p10_us", "median_us", "p90_us"].map(number);
        assert!(0.0 < p10 && p10 <= median && median <= p90, "{row}");
        assert!(number("share_of_stream") > 0.0 && number("copies") >= 1.0, "{row}");
        let expected = (row["batch"] == 2 && row["length"] == 1024).then_some(4.0);
        assert_eq!(row["peer_us"].as_f64(), expected, "{row}");
        assert_eq!(row["speedup_over_peer"].as_f64(), expected.map(|us| us / median), "{row}");
    }
    assert_eq!(of(1, 1024, "dense")["speedup_over_dense"], 1.0);
    // Keys and values of every token; of tiny's 2 KV heads of 32 dimensions.
    let dense = of(2, 1024, "dense")["bytes"].as_u64().unwrap();
    assert_eq!(dense, 2 * 1024 * 2 * 2 * 32 * 2, "{rows:?}");
    assert!(of(2, 1024, "mean-std/none")["bytes"].as_u64().unwrap() < dense);
    let shapes: Value =
        serde_json::from_slice(&std::fs::read(folder.path().join("shapes.json")).unwrap()).unwrap();
    assert_eq!(shapes["cases"], serde_json::json!([[1, 100], [1, 1024], [2, 100], [2, 1024]]));
    assert!(std::fs::read_to_string(csv).unwrap().starts_with("batch,tokens,method,us,"));
    assert!(std::fs::read_to_string(plot).unwrap().contains("codes/codes, batch 2"));
}

#[test]
fn attention_refuses_what_it_cannot_measure_and_names_it() {
    for (more, message) in [
        (&["--heads", "8x4"][..], "--heads is 8x4, but it must be KV heads"),
        (&["--heads", "8x4x100"], "the head dimension is 100"),
        (&["--model-shape", "large"], "known are"),
        (&["--scorer", "codes,codes"], "--scorer is codes, but it is named twice"),
        (&["--scorer", "magic"], "magic"),
        (&["--memory", "much"], "--memory is much, but it must be a size"),
    ] {
        let run = run(&[&["bench", "attention"], more].concat());
        assert_eq!(run.code, Some(2), "{run:?}");
        assert!(run.error().contains(message), "{run:?}");
    }
    for (peer, message) in [
        ("exit 3", "--peer is exit 3, but it ended with"),
        ("echo hello", "but it wrote \"hello\""),
    ] {
        let run = attention(&["--lengths", "64", "--peer", peer]);
        assert_eq!(run.code, Some(2), "{run:?}");
        assert!(run.error().contains(message), "{run:?}");
    }
    // What does not fit is a row that says so.
    let report = attention(&["--lengths", "64,100000", "--json"]).fine().json();
    let rows = report["results"].as_array().unwrap();
    let reasons: Vec<&str> = rows.iter().filter_map(|row| row["skipped"].as_str()).collect();
    assert_eq!(reasons.len(), 3, "{rows:?}");
    assert!(reasons[0].contains("bytes are more than the"), "{reasons:?}");
}

fn throughput(more: &[&str]) -> Run {
    run(&[&["bench", "throughput"], &SMALL[..], more].concat())
}

#[test]
fn throughput_fills_the_same_memory_by_each_way() {
    let room: u64 = 12 << 20;
    let shape = ["--lengths", "1024", "--blocks", "8", "--gpu-memory", "12M", "--misses", "10%"];
    let ways = ["--ways", "dense,two-level,lagged,exact", "--steps", "6", "--batches", "1,2"];
    let report = throughput(&[&shape[..], &ways].concat()).fine().json();
    assert_eq!(report["gpu_memory"], room);
    let rows = report["results"].as_array().unwrap();
    let largest = |way: &str| {
        let is = |row: &&Value| row["way"] == way && row["limit"].is_string();
        let found: Vec<&Value> = rows.iter().filter(is).collect();
        assert_eq!(found.len(), 1, "{way}: {rows:?}");
        found[0]
    };
    for row in rows {
        let number = |field: &str| row[field].as_f64().unwrap_or_else(|| panic!("{field}: {row}"));
        let (batch, all) = (number("batch"), number("tokens_per_second"));
        assert!((number("sequence_tokens_per_second") * batch / all - 1.0).abs() < 1e-9, "{row}");
        assert!(number("token_ms") <= number("token_p99_ms"), "{row}");
        assert!(number("gpu_bytes") <= room as f64, "{row}");
        assert!(row["first_token_seconds"].is_null(), "{row}");
        let offloads = ["lagged", "exact"].contains(&row["way"].as_str().unwrap());
        assert_eq!(number("host_bytes") > 0.0, offloads, "{row}");
        // Each sequence of a batch misses what was asked: of 64 blocks in a step of one.
        let missed = row["miss_rate"].as_f64();
        assert_eq!(missed.is_some(), offloads, "{row}");
        assert!(missed.is_none_or(|missed| (missed - 0.1).abs() < 0.03), "{row}");
    }
    // A sequence more would not have fitted.
    for way in ["dense", "two-level", "lagged"] {
        let row = largest(way);
        let number = |field: &str| row[field].as_u64().unwrap();
        // A rasteriser's memory is the CPU's.
        let (batch, bytes) = (number("batch"), number("gpu_bytes") + number("host_bytes"));
        assert!(batch > 1 && bytes <= room && bytes + bytes / batch > room, "{row}");
        assert!(row["limit"].as_str().unwrap().starts_with("one more needs "), "{row}");
    }
    let best = rows.iter().filter(|row| row["way"] == "dense");
    let best = best.filter_map(|row| row["tokens_per_second"].as_f64()).fold(0.0, f64::max);
    let lagged = largest("lagged");
    let speedup = lagged["tokens_per_second"].as_f64().unwrap() / best;
    assert_eq!(lagged["speedup"].as_f64(), Some(speedup), "{lagged}");
    // Between lengths there is nothing, where there is one.
    let even = report["break_even"].as_array().unwrap();
    assert_eq!(even[0]["batch"], 1);
    for batch in even {
        let ms = |way: &str| {
            let row = rows.iter().find(|row| row["way"] == way && row["batch"] == batch["batch"]);
            row.unwrap()["token_ms"].as_f64().unwrap()
        };
        let want = if ms("two-level") <= ms("dense") { Value::from(0) } else { Value::Null };
        assert_eq!(batch["tokens"], want, "{batch}");
    }
}

#[test]
fn throughput_says_what_does_not_fit_and_refuses_what_cannot_be() {
    let small = ["--lengths", "1024", "--blocks", "8", "--misses", "10%", "--gpu-memory", "1M"];
    let report = throughput(&small).fine().json();
    for row in report["results"].as_array().unwrap() {
        let reason = row["limit"].as_str().unwrap_or_default();
        assert!(row["batch"].is_null() && reason.starts_with("one needs "), "{row}");
    }
    for (more, message) in [
        (&["--lengths", "10"][..], "--lengths is 10, but"),
        (&["--lengths", "512"], "--lengths is 512 tokens, but its"),
        (&["--lengths", "1024", "--blocks", "8", "--hot-blocks", "4"], "--hot-blocks is 4, but"),
        (&["--gpu-memory", "much"], "--gpu-memory is much, but it must be a size"),
        (&["--weights", "magic"], "--weights is magic, but known are"),
    ] {
        let run = throughput(more);
        assert_eq!(run.code, Some(2), "{run:?}");
        assert!(run.error().contains(message), "{message}: {run:?}");
    }
}
