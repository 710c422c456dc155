//! Answers in each family's way, however they are cut.

use super::*;
use crate::server::fields::Fields;
use crate::server::tools::{Choice, Tool};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

fn tools(choice: Choice, is_single: bool) -> Tools {
    let parameters = json!({"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}});
    let tool = |name: &str| {
        let fields = Fields::of("t", json!({"name": name, "parameters": parameters})).unwrap();
        Tool::read(fields, "parameters").unwrap()
    };
    let list = vec![tool("weather"), tool("time-now")];
    Tools::new(list, choice, is_single, "tool_choice").unwrap()
}

// The text, and the calls without their names, of an answer in pieces of so many characters.
fn told(format: &'static Format, tools: Tools, answer: &str, cut: usize) -> (String, Vec<Value>) {
    told_of(format, tools, answer, cut, false)
}

// The same, of an answer that may be cut off.
fn told_of(
    format: &'static Format,
    tools: Tools,
    answer: &str,
    cut: usize,
    is_cut: bool,
) -> (String, Vec<Value>) {
    let mut calls = Calls::new(format, tools);
    let chars: Vec<char> = answer.chars().collect();
    let mut said = Vec::new();
    for piece in chars.chunks(cut) {
        said.extend(calls.push(&piece.iter().collect::<String>()));
    }
    said.extend(calls.finish(is_cut));
    let (mut text, mut found) = (String::new(), Vec::new());
    for one in said {
        match one {
            Said::Text(more) => {
                assert!(!more.is_empty());
                text += &more;
            }
            Said::Call(Call { id, name, arguments }) => {
                assert!(id.len() == 9 && id.chars().all(|c| c.is_ascii_alphanumeric()), "{id}");
                let arguments: Value = serde_json::from_str(arguments.text().get()).unwrap();
                found.push(json!([name, arguments]));
            }
        }
    }
    (text, found)
}

fn check(format: &'static Format, cases: &[(&str, &str, Value)]) {
    for (answer, text, calls) in cases {
        for cut in [1, 2, 3, 7, 1000] {
            let found = told(format, tools(Choice::Auto, false), answer, cut);
            assert_eq!(
                (found.0.as_str(), json!(found.1)),
                (*text, calls.clone()),
                "{answer} by {cut}"
            );
        }
    }
}

#[test]
fn qwens() {
    let one = r#"<tool_call>
{"name": "weather", "arguments": {"city": "K\u00f6ln", "days": 2}}
</tool_call>"#;
    let is = json!(["weather", {"city": "Köln", "days": 2}]);
    let tagged =
        r#"<tool_call>{"name": "weather", "arguments": {"city": "</tool_call>"}}</tool_call>"#;
    check(
        &qwen::FORMAT,
        &[
            (one, "", json!([is])),
            (&format!("Let me look.\n\n{one}\n{one}\n"), "Let me look.", json!([is, is])),
            (&format!("{one}\nDone. "), "\nDone. ", json!([is])),
            (tagged, "", json!([["weather", {"city": "</tool_call>"}]])),
            // Ended by a stop token before its end was written.
            (one.strip_suffix("</tool_call>").unwrap(), "", json!([is])),
            (r#"<tool_call>{"name": "time-now"}</tool_call>"#, "", json!([["time-now", {}]])),
            ("1 < 2 <tool> ", "1 < 2 <tool> ", json!([])),
            ("a <tool_c", "a <tool_c", json!([])),
            ("", "", json!([])),
        ],
    );
}

#[test]
fn llamas() {
    let one = r#"{"name": "weather", "parameters": {"city": "Rome"}}"#;
    let is = json!(["weather", {"city": "Rome"}]);
    check(
        &llama::FORMAT,
        &[
            (one, "", json!([is])),
            (&format!("\n{one}; {one}\n"), "", json!([is, is])),
            (&format!("So: {one}"), &format!("So: {one}"), json!([])),
            (&format!("{one} that is it"), &format!("{one} that is it"), json!([])),
            ("{\"a\": 1}", "{\"a\": 1}", json!([])),
            ("{x}", "{x}", json!([])),
            (" Hi.", " Hi.", json!([])),
        ],
    );
}

#[test]
fn mistrals() {
    let is = json!(["weather", {"city": "Rome"}]);
    check(
        &mistral::FORMAT,
        &[
            (
                r#"[TOOL_CALLS] [{"name": "weather", "arguments": {"city": "Rome"}}]"#,
                "",
                json!([is]),
            ),
            (
                r#"[TOOL_CALLS]weather[ARGS]{"city": "Rome"}[TOOL_CALLS]time-now[ARGS]{}"#,
                "",
                json!([is, ["time-now", {}]]),
            ),
            (r#"Hm. [TOOL_CALLS]weather{"city": "Rome"}"#, "Hm.", json!([is])),
            (r#"[TOOL_CALLS]weather[CALL_ID]abc[ARGS]{"city": "Rome"}"#, "", json!([is])),
            ("[TOOL_CALLS][]", "[TOOL_CALLS][]", json!([])),
            ("[TOOL", "[TOOL", json!([])),
        ],
    );
}

#[test]
fn glms() {
    let one = "<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>12</arg_value>\n<arg_key>days</arg_key>\n\
        <arg_value>2</arg_value>\n</tool_call>";
    let is = json!(["weather", {"city": "12", "days": 2}]);
    check(
        &glm::FORMAT,
        &[
            (one, "", json!([is])),
            (&format!("I see.\n{one}{one}"), "I see.", json!([is, is])),
            ("<tool_call>time-now</tool_call>", "", json!([["time-now", {}]])),
            (
                "<tool_call>weather<arg_key>x</arg_key><arg_value>[1, \"a\"]</arg_value><arg_key>city</arg_key>\
                    <arg_value>a </tool_call>\nb</arg_value></tool_call>",
                "",
                json!([["weather", {"x": [1, "a"], "city": "a </tool_call>\nb"}]]),
            ),
        ],
    );
}

#[test]
fn what_is_malformed_stays_text() {
    for (format, answers) in [
        (
            &qwen::FORMAT,
            &[
                "<tool_call>weather</tool_call>",
                "<tool_call>{\"name\": \"nothing\", \"arguments\": {}}</tool_call>",
                "<tool_call>{\"name\": \"weather\", \"arguments\": [1]}</tool_call> and more",
                "<tool_call>{\"name\": \"weather\", \"argum",
                "<tool_call>",
            ][..],
        ),
        (
            &glm::FORMAT,
            &[
                "<tool_call>nothing</tool_call>",
                "<tool_call>weather<arg_key>a</tool_call>",
                "<tool_call>weather<arg_key>a</arg_key><arg_value>1",
            ],
        ),
        (
            &mistral::FORMAT,
            &["[TOOL_CALLS]weather", "[TOOL_CALLS][{\"name\": 1}]", "[TOOL_CALLS]nothing[ARGS]{}"],
        ),
        (
            &llama::FORMAT,
            &[
                "{\"name\": \"nothing\", \"parameters\": {}}",
                "{\"name\": \"weather\", \"parameters\": {",
            ],
        ),
    ] {
        for answer in answers {
            for cut in [1, 1000] {
                let found = told(format, tools(Choice::Auto, false), answer, cut);
                assert_eq!(found, ((*answer).to_owned(), Vec::new()), "{answer}");
            }
        }
    }
    let bad = "<tool_call>{}</tool_call>";
    let good = r#"<tool_call>{"name": "time-now"}</tool_call>"#;
    let found = told(&qwen::FORMAT, tools(Choice::Auto, false), &format!("{bad}{good}"), 3);
    assert_eq!(found, (bad.to_owned(), vec![json!(["time-now", {}])]));
}

#[test]
fn one_call_alone_where_no_more_are_wanted() {
    let one = r#"<tool_call>{"name": "time-now"}</tool_call>"#;
    let found = told(&qwen::FORMAT, tools(Choice::Auto, true), &format!("{one}\n{one}"), 5);
    assert_eq!(found, (String::new(), vec![json!(["time-now", {}])]));
}

#[test]
fn a_call_that_has_to_be_is_read_whatever_the_family() {
    let one = r#" {"name": "time-now", "arguments": {"days": 1}}"#;
    for choice in [Choice::Required, Choice::Named("time-now".into())] {
        // Whatever the template says.
        let format = Format::of("{{ tools }}", &tools(choice.clone(), false)).unwrap();
        let found = told(format, tools(choice.clone(), false), one, 4);
        assert_eq!(found, (String::new(), vec![json!(["time-now", {"days": 1}])]));
        let found = told(format, tools(choice, false), &one[..20], 4);
        assert_eq!(found, (one[..20].to_owned(), Vec::new()), "cut off");
    }
}

#[test]
fn a_call_that_is_cut_off_is_none() {
    let one = "<tool_call>weather<arg_key>city</arg_key><arg_value>x</arg_value>";
    for (text, is_cut, calls) in
        [(one, true, 0), ("<tool_call>weather", true, 0), (one, false, 1), (one, false, 1)]
    {
        let found = told_of(&glm::FORMAT, tools(Choice::Auto, false), text, 5, is_cut);
        assert_eq!(found.1.len(), calls, "{found:?}");
        assert_eq!(found.0, if calls == 0 { text } else { "" });
    }
}

#[test]
fn a_call_that_is_none_takes_no_other_with_it() {
    let good = r#"<tool_call>{"name": "weather", "arguments": {}}</tool_call>"#;
    for bad in [
        r#"<tool_call>{"name": "time-now", "arguments": {"days": 1}</tool_call>"#,
        "<tool_call></tool_call>",
    ] {
        let found = told(&qwen::FORMAT, tools(Choice::Auto, false), &format!("{bad}\n{good}"), 7);
        assert_eq!((found.0.trim(), found.1), (bad, vec![json!(["weather", {}])]));
    }
}

#[test]
fn templates_say_which_way_is_theirs() {
    let free = tools(Choice::Auto, false);
    let begins = |source: &str| Format::of(source, &free).map(|format| format.words);
    assert_eq!(begins("<tool_call>\n{{ x }}"), Some(qwen::FORMAT.words));
    assert_eq!(begins("<tool_call>{{ x }}<arg_key>"), Some(glm::FORMAT.words));
    assert_eq!(begins("[TOOL_CALLS]"), Some(mistral::FORMAT.words));
    assert_eq!(begins("ipython {\"name\": n, \"parameters\": p}"), Some(llama::FORMAT.words));
    assert_eq!(begins("{{ tools }}"), None);
    assert_eq!(begins("<tool_call>\n<function={{ name }}>"), None);
}

proptest! {
    #[test]
    fn nothing_is_lost_of_any_text(text in "(<tool_call>|</tool_call>|\\[TOOL_CALLS\\]|[{}\"a <>\\[\\]]|<arg_key>){0,12}", cut in 1usize..9) {
        for format in FORMATS {
            let found = told(format, tools(Choice::Auto, false), &text, cut);
            let bare = |text: &str| text.split_whitespace().collect::<String>();
            prop_assert_eq!((bare(&found.0), found.1.len()), (bare(&text), 0));
        }
    }
}

// Says what one call has as arguments, letter by letter.
fn arguments(format: &'static Format, tools: Tools, answer: &str) -> String {
    let mut calls = Calls::new(format, tools);
    let mut said = calls.push(answer);
    said.extend(calls.finish(false));
    match &said[..] {
        [Said::Call(call)] => call.arguments.text().get().to_owned(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn arguments_are_the_models_own_text() {
    let text = r#"{"a": 1.0, "b": 1e3, "c": 123456789012345678901234567890, "d" : "\u00e9"}"#;
    let free = || tools(Choice::Auto, false);
    for (format, answer) in [
        (
            &qwen::FORMAT,
            format!(r#"<tool_call>{{"name": "time-now", "arguments": {text} }}</tool_call>"#),
        ),
        (&llama::FORMAT, format!(r#"{{"name": "time-now", "parameters": {text}}}"#)),
        (&mistral::FORMAT, format!(r#"[TOOL_CALLS][{{"name": "time-now", "arguments": {text}}}]"#)),
        (&mistral::FORMAT, format!("[TOOL_CALLS]time-now[ARGS]{text}")),
        (
            &qwen::FORMAT,
            format!(
                r#"<tool_call>{{"name": "time-now", "arguments": {}}}</tool_call>"#,
                json!(text)
            ),
        ),
    ] {
        assert_eq!(arguments(format, free(), &answer), text, "{answer}");
    }
    let values = ["1.0", "1e3", "123456789012345678901234567890", "[1.0, 2]"].iter().enumerate();
    let values =
        values.map(|(at, value)| format!("<arg_key>{at}</arg_key><arg_value>{value}</arg_value>"));
    let answer = format!("<tool_call>time-now{}</tool_call>", values.collect::<String>());
    let written = r#"{"0":1.0,"1":1e3,"2":123456789012345678901234567890,"3":[1.0, 2]}"#;
    assert_eq!(arguments(&glm::FORMAT, free(), &answer), written);
}

#[test]
fn a_text_stays_one_where_the_schema_has_texts_and_no_numbers() {
    let parameters = json!({
        "type": "object",
        "properties": {
            "null_or_text": {"type": ["string", "null"]},
            "any_of": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            "referred": {"$ref": "#/$defs/text"},
            "either": {"type": ["string", "number"]},
            "named": {"enum": ["1", "2"]},
            "whole": {"type": "integer"},
            "free": {},
        },
        "$defs": {"text": {"type": "string"}},
    });
    let fields = Fields::of("t", json!({"name": "f", "parameters": parameters})).unwrap();
    let tool = Tool::read(fields, "parameters").unwrap();
    for (key, value, is) in [
        ("null_or_text", "12", json!("12")),
        ("null_or_text", "null", Value::Null),
        ("null_or_text", "true", json!("true")),
        ("null_or_text", "\"a\"", json!("\"a\"")),
        ("any_of", "1.5", json!("1.5")),
        ("any_of", "null", Value::Null),
        ("referred", "7", json!("7")),
        ("named", "2", json!("2")),
        ("either", "12", json!(12)),
        ("either", "\"12\"", json!("12")),
        ("either", "twelve", json!("twelve")),
        ("whole", "12", json!(12)),
        ("free", "12", json!(12)),
        ("unknown", "[1]", json!([1])),
    ] {
        let tools = Tools::new(vec![tool.clone()], Choice::Auto, false, "tool_choice").unwrap();
        let answer = format!(
            "<tool_call>f<arg_key>{key}</arg_key><arg_value>{value}</arg_value></tool_call>"
        );
        let made: Value = serde_json::from_str(&arguments(&glm::FORMAT, tools, &answer)).unwrap();
        assert_eq!(made, json!({key: is}), "{value}");
    }
    let twice = "<tool_call>time-now<arg_key>a</arg_key><arg_value>1</arg_value><arg_key>b</arg_key><arg_value>2</arg_value>\
        <arg_key>a</arg_key><arg_value>3</arg_value></tool_call>";
    assert_eq!(arguments(&glm::FORMAT, tools(Choice::Auto, false), twice), r#"{"a":3,"b":2}"#);
}

#[test]
fn a_quote_that_is_missing_takes_no_other_call_with_it() {
    let bad = r#"<tool_call>{"name": "time-now, "arguments": {}}</tool_call>"#;
    let good = r#"<tool_call>{"name": "weather", "arguments": {}}</tool_call>"#;
    let found = told(&qwen::FORMAT, tools(Choice::Auto, false), &format!("{bad}{good}"), 3);
    assert_eq!(found, (bad.to_owned(), vec![json!(["weather", {}])]));
}

// What is held costs no more for each piece that comes: each of these took minutes when it did.
#[test]
fn long_calls_cost_as_much_as_they_are_long() {
    let ends = "</tool_call>".repeat(20_000);
    let quoted = format!(
        r#"<tool_call>{{"name": "weather", "arguments": {{"city": "{ends}"}}}}</tool_call>"#
    );
    let marked = format!(
        "<tool_call>weather<arg_key>city</arg_key><arg_value>{ends}</arg_value></tool_call>"
    );
    let blanks = format!("Hm.{}.", " \n".repeat(200_000));
    let leading = format!("{}x", "\n".repeat(400_000));
    let began = Instant::now();
    for (format, answer, calls) in [
        (&qwen::FORMAT, &quoted, 1),
        (&glm::FORMAT, &marked, 1),
        (&qwen::FORMAT, &blanks, 0),
        (&llama::FORMAT, &leading, 0),
    ] {
        let (text, found) = told(format, tools(Choice::Auto, false), answer, 4);
        assert_eq!((text.is_empty(), found.len()), (calls == 1, calls));
    }
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}
