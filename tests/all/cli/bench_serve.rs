//! `asynctls bench serve`: our own server, another one, and servers that answer as none should.

use super::json::{check, missing};
use super::program::{Run, run, text};
use super::tiny::Tiny;
use crate::server::client::Served;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

fn ask(more: &[&str]) -> Run {
    run(&[&["bench", "serve"], more].concat())
}

fn check_figures(row: &Value) {
    let number = |field: &str| row[field].as_f64().unwrap_or_else(|| panic!("{field}: {row}"));
    let [seconds, first] = ["seconds", "first_token_seconds"].map(number);
    assert!((number("tokens_per_second") * seconds / number("tokens") - 1.0).abs() < 1e-9, "{row}");
    let (p90, p99) = (number("first_token_p90_seconds"), number("first_token_p99_seconds"));
    assert!(0.0 < first && first <= p90 && p90 <= p99 && p99 <= seconds, "{row}");
    assert!(number("token_ms") <= number("token_p99_ms"), "{row}");
}

#[test]
fn our_own_server_is_asked_together_and_one_by_one() {
    let tiny = Tiny::new(&json!({}));
    let model = ["--model", text(tiny.path()), "--attention", "dense", "--block-size", "16"];
    let load =
        ["--clients", "4", "--requests", "12", "--prompt-tokens", "500", "--max-tokens", "8"];
    let more = ["--shared-prefix", "320", "--one-by-one", "--ignore-eos", "--json"];
    let report = ask(&[&model[..], &load, &more].concat()).fine().json();
    let reasons = ["results[].reasons[].count", "results[].reasons[].reason"];
    assert_eq!(missing("bench serve", &check(&report)), reasons);
    let rows = report["results"].as_array().unwrap();
    assert_eq!([&rows[0]["way"], &rows[1]["way"]], ["together", "one-by-one"]);
    for row in rows {
        check_figures(row);
        let count = |field: &str| row[field].as_u64().unwrap_or_else(|| panic!("{field}: {row}"));
        assert_eq!((count("done"), count("failed"), count("cancelled")), (12, 0, 0), "{row}");
        // Words are of two to five bytes and tokens of one: the mean of a prompt is a few off.
        assert!(count("prompt_tokens").abs_diff(12 * 500) < 12 * 25, "{row}");
        // All but the first find what they have in common, and in no run what the one before left.
        let cached = count("cached_tokens");
        assert!(cached > 11 * 280 && cached < 12 * 360, "{row}");
        assert_eq!(count("tokens"), 12 * 8, "{row}");
    }
    let rate = |row: &Value| row["tokens_per_second"].as_f64().unwrap();
    assert_eq!(report["ratio"].as_f64(), Some(rate(&rows[0]) / rate(&rows[1])));
    assert!(report["adapter"].is_string() && report["url"].is_null(), "{report}");
}

#[test]
fn another_server_is_asked_at_a_rate_and_some_answers_are_dropped() {
    let served = Served::new(&["--context", "1024", "--api-key", "k", "--parallel", "2"]);
    let url = format!("http://{}/v1/", served.address);
    let load = ["--url", &url, "--requests", "10", "--prompt-tokens", "100", "--max-tokens", "60"];
    let more = ["--api-key", "k", "--rate", "50", "--cancel", "40%"];
    let report = ask(&[&load[..], &more, &["--json"]].concat()).fine().json();
    assert_eq!((&report["model"], &report["rate"]), (&json!("tiny"), &json!(50.0)));
    assert!(report["clients"].is_null() && report["adapter"].is_null(), "{report}");
    let row = &report["results"][0];
    check_figures(row);
    let ends = ["done", "failed", "cancelled"].map(|end| row[end].as_u64().unwrap());
    assert!(ends[0] + ends[2] == 10 && ends[0] >= 6 && ends[2] > 0, "{row}");
    let shown = ask(&[&load[..], &more, &["--adapter", "0"]].concat()).fine();
    assert!(
        shown.out.starts_with("tiny on http://") && shown.out.contains("40% dropped"),
        "{shown:?}"
    );
    assert!(shown.err.contains("note: --adapter changes nothing with --url"), "{shown:?}");

    for (more, reason) in [
        (&["--api-key", "other"][..], "answer there: status 401: "),
        (&["--api-key", "k", "--model-name", "other"], "answer there: status 404: "),
    ] {
        let refused = ask(&[&load[..], more].concat());
        assert_eq!((refused.code, refused.out.as_str()), (Some(2), ""), "{refused:?}");
        assert!(refused.error().contains(reason), "{refused:?}");
    }
}

#[cfg(unix)]
#[test]
fn what_was_asked_until_an_interruption_is_reported() {
    use super::program::command;
    use std::process::Command;
    let served = Served::new(&["--context", "1024", "--parallel", "2"]);
    let url = format!("http://{}", served.address);
    for pace in [["--clients", "2"], ["--rate", "5"]] {
        let load = ["--requests", "5000", "--prompt-tokens", "100", "--max-tokens", "4"];
        let more = ["bench", "serve", "--url", &url, "--one-by-one", "--json"];
        let before = served.metric("requests_ended_total");
        let child = command(&[&more[..], &load, &pace].concat()).spawn().unwrap();
        // Some are asked before, to learn how many tokens a prompt has.
        served.until("some are answered", |served| {
            served.metric("requests_ended_total") >= before + 15.0
        });
        let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
        assert!(killed.success());
        let ended = child.wait_with_output().unwrap();
        let err = String::from_utf8(ended.stderr).unwrap();
        assert_eq!(ended.status.code(), Some(130), "{err}");
        let report: Value = serde_json::from_slice(&ended.stdout).unwrap();
        let rows = report["results"].as_array().unwrap();
        let done = rows[0]["done"].as_u64().unwrap();
        assert!(rows.len() == 1 && done > 0 && done < 5000 && rows[0]["failed"] == 0, "{report}");
        assert!(report["ratio"].is_null(), "{report}");
        let last = err.lines().last().unwrap();
        assert!(
            last.starts_with("interrupted: ") && last.ends_with(" of 10000 requests were asked"),
            "{err}"
        );
    }
}

// What a server of another kind does with a request, by its number.
type Deeds = fn(usize, TcpStream) -> std::io::Result<()>;

// Names a model, and does with chats as it is told; those that count tokens come first.
fn fake(deeds: Deeds) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let mut chats = 0;
        for mut stream in listener.incoming().flatten() {
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let (mut head, mut length) = (String::new(), 0);
            while reader.read_line(&mut head).unwrap() > 2 {
                let line = head.lines().last().unwrap().to_lowercase();
                length =
                    line.strip_prefix("content-length: ").map_or(length, |n| n.parse().unwrap());
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            if head.starts_with("GET /v1/models") {
                let models = json!({"data": [{"id": "fake"}]}).to_string();
                write!(
                    stream,
                    "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{models}",
                    models.len()
                )
                .unwrap();
                continue;
            }
            let body: Value = serde_json::from_slice(&body).unwrap();
            assert_eq!((&body["model"], &body["stream"]), (&json!("fake"), &json!(true)));
            let words = body["messages"][0]["content"].as_str().unwrap().split(' ').count();
            chats += 1;
            match chats {
                1 | 2 => answer(&mut stream, words + 10).unwrap(),
                // One that waits shall hold up nobody.
                _ => drop(std::thread::spawn(move || deeds(chats - 3, stream))),
            }
        }
    });
    url
}

const STREAM: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";

fn chunk(stream: &mut TcpStream, text: &str) -> std::io::Result<()> {
    write!(stream, "{:x}\r\n{text}\r\n", text.len())
}

fn piece(stream: &mut TcpStream) -> std::io::Result<()> {
    let delta = json!({"choices": [{"delta": {"content": "x"}, "finish_reason": null}]});
    // In two, as networks may have it.
    let event = format!("data: {delta}\n\n");
    let (begin, rest) = event.split_at(17);
    chunk(stream, begin)?;
    chunk(stream, rest)
}

// Two pieces.
fn answer(stream: &mut TcpStream, prompt: usize) -> std::io::Result<()> {
    write!(stream, "{STREAM}")?;
    piece(stream)?;
    piece(stream)?;
    let end = json!({"choices": [{"delta": {}, "finish_reason": "stop"}]});
    let usage = json!({"choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": 2}});
    chunk(stream, &format!("data: {end}\n\ndata: {usage}\n\ndata: [DONE]\n\n"))?;
    write!(stream, "0\r\n\r\n")
}

#[test]
fn what_fails_is_counted_with_its_reason_and_nothing_waits_for_ever() {
    let url = fake(|number, mut stream| match number {
        // The connection ends, within a chunk and between two, and as if all had been said.
        0 => write!(stream, "{STREAM}40\r\ndata: "),
        1 => write!(stream, "{STREAM}").and_then(|()| piece(&mut stream)),
        2 => write!(stream, "{STREAM}")
            .and_then(|()| piece(&mut stream))
            .and_then(|()| write!(stream, "0\r\n\r\n")),
        3 => write!(
            stream,
            "HTTP/1.1 503 No\r\ncontent-length: 28\r\n\r\n{{\"error\":{{\"message\":\"full\"}}}}"
        ),
        4 => write!(stream, "{STREAM}")
            .and_then(|()| chunk(&mut stream, "data: {\"error\":\"broken\"}\n\n")),
        5 => write!(stream, "{STREAM}").and_then(|()| chunk(&mut stream, "data: x\n\n")),
        6 => write!(stream, "what?\r\n\r\n"),
        // It says nothing, or nothing more.
        7 => {
            std::thread::sleep(Duration::from_secs(20));
            Ok(())
        }
        8 => {
            write!(stream, "{STREAM}")?;
            piece(&mut stream)?;
            std::thread::sleep(Duration::from_secs(20));
            Ok(())
        }
        _ => answer(&mut stream, 50),
    });
    let load = ["--url", &url, "--requests", "12", "--clients", "3", "--prompt-tokens", "50"];
    let run = ask(&[&load[..], &["--timeout", "2", "--json"]].concat());
    assert_eq!(run.code, Some(2), "{run:?}");
    let row = &run.json()["results"][0];
    assert_eq!(
        (&row["done"], &row["failed"], &row["cancelled"]),
        (&json!(3), &json!(9), &json!(0))
    );
    // Three answers, and two pieces of others.
    assert_eq!((&row["tokens"], &row["prompt_tokens"]), (&json!(3 * 2 + 3), &json!(150)));
    assert!(row["cached_tokens"].is_null(), "{row}");
    let reasons: Vec<(&str, u64)> = row["reasons"]
        .as_array()
        .unwrap()
        .iter()
        .map(|reason| (reason["reason"].as_str().unwrap(), reason["count"].as_u64().unwrap()))
        .collect();
    for expected in [
        ("the stream ended before the answer did", 3),
        ("the answer did not end within 2 s", 2),
        ("status 503: full", 1),
        ("broken", 1),
        ("the stream has what is no JSON: x", 1),
    ] {
        assert!(reasons.contains(&expected), "{expected:?}: {reasons:?}");
    }
    assert_eq!(reasons.len(), 6, "{reasons:?}");
    assert!(
        run.error().starts_with("9 of 12 requests failed: 3 times the stream ended"),
        "{run:?}"
    );
}

#[test]
fn what_cannot_be_asked_is_refused_in_one_line() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (gone, url) = (format!("http://{free}"), fake(|_, mut stream| answer(&mut stream, 50)));
    for (arguments, parts) in [
        (&["--url", &gone][..], &["--url is http://127.0.0.1:", "refused"][..]),
        (&["--url", "nowhere at all"], &["--url is nowhere at all"]),
        (&["--url", &url, "--prompt-tokens", "9"], &["--prompt-tokens is 9", "has 13 there"]),
        (&["--url", &url, "--shared-prefix", "2000"], &["--shared-prefix is 2000", "is 1024"]),
        (&["--url", &url, "--rate", "0"], &["--rate", "from 0.001"]),
        (&["--url", &url, "--rate", "2", "--clients", "2"], &["--rate", "--clients"]),
        (&["--url", &url, "--requests", "0"], &["--requests", "1.."]),
        (&["--url", &url, "--cancel", "101%"], &["--cancel", "0% to 100%"]),
        (&["--url", &url, "--model", "m"], &["--url", "--model"]),
        (&["--url", &url, "--kv", "host"], &["--url", "--kv"]),
        (&["--url", &url, "--parallel", "2"], &["--url", "--parallel"]),
        (&["--url", &url, "--index-bits", "2"], &["--url", "--index-bits"]),
        (&["--url", &url, "--prefix-cache", "d"], &["--url", "--prefix-cache"]),
        (&["--model", "m", "--api-key", "k"], &["--url"]),
        (&[], &["--model"]),
        (&["--model", "absent.gguf"], &["absent.gguf"]),
    ] {
        let run = ask(arguments);
        assert_eq!((run.code, run.out.as_str()), (Some(2), ""), "{arguments:?}: {run:?}");
        for part in parts {
            assert!(run.err.contains(part), "{arguments:?}: {part}: {run:?}");
        }
    }
}
