//! Who may ask, how much, and how long it may take.

use super::client::{LIMIT, Served};
use crate::cli::program::run;
use serde_json::json;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

const JSON: &str = "content-type: application/json";

#[test]
fn doors_are_shut_for_who_has_no_key_and_limits_are_named() {
    let keys = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(keys.path(), "second\n\nthird\n").unwrap();
    let served = Served::new(&[
        "--context",
        "512",
        "--api-key",
        "first",
        "--api-key-file",
        keys.path().to_str().unwrap(),
        "--cors-origin",
        "https://a.example",
        "--body-limit",
        "2K",
        "--body-timeout",
        "1",
        "--timeout",
        "1",
    ]);
    let body = br#"{"prompt": "x", "max_tokens": 1}"#;
    let ask = |headers: &[&str]| served.send("POST", "/v1/completions", headers, body);
    for key in ["authorization: Bearer first", "x-api-key: second", "Authorization: bearer third"] {
        assert_eq!(ask(&[JSON, key]).status, 200, "{key}");
    }
    for key in ["authorization: Bearer fourth", "x-api-key: ", "x: y", "authorization: Basic first"]
    {
        let reply = ask(&[JSON, key]);
        assert!(reply.status == 401 && reply.refusal().contains("key"), "{key}: {reply:?}");
    }
    for path in ["/metrics", "/slots", "/v1/models", "/nowhere"] {
        assert_eq!(served.get(path).status, 401, "{path}");
    }
    assert_eq!((served.get("/").status, served.get("/health").status), (200, 200));
    let anthropic = served.send("POST", "/v1/messages", &[JSON], b"{}");
    assert!(anthropic.body.contains("authentication_error"), "{anthropic:?}");

    let key = "x-api-key: first";
    let origin = |origin: &str| ask(&[JSON, key, &format!("origin: {origin}")]).head;
    assert!(origin("https://a.example").contains("access-control-allow-origin: https://a.example"));
    assert!(!origin("https://b.example").contains("access-control-allow-origin"));
    let asked = [
        "origin: https://a.example",
        "access-control-request-method: POST",
        "access-control-request-headers: authorization,content-type",
    ];
    let preflight = served.send("OPTIONS", "/v1/messages", &asked, b"");
    let allowed = "access-control-allow-headers: authorization,content-type";
    assert!(preflight.status == 200 && preflight.head.contains(allowed), "{preflight:?}");

    for (headers, body, status, said) in [
        (
            &[key][..],
            &body[..],
            415,
            "the header content-type is missing, but it must be application/json",
        ),
        (
            &[key, "content-type: text/plain"],
            body,
            415,
            "the header content-type is text/plain, but",
        ),
        (
            &[key, JSON],
            &[b' '; 3000],
            413,
            "the body is 3000 bytes, but at most 2048 bytes are read",
        ),
        (&[key, JSON], b"{", 400, "the body is not JSON"),
        (
            &[key, JSON],
            br#"{"prompt": "x", "model": "y"}"#,
            404,
            "model is \"y\", but this server has \"tiny\"",
        ),
        (
            &[key, JSON],
            br#"{"prompt": []}"#,
            400,
            "the prompt is no token, but at least one is needed",
        ),
        (
            &[key, JSON],
            br#"{"prompt": [99999]}"#,
            400,
            "a token id is 99999, but the vocabulary has 267 tokens",
        ),
    ] {
        let reply = served.send("POST", "/v1/completions", headers, body);
        assert_eq!(reply.status, status, "{reply:?}");
        assert!(reply.refusal().starts_with(said), "{reply:?}");
    }
    let long = json!({"messages": [{"role": "user", "content": "x".repeat(600)}]}).to_string();
    let reply = served.send("POST", "/v1/chat/completions", &[JSON, key], long.as_bytes());
    assert_eq!(
        (reply.status, reply.refusal().as_str()),
        (400, "the conversation is 605 tokens, but the context holds 512")
    );
    assert!(reply.body.contains("context_length_exceeded"), "{reply:?}");
    let reply = served.send("GET", "/v1/messages", &[key], b"");
    assert_eq!(
        (reply.status, reply.refusal().as_str()),
        (405, "the method is GET, but /v1/messages takes another one")
    );
    let reply = served.send("GET", "/nowhere", &[key], b"");
    assert_eq!((reply.status, reply.refusal().as_str()), (404, "there is nothing at /nowhere"));

    // A body that does not come, and one that is too long without having said so.
    let mut slow = TcpStream::connect(&served.address).unwrap();
    slow.set_read_timeout(Some(LIMIT)).unwrap();
    let head = format!("POST /v1/completions HTTP/1.1\r\nhost: x\r\n{JSON}\r\n{key}\r\n");
    write!(slow, "{head}content-length: 100\r\n\r\n{{").unwrap();
    let mut said = vec![0; 12];
    slow.read_exact(&mut said).unwrap();
    assert_eq!(said, b"HTTP/1.1 408");
    let mut chunked = TcpStream::connect(&served.address).unwrap();
    write!(
        chunked,
        "{head}transfer-encoding: chunked\r\n\r\n1000\r\n{}\r\n0\r\n\r\n",
        " ".repeat(4096)
    )
    .unwrap();
    chunked.read_exact(&mut said).unwrap();
    assert_eq!(said, b"HTTP/1.1 413");
}

#[test]
fn a_port_that_is_taken_and_options_without_sense_are_one_line() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let empty = tempfile::NamedTempFile::new().unwrap();
    let empty = empty.path().to_str().unwrap();
    for (arguments, said) in [
        (
            &["--port", port.as_str()][..],
            format!("the address is 127.0.0.1:{port}, but another program listens there: "),
        ),
        (
            &["--host", "999.1.1.1"],
            "the address is 999.1.1.1:8080, but that is none to listen at here".into(),
        ),
        (&["--port", "0"], "cannot read absent.gguf".into()),
        (
            &["--port", "0", "--api-key-file", empty],
            format!("--api-key-file is {empty}, but there is no key in it"),
        ),
    ] {
        let run = run(&[&["serve", "--model", "absent.gguf"], arguments].concat());
        assert_eq!(run.code, Some(2), "{run:?}");
        assert!(run.error().starts_with(&said), "{run:?}");
        assert_eq!(run.err.lines().count(), 1, "{run:?}");
    }
}

#[test]
fn a_page_of_another_name_does_not_reach_a_server_without_keys() {
    let served = Served::new(&[]);
    let ask = |host: &str| {
        let mut stream = TcpStream::connect(&served.address).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        write!(stream, "GET /v1/models HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n")
            .unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).unwrap();
        reply
    };
    for host in ["localhost:8080", "127.0.0.1", "[::1]:80"] {
        assert!(ask(host).starts_with("HTTP/1.1 200"), "{host}");
    }
    let reply = ask("evil.example:8080");
    assert!(reply.starts_with("HTTP/1.1 403"), "{reply}");
    assert!(
        reply.contains("the header host is evil.example:8080, but it must be localhost"),
        "{reply}"
    );
}
