//! Requests that make no sense.

use super::client::{LIMIT, Served};
use rand_pcg::Pcg32;
use rand_pcg::rand_core::{Rng, SeedableRng};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpStream;

const PATHS: [(&str, &str); 7] = [
    (
        "/v1/chat/completions",
        r#"{"messages":[{"role":"user","content":"Hi"}],"max_tokens":1,"stop":["a"],"top_p":0.5}"#,
    ),
    ("/v1/completions", r#"{"prompt":"Hi","max_tokens":1,"temperature":0.5,"seed":3}"#),
    ("/v1/responses", r#"{"input":[{"role":"user","content":"Hi"}],"max_output_tokens":1}"#),
    (
        "/v1/messages",
        r#"{"messages":[{"role":"user","content":"Hi"}],"max_tokens":1,"system":"x"}"#,
    ),
    ("/v1/messages/count_tokens", r#"{"messages":[{"role":"user","content":"Hi"}]}"#),
    ("/tokenize", r#"{"content":"Hi","add_special":true}"#),
    ("/detokenize", r#"{"tokens":[1,2,3]}"#),
];

#[test]
fn a_thousand_malformed_requests_are_refused_with_a_reason() {
    let served = Served::new(&["--context", "256"]);
    let mut random = Pcg32::seed_from_u64(17);
    let mut refused = 0;
    let mut asked = 0;
    while refused < 1000 {
        let (path, sound) = PATHS[random.next_u32() as usize % PATHS.len()];
        let mut body = sound.as_bytes().to_vec();
        for _ in 0..1 + random.next_u32() % 3 {
            let at = random.next_u32() as usize % body.len().max(1);
            match random.next_u32() % 4 {
                0 => body.truncate(at),
                1 => body.insert(at.min(body.len()), random.next_u32() as u8),
                2 if at < body.len() => body[at] = random.next_u32() as u8,
                _ if at < body.len() => drop(body.drain(at..(at + 5).min(body.len()))),
                _ => {}
            }
        }
        asked += 1;
        assert!(asked < 4000, "too few are malformed");
        let reply = served.send("POST", path, &["content-type: application/json"], &body);
        let shown = String::from_utf8_lossy(&body).into_owned();
        assert!(reply.status == 200 || (400..500).contains(&reply.status), "{shown}: {reply:?}");
        if reply.status != 200 {
            assert!(reply.refusal().contains(" is "), "{shown}: {reply:?}");
            refused += 1;
        }
    }
    // Bytes that are no HTTP.
    for _ in 0..50 {
        let mut stream = TcpStream::connect(&served.address).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let mut bytes = vec![0; 64];
        random.fill_bytes(&mut bytes);
        let _ = stream.write_all(&[&bytes[..], b"\r\n\r\n"].concat());
        let mut said = Vec::new();
        let _ = stream.read_to_end(&mut said);
        assert!(said.is_empty() || said.starts_with(b"HTTP/1.1 400"), "{said:?}");
    }
    let fine = served.post("/v1/completions", &json!({"prompt": "Hi", "max_tokens": 1})).json();
    assert_eq!(fine["usage"]["completion_tokens"], 1);
    assert_eq!(served.get("/slots").json(), Value::Array(Vec::new()));
}
