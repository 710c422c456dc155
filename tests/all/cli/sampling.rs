//! How `asynctls generate` chooses tokens: as the model's makers say, or as options do.

use super::program::{generate, text};
use super::tiny::Tiny;
use serde_json::{Value, json};
use std::collections::BTreeSet;

const HI: [&str; 5] = ["--prompt", "Hi", "--max-tokens", "24", "--json"];

fn qwen() -> Tiny {
    Tiny::new(&json!({"do_sample": true, "temperature": 0.9, "top_k": 20, "top_p": 0.95}))
}

fn json(model: &Tiny, more: &[&str]) -> Value {
    model.generate(&[&HI[..], more].concat()).fine().json()
}

#[test]
fn what_the_model_names_is_the_default() {
    let model = qwen();
    let run = model.generate(&[&HI[..], &["--stats"]].concat()).fine();
    let settings = &run.json()["settings"];
    assert_eq!((&settings["temperature"], &settings["top_k"]), (&json!(0.9), &json!(20)));
    let seed = settings["seed"].as_u64().unwrap();
    let line = format!(
        "sampling: temperature 0.9 (the model's), top-k 20 (the model's), top-p 0.95 (the model's), seed {seed}"
    );
    assert!(run.err.lines().any(|shown| shown == line), "{}", run.err);
    assert!(run.err.lines().last().unwrap().ends_with(&format!("; seed {seed}")), "{}", run.err);
    // The seed that was printed makes the same answer.
    let again = json(&model, &["--seed", &seed.to_string()]);
    assert_eq!(again["tokens"], run.json()["tokens"]);
    let other = json(&model, &["--seed", "-1"]);
    assert_ne!((&other["settings"]["seed"], &other["tokens"]), (&seed.into(), &again["tokens"]));

    // Options come first; the likeliest token needs no seed, and where nothing is named it is taken.
    let greedy = json(&model, &["--temperature", "0"]);
    assert_eq!(
        (&greedy["settings"]["temperature"], &greedy["settings"]["seed"]),
        (&json!(0.0), &Value::Null)
    );
    let plain = json(&Tiny::new(&json!({"eos_token_id": 256})), &[]);
    assert_eq!(
        (&plain["settings"]["temperature"], &plain["tokens"]),
        (&json!(0.0), &greedy["tokens"])
    );
    let off = json(&Tiny::new(&json!({"do_sample": false, "temperature": 0.9})), &[]);
    assert_eq!(off["tokens"], greedy["tokens"]);
}

#[test]
fn penalties_reach_greedy_answers_too() {
    let model = qwen();
    let tokens = |more: &[&str]| {
        let report = json(&model, &[&["--temperature", "0"], more].concat());
        let tokens = report["tokens"].as_array().unwrap().clone();
        tokens.iter().map(|token| token.as_u64().unwrap()).collect::<Vec<u64>>()
    };
    let distinct = |tokens: &[u64]| tokens.iter().collect::<BTreeSet<_>>().len();
    assert!(distinct(&tokens(&[])) < 24, "a model that repeats itself");
    for penalty in ["--presence-penalty", "--frequency-penalty"] {
        assert_eq!(distinct(&tokens(&[penalty, "1000"])), 24, "{penalty}");
    }
    let named = Tiny::new(&json!({"do_sample": false, "repetition_penalty": 1.5}));
    assert_eq!(json(&named, &[])["settings"]["repetition_penalty"], 1.5);
    assert_eq!(
        json(&named, &[])["tokens"],
        json(&model, &["--temperature", "0", "--repetition-penalty", "1.5"])["tokens"]
    );
}

#[test]
fn what_changes_nothing_or_cannot_be_done_is_said() {
    let model = Tiny::new(&json!({"num_beams": 4, "top_p": 7}));
    let run = model.generate(&[&HI[..], &["--top-k", "3", "--seed", "1"]].concat()).fine();
    for part in [
        "generation_config.json: num_beams is not supported",
        "generation_config.json: top_p is 7, but a number above 0 and at most 1 is needed",
        "note: --top-k and --seed change nothing at a temperature of 0, which takes the likeliest token\n",
    ] {
        assert!(run.err.contains(part), "{part}: {}", run.err);
    }
    for (option, value, limit) in [
        ("--seed", "-2", "from 0 to 18446744073709551615, or -1 for a random one"),
        ("--seed", "seven", "from 0 to 18446744073709551615, or -1 for a random one"),
        ("--min-p", "1.5", "a number of at least 0 and at most 1"),
        ("--repetition-penalty", "0", "a finite number above 0"),
        ("--presence-penalty", "inf", "a finite number"),
        ("--frequency-penalty", "NaN", "a finite number"),
        ("--stop", "", "--stop"),
    ] {
        let run = model.generate(&[&HI[..], &[option, value]].concat());
        assert_eq!(run.code, Some(2), "{run:?}");
        for part in [option, value, limit] {
            assert!(run.error().contains(part), "{part}: {}", run.error());
        }
    }
}

#[test]
fn a_session_keeps_its_random_seed() {
    let model = qwen();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("talk.kv");
    let copy = folder.path().join("copy.kv");
    let first = json(&model, &["--session", text(&path)]);
    std::fs::copy(&path, &copy).unwrap();
    let more = |path| json(&model, &["--session", path]);
    let (one, other) = (more(text(&path)), more(text(&copy)));
    assert_eq!(one["tokens"], other["tokens"]);
    assert_eq!(one["settings"]["seed"], first["settings"]["seed"]);
    assert_ne!(one["tokens"], first["tokens"], "the draws go on");
}

#[test]
fn a_stop_text_ends_the_answer_and_is_not_shown() {
    let prompt = ["--prompt", "What is the capital of France?", "--max-tokens", "12"];
    // It begins and ends within tokens.
    let run = generate(&[&prompt[..], &["--stop", "Rome", "--stop", "al of F"]].concat()).fine();
    assert_eq!(run.out, "The capit\n");
    let json =
        generate(&[&prompt[..], &["--stop", "is Pariser", "--stop", "s.", "--json"]].concat());
    let report = json.fine().json();
    assert_eq!(
        (&report["text"], &report["finish"]),
        (&"The capital of France is Pari".into(), &"stop".into())
    );
    assert_eq!(report["settings"]["stop"], json!(["is Pariser", "s."]));
}
