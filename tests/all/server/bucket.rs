//! Servers that share no directory, but a bucket of a storage that speaks S3.

use super::client::Served;
use crate::cli::program::{command, run, run_command, text};
use crate::common::steps::rounds_products;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// As much of S3 as is asked for: objects by their paths.
#[derive(Default)]
struct Storage {
    objects: Mutex<HashMap<String, Vec<u8>>>,
    /// Whether it answers nobody.
    is_broken: AtomicBool,
}

impl Storage {
    // Its address.
    fn start(self: &Arc<Self>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let storage = self.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let storage = storage.clone();
                std::thread::spawn(move || while storage.answer(&stream).is_some() {});
            }
        });
        address
    }

    fn answer(&self, mut stream: &TcpStream) -> Option<()> {
        let mut reader = BufReader::new(stream);
        let mut line = || {
            let mut line = String::new();
            reader.read_line(&mut line).ok().filter(|bytes| *bytes > 0)?;
            Some(line.trim_end().to_owned())
        };
        let first = line()?;
        let mut words = first.split(' ');
        let (method, path) = (words.next()?, words.next()?.to_owned());
        let mut headers = HashMap::new();
        loop {
            let line = line()?;
            let Some((name, value)) = line.split_once(": ") else { break };
            headers.insert(name.to_ascii_lowercase(), value.to_owned());
        }
        let length = headers.get("content-length").map_or(0, |bytes| bytes.parse().unwrap());
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
        let key = "AWS4-HMAC-SHA256 Credential=the-key/";
        let is_signed = headers.get("authorization").is_some_and(|by| by.starts_with(key));
        let mut objects = self.objects.lock().unwrap();
        let (status, found) = match method {
            _ if !is_signed => ("403 Forbidden", None),
            _ if self.is_broken.load(Ordering::Relaxed) => ("400 Bad Request", None),
            "PUT" => (objects.insert(path, body), ("200 OK", Some(Vec::new()))).1,
            "DELETE" => (objects.remove(&path), ("204 No Content", None)).1,
            _ => match objects.get(&path) {
                Some(object) => ("200 OK", Some(object.clone())),
                None => ("404 Not Found", None),
            },
        };
        let found = found.unwrap_or_default();
        let head = format!(
            "HTTP/1.1 {status}\r\ncontent-length: {}\r\netag: \"1\"\r\nlast-modified: Tue, 01 Sep 2026 00:00:00 GMT\r\n\r\n",
            found.len()
        );
        let body = if method == "HEAD" { &[][..] } else { &found[..] };
        stream.write_all(&[head.as_bytes(), body].concat()).ok()
    }
}

fn served(directory: &Path, endpoint: &str, key: &str) -> Served {
    let cache = ["--prefix-cache", text(directory), "--prefix-bucket", "s3://documents/a/b"];
    let more = ["--attention", "dense", "--block-size", "16"];
    let variables = [
        ("AWS_ENDPOINT_URL", endpoint),
        ("AWS_ACCESS_KEY_ID", key),
        ("AWS_SECRET_ACCESS_KEY", "the-secret"),
    ];
    Served::with(&[&cache[..], &more].concat(), &variables)
}

fn chat(served: &Served, messages: &[Value]) -> (String, u64) {
    let body = json!({"messages": messages, "max_tokens": 12});
    let answer = served.post("/v1/chat/completions", &body).json();
    let cached = answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap();
    (answer["choices"][0]["message"]["content"].as_str().unwrap().to_owned(), cached)
}

#[test]
fn a_conversation_goes_on_at_another_machine_that_has_the_bucket() {
    let storage = Arc::<Storage>::default();
    let endpoint = storage.start();
    let folder = tempfile::tempdir().unwrap();
    let directory = |name: &str| folder.path().join(name);
    let mut first = served(&directory("first"), &endpoint, "the-key");
    let document = "It was a dark and stormy night. ".repeat(8);
    let mut messages = vec![json!({"role": "user", "content": document})];
    let (said, cached) = chat(&first, &messages);
    assert_eq!(cached, 0);
    messages.push(json!({"role": "assistant", "content": said}));
    messages.push(json!({"role": "user", "content": "And what then?"}));
    let (fresh, known) = chat(&first, &messages);
    // What is left is sent before the end.
    first.signal("TERM");
    assert!(first.end().success());
    let names: Vec<String> = storage.objects.lock().unwrap().keys().cloned().collect();
    assert!(names.len() as u64 >= known / 16, "{names:?}");
    assert!(names.iter().all(|name| name.starts_with("/documents/a/b/")), "{names:?}");

    let second = served(&directory("second"), &endpoint, "the-key");
    let (found, cached) = chat(&second, &messages);
    assert!(cached >= known && (rounds_products() || found == fresh), "{cached} {found} {fresh}");
    assert!(second.metric("prefix_bucket_read_bytes_total") > 0.0);
    assert_eq!(second.metric("prefix_bucket_failed_total"), 0.0);
    drop(second);

    // It has them in its own directory from then on, and goes on where the bucket answers nobody.
    storage.is_broken.store(true, Ordering::Relaxed);
    let second = served(&directory("second"), &endpoint, "the-key");
    let warning =
        second.line("warning: the prefix bucket s3://documents/a/b is not used for now: ");
    assert!(warning.ends_with("answers go on, and it is tried again in a minute"), "{warning}");
    assert_eq!(chat(&second, &messages).1, cached);
    assert_eq!(second.metric("prefix_bucket_read_bytes_total"), 0.0);
    storage.is_broken.store(false, Ordering::Relaxed);

    // Who has no key is told, and answers all the same.
    let third = served(&directory("third"), &endpoint, "another-key");
    third.line("is not used for now: ");
    let (found, cached) = chat(&third, &messages);
    assert!(cached == 0 && (rounds_products() || found == fresh), "{cached} {found} {fresh}");
}

#[test]
fn an_address_that_is_no_buckets_is_refused_before_the_model_is_read() {
    let folder = tempfile::tempdir().unwrap();
    for url in ["documents", "gs://documents", "s3://", "file://documents"] {
        let cache = ["--prefix-cache", text(folder.path()), "--prefix-bucket", url];
        let refused = run(&[&["serve", "--model", "no-such-model"], &cache[..]].concat());
        assert_eq!(refused.code, Some(2), "{refused:?}");
        assert!(refused.error().contains("the prefix bucket is"), "{refused:?}");
        assert!(refused.error().contains("s3://BUCKET/FOLDER"), "{refused:?}");
    }
    // What the environment has for it, and a folder that is not mounted, can be told as soon.
    for (url, (name, value), said) in [
        ("s3://documents", ("AWS_ACCESS_KEY_ID", "the-key"), "SecretAccessKey"),
        ("s3://documents", ("AWS_ENDPOINT_URL", "localhost:9000"), "begins with http://"),
        ("s3://documents", ("AWS_REGION", "here\n"), "line break"),
        ("file:///no-such-folder", ("AWS_REGION", "here"), "no-such-folder"),
    ] {
        let cache = ["--prefix-cache", text(folder.path()), "--prefix-bucket", url];
        let mut refused = command(&[&["serve", "--model", "no-such-model"], &cache[..]].concat());
        for name in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"] {
            refused.env_remove(name);
        }
        refused.env(name, value);
        let refused = run_command(refused, b"");
        assert!(refused.code.is_some_and(|code| code > 0), "{refused:?}");
        assert!(refused.error().contains(said), "{refused:?}");
        assert!(!refused.err.contains("no-such-model"), "{refused:?}");
    }
    let alone = run(&["serve", "--model", "no-such-model", "--prefix-bucket", "s3://documents"]);
    assert!(alone.code == Some(2) && alone.err.contains("--prefix-cache"), "{alone:?}");
}
