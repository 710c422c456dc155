//! Contexts longer than a model's.

use super::program::{Run, run, text};
use std::io::Write;

/// 2,048 positions, no scaling.
const PLAIN: &str = "tests/goldens/tiny/qwen3/model.gguf";
/// YaRN, factor 4 over 128 of 1,024 positions.
const YARN: &str = "tests/goldens/tiny/qwen3-yarn/model";

fn logits(model: &str, ids: usize, more: &[&str]) -> Run {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let list: Vec<String> = (0..ids).map(|i| (3 + i % 200).to_string()).collect();
    file.write_all(list.join(",").as_bytes()).unwrap();
    let arguments = ["logits", "--model", model, "--json", "--ids-file", text(file.path())];
    run(&[&arguments[..], more].concat())
}

#[test]
fn a_context_is_stretched_as_the_error_says() {
    let short = logits(PLAIN, 2200, &[]);
    assert_eq!((short.code, short.out.as_str()), (Some(2), ""));
    assert_eq!(
        short.error(),
        "--ids-file is 2200 tokens, but the model's context is 2048 tokens: --rope-scaling yarn --rope-scale 2 makes it 4096"
    );
    let yarn = ["--rope-scaling", "yarn", "--rope-scale", "2"];
    let long = logits(PLAIN, 2200, &yarn).fine().json();
    assert_eq!(long["ids"], 2200);
    // No further than that.
    let limit = [&yarn[..], &["--rope-original-context", "1050"]].concat();
    let error = logits(PLAIN, 2200, &limit);
    assert!(error.error().contains("the model's context is 2100 tokens: "), "{error:?}");
}

#[test]
fn a_model_that_takes_no_other_scaling_gets_no_such_advice() {
    for (model, tokens) in [("llama3", 1024), ("glm4-moe-lite", 2048)] {
        let model = format!("tests/goldens/tiny/{model}/model");
        let error = logits(&model, tokens + 1, &[]);
        let end = format!("but the model's context is {tokens} tokens");
        assert!(error.error().ends_with(&end), "{error:?}");
        let error = logits(&model, 4, &["--rope-scaling", "linear", "--rope-scale", "2"]);
        assert_eq!(error.code, Some(2));
        let begin = "--rope-scaling is linear, but ";
        assert!(error.error().starts_with(begin), "{error:?}");
    }
}

#[test]
fn options_take_the_place_of_the_file_s_scaling() {
    let with = |more: &[&str]| logits(YARN, 8, more).fine().json()["logits"].clone();
    let own = with(&[]);
    // The original context is the file's.
    assert_eq!(with(&["--rope-scaling", "yarn", "--rope-scale", "4"]), own);
    assert_ne!(with(&["--rope-scaling", "none"]), own);
}

#[test]
fn options_that_mean_nothing_are_refused() {
    for (options, message) in [
        (
            &["--rope-scaling", "yarn"][..],
            "--rope-scaling is yarn, but --rope-scale is missing: --rope-scale 4 makes a context four times as long",
        ),
        (
            &["--rope-scaling", "yarn", "--rope-scale", "0.5"],
            "--rope-scale is 0.5, but it must be a number from 1 to 1024",
        ),
        (
            &["--rope-scaling", "linear", "--rope-scale", "NaN"],
            "--rope-scale is NaN, but it must be a number from 1 to 1024",
        ),
        (
            &["--rope-scaling", "yarn", "--rope-scale", "-4"],
            "--rope-scale is -4, but it must be a number from 1 to 1024",
        ),
        (
            &["--rope-scaling", "none", "--rope-scale", "4"],
            "--rope-scale is 4, but --rope-scaling none takes none",
        ),
        (
            &["--rope-scaling", "none", "--rope-original-context", "128"],
            "--rope-original-context is 128, but --rope-scaling none takes none",
        ),
    ] {
        let run = logits(PLAIN, 4, options);
        assert_eq!((run.code, run.error(), run.out.as_str()), (Some(2), message, ""));
    }
    for options in [
        &["--rope-scale", "4"][..],
        &["--rope-original-context", "128"],
        &["--rope-scaling", "su", "--rope-scale", "4"],
        &["--rope-scaling", "yarn", "--rope-scale", "4", "--rope-original-context", "0"],
    ] {
        let run = logits(PLAIN, 4, options);
        assert_eq!((run.code, run.out.as_str()), (Some(2), ""), "{run:?}");
    }
}

#[test]
fn inspect_shows_the_scaling_and_what_it_makes_of_the_context() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(format!("{YARN}/{name}"), folder.path().join(name)).unwrap();
    }
    let config = folder.path().join("config.json");
    let edited = std::fs::read_to_string(&config)
        .unwrap()
        .replace("\"max_position_embeddings\": 1024", "\"max_position_embeddings\": 1536")
        .replace(
            "\"original_max_position_embeddings\": 128",
            "\"original_max_position_embeddings\": 1536",
        );
    std::fs::write(&config, edited).unwrap();
    let path = text(folder.path());
    let found = run(&["inspect", path, "--json"]).fine().json();
    assert_eq!(found["context_length"], 6144);
    assert_eq!(found["rope_scaling"], "yarn, factor 4 over 1536 tokens");
    let shown = run(&["inspect", path]).fine().out;
    for part in ["6144 tokens", "yarn, factor 4 over 1536 tokens"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    // 4,096 tokens were refused.
    assert_eq!(logits(path, 4096, &["--attention", "dense"]).fine().json()["ids"], 4096);
    let error = logits(path, 6145, &[]);
    assert!(
        error.error().ends_with("--rope-scaling yarn --rope-scale 5 makes it 7680"),
        "{error:?}"
    );
}
