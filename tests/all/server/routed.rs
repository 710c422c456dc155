//! What routers add to requests on their way.

use super::client::Served;
use serde_json::{Value, json};

fn with(body: &Value, fields: &Value) -> Value {
    let mut body = body.clone();
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    body
}

#[test]
fn what_sglangs_router_adds_is_taken_where_it_asks_for_what_is_done_anyway() {
    let served = Served::new(&["--context", "256", "--attention", "dense"]);
    let added = json!({
        "no_stop_trim": false, "continue_final_message": false, "skip_special_tokens": true,
        "separate_reasoning": true, "stream_reasoning": true, "return_hidden_states": false,
    });
    let chat = json!({"messages": [{"role": "user", "content": "Hi"}], "logprobs": false, "max_tokens": 4});
    let completion = json!({"prompt": "Hi", "max_tokens": 4});
    for (path, body) in [("/v1/chat/completions", chat), ("/v1/completions", completion)] {
        let plain = served.post(path, &body).json();
        let routed = served.post(path, &with(&body, &added)).json();
        assert_eq!(routed["choices"], plain["choices"]);
        for (name, value) in added.as_object().unwrap() {
            let other = json!({ name: !value.as_bool().unwrap() });
            let refused = served.post(path, &with(&body, &other));
            assert_eq!(refused.status, 400, "{refused:?}");
            assert!(refused.refusal().starts_with(&format!("{name} is ")), "{refused:?}");
        }
    }
}

#[test]
fn answers_are_as_long_as_was_asked_where_the_models_end_is_ignored() {
    let served = Served::new(&["--context", "256", "--attention", "dense"]);
    let chat = json!({"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 100});
    let completion = json!({"prompt": "Hi", "max_tokens": 100});
    for (path, body) in [("/v1/chat/completions", chat), ("/v1/completions", completion)] {
        let made = served.post(path, &with(&body, &json!({"ignore_eos": true}))).json();
        assert_eq!(made["usage"]["completion_tokens"], 100, "{made}");
        assert_eq!(made["choices"][0]["finish_reason"], "length", "{made}");
        let usual = served.post(path, &body).json();
        assert_eq!(
            served.post(path, &with(&body, &json!({"ignore_eos": false}))).json()["usage"],
            usual["usage"]
        );
        let refused = served.post(path, &with(&body, &json!({"ignore_eos": "yes"})));
        assert_eq!(refused.status, 400, "{refused:?}");
    }
    let by_schema = json!({
        "messages": [{"role": "user", "content": "Hi"}], "ignore_eos": true, "response_format": {"type": "json_object"},
    });
    let refused = served.post("/v1/chat/completions", &by_schema);
    assert_eq!(refused.status, 400, "{refused:?}");
    assert!(refused.refusal().starts_with("ignore_eos is true, but "), "{refused:?}");
}
