//! The clients that others publish, where `tools/setup clients` has fetched them.

use super::client::Served;
use std::path::Path;
use std::process::Command;

// Runs a program with the server's address, where it and what it needs are there.
fn asked_by(program: &str, script: &str, needed: &str) {
    if !Path::new(needed).exists() {
        eprintln!("skipped: {script} is not tried, {needed} is missing (tools/setup clients)");
        return;
    }
    let served = Served::new(&["--context", "2048", "--api-key", "key"]);
    let mut command = Command::new(program);
    command.arg(script).arg(format!("http://{}", served.address)).arg("key");
    let output = command.output().expect("the program starts");
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn openai_and_anthropic_of_pypi_understand_it() {
    let python = ".clients/bin/python";
    asked_by(python, "tools/clients/clients.py", python);
}

#[test]
fn ai_of_npm_understands_it() {
    asked_by("node", "tools/clients/clients.mjs", "tools/clients/node_modules/ai");
}
