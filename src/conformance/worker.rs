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
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
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
/// How long they may take behind it.
const ON_THEIR_WAY: Duration = Duration::from_secs(1);

/// The process that runs trials. It reads a [`Request`] a line, and answers each with a [`Reply`] on a line.
pub struct Worker<'c> {
    command: &'c (dyn Fn() -> Command + Sync),
    limit: Duration,
    running: Option<Running>,
}

struct Running {
    child: Child,
    requests: ChildStdin,
    replies: Receiver<String>,
    said: Arc<Mutex<Vec<u8>>>,
    /// Disconnected once it will say no more.
    silence: Receiver<()>,
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
            // A driver may say anything, in any encoding.
            let lines = BufReader::new(out).split(b'\n').map_while(std::io::Result::ok);
            let mut lines = lines.map(|line| String::from_utf8_lossy(&line).into_owned());
            lines.all(|line| sender.send(line).is_ok())
        });
        let said = Arc::<Mutex<Vec<u8>>>::default();
        let heard = said.clone();
        let (listening, silence) = channel();
        std::thread::spawn(move || {
            let _listening: Sender<()> = listening;
            let mut bytes = [0; 512];
            while let Ok(count @ 1..) = err.read(&mut bytes) {
                let mut said = heard.lock().unwrap_or_else(PoisonError::into_inner);
                said.extend_from_slice(&bytes[..count]);
                let surplus = said.len().saturating_sub(LAST_WORDS);
                said.drain(..surplus);
            }
        });
        Ok(Self { child, requests, replies, said, silence })
    }

    /// Why it ended.
    fn end(mut self) -> String {
        let status = match self.child.wait() {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        };
        // Another process that it started may go on talking.
        let _ = self.silence.recv_timeout(ON_THEIR_WAY);
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
    pub fn new(command: &'c (dyn Fn() -> Command + Sync)) -> Self {
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
                // What else comes is a driver that talks on standard output.
                Ok(line) => {
                    if let Ok(reply) = serde_json::from_str::<Reply>(&line) {
                        if reply.is_last {
                            self.running = None;
                        }
                        return Ok(Answer::Reply(Box::new(reply)));
                    }
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let why = self.running.take().map_or_else(String::new, Running::end);
                    // Ctrl-C ends it too, perhaps before it is noticed here.
                    std::thread::sleep(TICK / 2);
                    return Ok(if stop() { Answer::Stopped } else { Answer::Ended(why) });
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
            if stop() || began.elapsed() > self.limit {
                self.running = None;
                return Ok(if stop() { Answer::Stopped } else { Answer::Late });
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
    /// Runs them, as many at a time as there are workers, and tells of each row; ends early when `stop` says so.
    ///
    /// # Errors
    /// When no process can be started.
    pub fn trials(
        &self,
        workers: &mut [Worker<'_>],
        trials: &[Trial],
        stop: &(dyn Fn() -> bool + Sync),
        done: &mut (dyn FnMut(&Row) + Send),
    ) -> Result<AdapterReport> {
        let began = Instant::now();
        let course = Mutex::new(Course {
            done,
            next: 0,
            ended: 0,
            explained: HashMap::new(),
            made: Vec::new(),
        });
        let ran = std::thread::scope(|scope| {
            let run = |worker| self.some(worker, trials, stop, &course);
            let threads: Vec<_> =
                workers.iter_mut().map(|worker| scope.spawn(move || run(worker))).collect();
            let ends = threads.into_iter().map(|thread| {
                thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            });
            ends.collect::<Result<Vec<()>>>()
        });
        ran?;
        let Course { mut made, ended, .. } =
            course.into_inner().unwrap_or_else(PoisonError::into_inner);
        // In the order of the trials, whoever was first.
        made.sort_by_key(|(number, _)| *number);
        let gave_up = (ended >= GIVE_UP && made.len() < trials.len())
            .then(|| format!("{GIVE_UP} cases one after the other hung or ended their process"));
        let (mut rows, mut evidence) = (Vec::new(), Vec::new());
        for (_, made) in made {
            evidence.extend(made.evidence.map(|found| (made.row.name.clone(), found)));
            rows.push(made.row);
        }
        let seconds = began.elapsed().as_secs_f64();
        let report = AdapterReport::new(self.about.clone(), trials.len(), rows, seconds);
        Ok(AdapterReport { gave_up, evidence, ..report })
    }

    // Runs one trial after the other that no other worker has taken.
    fn some<'t>(
        &self,
        worker: &mut Worker<'_>,
        trials: &'t [Trial],
        stop: &dyn Fn() -> bool,
        course: &Mutex<Course<'t, '_>>,
    ) -> Result<()> {
        let lock = || course.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let (number, trial, explain) = {
                let mut course = lock();
                let number = course.next;
                let Some(trial) = trials.get(number).filter(|_| course.ended < GIVE_UP) else {
                    return Ok(());
                };
                course.next += 1;
                let count = course.explained.get(&kind(trial)).copied().unwrap_or(0);
                (number, trial, self.explain && count < EXPLAINED)
            };
            if stop() {
                return Ok(());
            }
            let Some(mut made) = attempt(worker, trial, explain, stop)? else { return Ok(()) };
            judge(self.known, &self.about, &mut made.row);
            let mut course = lock();
            course.ended = if made.is_ended { course.ended + 1 } else { 0 };
            if made.evidence.is_some() {
                *course.explained.entry(kind(trial)).or_default() += 1;
            }
            (course.done)(&made.row);
            course.made.push((number, made));
        }
    }
}

/// How far a run is, for all its workers.
struct Course<'t, 'd> {
    done: &'d mut (dyn FnMut(&Row) + Send),
    /// The trial that is the next to be taken.
    next: usize,
    /// Trials one after the other that ended their process.
    ended: u32,
    /// Trials of a kernel and mode of which there is evidence.
    explained: HashMap<(&'t str, &'t str), u32>,
    made: Vec<(usize, Made)>,
}

fn kind(trial: &Trial) -> (&str, &str) {
    (trial.case.kernel, trial.mode.name)
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
            // What it came to before that stands.
            Answer::Stopped => break,
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
        report_of(1, count, script)
    }

    fn report_of(workers: usize, count: usize, script: &str) -> AdapterReport {
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
        let worker = || Worker { limit, ..Worker::new(&command) };
        let mut workers: Vec<_> = (0..workers).map(|_| worker()).collect();
        let run = Run { about: About::default(), known: &[], explain: false };
        let mut seen = 0;
        let report = run.trials(&mut workers, &trials, &|| false, &mut |_| seen += 1).unwrap();
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
    fn what_a_process_says_at_its_end_is_waited_for() {
        let script = "(sleep 0.3; echo at last >&2) >/dev/null & kill -SEGV $$";
        let report = report(1, script);
        let crash = report.rows[0].detail.as_deref().unwrap();
        assert!(crash.ends_with("(SIGSEGV): at last"), "{crash}");
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
    fn workers_share_trials_and_rows_are_in_the_order_of_these() {
        let script = "case $n in 1|4) fail;; *) pass;; esac";
        let (alone, shared) = (report_of(1, 12, script), report_of(3, 12, script));
        assert_eq!(outcomes(&alone), outcomes(&shared));
        let names = |report: &AdapterReport| {
            report.rows.iter().map(|row| row.name.clone()).collect::<Vec<_>>()
        };
        assert_eq!(names(&alone), names(&shared));
        assert_eq!(names(&shared)[4], "stream/4@trusted");
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
        let asked = std::sync::atomic::AtomicU32::new(0);
        let stop = || asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed) > 2;
        let workers = &mut [Worker::new(&command)];
        let report = run.trials(workers, &trials, &stop, &mut |_| {}).unwrap();
        assert_eq!((report.rows.len(), report.not_run), (0, 3));
    }
}
