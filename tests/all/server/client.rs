//! A server of one's own, and requests to it.

use crate::cli::program::{command, text};
use crate::cli::tiny::Tiny;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, ExitStatus};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// The longest that a test waits.
pub const LIMIT: Duration = Duration::from_secs(60);

/// A running server.
pub struct Served {
    pub child: Child,
    pub address: String,
    pub lines: Receiver<String>,
    _tiny: Tiny,
}

impl Served {
    /// With these arguments more, on a free port.
    pub fn new(more: &[&str]) -> Self {
        Self::with(more, &[])
    }

    /// With variables of the environment besides.
    pub fn with(more: &[&str], variables: &[(&str, &str)]) -> Self {
        let tiny = Tiny::new(&json!({}));
        let arguments =
            ["serve", "--model", text(tiny.path()), "--model-name", "tiny", "--port", "0"];
        let mut command = command(&[&arguments, more].concat());
        let mut child =
            command.envs(variables.iter().copied()).spawn().expect("the program starts");
        let errors = child.stderr.take().expect("a pipe");
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(errors).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let mut served = Self { child, address: String::new(), lines, _tiny: tiny };
        let line = served.line(" at http://");
        let address = line.split("http://").nth(1).unwrap().split(',').next().unwrap();
        served.address = address.to_owned();
        served
    }

    /// The next line of standard error that has this in it.
    pub fn line(&self, part: &str) -> String {
        let mut all = String::new();
        loop {
            let line = self.lines.recv_timeout(LIMIT).unwrap_or_else(|e| panic!("{e}: {all}"));
            if line.contains(part) {
                return line;
            }
            all += &line;
        }
    }

    pub fn post(&self, path: &str, body: &Value) -> Reply {
        self.send("POST", path, &["content-type: application/json"], body.to_string().as_bytes())
    }

    pub fn get(&self, path: &str) -> Reply {
        self.send("GET", path, &[], b"")
    }

    pub fn send(&self, method: &str, path: &str, headers: &[&str], body: &[u8]) -> Reply {
        let mut stream = self.open(method, path, headers, body);
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap_or_else(|e| panic!("{method} {path}: {e}"));
        Reply::new(&bytes)
    }

    /// A connection with a request on it, whose answer is not read yet.
    pub fn open(&self, method: &str, path: &str, headers: &[&str], body: &[u8]) -> TcpStream {
        // In the old version answers come in one piece, and end with the connection.
        let mut request = format!(
            "{method} {path} HTTP/1.0\r\nhost: localhost\r\ncontent-length: {}\r\n",
            body.len()
        );
        for header in headers {
            request += &format!("{header}\r\n");
        }
        let mut stream = TcpStream::connect(&self.address).expect("it listens");
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.write_all(&[request.as_bytes(), b"\r\n", body].concat()).unwrap();
        stream
    }

    pub fn open_json(&self, path: &str, body: &Value) -> TcpStream {
        self.open("POST", path, &["content-type: application/json"], body.to_string().as_bytes())
    }

    /// Waits until this holds.
    pub fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let began = Instant::now();
        while !holds(self) {
            assert!(began.elapsed() < LIMIT, "{what}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The value of a metric.
    pub fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").body;
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("asynctls_{name} ")));
        line.unwrap_or_else(|| panic!("no {name}: {text}")).parse().unwrap()
    }

    #[cfg(unix)]
    pub fn signal(&self, signal: &str) {
        let to = self.child.id().to_string();
        let sent = std::process::Command::new("kill").args([&format!("-{signal}"), &to]).status();
        assert!(sent.unwrap().success());
    }

    /// Waits for its end.
    pub fn end(&mut self) -> ExitStatus {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(began.elapsed() < LIMIT, "it does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What came back.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Reply {
    fn new(bytes: &[u8]) -> Self {
        let text = String::from_utf8(bytes.to_vec()).expect("UTF-8");
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        Self { status, head: head.to_lowercase(), body: body.to_owned() }
    }

    /// The body of one that went well.
    pub fn json(&self) -> Value {
        assert_eq!(self.status, 200, "{self:?}");
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The message of one that was refused.
    pub fn refusal(&self) -> String {
        let value: Value =
            serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"));
        value["error"]["message"].as_str().unwrap_or_else(|| panic!("{self:?}")).to_owned()
    }

    /// The objects of a stream.
    pub fn events(&self) -> Vec<Value> {
        assert_eq!(self.status, 200, "{self:?}");
        assert!(self.head.contains("content-type: text/event-stream"), "{self:?}");
        let data = self.body.lines().filter_map(|line| line.strip_prefix("data: "));
        data.filter(|data| *data != "[DONE]")
            .map(|data| serde_json::from_str(data).unwrap())
            .collect()
    }
}
