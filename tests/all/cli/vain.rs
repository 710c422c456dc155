//! Options that change nothing beside others: a note says so, and the answer is the same.

use super::program::{Run, model, run, text};
use super::tiny::Tiny;
use serde_json::json;

const HI: [&str; 5] = ["--prompt", "Hi", "--max-tokens", "4", "--json"];

fn notes(run: &Run) -> Vec<&str> {
    run.err.lines().filter(|line| line.contains(" nothing ")).collect()
}

#[test]
fn generate_says_which_options_change_nothing() {
    let tiny = Tiny::new(&json!({}));
    let said = |more: &[&str], expected: &[&str]| {
        let plain = tiny.generate(&HI).fine();
        assert_eq!(notes(&plain), [""; 0]);
        let run = tiny.generate(&[&HI[..], more].concat()).fine();
        assert_eq!(notes(&run), expected, "{more:?}");
        assert_eq!(run.json()["tokens"], plain.json()["tokens"], "{more:?}");
    };
    said(
        &["--attention", "dense", "--blocks", "9", "--index-bits", "8"],
        &[
            "note: --blocks and --index-bits change nothing with --attention dense, which attends every token",
        ],
    );
    let short = "here: a context of no more than --dense-below tokens is attended whole";
    said(&["--blocks", "9"], &[&format!("note: --blocks changes nothing {short}")]);
    let gpu = "where the whole KV cache is on the GPU: --kv host keeps it in CPU memory";
    let offload = ["--timing", "lagged", "--kv-type", "q8_0"];
    said(
        &[&offload[..], &["--dense-below", "0"]].concat(),
        &[&format!("note: --timing and --kv-type change nothing {gpu}")],
    );
    let host = ["--dense-below", "0", "--kv", "host", "--missed-mass", "5%"];
    said(&[&offload[..], &host].concat(), &[]);
    said(&[&host[..], &["--timing", "resident"]].concat(), &[]);
    let exact = "with --timing exact, whose steps miss nothing";
    said(&host, &[&format!("note: --missed-mass changes nothing {exact}")]);
    let one = "without -i or --session: before a single question there is none to forget";
    said(&["--when-full", "drop-oldest"], &[&format!("note: --when-full changes nothing {one}")]);
}

#[test]
fn windows_in_every_layer_leave_nothing_to_select() {
    let tiny = Tiny::of("mistral", &json!({}));
    let budget = ["--dense-below", "0", "--blocks", "9", "--context"];
    let within = tiny.generate(&[&HI[..], &budget, &["51"]].concat()).fine();
    assert_eq!(notes(&within), [""; 0]);
    let beyond = tiny.generate(&[&HI[..], &budget, &["52"]].concat()).fine();
    let why = "with this model and context, of which every layer attends a sliding window";
    assert_eq!(notes(&beyond), [format!("note: --blocks changes nothing {why}")]);
    let need =
        "--kv is host, but this model's sliding windows of 51 tokens need all of it on the GPU";
    let run = tiny.generate(&[&HI[..], &budget, &["52", "--kv", "host"]].concat());
    assert!(run.code == Some(2) && run.error().contains(need), "{run:?}");
    tiny.generate(&[&HI[..], &budget, &["51", "--kv", "host"]].concat()).fine();
}

#[test]
fn other_commands_say_it_too() {
    let model = model();
    let run = |arguments: &[&str]| run(arguments).fine();
    let logits = ["logits", "--model", &model, "--ids", "1,2", "--attention", "dense"];
    assert_eq!(
        notes(&run(&[
            &logits[..],
            &["--quantize", "q8_0", "--tokens", "9", "--rope-scaling", "none"]
        ]
        .concat())),
        [
            "note: --tokens changes nothing with --attention dense, which attends every token",
            "note: --quantize changes nothing here: the model's weights are quantised already",
            "note: --rope-scaling changes nothing here: the model's file says the same"
        ]
    );
    let tiny = Tiny::new(&json!({}));
    let tiny = ["logits", "--model", text(tiny.path()), "--ids", "1,2"];
    assert_eq!(notes(&run(&[&tiny[..], &["--quantize", "q8_0"]].concat())), [""; 0]);
    assert_eq!(
        notes(&run(&["inspect", &model, "--adapter", "0"])),
        ["note: --adapter changes nothing where no model runs"]
    );
    let bench = ["bench", "offload", "--model-shape", "tiny", "--context", "512", "--steps", "1"];
    assert_eq!(
        notes(&run(&[
            &bench[..],
            &["--block-size", "16", "--blocks", "4", "--timing", "gpu", "--kv-type", "q8_0"]
        ]
        .concat())),
        [
            "note: --kv-type changes nothing with --timing gpu, which has the whole KV cache on the GPU"
        ]
    );
}
