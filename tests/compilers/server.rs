//! A compiler that many files are given to one after the other: Wine and Node take longer to start than to compile.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// What a compiler said of a file.
pub struct Verdict {
    pub accepted: bool,
    pub seconds: f64,
    pub messages: String,
}

// The longest that anybody would wait for a kernel.
pub const LIMIT: Duration = Duration::from_secs(60);

/// A compiler that reads paths, and answers each with messages and a verdict.
pub struct Server {
    child: Child,
    lines: Receiver<String>,
    pub version: String,
}

impl Server {
    pub fn start(mut command: Command) -> Result<Self, String> {
        let name = format!("{command:?}");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().map_err(|e| format!("{name}: {e}"))?;
        let output = child.stdout.take().expect("it is piped");
        let (sender, lines) = channel();
        let mut server = Self { child, lines, version: String::new() };
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        // Wine makes its folder first.
        let said = server.lines.recv_timeout(LIMIT).map_err(|e| format!("{name}: {e}"))?;
        server.version = said.trim_start_matches("version ").trim().to_owned();
        Ok(server)
    }

    pub fn compile(&mut self, path: &Path) -> Result<Verdict, String> {
        let mut input = self.child.stdin.as_ref().expect("it is piped");
        writeln!(input, "{}", path.display()).map_err(|e| e.to_string())?;
        let mut messages = String::new();
        loop {
            let line = self.lines.recv_timeout(LIMIT).map_err(|e| format!("{messages}{e}"))?;
            if line.starts_with(' ') {
                messages += line.trim_start();
                messages.push('\n');
                continue;
            }
            let mut words = line.split(' ');
            let accepted = words.next() == Some("accepted");
            let millis: f64 = words.next().and_then(|word| word.parse().ok()).unwrap_or(0.0);
            return Ok(Verdict { accepted, seconds: millis / 1e3, messages });
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
