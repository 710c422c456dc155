//! How a server ends.
#![cfg(unix)]

use super::client::Served;
use crate::cli::program::text;
use serde_json::json;
use std::io::Read;
use std::net::TcpStream;

#[test]
fn what_runs_is_answered_and_nothing_more_is_taken() {
    let mut served = Served::new(&["--context", "1024"]);
    let body = json!({"prompt": "Once", "max_tokens": 600, "stream": true});
    let mut stream = served.open_json("/v1/completions", &body);
    served.until("it runs", |served| served.get("/slots").json()[0]["state"] == "answer");
    served.signal("TERM");
    served.until("nobody listens", |served| TcpStream::connect(&served.address).is_err());
    let mut all = String::new();
    stream.read_to_string(&mut all).unwrap();
    assert!(all.ends_with("data: [DONE]\n\n"), "{}", &all[all.len().saturating_sub(300)..]);
    assert_eq!(served.end().code(), Some(0));
}

#[test]
fn what_takes_too_long_at_the_end_is_told_and_a_second_signal_ends_at_once() {
    let body = json!({"prompt": "Once", "max_tokens": 1900, "stream": true});
    let mut served = Served::new(&["--grace", "0"]);
    let mut stream = served.open_json("/v1/completions", &body);
    served.until("it runs", |served| served.get("/slots").json()[0]["state"] == "answer");
    served.signal("INT");
    let mut all = String::new();
    stream.read_to_string(&mut all).unwrap();
    assert!(
        all.contains("\"message\":\"the server stops\""),
        "{}",
        &all[all.len().saturating_sub(300)..]
    );
    assert_eq!(served.end().code(), Some(0));

    let mut served = Served::new(&[]);
    let _stream = served.open_json("/v1/completions", &body);
    served.until("it runs", |served| served.get("/slots").json()[0]["state"] == "answer");
    served.signal("TERM");
    served.until("nobody listens", |served| TcpStream::connect(&served.address).is_err());
    served.signal("TERM");
    assert_eq!(served.end().code(), Some(143));
}

#[test]
fn what_prompts_begin_with_is_there_after_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    let arguments = ["--prefix-cache", text(&cache), "--block-size", "16", "--attention", "dense"];
    let body = json!({"prompt": "It was a dark and stormy night. ".repeat(10), "max_tokens": 4});
    let ask = |served: &Served| served.post("/v1/completions", &body).json();
    let mut served = Served::new(&arguments);
    let first = ask(&served);
    assert_eq!(first["usage"]["prompt_tokens_details"]["cached_tokens"], 0);
    served.signal("TERM");
    assert_eq!(served.end().code(), Some(0));
    for signal in ["TERM", "KILL"] {
        let mut served = Served::new(&arguments);
        let again = ask(&served);
        assert_eq!(again["usage"]["prompt_tokens_details"]["cached_tokens"], 304);
        assert_eq!(again["choices"][0]["text"], first["choices"][0]["text"]);
        assert_eq!(served.metric("prefix_cache_hits_total"), 1.0);
        assert_eq!(served.metric("prefix_cache_tokens_total"), 304.0);
        assert!(served.metric("prefix_cache_read_bytes_total") > 0.0);
        served.signal(signal);
        served.end();
    }
}
