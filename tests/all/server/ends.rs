//! How a server ends.
#![cfg(unix)]

use super::client::Served;
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
