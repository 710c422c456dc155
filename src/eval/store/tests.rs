use super::*;
use proptest::prelude::*;
use serde_json::{Value, json};

/// A result with all that is easily lost.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Outcome {
    loss: f64,
    scores: Vec<Option<f32>>,
    answer: String,
}

fn outcome(unit: u32) -> Outcome {
    Outcome {
        loss: f64::from(unit) / 3.0,
        scores: vec![Some(0.1 * unit as f32), None],
        answer: format!("\"{unit}\"\nλ"),
    }
}

const KEYS: [&str; 3] = ["a", "b \"quoted\"\n", "c"];

fn temporary() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("results.jsonl");
    (directory, path)
}

/// Does the units that are not finished, and returns how many were.
fn evaluate(path: &Path, settings: &Value) -> usize {
    let mut store = Store::open(path, settings).unwrap();
    let finished = store.len();
    for (unit, key) in (1..).zip(KEYS) {
        match store.get::<Outcome>(key).unwrap() {
            Some(found) => assert_eq!(found, outcome(unit)),
            None => store.put(key, &outcome(unit)).unwrap(),
        }
    }
    assert_eq!(store.len(), KEYS.len());
    finished
}

fn refusal(path: &Path, settings: &Value) -> String {
    let before = fs::read(path).unwrap();
    let error = Store::open(path, settings).unwrap_err().to_string();
    assert_eq!(fs::read(path).unwrap(), before, "a refused file changed");
    error.replace(&path.display().to_string(), "FILE")
}

#[test]
fn an_evaluation_cut_anywhere_goes_on_to_the_same_file() {
    let (_directory, path) = temporary();
    let settings = json!({"seed": 1});
    assert_eq!(evaluate(&path, &settings), 0);
    let whole = fs::read(&path).unwrap();
    let lines = whole.iter().filter(|&&byte| byte == b'\n').count();
    assert_eq!(lines, 1 + KEYS.len());
    for cut in 0..=whole.len() {
        fs::write(&path, &whole[..cut]).unwrap();
        let kept = whole[..cut].iter().filter(|&&byte| byte == b'\n').count();
        assert_eq!(evaluate(&path, &settings), kept.saturating_sub(1), "cut at {cut}");
        assert_eq!(fs::read(&path).unwrap(), whole, "cut at {cut}");
    }
}

#[test]
fn opening_a_whole_file_changes_nothing() {
    let (_directory, path) = temporary();
    evaluate(&path, &json!({"seed": 1}));
    let before = fs::read(&path).unwrap();
    assert_eq!(evaluate(&path, &json!({"seed": 1})), KEYS.len());
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn other_settings_are_refused_by_name() {
    let (_directory, path) = temporary();
    let begun =
        json!({"seed": 1, "attention": {"blocks": "25%", "tokens": 512}, "lengths": [1, 2]});
    evaluate(&path, &begun);
    let changed = |pointer: &str, value: Value| {
        let mut settings = begun.clone();
        *settings.pointer_mut(pointer).unwrap() = value;
        settings
    };
    let rest = ": go on with that, name another file, or delete this one";
    for (settings, difference) in [
        (changed("/seed", json!(2)), "seed is 2, but the results in FILE were made with 1"),
        (
            changed("/attention/blocks", json!("50%")),
            r#"attention.blocks is "50%", but the results in FILE were made with "25%""#,
        ),
        (
            changed("/attention", json!({"blocks": "25%"})),
            "attention.tokens is none, but the results in FILE were made with 512",
        ),
        (
            changed("/attention", json!({"blocks": "25%", "sinks": 4, "tokens": 512})),
            "attention.sinks is 4, but the results in FILE were made with none",
        ),
        (
            changed("/lengths", json!([1])),
            "lengths is [1], but the results in FILE were made with [1,2]",
        ),
    ] {
        assert_eq!(refusal(&path, &settings), format!("{difference}{rest}"));
    }
    let error = refusal(&path, &json!(3));
    assert!(error.starts_with("the value of all settings is 3, but"), "{error}");
}

#[test]
fn the_order_of_settings_does_not_matter() {
    #[derive(Serialize)]
    struct Now {
        b: f32,
        a: u32,
    }
    let (_directory, path) = temporary();
    fs::write(&path, "{\"asynctls_results\":1,\"settings\":{\"a\":1,\"b\":0.1}}\n").unwrap();
    assert!(Store::open(&path, &Now { b: 0.1, a: 1 }).unwrap().is_empty());
}

#[test]
fn files_of_another_kind_are_refused() {
    let (_directory, path) = temporary();
    for content in [
        "Once upon a time\nthere was a file.\n",
        "a text without an end",
        "\n",
        "{\"settings\":{\"seed\":1}}\n",
        "{\"asynctls_results\":1,\"settings\":{\"seed\":2}",
        "\0\0\0\0",
    ] {
        fs::write(&path, content).unwrap();
        let error = refusal(&path, &json!({"seed": 1}));
        let message =
            "FILE is not a file of results, but its first line should be JSON with its settings";
        assert!(error.starts_with(message), "{error}");
        assert!(error.ends_with("; name another file"), "{error}");
    }
    fs::write(&path, "x".repeat(settings::LONGEST + 1)).unwrap();
    assert!(refusal(&path, &json!(null)).contains("not a file of results"));
    fs::write(&path, "{\"asynctls_results\":2,\"settings\":[]}\n").unwrap();
    let message = "the format of the results in FILE is version 2, but this program reads version 1; name another file";
    assert_eq!(refusal(&path, &json!(null)), message);
}

#[test]
fn places_that_hold_no_file_are_refused() {
    let (directory, _) = temporary();
    let error = Store::open(directory.path(), &json!(null)).unwrap_err().to_string();
    assert!(error.contains("is not a file, but results are kept in a file"), "{error}");
    let missing = directory.path().join("none").join("results.jsonl");
    let error = Store::open(&missing, &json!(null)).unwrap_err().to_string();
    assert!(error.starts_with(&format!("cannot write {}: ", missing.display())), "{error}");
}

#[test]
fn malformed_lines_are_errors_with_their_number() {
    let (_directory, path) = temporary();
    let header = "{\"asynctls_results\":1,\"settings\":null}\n{\"key\":\"a\",\"value\":1}\n";
    for (line, problem) in [
        (
            "{\"key\":\"b\",\"val",
            "is not a key and a value: EOF while parsing a string at column 15",
        ),
        ("", "is not a key and a value: EOF while parsing a value at column 0"),
        ("{\"key\":\"b\"}", "is not a key and a value: missing field `value` at column 11"),
        ("\0\0", "is not a key and a value: expected value at column 1"),
        ("{\"key\":\"a\",\"value\":2}", "is a second result of a"),
    ] {
        fs::write(&path, format!("{header}{line}\n{{\"key\":\"c\",\"value\":3}}\n")).unwrap();
        let place = format!("FILE: at byte {}: line 3 ", header.len());
        let rest = "; mend or delete the line, or name another file";
        assert_eq!(refusal(&path, &json!(null)), format!("{place}{problem}{rest}"));
    }
}

#[test]
fn a_file_has_one_store_at_a_time() {
    let (_directory, path) = temporary();
    let mut store = Store::open(&path, &json!(null)).unwrap();
    store.put("a", &1).unwrap();
    let error = Store::open(&path, &json!(null)).unwrap_err().to_string();
    let message = format!("{} is in use, but only one evaluation at a time", path.display());
    assert!(error.starts_with(&message), "{error}");
    drop(store);
    assert_eq!(Store::open(&path, &json!(null)).unwrap().get("a").unwrap(), Some(1));
}

#[test]
fn a_finished_unit_stays_as_it_is() {
    let mut store = Store::memory();
    store.put("a", &1).unwrap();
    let error = store.put("a", &2).unwrap_err().to_string();
    assert!(error.starts_with("the result of a is already 1, but"), "{error}");
    assert_eq!(store.get("a").unwrap(), Some(1));
}

#[test]
fn what_would_not_read_back_is_refused() {
    let (_directory, path) = temporary();
    let mut store = Store::open(&path, &json!(null)).unwrap();
    let refused = [
        store.put("a", &f64::NAN),
        store.put("a", &Some(f64::NAN)),
        store.put("a", &[1.0, f64::INFINITY]),
        store.put("a", &HashMap::from([(vec![1], 1)])),
    ];
    for result in refused {
        let error = result.unwrap_err().to_string();
        assert!(error.starts_with("the result of a in "), "{error}");
        assert!(error.ends_with("without NaN or infinity"), "{error}");
    }
    assert!(store.is_empty());
    store.put("a", &None::<f64>).unwrap();
    drop(store);
    let store = Store::open(&path, &json!(null)).unwrap();
    assert_eq!(store.get::<Option<f64>>("a").unwrap(), Some(None));
}

#[test]
fn a_result_of_another_type_is_an_error() {
    let mut store = Store::memory();
    store.put("a", &String::from("text")).unwrap();
    let error = store.get::<f64>("a").unwrap_err().to_string();
    assert!(
        error.starts_with("the result of a is \"text\", but it should be another kind of value: ")
    );
    assert_eq!(store.get::<f64>("b").unwrap(), None);
}

#[cfg(unix)]
#[test]
fn a_full_disk_leaves_whole_lines() {
    let (_directory, path) = temporary();
    let mut store = Store::open(&path, &json!(null)).unwrap();
    store.put("a", &1).unwrap();
    let whole = fs::read(&path).unwrap();
    // A handle that cannot write stands for a disk that takes nothing more.
    let journal = store.journal.as_mut().unwrap();
    let writable = std::mem::replace(&mut journal.file, File::open(&path).unwrap());
    let error = store.put("b", &2).unwrap_err().to_string();
    assert!(error.starts_with(&format!("cannot write {}: ", path.display())), "{error}");
    assert_eq!((store.len(), fs::read(&path).unwrap()), (1, whole));
    store.journal.as_mut().unwrap().file = writable;
    store.put("b", &2).unwrap();
    drop(store);
    assert_eq!(Store::open(&path, &json!(null)).unwrap().get("b").unwrap(), Some(2));
}

proptest! {
    #[test]
    fn floats_round_trip_to_the_bit(wide: f64, narrow: f32) {
        prop_assume!(wide.is_finite() && narrow.is_finite());
        let mut store = Store::memory();
        store.put("a", &(wide, narrow)).unwrap();
        let (read_wide, read_narrow) = store.get::<(f64, f32)>("a").unwrap().unwrap();
        prop_assert_eq!(read_wide.to_bits(), wide.to_bits());
        prop_assert_eq!(read_narrow.to_bits(), narrow.to_bits());
    }
}
