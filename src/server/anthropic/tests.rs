//! Shapes, as Anthropic's documentation has them.

use super::{count, error, read};
use crate::generate::End;
use crate::server::Naming;
use crate::server::answering::{Finish, Item, Part, Usage, Whole};
use crate::server::ask::Prompt;
use crate::server::fault::{Fault, Kind};
use crate::server::frame::{Frame, Shape};
use crate::server::tools::{Arguments, Call};
use serde_json::{Value, json};

fn naming() -> Naming {
    Naming { id: "1".into(), created: 0, model: "m".into() }
}

fn finish(end: End, stop: Option<&str>) -> Finish {
    let usage = Usage { prompt: 25, cached: 16, answer: 15, reasoning: 0 };
    Finish { end, stop: stop.map(str::to_owned), usage }
}

fn body(more: &Value) -> Vec<u8> {
    let mut body = json!({"model": "m", "max_tokens": 256, "messages": [{"role": "user", "content": "Hello"}]});
    for (name, value) in more.as_object().unwrap() {
        body[name] = value.clone();
    }
    body.to_string().into_bytes()
}

fn refused(more: &Value) -> String {
    read(&body(more), &naming()).err().expect("it is refused").message
}

#[test]
fn a_request_is_read() {
    let more = json!({
        "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
        "messages": [
            {"role": "user", "content": "Hi"},
            {"role": "user", "content": [{"type": "text", "text": "there"}]},
            {"role": "assistant", "content": [
                {"type": "thinking", "thinking": "Hm", "signature": ""}, {"type": "text", "text": "Hello"}]},
            {"role": "user", "content": "?"},
        ],
        "stop_sequences": ["\n", "."], "temperature": 1, "top_k": 5, "metadata": {"user_id": "u"},
        "thinking": {"type": "disabled"}, "stream": true,
    });
    let (ask, _) = read(&body(&more), &naming()).ok().unwrap();
    let Prompt::Unthinking(turns) = &ask.prompt else { panic!("{ask:?}") };
    let said: Vec<_> = turns.iter().map(|t| (t.role.as_str(), t.content.as_str())).collect();
    assert_eq!(
        said,
        [("system", "Be brief."), ("user", "Hi\n\nthere"), ("assistant", "Hello"), ("user", "?")]
    );
    assert_eq!((ask.wishes.max_tokens, ask.wishes.top_k, ask.stream), (Some(256), Some(5), true));
    assert_eq!(ask.wishes.stop, ["\n", "."]);
    let counted = json!({"model": "m", "messages": [{"role": "user", "content": "Hello"}]});
    assert!(count(counted.to_string().as_bytes(), &naming()).is_ok());
}

#[test]
fn what_is_wrong_is_named() {
    for (more, said) in [
        (json!({"max_tokens": null}), "max_tokens is missing, but it is needed"),
        (json!({"temperature": 1.5}), "temperature is 1.5, but it must be a number from 0 to 1"),
        (
            json!({"messages": [{"role": "system", "content": "x"}]}),
            "messages[0].role is \"system\", but it must be user or assistant; system is a field of its own",
        ),
        (
            json!({"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}),
            "messages is ended by an assistant's, but that is not supported: the last message must be the user's",
        ),
        (
            json!({"messages": [{"role": "user", "content": [{"type": "image"}]}]}),
            "messages[0].content[0].type is \"image\", but only text and tool_result are supported",
        ),
        (
            json!({"thinking": {"type": "enabled", "budget_tokens": 1024}}),
            "thinking is {\"type\":\"enabled\",\"budget_tokens\":1024}, but that is not supported",
        ),
        (
            json!({"tools": [{"name": "x", "type": "web_search"}]}),
            "tools[0].type is \"web_search\", but that is not supported",
        ),
        (json!({"seed": 1}), "seed is 1, but that is not supported"),
    ] {
        assert_eq!(refused(&more), said);
    }
}

#[test]
fn tools_are_read_and_calls_are_sent_back() {
    let schema = json!({"type": "object", "properties": {"city": {"type": "string"}}});
    let more = |choice: Value| {
        json!({
            "messages": [
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": [
                    {"type": "text", "text": "Let me look."},
                    {"type": "tool_use", "id": "abc123def", "name": "weather", "input": {"city": "Rome"}}]},
                {"role": "user", "content": [
                    {"type": "tool_result", "tool_use_id": "abc123def", "content": [{"type": "text", "text": "Rain"}], "is_error": true},
                    {"type": "text", "text": "And?"}]},
            ],
            "tools": [{"name": "weather", "description": "d", "input_schema": schema, "cache_control": {"type": "ephemeral"}}],
            "tool_choice": choice,
        })
    };
    let (ask, _) =
        read(&body(&more(json!({"type": "auto", "disable_parallel_tool_use": true}))), &naming())
            .ok()
            .unwrap();
    let Prompt::Messages(turns) = &ask.prompt else { panic!("{ask:?}") };
    let said: Vec<_> = turns.iter().map(|t| (t.role.as_str(), t.content.as_str())).collect();
    assert_eq!(
        said,
        [("user", "Hi"), ("assistant", "Let me look."), ("tool", "Error: Rain"), ("user", "And?")]
    );
    assert_eq!(
        turns[1].fields["tool_calls"][0]["function"],
        json!({"name": "weather", "arguments": {"city": "Rome"}})
    );
    assert_eq!(turns[2].fields["name"], "weather");
    assert!(ask.tools.are_single() && ask.wishes.form.is_none());
    let function = json!({"name": "weather", "description": "d", "parameters": schema});
    assert_eq!(ask.tools.definitions(), [json!({"type": "function", "function": function})]);
    for choice in [json!({"type": "any"}), json!({"type": "tool", "name": "weather"})] {
        assert!(read(&body(&more(choice)), &naming()).ok().unwrap().0.wishes.form.is_some());
    }
    assert_eq!(
        refused(&more(json!({"type": "tool", "name": "x"}))),
        "tool_choice is \"x\", but no tool is called so"
    );
}

// A whole answer's object.
fn whole_of(shape: &dyn Shape, whole: &Whole) -> Value {
    serde_json::from_str(&shape.whole(whole)).unwrap()
}

#[test]
fn calls_are_blocks() {
    let (_, mut shape) = read(&body(&json!({})), &naming()).ok().unwrap();
    // As a model wrote it: no digit of it is changed.
    const ARGUMENTS: &str = r#"{"city": "Rome", "id": 123456789012345678901234567890}"#;
    let arguments = Arguments::read(ARGUMENTS).unwrap();
    let call = Call { id: "abc123def".into(), name: "weather".into(), arguments };
    let whole = Whole {
        reasoning: String::new(),
        items: vec![Item::Text(String::new().into()), Item::Call(call.clone())],
        finish: finish(End::StopToken, None),
    };
    let text = shape.whole(&whole);
    let block = format!(
        r#""content":[{{"type":"tool_use","id":"abc123def","name":"weather","input":{ARGUMENTS}}}]"#
    );
    assert!(text.contains(&block), "{text}");
    assert_eq!(whole_of(&*shape, &whole)["stop_reason"], "tool_use");
    // Texts and calls have the places that they were said at.
    let say = |text: &str| Item::Text(text.to_owned().into());
    let mixed = Whole { items: vec![say("a"), Item::Call(call.clone()), say("b")], ..whole };
    let content = whole_of(&*shape, &mixed)["content"].clone();
    let types: Vec<&Value> =
        content.as_array().unwrap().iter().map(|block| &block["type"]).collect();
    assert_eq!(types, ["text", "tool_use", "text"]);
    assert_eq!((&content[0]["text"], &content[2]["text"]), (&json!("a"), &json!("b")));
    let mut frames = shape.part(Part::Text("Hm".to_owned().into()));
    frames.extend(shape.part(Part::Call(call)));
    frames.extend(shape.part(Part::End(finish(End::StopToken, None))));
    let events: Vec<&Value> = frames
        .iter()
        .map(|frame| match frame {
            Frame::Event(_, value) => value,
            other => panic!("{other:?}"),
        })
        .collect();
    let types: Vec<&str> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(
        types,
        [
            "content_block_start",
            "content_block_delta",
            "content_block_stop",
            "content_block_start",
            "content_block_delta",
            "content_block_stop",
            "message_delta",
            "message_stop",
        ]
    );
    assert_eq!(events[3]["content_block"]["input"], json!({}));
    assert_eq!(
        (&events[4]["index"], &events[4]["delta"]["partial_json"]),
        (&json!(1), &json!(ARGUMENTS))
    );
    assert_eq!(events[6]["delta"]["stop_reason"], "tool_use");
}

#[test]
fn a_message_at_once() {
    let (_, shape) = read(&body(&json!({})), &naming()).ok().unwrap();
    let whole = |end, stop| Whole {
        reasoning: String::new(),
        items: vec![Item::Text("Hi! My name is Claude.".to_owned().into())],
        finish: finish(end, stop),
    };
    assert_eq!(
        whole_of(&*shape, &whole(End::StopToken, None)),
        json!({
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": "m",
            "content": [{"type": "text", "text": "Hi! My name is Claude."}],
            "stop_reason": "end_turn",
            "stop_sequence": null,
            "usage": {
                "input_tokens": 9,
                "cache_creation_input_tokens": 0,
                "cache_read_input_tokens": 16,
                "output_tokens": 15,
            },
        })
    );
    let stopped = whole_of(&*shape, &whole(End::StopText, Some(".")));
    assert_eq!(
        (stopped["stop_reason"].clone(), stopped["stop_sequence"].clone()),
        (json!("stop_sequence"), json!("."))
    );
    assert_eq!(whole_of(&*shape, &whole(End::Length, None))["stop_reason"], "max_tokens");
    let thought = Whole { reasoning: "Hm".into(), ..whole(End::StopToken, None) };
    assert_eq!(whole_of(&*shape, &thought)["content"][0]["thinking"], "Hm");
}

#[test]
fn a_message_as_a_stream() {
    let (_, mut shape) = read(&body(&json!({})), &naming()).ok().unwrap();
    let mut frames = shape.begin(25);
    for part in [
        Part::Reasoning("Hm".into()),
        Part::Text("Hel".to_owned().into()),
        Part::Text("lo".to_owned().into()),
    ] {
        frames.extend(shape.part(part));
    }
    frames.extend(shape.part(Part::End(finish(End::StopToken, None))));
    let events: Vec<(&str, Value)> = frames
        .iter()
        .map(|frame| {
            let Frame::Event(name, value) = frame else { panic!("{frame:?}") };
            assert_eq!(value["type"], *name);
            (*name, value.clone())
        })
        .collect();
    let start = json!({
        "type": "message_start",
        "message": {
            "id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": [],
            "stop_reason": null, "stop_sequence": null,
            "usage": {
                "input_tokens": 25, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0, "output_tokens": 0,
            },
        },
    });
    let delta = |index: u32, delta: Value| json!({"type": "content_block_delta", "index": index, "delta": delta});
    let expected = [
        start,
        json!({"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": "", "signature": ""}}),
        delta(0, json!({"type": "thinking_delta", "thinking": "Hm"})),
        json!({"type": "content_block_stop", "index": 0}),
        json!({"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": ""}}),
        delta(1, json!({"type": "text_delta", "text": "Hel"})),
        delta(1, json!({"type": "text_delta", "text": "lo"})),
        json!({"type": "content_block_stop", "index": 1}),
        json!({
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": null},
            "usage": {
                "input_tokens": 9, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 16, "output_tokens": 15,
            },
        }),
        json!({"type": "message_stop"}),
    ];
    assert_eq!(events.len(), expected.len(), "{events:?}");
    for ((_, event), expected) in events.iter().zip(expected) {
        assert_eq!(*event, expected);
    }
    assert_eq!(frames[9].to_string(), "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n");
}

#[test]
fn a_stream_without_text_has_an_empty_block_of_it() {
    for (thoughts, blocks) in [(None, vec!["text"]), (Some("Hm"), vec!["thinking", "text"])] {
        let (_, mut shape) = read(&body(&json!({})), &naming()).ok().unwrap();
        let mut frames = Vec::new();
        if let Some(text) = thoughts {
            frames.extend(shape.part(Part::Reasoning(text.into())));
        }
        frames.extend(shape.part(Part::End(finish(End::Length, None))));
        let all = |wanted: &str| -> Vec<&Value> {
            let of = |frame| match frame {
                &Frame::Event(name, ref value) if name == wanted => Some(value),
                _ => None,
            };
            frames.iter().filter_map(of).collect()
        };
        let kinds: Vec<&Value> = all("content_block_start")
            .iter()
            .map(|value| &value["content_block"]["type"])
            .collect();
        assert_eq!(kinds, blocks);
        assert_eq!(all("content_block_stop").len(), blocks.len());
    }
}

#[test]
fn faults() {
    assert_eq!(
        error(&Fault::new(Kind::Invalid, "max_tokens is missing, but it is needed")),
        json!({
            "type": "error",
            "error": {"type": "invalid_request_error", "message": "max_tokens is missing, but it is needed"},
        })
    );
    for (kind, class) in [
        (Kind::Key, "authentication_error"),
        (Kind::NotFound, "not_found_error"),
        (Kind::TooLarge, "request_too_large"),
        (Kind::Busy, "rate_limit_error"),
        (Kind::Stopping, "overloaded_error"),
        (Kind::Broken, "api_error"),
    ] {
        assert_eq!(error(&Fault::new(kind, "x"))["error"]["type"], class);
    }
}
