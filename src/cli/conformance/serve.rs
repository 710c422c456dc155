//! The process that runs cases: a request a line, a reply a line. Its end, however it comes, is seen by who asks.

use super::super::terminal::{print, to_json};
use super::super::{Failure, Outcome};
use asynctls::Error;
use asynctls::conformance::{Request, Runner, trials};
use asynctls::gpu::{Adapter, Disable};
use std::collections::HashMap;
use std::io::stdin;
use std::process::ExitCode;

/// Runs what is asked for, until nobody asks any more or a device is lost.
pub fn run(adapter: &Adapter, disable: Disable) -> Outcome<ExitCode> {
    let all = trials(adapter, disable);
    let trials: HashMap<String, _> = all.iter().map(|trial| (trial.name(), trial)).collect();
    let runner = Runner::new(adapter.clone(), disable);
    for line in stdin().lines() {
        let line = line.map_err(|e| refuse("", e.to_string()))?;
        let request: Request =
            serde_json::from_str(&line).map_err(|e| refuse(&line, e.to_string()))?;
        let trial = trials
            .get(&request.trial)
            .ok_or_else(|| refuse(&request.trial, "no case has this name".into()))?;
        let reply = pollster::block_on(runner.run(trial, request.explain));
        print(&format!("{}\n", to_json(&reply)?))?;
        if reply.is_last {
            break;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn refuse(line: &str, problem: String) -> Failure {
    Failure::Error(Error::argument("the request", line, problem))
}
