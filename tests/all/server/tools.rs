//! Tools, as a tiny model calls them that has to.

use super::client::Served;
use serde_json::{Value, json};

const QUESTION: &str = "What is the weather in Rome, and in Bonn?";

fn parameters() -> Value {
    json!({
        "type": "object", "properties": {"city": {"enum": ["Rome", "Bonn"]}}, "required": ["city"],
        "additionalProperties": false,
    })
}

fn with(body: &Value, more: &Value) -> Value {
    let mut body = body.clone();
    for (name, value) in more.as_object().unwrap() {
        body[name] = value.clone();
    }
    body
}

// The arguments of a call of the one tool, which are by its schema.
fn check(name: &Value, arguments: &str) {
    assert_eq!(name, "weather");
    let arguments: Value = serde_json::from_str(arguments).unwrap();
    assert!(
        arguments == json!({"city": "Rome"}) || arguments == json!({"city": "Bonn"}),
        "{arguments}"
    );
}

// An answer at once and as a stream, of the first draw by which the model, whose tokens mean nothing, ends both.
fn ended(
    served: &Served,
    path: &str,
    body: &Value,
    is_ended: impl Fn(&Value) -> bool,
) -> (Value, Vec<Value>) {
    for number in 0..20 {
        let drawn = match path {
            "/v1/chat/completions" => json!({"temperature": 1, "seed": number}),
            // The others take no seed.
            _ => json!({"temperature": 1}),
        };
        let body = with(body, &drawn);
        let whole = served.post(path, &body).json();
        let events = served.post(path, &with(&body, &json!({"stream": true}))).events();
        let has_call = |event: &Value| {
            let text = event.to_string();
            text.contains("partial_json") || text.contains("\"arguments\":\"{")
        };
        if is_ended(&whole) && events.iter().any(has_call) {
            return (whole, events);
        }
    }
    panic!("no call ended at {path}");
}

#[test]
fn a_tool_that_has_to_be_called_is_in_every_interface() {
    let served = Served::new(&["--context", "1024", "--attention", "dense"]);
    let messages = json!([{"role": "user", "content": QUESTION}]);
    let function =
        json!({"name": "weather", "description": "It tells.", "parameters": parameters()});

    let tools = json!([{"type": "function", "function": function}]);
    let chat =
        json!({"messages": messages, "tools": tools, "tool_choice": "required", "max_tokens": 400});
    let (whole, events) = ended(&served, "/v1/chat/completions", &chat, |whole| {
        whole["choices"][0]["finish_reason"] == "tool_calls"
    });
    let message = &whole["choices"][0]["message"];
    assert_eq!(
        (&message["content"], message["tool_calls"].as_array().unwrap().len()),
        (&Value::Null, 1)
    );
    let called = &message["tool_calls"][0]["function"];
    check(&called["name"], called["arguments"].as_str().unwrap());
    let deltas: Vec<&Value> =
        events.iter().map(|e| &e["choices"][0]["delta"]["tool_calls"][0]).collect();
    let delta = deltas.iter().find(|delta| !delta.is_null()).expect("a call");
    assert_eq!(&delta["function"], called, "the same seed");

    let tools =
        json!([{"name": "weather", "description": "It tells.", "input_schema": parameters()}]);
    let body = json!({"messages": messages, "tools": tools, "tool_choice": {"type": "any"}, "max_tokens": 400});
    let (whole, events) =
        ended(&served, "/v1/messages", &body, |whole| whole["stop_reason"] == "tool_use");
    let block = &whole["content"][0];
    check(&block["name"], &block["input"].to_string());
    let partial = events.iter().find_map(|event| event["delta"]["partial_json"].as_str());
    check(&json!("weather"), partial.expect("a call"));
    assert!(events.iter().any(|event| event["delta"]["stop_reason"] == "tool_use"), "{events:?}");

    let tools = json!([with(&function, &json!({"type": "function"}))]);
    let choice = json!({"type": "function", "name": "weather"});
    let body =
        json!({"input": QUESTION, "tools": tools, "tool_choice": choice, "max_output_tokens": 400});
    let (whole, events) = ended(&served, "/v1/responses", &body, |whole| {
        whole["output"][0]["type"] == "function_call"
    });
    check(&whole["output"][0]["name"], whole["output"][0]["arguments"].as_str().unwrap());
    let done = events.iter().find(|event| event["type"] == "response.function_call_arguments.done");
    check(&json!("weather"), done.expect("a call")["arguments"].as_str().unwrap());
}

#[test]
fn a_conversation_with_calls_is_framed_alike_whoever_sends_it() {
    let served = Served::new(&["--context", "1024", "--attention", "dense"]);
    let function = json!({"name": "weather", "parameters": parameters()});
    let called = json!({"name": "weather", "arguments": "{\"city\": \"Rome\"}"});
    let chat = json!({
        "messages": [
            {"role": "user", "content": QUESTION},
            {"role": "assistant", "tool_calls": [{"id": "1", "type": "function", "function": called}]},
            {"role": "tool", "tool_call_id": "1", "content": "Rain"},
        ],
        "tools": [{"type": "function", "function": function}],
        "max_tokens": 16,
    });
    let whole = served.post("/v1/chat/completions", &chat).json();
    let definition = "[{\"type\": \"function\", \"function\": {\"name\": \"weather\", \"parameters\": {\"type\": \"object\", \
        \"properties\": {\"city\": {\"enum\": [\"Rome\", \"Bonn\"]}}, \"required\": [\"city\"], \"additionalProperties\": false}}}]";
    let prompt = format!(
        "{definition}<|end|>u:{QUESTION}<|end|>a:<tool_call>{{\"name\": \"weather\", \"arguments\": {{\"city\": \"Rome\"}}}}\
            </tool_call><|end|>t:Rain<|end|>a:"
    );
    let bare = json!({"prompt": prompt, "max_tokens": 16});
    let by_hand = served.post("/v1/completions", &bare).json();
    assert_eq!(whole["usage"]["prompt_tokens"], by_hand["usage"]["prompt_tokens"]);
    // What is no call is the answer, as ever.
    assert_eq!(whole["choices"][0]["message"]["content"], by_hand["choices"][0]["text"]);
    let message = json!({
        "messages": [
            {"role": "user", "content": QUESTION},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "1", "name": "weather", "input": {"city": "Rome"}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1", "content": "Rain"}]},
        ],
        "tools": [{"name": "weather", "input_schema": parameters()}],
    });
    let counted = served.post("/v1/messages/count_tokens", &message).json();
    assert_eq!(counted["input_tokens"], whole["usage"]["prompt_tokens"]);
    let response = json!({
        "input": [
            {"role": "user", "content": QUESTION},
            {"type": "function_call", "call_id": "1", "name": "weather", "arguments": "{\"city\": \"Rome\"}"},
            {"type": "function_call_output", "call_id": "1", "output": "Rain"},
        ],
        "tools": [with(&function, &json!({"type": "function"}))],
        "max_output_tokens": 16,
    });
    let whole = served.post("/v1/responses", &response).json();
    assert_eq!(whole["usage"]["input_tokens"], counted["input_tokens"]);
    assert_eq!(whole["output"][0]["content"][0]["text"], by_hand["choices"][0]["text"]);
}

#[test]
fn templates_that_know_no_tools_or_write_calls_in_no_known_way_are_named() {
    let function = json!({"type": "function", "function": {"name": "f"}});
    let called =
        json!([{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]);
    let hi = json!([{"role": "user", "content": "Hi"}]);
    let with_tools = json!({"messages": hi, "tools": [function], "max_tokens": 1});
    let without =
        json!({"messages": [{"role": "assistant", "tool_calls": called}], "max_tokens": 1});
    let none = json!({"messages": hi, "tools": [function], "tool_choice": "none", "max_tokens": 1});
    let words = "{% for m in messages %}{{ m.content }}{% endfor %}";
    let file = tempfile::NamedTempFile::new().unwrap();
    for (template, limit, calls) in [
        (words.to_owned(), "the model's chat template does not tell it of tools", 400),
        (
            format!("{{{{ tools | tojson }}}}{words}"),
            "the model's chat template has calls in none of the ways",
            200,
        ),
    ] {
        std::fs::write(file.path(), template).unwrap();
        let path = file.path().to_str().unwrap();
        let served = Served::new(&["--context", "256", "--chat-template", path]);
        let refused = served.post("/v1/chat/completions", &with_tools);
        assert_eq!(refused.status, 400, "{refused:?}");
        assert!(
            refused.refusal().starts_with(&format!("tools is given, but {limit}")),
            "{refused:?}"
        );
        assert_eq!(served.post("/v1/chat/completions", &without).status, calls);
        assert_eq!(served.post("/v1/chat/completions", &none).status, 200);
    }
}
