//! `asynctls logits`.

use super::program::{Run, model, run, text};
use std::io::Write;

const IDS: &str = "504,3575,282,4649,314";

fn logits(arguments: &[&str]) -> Run {
    let model = model();
    run(&[&["logits", "--model", &model], arguments].concat())
}

fn row(value: &serde_json::Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

fn distance(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!((a.len(), b.len()), (49152, 49152));
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

#[test]
fn the_last_of_all_is_the_last() {
    for attention in ["dense", "two-level"] {
        let rest = ["--ids", IDS, "--json", "--attention", attention];
        let last = logits(&rest).fine().json();
        let all = logits(&[&rest[..], &["--all"]].concat()).fine().json();
        assert_eq!((&last["ids"], &all["ids"]), (&5.into(), &5.into()));
        assert_eq!(all["logits"].as_array().unwrap().len(), 5);
        // Prompts and steps sum in different orders.
        let difference = distance(&row(&last["logits"]), &row(&all["logits"][4]));
        assert!(difference < 0.02, "{attention}: {difference}");
    }
}

#[test]
fn people_get_a_summary() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(IDS.replace(',', "\n").as_bytes()).unwrap();
    let run = logits(&["--ids-file", text(file.path())]).fine();
    assert!(run.out.starts_with("after 5 ids: 7042 ("), "{}", run.out);
    assert_eq!(run.out.lines().count(), 1);
}

#[test]
fn bad_ids_are_refused() {
    let long = "1,".repeat(8193);
    for (ids, message) in [
        ("1,two,3", "--ids is \"two\", but token ids are numbers from 0"),
        ("-1", "--ids is \"-1\", but token ids are numbers from 0"),
        (",", "--ids is empty, but at least one token id is needed"),
        ("1,49152", "--ids is 49152, but the vocabulary has 49152 tokens, numbered from 0"),
        (
            &long,
            "--ids is 8193 tokens, but the model's context is 8192 tokens: --rope-scaling yarn --rope-scale 2 makes it 16384",
        ),
    ] {
        let run = logits(&["--ids", ids, "--json"]);
        assert_eq!((run.code, run.error(), run.out.as_str()), (Some(2), message, ""));
    }
    assert_eq!(logits(&["--json"]).code, Some(2));
}
