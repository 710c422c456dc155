//! Every interface answers, at once and as a stream.

use super::client::Served;
use serde_json::{Value, json};
use std::io::Read;

fn joined(events: &[Value], text: impl Fn(&Value) -> Option<&str>) -> String {
    events.iter().filter_map(text).collect()
}

fn with(body: &Value, more: &Value) -> Value {
    let mut body = body.clone();
    for (name, value) in more.as_object().unwrap() {
        body[name] = value.clone();
    }
    body
}

#[test]
fn every_interface_answers_alike_at_once_and_as_a_stream() {
    let served = Served::new(&["--context", "1024", "--parallel", "2", "--attention", "dense"]);
    // Longer than a block, so that the next one finds its beginning; with an index it would have to be as long as what chooses its channels.
    let question = "What is it that we asked for? ".repeat(12);
    let stream = json!({"stream": true});

    let chat = json!({"model": "tiny", "messages": [{"role": "user", "content": question}], "max_tokens": 24});
    let first = served.post("/v1/chat/completions", &chat).json();
    let usage = &first["usage"];
    assert_eq!(
        (
            usage["completion_tokens"].clone(),
            usage["prompt_tokens_details"]["cached_tokens"].clone()
        ),
        (json!(24), json!(0))
    );
    assert_eq!(first["choices"][0]["finish_reason"], "length");
    let said = first["choices"][0]["message"]["content"].as_str().unwrap();
    assert!(!said.is_empty());
    let reply = served.post(
        "/v1/chat/completions",
        &with(&chat, &with(&stream, &json!({"stream_options": {"include_usage": true}}))),
    );
    assert!(
        reply.body.contains("\n: prefill {") && reply.body.ends_with("data: [DONE]\n\n"),
        "{reply:?}"
    );
    let events = reply.events();
    assert_eq!(joined(&events, |e| e["choices"][0]["delta"]["content"].as_str()), said);
    let usage = &events.last().unwrap()["usage"];
    let cached = usage["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap();
    assert!(cached >= 256 && cached < usage["prompt_tokens"].as_u64().unwrap(), "{usage}");

    let message = json!({"model": "tiny", "messages": chat["messages"], "max_tokens": 24});
    let whole = served.post("/v1/messages", &message).json();
    assert_eq!(whole["content"], json!([{"type": "text", "text": said}]));
    assert_eq!(
        (whole["stop_reason"].clone(), whole["usage"]["output_tokens"].clone()),
        (json!("max_tokens"), json!(24))
    );
    assert!(whole["usage"]["cache_read_input_tokens"].as_u64().unwrap() >= 256);
    let events = served.post("/v1/messages", &with(&message, &stream)).events();
    assert_eq!(joined(&events, |e| e["delta"]["text"].as_str()), said);
    assert_eq!(events.last().unwrap()["type"], "message_stop");
    let counted = json!({"model": "tiny", "messages": chat["messages"]});
    let tokens = served.post("/v1/messages/count_tokens", &counted).json();
    assert_eq!(tokens["input_tokens"], first["usage"]["prompt_tokens"]);

    let response = json!({"model": "tiny", "input": question, "max_output_tokens": 24});
    let whole = served.post("/v1/responses", &response).json();
    assert_eq!(whole["output"][0]["content"][0]["text"], *said);
    let events = served.post("/v1/responses", &with(&response, &stream)).events();
    assert_eq!(joined(&events, |e| e["delta"].as_str()), said);
    assert_eq!(events.last().unwrap()["type"], "response.incomplete");

    // What a chat is framed as, by hand.
    let prompt = format!("u:{question}<|end|>a:");
    let completion = json!({"model": "tiny", "prompt": prompt, "max_tokens": 24});
    let whole = served.post("/v1/completions", &completion).json();
    assert_eq!(whole["choices"][0]["text"], *said);
    let events = served.post("/v1/completions", &with(&completion, &stream)).events();
    assert_eq!(joined(&events, |e| e["choices"][0]["text"].as_str()), said);
    let tokens = served.post("/tokenize", &json!({"content": prompt})).json()["tokens"].clone();
    assert_eq!(
        tokens.as_array().unwrap().len() as u64,
        first["usage"]["prompt_tokens"].as_u64().unwrap()
    );
    assert_eq!(served.post("/detokenize", &json!({"tokens": tokens})).json()["content"], *prompt);
    let whole =
        served.post("/v1/completions", &with(&completion, &json!({"prompt": tokens}))).json();
    assert_eq!(whole["choices"][0]["text"], *said);

    // Who asks for log-probabilities is answered the same; those of the likeliest are the answer's.
    let likely = with(&chat, &json!({"logprobs": true, "top_logprobs": 2}));
    let whole = served.post("/v1/chat/completions", &likely).json()["choices"][0].clone();
    assert_eq!(whole["message"]["content"], *said);
    let tokens = whole["logprobs"]["content"].as_array().unwrap();
    assert_eq!(tokens.len(), 24);
    for token in tokens {
        let likeliest = token["top_logprobs"].as_array().unwrap();
        let value = |one: &Value| one["logprob"].as_f64().unwrap();
        assert_eq!((likeliest.len(), &token["token"]), (2, &likeliest[0]["token"]));
        assert!(value(&likeliest[1]) <= value(token) && value(token) < 0.0, "{token}");
        assert_eq!(token["logprob"], likeliest[0]["logprob"]);
    }
    let events = served.post("/v1/chat/completions", &with(&likely, &stream)).events();
    let streamed = events.iter().filter_map(|e| e["choices"][0]["logprobs"]["content"].as_array());
    assert_eq!(&streamed.flatten().cloned().collect::<Vec<_>>(), tokens);
    let likely = with(&completion, &json!({"logprobs": 1}));
    let whole = served.post("/v1/completions", &likely).json()["choices"][0].clone();
    assert_eq!(
        (whole["text"].clone(), whole["logprobs"]["tokens"].clone()),
        (json!(said), tokens.iter().map(|token| token["token"].clone()).collect(),)
    );

    // JSON by a schema, in every shape that asks for it; what cannot be is refused with what is wrong.
    let schema = json!({"type": "object", "properties": {"a": {"enum": ["x", "y"]}}, "required": ["a"], "additionalProperties": false});
    let form = json!({"type": "json_schema", "json_schema": {"name": "n", "strict": true, "schema": schema}});
    let formed = with(&chat, &json!({"max_tokens": 900, "response_format": form}));
    let whole = served.post("/v1/chat/completions", &formed).json()["choices"][0].clone();
    let text = whole["message"]["content"].as_str().unwrap();
    if whole["finish_reason"] == "stop" {
        let value: Value = serde_json::from_str(text).unwrap();
        assert!(value == json!({"a": "x"}) || value == json!({"a": "y"}), "{value}");
    } else {
        assert!(text.starts_with('{') && whole["finish_reason"] == "length", "{whole}");
    }
    let events = served.post("/v1/chat/completions", &with(&formed, &stream)).events();
    assert_eq!(joined(&events, |e| e["choices"][0]["delta"]["content"].as_str()), text);
    let form = json!({"format": {"type": "json_schema", "name": "n", "schema": schema}});
    let formed = with(&response, &json!({"max_output_tokens": 900, "text": form}));
    assert_eq!(
        served.post("/v1/responses", &formed).json()["output"][0]["content"][0]["text"],
        text
    );
    let any = with(&chat, &json!({"response_format": {"type": "json_object"}}));
    let whole = served.post("/v1/chat/completions", &any).json();
    assert!(
        whole["choices"][0]["message"]["content"].as_str().unwrap().starts_with('{'),
        "{whole}"
    );
    let schema = json!({"name": "n", "schema": {"type": "string", "minLength": 2, "maxLength": 1}});
    let form = json!({"type": "json_schema", "json_schema": schema});
    let refused =
        served.post("/v1/chat/completions", &with(&chat, &json!({"response_format": form})));
    assert_eq!(refused.status, 400, "{refused:?}");
    assert!(refused.refusal().starts_with("the JSON schema is {"), "{refused:?}");
    assert!(refused.body.contains("response_format.json_schema.schema"), "{refused:?}");

    // A stop text is named, and not shown; two draws with one seed are the same.
    let (before, stop) = said.split_at(said.char_indices().nth(3).unwrap().0);
    let stopped = served
        .post("/v1/messages", &with(&message, &json!({"stop_sequences": ["\u{1}\u{2}", stop]})))
        .json();
    assert_eq!(
        (stopped["content"][0]["text"].clone(), stopped["stop_sequence"].clone()),
        (json!(before), json!(stop))
    );
    let drawn = with(&chat, &json!({"temperature": 1.5, "seed": 7}));
    let draw = || served.post("/v1/chat/completions", &drawn).json()["choices"].clone();
    assert_eq!(draw(), draw());

    let models = served.get("/v1/models").json();
    assert_eq!(
        (models["data"][0]["id"].clone(), models["data"][0]["context_length"].clone()),
        (json!("tiny"), json!(1024))
    );
    assert_eq!(served.get("/v1/models/tiny").json()["id"], "tiny");
    assert_eq!(served.get("/v1/models/other").status, 404);
    assert_eq!(served.get("/health").json()["status"], "ok");
    assert_eq!(served.get("/slots").json(), json!([]));
    assert!(
        served.metric("prefix_hits_total") > 5.0
            && served.metric("first_token_seconds_count") > 10.0
    );
    let page = served.get("/");
    assert!(page.head.contains("text/html") && page.body.contains("<textarea"), "{page:?}");
}

fn long() -> Value {
    json!({"prompt": "Once", "max_tokens": 900, "stream": true})
}

#[test]
fn answers_go_on_beside_each_other_and_slow_readers_stop_nobody() {
    let served = Served::new(&["--context", "1024", "--parallel", "2", "--queue", "1"]);
    // Nobody reads this one yet.
    let mut slow = served.open_json("/v1/completions", &long());
    served.until("it runs", |served| served.get("/slots").json()[0]["state"] == "answer");
    let quick = served.post("/v1/completions", &json!({"prompt": "Twice", "max_tokens": 8})).json();
    assert_eq!(quick["usage"]["completion_tokens"], 8);
    let mut all = String::new();
    slow.read_to_string(&mut all).unwrap();
    assert!(all.ends_with("data: [DONE]\n\n"), "{}", &all[all.len().saturating_sub(300)..]);

    // Two run, one waits, and one more is too many.
    let mut others: Vec<_> = (0..3).map(|_| served.open_json("/v1/completions", &long())).collect();
    served.until("one waits", |served| served.get("/slots").json().as_array().unwrap().len() == 3);
    let refused = served.post("/v1/completions", &json!({"prompt": "x"}));
    assert_eq!(refused.status, 429, "{refused:?}");
    assert!(refused.refusal().contains("the queue is full"), "{refused:?}");
    let refused = served.post(
        "/v1/messages",
        &json!({"max_tokens": 1, "messages": [{"role": "user", "content": "x"}]}),
    );
    assert!(refused.status == 429 && refused.body.contains("rate_limit_error"), "{refused:?}");

    // Who goes away is not answered any more, as a stream or at once.
    others.push(served.open_json("/v1/completions", &json!({"prompt": "Once", "max_tokens": 900})));
    drop(others);
    served.until("all are gone", |served| {
        served.get("/slots").json() == json!([]) && served.metric("requests_running") == 0.0
    });
    assert!(served.metric("requests_cancelled_total") >= 2.0);
    let blocks = served.metric("kv_blocks_used");
    let again = served.post("/v1/completions", &json!({"prompt": "Twice", "max_tokens": 8})).json();
    assert_eq!(again["choices"], quick["choices"], "{blocks} blocks");
}
