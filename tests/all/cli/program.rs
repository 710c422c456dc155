//! Running the program.

use serde_json::Value;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What a run left behind.
#[derive(Debug)]
pub struct Run {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Run {
    /// Standard output of a run that went well.
    pub fn fine(self) -> Self {
        assert_eq!(self.code, Some(0), "{self:?}");
        self
    }

    /// Its output as JSON, which is as it is documented.
    pub fn json(&self) -> Value {
        let object =
            serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"));
        super::json::check(&object);
        object
    }

    /// The line that says what went wrong.
    pub fn error(&self) -> &str {
        self.err
            .lines()
            .find_map(|line| line.strip_prefix("error: "))
            .unwrap_or_else(|| panic!("no error: {self:?}"))
    }
}

/// The model's path, which must exist.
pub fn model() -> String {
    let path = std::env::var_os("ASYNCTLS_MODEL")
        .map_or_else(|| ".models/SmolLM2-135M-Instruct.Q4_1.gguf".into(), PathBuf::from);
    assert!(path.exists(), "no model at {}: run tools/setup model", path.display());
    path.to_str().expect("a path of text").to_owned()
}

/// The program, on the test adapter.
pub fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_asynctls"));
    command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).stdin(Stdio::piped());
    command.env_remove("RUST_LOG").env_remove("ASYNCTLS_DISABLE");
    if std::env::var_os("ASYNCTLS_ADAPTER").is_none() {
        command.env("ASYNCTLS_ADAPTER", "vulkan:llvmpipe");
    }
    command
}

/// Runs `command` with `input` on standard input.
pub fn run_command(mut command: Command, input: &[u8]) -> Run {
    let mut child = command.spawn().expect("the program starts");
    // A program that refuses its arguments does not read its input.
    let _ = child.stdin.take().expect("a pipe").write_all(input);
    let output = child.wait_with_output().expect("the program ends");
    Run {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).expect("UTF-8"),
        err: String::from_utf8(output.stderr).expect("UTF-8"),
    }
}

/// Runs the program.
pub fn run(arguments: &[&str]) -> Run {
    run_command(command(arguments), b"")
}

/// Runs `asynctls generate` with the model.
pub fn generate(arguments: &[&str]) -> Run {
    generate_from(arguments, b"")
}

/// Runs `asynctls generate` with the model and `input` on standard input.
pub fn generate_from(arguments: &[&str], input: &[u8]) -> Run {
    let model = model();
    run_command(command(&[&["generate", "--model", &model], arguments].concat()), input)
}

/// A temporary file's path as an argument.
pub fn text(path: &Path) -> &str {
    path.to_str().expect("a path of text")
}
