//! Shapes, as OpenAI's documentation has them.

use super::{chat, completions, error, responses};
use crate::generate::End;
use crate::server::answering::{Finish, Item, Part, Text, Usage, Whole};
use crate::server::ask::{Ask, Prompt};
use crate::server::fault::{Fault, Kind, Read};
use crate::server::frame::{Frame, Shape};
use crate::server::logprobs::{Entry, Spelled};
use crate::server::tools::{Arguments, Call};
use crate::server::{Boxed, Naming};
use serde_json::{Value, json};

fn naming() -> Naming {
    Naming { id: "1".into(), created: 1_741_569_952, model: "m".into() }
}

fn finish(end: End) -> Finish {
    let usage = Usage { prompt: 19, cached: 16, answer: 10, reasoning: 2 };
    Finish { end, stop: None, usage }
}

// A whole answer's object.
fn whole_of(shape: &dyn Shape, whole: &Whole) -> Value {
    serde_json::from_str(&shape.whole(whole)).unwrap()
}

fn whole(end: End) -> Whole {
    let text = "Hello! How can I assist you today?".to_owned().into();
    Whole { reasoning: "Hm".into(), items: vec![Item::Text(text)], finish: finish(end) }
}

fn ask(read: Read<(Ask, Boxed)>) -> Ask {
    read.map(|(ask, _)| ask).unwrap_or_else(|fault| panic!("{fault:?}"))
}

fn refused(read: Read<(Ask, Boxed)>) -> String {
    read.err().expect("it is refused").message
}

fn chat_shape(include_usage: bool, has_logprobs: bool) -> chat::Chat {
    chat::Chat { naming: naming(), include_usage, has_logprobs, calls: 0 }
}

fn completion(has_logprobs: bool) -> completions::Completion {
    let naming = naming();
    completions::Completion { naming, include_usage: true, has_logprobs, characters: 0 }
}

fn chat_of(body: &Value) -> Read<(Ask, Boxed)> {
    chat::read(body.to_string().as_bytes(), &naming())
}

// All events of an answer, as they are sent.
fn stream(shape: &mut dyn Shape, end: End) -> Vec<String> {
    let mut frames = shape.begin(19);
    for part in [
        Part::Reasoning("Hm".into()),
        Part::Text("Hel".to_owned().into()),
        Part::Text("lo".to_owned().into()),
    ] {
        frames.extend(shape.part(part));
    }
    frames.extend(shape.part(Part::End(finish(end))));
    frames.iter().map(Frame::to_string).collect()
}

fn data(event: &str) -> Value {
    let json = event.lines().find_map(|line| line.strip_prefix("data: ")).unwrap();
    serde_json::from_str(json).unwrap()
}

#[test]
fn a_chat_is_read() {
    let asked = ask(chat_of(&json!({
        "model": "m",
        "messages": [
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo!"}]},
            {"role": "assistant", "content": "Hi", "refusal": null, "tool_calls": []},
            {"role": "user", "content": "?"},
        ],
        "max_completion_tokens": 7, "temperature": 0.5, "top_p": 0.9, "seed": -1, "stop": "\n",
        "n": 1, "user": "u", "store": false, "logit_bias": {}, "presence_penalty": -2, "stream": true,
        "stream_options": {"include_usage": true}, "response_format": {"type": "text"},
    })));
    let Prompt::Messages(turns) = &asked.prompt else { panic!("{asked:?}") };
    let said: Vec<_> = turns.iter().map(|t| (t.role.as_str(), t.content.as_str())).collect();
    assert_eq!(
        said,
        [("system", "Be brief."), ("user", "Hello!"), ("assistant", "Hi"), ("user", "?")]
    );
    let wishes = &asked.wishes;
    assert_eq!((wishes.max_tokens, wishes.seed), (Some(7), Some(u64::MAX)));
    assert_eq!((wishes.temperature, wishes.stop.as_slice()), (Some(0.5), &["\n".to_owned()][..]));
    assert!(asked.stream);
}

#[test]
fn what_is_wrong_with_a_chat_is_named() {
    let user = json!([{"role": "user", "content": "Hi"}]);
    for (more, said) in [
        (json!({"messages": []}), "messages is [], but at least one is needed"),
        (json!({"messages": "Hi"}), "messages is \"Hi\", but it must be a list"),
        (json!({"messages": [7]}), "messages[0] is 7, but it must be an object"),
        (json!({"messages": [{"content": "Hi"}]}), "messages[0].role is missing, but it is needed"),
        (
            json!({"messages": [{"role": "robot", "content": "Hi"}]}),
            "messages[0].role is \"robot\", but only system, developer, user, assistant and tool are supported",
        ),
        (
            json!({"messages": [{"role": "user"}]}),
            "messages[0].content is missing, but it is needed",
        ),
        (
            json!({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}),
            "messages[0].content[0].type is \"image_url\", but only text is supported",
        ),
        (
            json!({"messages": [{"role": "user", "content": "x", "name": "y"}]}),
            "messages[0].name is \"y\", but that is not supported",
        ),
        (json!({"temperature": 2.5}), "temperature is 2.5, but it must be a number from 0 to 2"),
        (json!({"top_p": 0}), "top_p is 0, but it must be a number above 0 and at most 1"),
        (
            json!({"max_tokens": 0}),
            "max_tokens is 0, but it must be a whole number from 1 to 4294967295",
        ),
        (json!({"n": 2}), "n is 2, but that is not supported"),
        (json!({"logprobs": 1}), "logprobs is 1, but it must be true or false"),
        (
            json!({"tools": [{"type": "function"}]}),
            "tools[0].function is missing, but it is needed",
        ),
        (
            json!({"response_format": {"type": "json_schema", "json_schema": {"name": "n"}}}),
            "response_format.json_schema.schema is missing, but it is needed",
        ),
        (json!({"stream_options": {}}), "stream_options is given, but stream is not true"),
        (json!({"temprature": 1}), "temprature is 1, but that is not supported"),
        (
            json!({"stop": ["", "a"]}),
            "stop is [\"\",\"a\"], but it must be a text or a list of up to 16 texts, none of them empty",
        ),
        (json!({"model": "gpt"}), "model is \"gpt\", but this server has \"m\""),
    ] {
        let mut body = json!({"messages": user});
        for (name, value) in more.as_object().unwrap() {
            body[name] = value.clone();
        }
        assert_eq!(refused(chat_of(&body)), said);
    }
    assert!(refused(chat_of(&json!({}))).starts_with("messages is missing"));
}

#[test]
fn a_chat_at_once() {
    let shape = chat_shape(false, false);
    assert_eq!(
        whole_of(&shape, &whole(End::StopToken)),
        json!({
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1_741_569_952,
            "model": "m",
            "choices": [{
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "Hello! How can I assist you today?",
                    "refusal": null,
                    "reasoning_content": "Hm",
                },
                "logprobs": null,
                "finish_reason": "stop",
            }],
            "usage": {
                "prompt_tokens": 19,
                "completion_tokens": 10,
                "total_tokens": 29,
                "prompt_tokens_details": {"cached_tokens": 16},
                "completion_tokens_details": {"reasoning_tokens": 2},
            },
        })
    );
    for (end, reason) in
        [(End::StopText, "stop"), (End::Length, "length"), (End::ContextFull, "length")]
    {
        assert_eq!(whole_of(&shape, &whole(end))["choices"][0]["finish_reason"], reason);
    }
}

#[test]
fn a_chat_as_a_stream() {
    let mut shape = chat_shape(true, false);
    let events = stream(&mut shape, End::Length);
    assert_eq!(
        data(&events[0]),
        json!({
            "id": "chatcmpl-1",
            "object": "chat.completion.chunk",
            "created": 1_741_569_952,
            "model": "m",
            "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": null, "finish_reason": null}],
            "usage": null,
        })
    );
    let delta = |at: usize| data(&events[at])["choices"][0]["delta"].clone();
    assert_eq!(delta(1), json!({"reasoning_content": "Hm"}));
    assert_eq!((delta(2), delta(3)), (json!({"content": "Hel"}), json!({"content": "lo"})));
    assert_eq!(delta(4), json!({}));
    assert_eq!(data(&events[4])["choices"][0]["finish_reason"], "length");
    assert_eq!(data(&events[5])["choices"], json!([]));
    assert_eq!(data(&events[5])["usage"]["total_tokens"], 29);
    assert_eq!(events[6..], ["data: [DONE]\n\n"]);
    // Who did not ask for the usage has no field of it.
    let mut plain = chat_shape(false, false);
    let events = stream(&mut plain, End::StopToken);
    assert_eq!(events.len(), 6);
    assert!(data(&events[0]).get("usage").is_none());
    let fault = Fault::new(Kind::TimedOut, "too late");
    let failed = plain.part(Part::Failed(fault)).iter().map(Frame::to_string).collect::<String>();
    assert_eq!(data(&failed)["error"]["type"], "server_error");
}

#[test]
fn a_completion() {
    let read = |body: Value| completions::read(body.to_string().as_bytes(), &naming());
    let asked = ask(read(json!({"model": "m", "prompt": "Once"})));
    assert_eq!((asked.prompt, asked.wishes.max_tokens), (Prompt::Text("Once".into()), Some(16)));
    assert_eq!(ask(read(json!({"prompt": ["Once"]}))).prompt, Prompt::Text("Once".into()));
    for tokens in [json!([1, 2]), json!([[1, 2]])] {
        assert_eq!(ask(read(json!({"prompt": tokens}))).prompt, Prompt::Tokens(vec![1, 2]));
    }
    for prompt in [json!(["a", "b"]), json!([-1]), json!([1.5]), json!({}), json!([[[["a"]], 1]])] {
        assert!(refused(read(json!({"prompt": prompt}))).starts_with("prompt is "), "{prompt}");
    }
    assert_eq!(
        refused(read(json!({"prompt": "a", "echo": true}))),
        "echo is true, but that is not supported"
    );
    assert_eq!(
        refused(read(json!({"prompt": "a", "logprobs": 21}))),
        "logprobs is 21, but it must be a whole number from 0 to 20"
    );

    let mut shape = completion(false);
    assert_eq!(
        whole_of(&shape, &whole(End::Length)),
        json!({
            "id": "cmpl-1",
            "object": "text_completion",
            "created": 1_741_569_952,
            "model": "m",
            "choices": [{
                "text": "Hello! How can I assist you today?",
                "index": 0,
                "logprobs": null,
                "finish_reason": "length",
            }],
            "usage": {
                "prompt_tokens": 19,
                "completion_tokens": 10,
                "total_tokens": 29,
                "prompt_tokens_details": {"cached_tokens": 16},
                "completion_tokens_details": {"reasoning_tokens": 2},
            },
        })
    );
    let events = stream(&mut shape, End::StopText);
    let texts: Vec<Value> =
        events[..4].iter().map(|event| data(event)["choices"][0]["text"].clone()).collect();
    assert_eq!(texts, ["Hm", "Hel", "lo", ""]);
    assert_eq!(data(&events[3])["choices"][0]["finish_reason"], "stop");
    assert_eq!((data(&events[4])["usage"]["prompt_tokens"].clone(), events.len()), (json!(19), 6));
}

#[test]
fn log_probabilities_come_with_the_text() {
    let entry = |token: &str| {
        let chosen = Spelled { bytes: token.into(), logprob: -0.5 };
        Entry { likeliest: vec![chosen.clone()], chosen }
    };
    let part = |text: &str, tokens: &[&str]| {
        let logprobs = tokens.iter().map(|token| entry(token)).collect();
        Text { text: text.into(), logprobs }
    };
    let parts = [part("", &["né"]), part("né!", &["!"]), part("?", &[])];
    let text = part("né!?", &["né", "!"]);
    let whole = Whole {
        reasoning: String::new(),
        items: vec![Item::Text(text)],
        finish: finish(End::StopText),
    };
    let asked = ask(chat_of(&json!({
        "messages": [{"role": "user", "content": "Hi"}], "logprobs": true, "top_logprobs": 3,
    })));
    assert_eq!(asked.wishes.logprobs, Some(3));
    let choice = |frame: &Frame| data(&frame.to_string())["choices"][0].clone();

    let mut chat = chat_shape(false, true);
    let all = whole_of(&chat, &whole)["choices"][0]["logprobs"]["content"].clone();
    let tokens = |value: &Value| -> Vec<Value> {
        value.as_array().unwrap().iter().map(|one| one["token"].clone()).collect()
    };
    assert_eq!(tokens(&all), ["né", "!"]);
    let mut streamed = Vec::new();
    for part in parts.clone() {
        let [frame] = &chat.part(Part::Text(part))[..] else { panic!("one frame") };
        streamed.extend(choice(frame)["logprobs"]["content"].as_array().unwrap().clone());
    }
    assert_eq!(Value::Array(streamed), all);
    assert_eq!(choice(&chat.part(Part::End(finish(End::Length)))[0])["logprobs"], Value::Null);

    let mut completion = completion(true);
    let all = whole_of(&completion, &whole)["choices"][0]["logprobs"].clone();
    assert_eq!((&all["tokens"], &all["text_offset"]), (&json!(["né", "!"]), &json!([0, 2])));
    let mut offsets = Vec::new();
    for part in parts {
        let [frame] = &completion.part(Part::Text(part))[..] else { panic!("one frame") };
        offsets.extend(choice(frame)["logprobs"]["text_offset"].as_array().unwrap().clone());
    }
    assert_eq!(Value::Array(offsets), all["text_offset"]);
}

#[test]
fn a_response() {
    let read = |body: Value| responses::read(body.to_string().as_bytes(), &naming());
    let asked = ask(read(json!({
        "model": "m", "instructions": "Be brief.", "max_output_tokens": 9,
        "input": [
            {"role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
            {"type": "message", "id": "msg_1", "status": "completed", "role": "assistant",
                "content": [{"type": "output_text", "text": "Hello", "annotations": []}]},
            {"role": "user", "content": "?"},
        ],
    })));
    let Prompt::Messages(turns) = &asked.prompt else { panic!("{asked:?}") };
    let said: Vec<_> = turns.iter().map(|t| (t.role.as_str(), t.content.as_str())).collect();
    assert_eq!(
        said,
        [("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello"), ("user", "?")]
    );
    for (body, said) in [
        (
            json!({"input": "a", "previous_response_id": "r"}),
            "previous_response_id is \"r\", but that is not supported",
        ),
        (
            json!({"input": []}),
            "input is [], but it must be a text or a list of messages, at least one",
        ),
        (
            json!({"input": "a", "background": true}),
            "background is true, but that is not supported",
        ),
        (
            json!({"input": [{"type": "item_reference"}]}),
            "input[0].type is \"item_reference\", but only message, function_call and function_call_output are supported",
        ),
    ] {
        assert_eq!(refused(read(body)), said);
    }

    let shape = responses::Response::new(naming(), Some(9), Default::default());
    let object = whole_of(&shape, &whole(End::StopToken));
    assert_eq!(
        (object["object"].clone(), object["status"].clone()),
        (json!("response"), json!("completed"))
    );
    assert_eq!(
        object["output"],
        json!([{
            "type": "message",
            "id": "msg_1",
            "status": "completed",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "Hello! How can I assist you today?", "annotations": []}],
        }])
    );
    assert_eq!(
        object["usage"],
        json!({
            "input_tokens": 19, "input_tokens_details": {"cached_tokens": 16}, "output_tokens": 10,
            "output_tokens_details": {"reasoning_tokens": 2}, "total_tokens": 29,
        })
    );
    let cut = whole_of(&shape, &whole(End::Length));
    assert_eq!(cut["incomplete_details"], json!({"reason": "max_output_tokens"}));

    let mut shape = responses::Response::new(naming(), None, Default::default());
    let events = stream(&mut shape, End::StopToken);
    let names: Vec<&str> = events.iter().map(|event| event.lines().next().unwrap()).collect();
    assert_eq!(
        names,
        [
            "event: response.created",
            "event: response.in_progress",
            "event: response.output_item.added",
            "event: response.content_part.added",
            "event: response.output_text.delta",
            "event: response.output_text.delta",
            "event: response.output_text.done",
            "event: response.content_part.done",
            "event: response.output_item.done",
            "event: response.completed",
        ]
    );
    for (at, event) in events.iter().enumerate() {
        let data = data(event);
        assert_eq!(data["sequence_number"], at);
        assert_eq!(names[at], format!("event: {}", data["type"].as_str().unwrap()));
    }
    assert_eq!(data(&events[6])["text"], "Hello");
    assert_eq!(data(&events[9])["response"]["output"][0]["content"][0]["text"], "Hello");
}

fn weather() -> Value {
    json!({"name": "weather", "description": "d", "parameters": {"type": "object"}})
}

// As a model wrote it: no digit of it is changed.
const ARGUMENTS: &str = r#"{"city": "Rome", "days": 1.0, "id": 123456789012345678901234567890}"#;

// A call, and a text before it, as an answer that calls tools.
fn calling() -> (Text, Call) {
    let arguments = Arguments::read(ARGUMENTS).unwrap();
    ("Hm.".to_owned().into(), Call { id: "abc123def".into(), name: "weather".into(), arguments })
}

#[test]
fn tools_are_read_and_calls_are_sent_back() {
    let body = |more: Value| {
        let mut body = json!({
            "messages": [
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": null, "tool_calls": [
                    {"id": "abc123def", "type": "function", "function": {"name": "weather", "arguments": "{\"city\": \"Rome\"}"}}]},
                {"role": "tool", "tool_call_id": "abc123def", "content": "Rain"},
            ],
            "tools": [{"type": "function", "function": weather()}],
        });
        for (name, value) in more.as_object().unwrap() {
            body[name] = value.clone();
        }
        body
    };
    let asked = ask(chat_of(&body(json!({"tool_choice": "auto", "parallel_tool_calls": false}))));
    assert!(asked.tools.are_callable() && asked.tools.are_single() && asked.wishes.form.is_none());
    assert_eq!(asked.tools.definitions(), [json!({"type": "function", "function": weather()})]);
    let Prompt::Messages(turns) = &asked.prompt else { panic!("{asked:?}") };
    let function = json!({"name": "weather", "arguments": {"city": "Rome"}});
    let calls = json!([{"id": "abc123def", "type": "function", "function": function}]);
    assert_eq!(Value::Object(turns[1].fields.clone()), json!({"tool_calls": calls}));
    assert_eq!((turns[2].role.as_str(), turns[2].content.as_str()), ("tool", "Rain"));
    assert_eq!(
        Value::Object(turns[2].fields.clone()),
        json!({"tool_call_id": "abc123def", "name": "weather"})
    );
    // The same conversation by the other interface.
    let responses = json!({
        "input": [
            {"role": "user", "content": "Hi"},
            {"type": "function_call", "id": "fc_1", "status": "completed", "call_id": "abc123def", "name": "weather",
                "arguments": "{\"city\": \"Rome\"}"},
            {"type": "function_call_output", "call_id": "abc123def", "output": "Rain"},
        ],
        "tools": [{"type": "function", "name": "weather", "description": "d", "parameters": {"type": "object"}, "strict": true}],
        "tool_choice": {"type": "function", "name": "weather"},
    });
    let other = ask(responses::read(responses.to_string().as_bytes(), &naming()));
    assert_eq!(other.prompt, asked.prompt);
    assert_eq!(other.tools.definitions(), asked.tools.definitions());
    assert!(other.wishes.form.is_some(), "it has to be a call");
    let form = ask(chat_of(&body(json!({"tool_choice": "required"})))).wishes.form;
    assert!(form.is_some());
    assert!(!ask(chat_of(&body(json!({"tool_choice": "none"})))).tools.are_callable());
    for (more, said) in [
        (
            json!({"tool_choice": "any"}),
            "tool_choice is \"any\", but it must be auto, none, required or a function",
        ),
        (
            json!({"tool_choice": {"type": "function", "function": {"name": "x"}}}),
            "tool_choice is \"x\", but no tool is called so",
        ),
        (
            json!({"tools": [{"type": "web"}]}),
            "tools[0].type is \"web\", but only function is supported",
        ),
        (
            json!({"response_format": {"type": "json_object"}}),
            "response_format is given beside tools, but an answer that is by a form calls no tools: leave them out, or set \
                tool_choice to none",
        ),
        (
            json!({"messages": [{"role": "assistant", "tool_calls": [
                {"id": "a", "type": "function", "function": {"name": "f", "arguments": "["}}]}]}),
            "messages[0].tool_calls[0].function.arguments is \"[\", but it must be a JSON object as a text",
        ),
    ] {
        assert_eq!(refused(chat_of(&body(more))), said);
    }
}

#[test]
fn calls_of_a_chat() {
    let (text, call) = calling();
    let whole = Whole {
        reasoning: String::new(),
        items: vec![Item::Text(text.clone()), Item::Call(call.clone())],
        finish: finish(End::StopToken),
    };
    let mut shape = chat_shape(false, false);
    let choice = whole_of(&shape, &whole)["choices"][0].clone();
    let function = json!({"name": "weather", "arguments": ARGUMENTS});
    let shown = json!({"id": "abc123def", "type": "function", "function": function});
    assert_eq!(choice["message"]["tool_calls"], json!([shown]));
    assert_eq!(
        (&choice["message"]["content"], &choice["finish_reason"]),
        (&json!("Hm."), &json!("tool_calls"))
    );
    let silent = Whole { items: vec![Item::Call(call.clone())], ..whole.clone() };
    assert_eq!(whole_of(&shape, &silent)["choices"][0]["message"]["content"], Value::Null);
    let cut = Whole { finish: finish(End::Length), ..whole };
    assert_eq!(whole_of(&shape, &cut)["choices"][0]["finish_reason"], "length");
    for index in 0..2 {
        let frames = shape.part(Part::Call(call.clone()));
        let [frame] = &frames[..] else { panic!("{frames:?}") };
        let mut indexed = shown.clone();
        indexed["index"] = index.into();
        assert_eq!(
            data(&frame.to_string())["choices"][0]["delta"],
            json!({"tool_calls": [indexed]})
        );
    }
    let last = shape.part(Part::End(finish(End::StopToken)))[0].to_string();
    assert_eq!(data(&last)["choices"][0]["finish_reason"], "tool_calls");
}

#[test]
fn calls_of_a_response() {
    let (text, call) = calling();
    let given = [Some(json!([weather()])), Some(json!("required")), None];
    let mut shape = responses::Response::new(naming(), None, given);
    let item = json!({
        "id": "fc_abc123def", "type": "function_call", "status": "completed", "call_id": "abc123def", "name": "weather",
        "arguments": ARGUMENTS,
    });
    let whole = Whole {
        reasoning: String::new(),
        items: vec![Item::Text(text.clone()), Item::Call(call.clone())],
        finish: finish(End::StopToken),
    };
    let object = whole_of(&shape, &whole);
    assert_eq!((&object["output"][0]["id"], &object["output"][1]), (&json!("msg_1"), &item));
    assert_eq!(
        (&object["tools"], &object["tool_choice"]),
        (&json!([weather()]), &json!("required"))
    );
    let silent = Whole { items: vec![Item::Call(call.clone())], ..whole.clone() };
    assert_eq!(whole_of(&shape, &silent)["output"], json!([item]));
    // Texts and calls have the places that they were said at, and the names that a stream gives them.
    let items = vec![Item::Call(call.clone()), Item::Text(text.clone()), Item::Call(call.clone())];
    let mixed = whole_of(&shape, &Whole { items, finish: finish(End::Length), ..whole });
    let ids = mixed["output"].as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap());
    assert_eq!(ids.collect::<Vec<_>>(), ["fc_abc123def", "msg_1_1", "fc_abc123def"]);
    assert_eq!(mixed["output"][1]["status"], "completed");
    let mut frames = shape.begin(19);
    for part in [
        Part::Text(text.clone()),
        Part::Call(call),
        Part::Text(text),
        Part::End(finish(End::StopToken)),
    ] {
        frames.extend(shape.part(part));
    }
    let events: Vec<Value> = frames.iter().map(|frame| data(&frame.to_string())).collect();
    let called: Vec<&Value> = events.iter().filter(|event| event["output_index"] == 1).collect();
    let types: Vec<&str> = called.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(
        types,
        [
            "response.output_item.added",
            "response.function_call_arguments.delta",
            "response.function_call_arguments.done",
            "response.output_item.done",
        ]
    );
    assert_eq!(
        (&called[0]["item"]["arguments"], &called[1]["delta"]),
        (&json!(""), &item["arguments"])
    );
    assert_eq!((&called[2]["arguments"], &called[3]["item"]), (&item["arguments"], &item));
    let output = &events.last().unwrap()["response"]["output"];
    assert_eq!(
        (&output[1], &output[2]["id"], output.as_array().unwrap().len()),
        (&item, &json!("msg_1_2"), 3)
    );
    let texts = events.iter().filter(|event| event["type"] == "response.output_text.delta");
    let places: Vec<&Value> = texts.map(|event| &event["output_index"]).collect();
    assert_eq!(places, [&json!(0), &json!(2)]);
}

#[test]
fn faults() {
    let fault = Fault::field("temperature", 3, "it must be less");
    assert_eq!(
        error(&fault),
        json!({"error": {
            "message": "temperature is 3, but it must be less",
            "type": "invalid_request_error",
            "param": "temperature",
            "code": null,
        }})
    );
    for (kind, status, class, code) in [
        (Kind::TooLong, 400, "invalid_request_error", json!("context_length_exceeded")),
        (Kind::Key, 401, "invalid_request_error", json!("invalid_api_key")),
        (Kind::Busy, 429, "rate_limit_error", json!("rate_limit_exceeded")),
        (Kind::Stopping, 503, "server_error", Value::Null),
    ] {
        let error = &error(&Fault::new(kind, "x"))["error"];
        assert_eq!((kind.status(), &error["type"], &error["code"]), (status, &json!(class), &code));
    }
}

mod broken {
    use super::*;
    use crate::server::anthropic;
    use proptest::prelude::*;

    // Values that a field may have to make do with.
    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            "\\PC{0,8}".prop_map(Value::from),
            "(text|user|system|assistant|tool|message|input_text|function|tool_use|tool_result|json_schema|auto)".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec(
                    ("(type|text|role|content|name|function|parameters|tool_calls|id|x)", inner),
                    0..4
                )
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    const NAMES: &str = "(messages|prompt|input|system|model|max_tokens|max_completion_tokens|temperature|top_p|\
        top_k|min_p|stop|stop_sequences|stream|stream_options|seed|n|tools|tool_choice|logprobs|top_logprobs|thinking|response_format|logit_bias|other)";

    fn all_read(body: &[u8]) {
        for read in [chat::read, completions::read, responses::read, anthropic::read] {
            if let Err(fault) = read(body, &naming()) {
                assert!((400..500).contains(&fault.kind.status()), "{fault:?}");
                let is_line = !fault.message.contains('\n') && fault.message.len() < 700;
                assert!(is_line && fault.message.contains(" is "), "{}", fault.message);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        #[test]
        fn any_fields_are_read_or_refused(fields in prop::collection::vec((NAMES, value()), 0..6)) {
            let body = Value::Object(fields.into_iter().collect()).to_string();
            all_read(body.as_bytes());
        }

        #[test]
        fn any_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            all_read(&bytes);
        }

        #[test]
        fn a_request_that_is_cut_or_changed_is_read_or_refused(at in 0usize..120, byte in any::<u8>(), cut in any::<bool>()) {
            let body = json!({"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 9, "stop": ["a"]});
            let mut body = body.to_string().into_bytes();
            let at = at % body.len();
            if cut { body.truncate(at) } else { body[at] = byte }
            all_read(&body);
        }
    }
}
