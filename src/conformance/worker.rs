//! Trials in a process of their own: one that hangs, crashes or loses the device is a failure, and a new process goes on.

use super::evidence::Evidence;
use super::known::{Known, judge};
use super::report::{About, AdapterReport};
use super::row::{Outcome, Row};
use super::{Reply, Request, Trial};
use crate::{Error, Result};
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a trial may take.
const LIMIT: Duration = Duration::from_secs(60);
/// How often a trial that failed runs again, to tell faults from flukes.
const AGAIN: u32 = 3;
/// So many trials one after the other that end their process are enough.
const GIVE_UP: u32 = 8;
/// Evidence of so many trials of a kernel and mode: others are mostly wrong for the same reason.
const EXPLAINED: u32 = 2;
/// Between two looks at whether the user wants to end.
const TICK: Duration = Duration::from_millis(100);
/// Bytes of a process's last words.
const LAST_WORDS: usize = 2000;

/// The process that runs trials. It reads a [`Request`] a line, and answers each with a [`Reply`] on a line.
pub struct Worker<'c> {
    command: &'c dyn Fn() -> Command,
    limit: Duration,
    running: Option<Running>,
}

struct Running {
    child: Child,
    requests: ChildStdin,
    replies: Receiver<String>,
    said: Arc<Mutex<Vec<u8>>>,
}

enum Answer {
    Reply(Box<Reply>),
    /// Why there is none.
    Ended(String),
    Late,
    /// The user wants no more.
    Stopped,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Running {
    fn new(command: &mut Command) -> std::io::Result<Self> {
        let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = pipes.spawn()?;
        let missing = || std::io::Error::other("a process without pipes");
        let requests = child.stdin.take().ok_or_else(missing)?;
        let out = child.stdout.take().ok_or_else(missing)?;
        let mut err = child.stderr.take().ok_or_else(missing)?;
        let (sender, replies) = channel();
        std::thread::spawn(move || {
            let lines = BufReader::new(out).lines().map_while(std::io::Result::ok);
            lines.take_while(|line| sender.send(line.clone()).is_ok()).count();
        });
        let said = Arc::<Mutex<Vec<u8>>>::default();
        let heard = said.clone();
        std::thread::spawn(move || {
            let mut bytes = [0; 512];
            while let Ok(count @ 1..) = err.read(&mut bytes) {
                let mut said = heard.lock().unwrap_or_else(PoisonError::into_inner);
                said.extend_from_slice(&bytes[..count]);
                let surplus = said.len().saturating_sub(LAST_WORDS);
                said.drain(..surplus);
            }
        });
        Ok(Self { child, requests, replies, said })
    }

    /// Why it ended.
    fn end(mut self) -> String {
        let status = match self.child.wait() {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        };
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let words = String::from_utf8_lossy(&said).trim().replace('\n', "; ");
        match words.is_empty() {
            true => format!("its process ended: {status}"),
            false => format!("its process ended: {status}: {words}"),
        }
    }
}

impl<'c> Worker<'c> {
    /// A process as this command starts it, again and again where it ends.
    pub fn new(command: &'c dyn Fn() -> Command) -> Self {
        Self { command, limit: LIMIT, running: None }
    }

    fn ask(&mut self, request: &Request, stop: &dyn Fn() -> bool) -> Result<Answer> {
        let failed = |problem: std::io::Error| {
            let limit = format!("cases run in one: {problem}");
            Error::argument("the process for cases", "not started", limit)
        };
        if self.running.is_none() {
            self.running = Some(Running::new(&mut (self.command)()).map_err(failed)?);
        }
        let Some(running) = &mut self.running else { return Ok(Answer::Stopped) };
        let line = serde_json::to_string(request).map_err(|e| failed(e.into()))? + "\n";
        // Where it is gone, so is its output.
        let _ = running.requests.write_all(line.as_bytes());
        let began = Instant::now();
        loop {
            match running.replies.recv_timeout(TICK) {
                Ok(line) => match serde_json::from_str::<Reply>(&line) {
                    Ok(reply) => {
                        if reply.is_last {
                            self.running = None;
                        }
                        return Ok(Answer::Reply(Box::new(reply)));
                    }
                    // A driver that talks on standard output.
                    Err(_) => continue,
                },
                Err(RecvTimeoutError::Disconnected) => {
                    let why = self.running.take().map_or_else(String::new, Running::end);
                    // Ctrl-C ends it too, perhaps before it is noticed here.
                    std::thread::sleep(TICK / 2);
                    return Ok(if stop() { Answer::Stopped } else { Answer::Ended(why) });
                }
                Err(RecvTimeoutError::Timeout) if stop() => {
                    self.running = None;
                    return Ok(Answer::Stopped);
                }
                Err(RecvTimeoutError::Timeout) if began.elapsed() > self.limit => {
                    self.running = None;
                    return Ok(Answer::Late);
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }
}

/// A run of trials on an adapter.
pub struct Run<'r> {
    /// The adapter.
    pub about: About,
    /// Failures that are known.
    pub known: &'r [Known],
    /// Whether evidence of wrong results is wanted.
    pub explain: bool,
}

impl Run<'_> {
    /// Runs them, and tells of each row; ends early when `stop` says so.
    ///
    /// # Errors
    /// When no process can be started.
    pub fn trials(
        &self,
        worker: &mut Worker<'_>,
        trials: &[Trial],
        stop: &dyn Fn() -> bool,
        done: &mut dyn FnMut(&Row),
    ) -> Result<AdapterReport> {
        let began = Instant::now();
        let (mut rows, mut evidence) = (Vec::new(), Vec::new());
        let mut explained = HashMap::<(&str, &str), u32>::new();
        let mut ended = 0;
        for trial in trials {
            if stop() || ended == GIVE_UP {
                break;
            }
            let count = explained.entry((trial.case.kernel, trial.mode.name)).or_default();
            let explain = self.explain && *count < EXPLAINED;
            let Some(mut made) = attempt(worker, trial, explain, stop)? else { break };
            judge(self.known, &self.about, &mut made.row);
            ended = if made.is_ended { ended + 1 } else { 0 };
            if let Some(found) = made.evidence {
                *count += 1;
                evidence.push((made.row.name.clone(), found));
            }
            done(&made.row);
            rows.push(made.row);
        }
        let gave_up = (ended == GIVE_UP && rows.len() < trials.len())
            .then(|| format!("{GIVE_UP} cases one after the other hung or ended their process"));
        let seconds = began.elapsed().as_secs_f64();
        let report = AdapterReport::new(self.about.clone(), trials.len(), rows, seconds);
        Ok(AdapterReport { gave_up, evidence, ..report })
    }
}

/// What became of a trial in the end.
struct Made {
    row: Row,
    evidence: Option<Evidence>,
    /// Whether its process ended with it.
    is_ended: bool,
}

// Runs a trial, again where it failed; nothing where the user wants no more.
fn attempt(
    worker: &mut Worker<'_>,
    trial: &Trial,
    explain: bool,
    stop: &dyn Fn() -> bool,
) -> Result<Option<Made>> {
    let mut made: Option<Made> = None;
    for _ in 0..=AGAIN {
        let is_explained = made.as_ref().is_some_and(|made| made.evidence.is_some());
        let explain = explain && made.is_some() && !is_explained;
        let request = Request { trial: trial.name(), explain };
        let (row, evidence, is_ended, is_late) = match worker.ask(&request, stop)? {
            Answer::Stopped => return Ok(None),
            Answer::Reply(reply) => (reply.row, reply.evidence, reply.is_last, false),
            Answer::Ended(why) => (Row::failed(trial, why), None, true, false),
            Answer::Late => {
                let why = format!("it did not end in {} s", worker.limit.as_secs());
                (Row::failed(trial, why), None, true, true)
            }
        };
        let is_wrong = row.outcome == Outcome::Failed;
        match &mut made {
            None => made = Some(Made { row, evidence, is_ended }),
            Some(made) => {
                made.row.runs += 1;
                made.row.failures += u32::from(is_wrong);
                made.evidence = made.evidence.take().or(evidence);
            }
        }
        // One that hangs takes too long to try again.
        if made.as_ref().is_some_and(|made| made.row.failures == 0) || is_late {
            break;
        }
    }
    Ok(made.map(|mut made| {
        let row = &mut made.row;
        if (1..row.runs).contains(&row.failures) {
            row.outcome = Outcome::Flaky;
            let detail = row.detail.take().unwrap_or_default();
            row.detail = Some(format!("failed {} of {} times: {detail}", row.failures, row.runs));
        }
        made
    }))
}

#[cfg(all(test, unix))]
mod tests {
    use super::super::{Case, MODES};
    use super::*;
    use crate::gpu::Tier;

    fn trials(count: usize) -> Vec<Trial> {
        let tier = Tier::named("portable").unwrap();
        let case =
            |i| Case::new("stream", format!("{i}"), false, |_| Box::pin(async { Ok(Ok(())) }));
        let trial = |i| Trial { case: Arc::new(case(i)), mode: &MODES[0], tier };
        (0..count).map(trial).collect()
    }

    /// A process that answers the trial of each number as a line of a script has it: `$1` is its reply if it passes, `$2` if not.
    fn report(count: usize, script: &str) -> AdapterReport {
        let trials = trials(count);
        let reply = |outcome| {
            let row = Row { name: "NAME".into(), ..Row::of("NAME", outcome) };
            let row = Row { failures: u32::from(outcome == Outcome::Failed), ..row };
            let reply = Reply { row, evidence: None, is_last: false };
            serde_json::to_string(&reply).unwrap()
        };
        let folder = tempfile::tempdir().unwrap();
        let script = format!(
            "while read line; do n=$(echo \"$line\" | tr -dc 0-9); say() {{ echo \"$1\" | sed s/NAME/stream\\\\/$n@trusted/; }}; \
             pass() {{ say '{}'; }}; fail() {{ say '{}'; }}; {script}; done",
            reply(Outcome::Passed),
            reply(Outcome::Failed)
        );
        let command = || {
            let mut command = Command::new("sh");
            command.args(["-c", &script]).current_dir(&folder);
            command
        };
        // Long enough for a busy machine.
        let limit = Duration::from_secs(4);
        let mut worker = Worker { limit, ..Worker::new(&command) };
        let run = Run { about: About::default(), known: &[], explain: false };
        let mut seen = 0;
        let report = run.trials(&mut worker, &trials, &|| false, &mut |_| seen += 1).unwrap();
        assert_eq!(report.rows.len(), seen);
        report
    }

    fn outcomes(report: &AdapterReport) -> Vec<Outcome> {
        report.rows.iter().map(|row| row.outcome).collect()
    }

    #[test]
    fn a_case_that_hangs_or_crashes_is_a_failure_and_others_go_on() {
        let script = "case $n in 1) sleep 60;; 3) echo oh no >&2; kill -SEGV $$;; *) pass;; esac";
        let report = report(5, script);
        use Outcome::{Failed, Passed};
        assert_eq!(outcomes(&report), [Passed, Failed, Passed, Failed, Passed]);
        assert_eq!(report.rows[1].detail.as_deref(), Some("it did not end in 4 s"));
        assert_eq!(report.rows[1].runs, 1);
        let crash = report.rows[3].detail.as_deref().unwrap();
        assert!(crash.starts_with("its process ended: signal: 11"), "{crash}");
        assert!(crash.ends_with(": oh no"), "{crash}");
        assert_eq!((report.rows[3].failures, report.rows[3].runs), (4, 4));
        assert_eq!((report.not_run, &report.gave_up), (0, &None));
    }

    #[test]
    fn what_fails_now_and_then_is_told_with_how_often() {
        // Fails twice, then passes.
        let script = "if [ $n = 1 ] && [ $(ls | wc -l) -lt 2 ]; then touch $(ls | wc -l); fail; else pass; fi";
        let report = report(3, script);
        assert_eq!(outcomes(&report), [Outcome::Passed, Outcome::Flaky, Outcome::Passed]);
        assert_eq!((report.rows[1].failures, report.rows[1].runs), (2, 4));
        assert_eq!(report.rows[1].detail.as_deref(), Some("failed 2 of 4 times: "));
        assert!(!report.summary.is_fine() && report.summary.failed == 0);
    }

    #[test]
    fn a_case_that_always_fails_has_failed_and_talk_is_no_reply() {
        let report = report(2, "echo driver here; if [ $n = 0 ]; then fail; else pass; fi");
        assert_eq!(outcomes(&report), [Outcome::Failed, Outcome::Passed]);
        assert_eq!((report.rows[0].failures, report.rows[0].runs), (4, 4));
    }

    #[test]
    fn an_adapter_on_which_nothing_ends_well_is_given_up() {
        let report = report(20, "exit 3");
        assert_eq!((report.rows.len(), report.not_run), (8, 12));
        let why = report.gave_up.unwrap();
        assert_eq!(why, "8 cases one after the other hung or ended their process");
        assert_eq!(report.summary.failed, 8);
    }

    #[test]
    fn a_run_ends_when_the_user_wants_it_to() {
        let trials = trials(3);
        let command = || Command::new("cat");
        let run = Run { about: About::default(), known: &[], explain: false };
        let asked = std::cell::Cell::new(0);
        let stop = || asked.replace(asked.get() + 1) > 2;
        let report = run.trials(&mut Worker::new(&command), &trials, &stop, &mut |_| {}).unwrap();
        assert_eq!((report.rows.len(), report.not_run), (0, 3));
    }
}
