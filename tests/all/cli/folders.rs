//! Models that are folders.

use super::program::run;

const FOLDER: &str = "tests/goldens/tiny/qwen3/model";
const GGUF: &str = "tests/goldens/tiny/qwen3/model.gguf";

#[test]
fn a_folder_has_the_logits_of_its_gguf_file() {
    let rows = [FOLDER, GGUF].map(|model| {
        let report = run(&["logits", "--model", model, "--ids", "5,6,7,8", "--json"]).fine().json();
        let row = report["logits"].as_array().unwrap();
        row.iter().map(|logit| logit.as_f64().unwrap()).collect::<Vec<f64>>()
    });
    assert_eq!((rows[0].len(), rows[1].len()), (267, 267));
    let largest = rows[0].iter().map(|logit| logit.abs()).fold(0.0, f64::max);
    let apart = rows[0].iter().zip(&rows[1]).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(largest > 0.1 && apart < 0.01 * largest, "{apart} of {largest}");
}

#[test]
fn text_needs_a_tokenizer() {
    let prompt = ["--prompt", "Hi"];
    for more in [&["--raw"][..], &[]] {
        let run = run(&[&["generate", "--model", FOLDER], &prompt[..], more].concat());
        assert_eq!((run.code, run.out.as_str()), (Some(2), ""), "{run:?}");
        let file = format!("{FOLDER}/tokenizer.json");
        assert!(run.error().contains(&file), "{}", run.error());
    }
}

#[test]
fn a_folder_is_inspected() {
    let found = run(&["inspect", FOLDER, "--json"]).fine().json();
    assert_eq!(
        (&found["architecture"], &found["runs"]),
        (&"Qwen3ForCausalLM".into(), &false.into()),
        "it has no tokenizer, which generate needs"
    );
    assert_eq!(found["problem"], found["tokenizer"]["problem"]);
    assert_eq!(
        (&found["gguf_version"], &found["path"]),
        (&serde_json::Value::Null, &FOLDER.into())
    );
    assert_eq!(
        (&found["context_length"], &found["shapes"]["head_dim"]),
        (&2048.into(), &32.into())
    );
    assert_eq!(found["file_bytes"], 642_816, "what the index says");
    assert_eq!(found["weights"][0]["type"], "BF16");
    assert!(found["tokenizer"]["problem"].as_str().unwrap().contains("tokenizer.json"), "{found}");
    let shown = run(&["inspect", FOLDER]).fine().out;
    for part in ["Qwen3ForCausalLM", "2048 tokens", "BF16", "642.8 kB of weights", "can run"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
}

#[test]
fn a_broken_folder_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    for arguments in [&["inspect", path][..], &["logits", "--model", path, "--ids", "1"]] {
        let run = run(arguments);
        assert_eq!((run.code, run.out.as_str()), (Some(2), ""), "{run:?}");
        assert!(run.error().contains("config.json"), "{}", run.error());
    }
}
