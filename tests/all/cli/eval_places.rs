//! Evaluations with the KV cache on the GPU and in CPU memory, and what each row says of its selection: on a tiny model with
//! tokens of bytes, in blocks of 16.

use super::program::{Run, command, run_command, text};
use super::tiny::Tiny;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

const ESSAY: &str = "demo/britannica-1911-shakespeare.txt";
const DIVERGENCE: [&str; 10] =
    ["--text", ESSAY, "--lengths", "330", "--scored", "40", "--windows", "3", "--block-size", "16"];
const RETRIEVAL: [&str; 8] =
    ["--lengths", "500", "--depths", "1", "--samples", "2", "--block-size", "16"];
const SOME: [&str; 4] = ["--scorer", "codes", "--budget", "3+20"];

fn eval(tiny: &Tiny, evaluation: &str, arguments: &[&[&str]]) -> Run {
    let model = ["eval", evaluation, "--model", text(tiny.path())];
    run_command(command(&[&model, &arguments.concat()[..]].concat()), b"")
}

fn refused(tiny: &Tiny, evaluation: &str, arguments: &[&[&str]], parts: &[&str]) {
    let run = eval(tiny, evaluation, arguments);
    assert_eq!((run.code, run.out.as_str()), (Some(2), ""), "{arguments:?}: {run:?}");
    for part in parts {
        assert!(run.error().contains(part), "{arguments:?}: {part}: {}", run.error());
    }
}

fn rows(report: &Value) -> &Vec<Value> {
    report["results"].as_array().unwrap()
}

/// The row of a method.
fn row<'a>(report: &'a Value, method: &str) -> &'a Value {
    let mut own = rows(report).iter().filter(|row| row["method"] == method);
    own.next().unwrap_or_else(|| panic!("no row of {method}: {report}"))
}

fn number(row: &Value, path: &str) -> f64 {
    row.pointer(path).and_then(Value::as_f64).unwrap_or_else(|| panic!("no {path}: {row}"))
}

/// A line of a table, in words.
fn line<'a>(run: &'a Run, begin: &str) -> Vec<&'a str> {
    let found = run.out.lines().find(|line| line.trim_start().starts_with(begin));
    found.unwrap_or_else(|| panic!("no {begin}: {run:?}")).split_whitespace().collect()
}

#[test]
fn divergence_has_a_row_for_every_place_and_says_what_it_attended() {
    let tiny = Tiny::new(&json!({}));
    let folder = tempfile::tempdir().unwrap();
    let (csv, plot) = (folder.path().join("d.csv"), folder.path().join("d.svg"));
    let places = ["--timing", "gpu,exact,lagged:off,lagged:0.5%,resident:off,resident:0.5%"];
    let places = [&places[..], &["--kv-type", "f16,q8_0"]].concat();
    let outputs = ["--json", "--csv", text(&csv), "--plot", text(&plot), "--hot-blocks", "4"];
    let report = eval(&tiny, "divergence", &[&DIVERGENCE, &SOME, &places, &outputs]).fine().json();
    let names: Vec<&str> =
        rows(&report).iter().map(|row| row["method"].as_str().unwrap()).collect();
    assert_eq!(
        names,
        [
            "dense",
            "dense q8_0",
            "codes/codes 3+20",
            "codes/codes 3+20 exact",
            "codes/codes 3+20 exact q8_0",
            "codes/codes 3+20 lagged:off",
            "codes/codes 3+20 lagged:off q8_0",
            "codes/codes 3+20 lagged:0.5%",
            "codes/codes 3+20 lagged:0.5% q8_0",
            "codes/codes 3+20 resident:off",
            "codes/codes 3+20 resident:off q8_0",
            "codes/codes 3+20 resident:0.5%",
            "codes/codes 3+20 resident:0.5% q8_0",
        ]
    );
    assert_eq!(
        (&report["settings"]["hot_blocks"], &report["settings"]["windows"]),
        (&4.into(), &3.into())
    );
    let dense = row(&report, "dense");
    for path in ["/divergence/mean", "/divergence_max", "/increase_percent/mean"] {
        assert_eq!(number(dense, path), 0.0, "{dense}");
    }
    assert_eq!((number(dense, "/agreement/mean"), &dense["nothing_left_out"]), (1.0, &Value::Null));
    // Bytes lose less than what is left out.
    let lost = |method: &str| number(row(&report, method), "/divergence/mean");
    assert!(lost("dense q8_0") > 0.0 && lost("dense q8_0") < lost("codes/codes 3+20"), "{report}");
    let rows_of_some =
        rows(&report).iter().filter(|row| row["method"].as_str().unwrap().contains('/'));
    for one in rows_of_some {
        assert_eq!((&one["steps"], &one["selecting_steps"]), (&120.into(), &120.into()), "{one}");
        assert_eq!((&one["nothing_left_out"], &one["scored_tokens"]), (&false.into(), &120.into()));
        assert!(number(one, "/attended_share") < 0.4, "{one}");
        assert!(number(one, "/divergence_p50") <= number(one, "/divergence_p95"), "{one}");
        assert!(number(one, "/divergence_p95") <= number(one, "/divergence_p99"), "{one}");
        assert!(number(one, "/divergence_p99") <= number(one, "/divergence_max"), "{one}");
        let (low, high) = (number(one, "/divergence/low"), number(one, "/divergence/high"));
        assert!(low <= number(one, "/divergence/mean") && number(one, "/divergence/mean") <= high);
    }
    let missed =
        |name: &str| row(&report, &format!("codes/codes 3+20{name}"))["missed_share"].clone();
    assert_eq!((missed(""), missed(" exact")), (Value::Null, json!(0.0)));
    for rule in ["lagged", "resident"] {
        let share = missed(&format!(" {rule}:off")).as_f64().unwrap();
        assert!(share > 0.0 && share < 1.0, "{rule}: {share}");
        // What is done again is as `exact` has it.
        let name = format!("codes/codes 3+20 {rule}:0.5%");
        let guarded = row(&report, &name);
        assert!(number(guarded, "/redone_share") > 0.3, "{guarded}");
        assert!(number(guarded, "/missed_share") < 0.05, "{guarded}");
        let free = row(&report, &format!("codes/codes 3+20 {rule}:off"));
        assert_eq!(free["redone_share"], Value::Null);
        let apart = lost(&name) - lost("codes/codes 3+20 exact");
        assert!(apart.abs() <= 0.05 * lost("codes/codes 3+20 exact"), "{report}");
    }
    // Three windows of 40 tokens under thirteen methods.
    assert_eq!(fs::read_to_string(&csv).unwrap().lines().count(), 1 + 3 * 40 * 13);
    assert!(fs::read_to_string(&plot).unwrap().contains("<svg"));
}

#[test]
fn an_interrupted_comparison_goes_on_to_the_same_file() {
    let tiny = Tiny::new(&json!({}));
    let folder = tempfile::tempdir().unwrap();
    let (whole, parts) = (folder.path().join("whole.jsonl"), folder.path().join("parts.jsonl"));
    let with = |state: &Path, more: &[&str]| {
        // By `exact`, which steps that are done again follow, last bits hang on what has a slot.
        let state = ["--state", text(state), "--timing", "gpu,lagged:off", "--json"];
        eval(&tiny, "divergence", &[&DIVERGENCE, &SOME, &state, more])
    };
    let report = with(&whole, &[]).fine().json();
    let file = fs::read_to_string(&whole).unwrap();
    let lines: Vec<&str> = file.split_inclusive('\n').collect();
    assert_eq!(lines.len(), 4);
    // Killed after one window, and within the line of the second.
    for cut in [lines[..2].concat(), lines[..2].concat() + &lines[2][..lines[2].len() / 2]] {
        fs::write(&parts, cut).unwrap();
        let resumed = with(&parts, &[]).fine().json();
        assert_eq!(resumed["results"], report["results"]);
        assert_eq!(fs::read_to_string(&parts).unwrap(), file);
    }
    for (more, setting) in [
        (&["--windows", "4"][..], "windows"),
        (&["--kv-type", "q8_0"], "methods"),
        (&["--hot-blocks", "9"], "hot_blocks"),
    ] {
        let run = with(&parts, more);
        assert!(run.code == Some(2) && run.error().contains(setting), "{more:?}: {run:?}");
    }
    assert_eq!(fs::read_to_string(&parts).unwrap(), file);
}

#[test]
fn retrieval_decodes_over_every_place() {
    let tiny = Tiny::new(&json!({}));
    let timing = "gpu,exact,lagged:off";
    let places = ["--timing", timing, "--kv-type", "q8_0", "--json", "--decoded", "9"];
    let report = eval(&tiny, "retrieval", &[&RETRIEVAL, &SOME, &places]).fine().json();
    assert_eq!(report["settings"]["decoded"], 9);
    let names: Vec<&str> =
        rows(&report).iter().map(|row| row["method"].as_str().unwrap()).collect();
    let some = "codes/codes 3+20";
    assert_eq!(
        names,
        [
            "dense",
            "dense q8_0",
            some,
            &format!("{some} exact q8_0"),
            &format!("{some} lagged:off q8_0")
        ]
    );
    for one in rows(&report) {
        // A prompt's last nine tokens are steps, and so are all of the answer's but its first.
        assert!(number(one, "/steps") >= 2.0 * 9.0, "{one}");
        let selects = one["method"].as_str().unwrap().contains('/');
        assert_eq!(one["selecting_steps"], if selects { one["steps"].clone() } else { json!(0) });
    }
    let missed = |rule: &str| number(row(&report, &format!("{some} {rule} q8_0")), "/missed_share");
    assert!(missed("exact") == 0.0 && missed("lagged:off") > 0.0, "{report}");
}

#[test]
fn what_left_nothing_out_says_so_in_every_table() {
    let tiny = Tiny::new(&json!({}));
    let all = ["--scorer", "codes", "--budget", "100%+4096,3+20", "--timing", "gpu,lagged:off"];
    let perplexity = ["--text", ESSAY, "--length", "300", "--prefill", "290", "--block-size", "16"];
    let divergence =
        [&DIVERGENCE[..4], &["--scored", "9", "--windows", "2", "--block-size", "16"]].concat();
    for (evaluation, options, first) in [
        ("divergence", &divergence[..], "330 "),
        ("retrieval", &RETRIEVAL, "niah-single 500 "),
        ("perplexity", &perplexity, ""),
    ] {
        let run = eval(&tiny, evaluation, &[options, &all]).fine();
        for (method, says_so) in [
            ("dense", false),
            ("codes/codes 100%+4096", true),
            ("codes/codes 100%+4096 lagged:off", true),
            ("codes/codes 3+20", false),
            ("codes/codes 3+20 lagged:off", false),
        ] {
            let words = format!("{first}{method}");
            let begin: Vec<&str> = words.split_whitespace().collect();
            let is_own = |line: &&str| {
                let words: Vec<&str> = line.split_whitespace().collect();
                let rest = words.strip_prefix(&begin[..]);
                rest.is_some_and(|rest| rest.first() != Some(&"lagged:off"))
            };
            let own = run.out.lines().find(is_own);
            let own = own.unwrap_or_else(|| panic!("{evaluation}, {method}: {run:?}"));
            assert_eq!(own.contains("nothing left out"), says_so, "{evaluation}: {own}");
            assert_eq!(
                own.contains(" 100.0 "),
                says_so || method == "dense",
                "{evaluation}: {own}"
            );
        }
        // Which rows those are is in the object too, with their figures.
        let report = eval(&tiny, evaluation, &[options, &all, &["--json"]]).fine().json();
        let flags: Vec<&Value> = rows(&report).iter().map(|row| &row["nothing_left_out"]).collect();
        assert_eq!(flags, [&Value::Null, &json!(true), &json!(true), &json!(false), &json!(false)]);
    }
}

#[test]
fn perplexity_over_the_host_is_that_over_the_gpu() {
    let tiny = Tiny::new(&json!({}));
    let window = ["--text", ESSAY, "--length", "330", "--prefill", "270", "--block-size", "16"];
    let timing = "gpu,exact,lagged:off,lagged:0%,resident:off,resident:0%";
    let places = ["--timing", timing, "--json"];
    let report = eval(&tiny, "perplexity", &[&window, &SOME, &places]).fine().json();
    let of = |name: &str| number(row(&report, &format!("codes/codes 3+20{name}")), "/perplexity");
    assert!((of(" exact") / of("") - 1.0).abs() < 1e-3, "{report}");
    for rule in ["lagged", "resident"] {
        let apart = of(&format!(" {rule}:0%")) / of(" exact") - 1.0;
        assert!(apart.abs() < 1e-3 && of(&format!(" {rule}:off")) != of(" exact"), "{report}");
    }
    assert_eq!(report["perplexity"], row(&report, "codes/codes 3+20")["perplexity"]);
}

#[test]
fn bad_requests_name_the_option_the_value_and_the_limit() {
    let tiny = Tiny::new(&json!({}));
    let divergence = |more: &[&str], parts: &[&str]| {
        refused(&tiny, "divergence", &[&["--text", ESSAY], more], parts);
    };
    divergence(&["--lengths", "64", "--scored", "64"], &["--scored is 64", "one is 64"]);
    divergence(&["--lengths", "4096"], &["--lengths is 4096 tokens", "2048"]);
    divergence(
        &["--lengths", "2000", "--windows", "900"],
        &["--windows is 900", ESSAY, "60804 tokens"],
    );
    divergence(&["--lengths", "400", "--timing", "gpu,gpu"], &["--timing is gpu", "named twice"]);
    divergence(&["--timing", "lagged:off,lagged:100%"], &["--timing is lagged:off", "named twice"]);
    divergence(&["--timing", "lagged:120%"], &["--timing", "lagged:120%", "0% to 100%"]);
    divergence(&["--timing", "resident,resident:90%"], &["resident:90%", "named twice"]);
    for bad in ["soon", "exact:5%", "gpu:off", "resident:", "soon:5%"] {
        divergence(&["--timing", bad], &[&format!("--timing is {bad}"), "lagged:P%"]);
    }
    divergence(&["--lengths", "400", "--kv-type", "q4_0"], &["--kv-type", "f16 or q8_0"]);
    let oracle = ["--lengths", "400", "--scorer", "oracle/oracle", "--timing", "lagged"];
    divergence(&oracle, &["--scorer is oracle/oracle", "gpu in --timing"]);
    let few = ["--lengths", "400", "--block-size", "16", "--timing", "lagged", "--scorer", "codes"];
    divergence(
        &[&few[..], &["--budget", "5+20", "--hot-blocks", "4"]].concat(),
        &["--hot-blocks is 4 blocks", "level 1 keeps 5 blocks"],
    );
    refused(&tiny, "divergence", &[&["--text", "absent.txt", "--lengths", "400"]], &["absent.txt"]);
    let alone = ["--text", ESSAY, "--attention", "dense", "--lengths", "400", "--windows", "1"];
    let vain = ["--hot-blocks", "9", "--timing", "lagged", "--scored", "2"];
    let run = eval(&tiny, "divergence", &[&alone, &vain]).fine();
    let note = "note: --timing and --hot-blocks change nothing with --attention dense, which attends every token";
    assert!(run.err.lines().any(|line| line == note), "{run:?}");
    assert_eq!(line(&run, "400")[..2], ["400", "dense"]);
    // All of it on the GPU, as it is by default.
    let alone = ["--text", ESSAY, "--scorer", "codes", "--lengths", "400", "--windows", "1"];
    let vain = ["--hot-blocks", "99", "--kv-type", "f16", "--scored", "2"];
    let run = eval(&tiny, "divergence", &[&alone, &vain]).fine();
    for why in ["--hot-blocks changes nothing with --timing gpu", "--kv-type changes nothing where"]
    {
        assert!(run.err.contains(why), "{run:?}");
    }
    // Dense attention alone, over what is stored as bytes.
    let alone = ["--text", ESSAY, "--attention", "dense", "--lengths", "400", "--windows", "1"];
    let run = eval(&tiny, "divergence", &[&alone, &["--kv-type", "q8_0", "--scored", "2"]]).fine();
    assert!(!run.err.contains("nothing"), "{run:?}");
    let names: Vec<&str> = run.out.lines().filter(|line| line.contains("400  dense")).collect();
    assert!(names.len() == 2 && names[1].contains("dense q8_0"), "{run:?}");
}

/// A row of the embedding, which is the output too, whose products are infinities of both signs: as large weights as there are.
fn break_token(tiny: &Tiny, token: usize) {
    for entry in fs::read_dir(tiny.path()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|ending| ending != "safetensors") {
            continue;
        }
        let mut bytes = fs::read(&path).unwrap();
        let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let tensors: Value = serde_json::from_slice(&bytes[8..header]).unwrap();
        let Some(embedding) = tensors.get("model.embed_tokens.weight") else { continue };
        let at = embedding["data_offsets"][0].as_u64().unwrap() as usize + header;
        let width = embedding["shape"][1].as_u64().unwrap() as usize * 2;
        let row = &mut bytes[at + token * width..][..width];
        for (weight, sign) in row.chunks_exact_mut(2).zip([0, 0x8000u16].into_iter().cycle()) {
            weight.copy_from_slice(&(0x7f7f | sign).to_le_bytes());
        }
        return fs::write(path, bytes).unwrap();
    }
    panic!("no embedding");
}

#[test]
fn logits_that_are_not_numbers_are_named_with_method_and_position() {
    let tiny = Tiny::new(&json!({}));
    // A byte that the text has not.
    break_token(&tiny, 7);
    let perplexity = ["--text", ESSAY, "--length", "300", "--prefill", "260"];
    for (evaluation, options, position) in
        [("divergence", &DIVERGENCE[..], 289), ("perplexity", &perplexity, 259)]
    {
        let what = format!("dense, position {position}: the logit of token 7 is NaN");
        refused(&tiny, evaluation, &[options, &SOME], &[&what]);
    }
}
