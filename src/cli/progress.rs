//! How far something is that takes long: a bar on a terminal, lines elsewhere.
//!
//! A thread of its own shows it, so that nothing is silent while one long piece of work says nothing of itself.

use super::interrupt;
use super::terminal::{note, size};
use indicatif::{ProgressBar, ProgressStyle};
use std::io::{IsTerminal, stderr};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Shorter work is not worth a bar.
const LATE: Duration = Duration::from_secs(1);
/// Between two lines where there is no terminal.
const BETWEEN_LINES: Duration = Duration::from_secs(10);
/// Between two looks at the work.
const TICK: Duration = Duration::from_millis(100);

/// Work that is going on; dropping it ends what is shown.
pub struct Progress {
    work: Arc<Shared>,
    watcher: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    work: Mutex<Work>,
    changed: Condvar,
}

#[derive(Clone, Debug, Default)]
struct Work {
    what: String,
    done: u64,
    /// 0 where nobody knows.
    total: u64,
    is_bytes: bool,
    is_over: bool,
}

impl Shared {
    fn get(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Begins to show progress towards `total`.
pub fn bar(what: &str, total: u64, is_bytes: bool) -> Progress {
    let work = Work { what: what.into(), total, is_bytes, ..Work::default() };
    let show: Box<dyn Show> = if stderr().is_terminal() {
        Box::new(OnTerminal::default())
    } else {
        Box::new(Lines { between: BETWEEN_LINES, said: Duration::ZERO, say: note })
    };
    Progress::new(work, show)
}

/// Shows that something is going on that nobody knows the end of.
pub fn spinner(what: &str) -> Progress {
    bar(what, 0, false)
}

/// The function that is told bytes of progress.
pub fn byte_bar(what: &str, total: u64) -> impl FnMut(u64) + Send {
    let bar = bar(what, total, true);
    move |bytes| bar.inc(bytes)
}

impl Progress {
    fn new(work: Work, mut show: Box<dyn Show>) -> Self {
        let work = Arc::new(Shared { work: Mutex::new(work), changed: Condvar::new() });
        let watched = work.clone();
        let watch = move || {
            let began = Instant::now();
            let mut asked = None;
            loop {
                let work = watched.get();
                let is_going = |work: &mut Work| !work.is_over;
                let waited = watched.changed.wait_timeout_while(work, TICK, is_going);
                let work = waited.unwrap_or_else(PoisonError::into_inner).0.clone();
                if work.is_over {
                    break;
                }
                show.show(&work, began.elapsed());
                if interrupt::asked() {
                    // Most pieces of work end sooner than anyone wonders.
                    let since = asked.get_or_insert_with(|| (Instant::now(), false));
                    if !since.1 && since.0.elapsed() >= LATE / 2 {
                        since.1 = true;
                        show.say("note: it ends after the piece of work that is running; Ctrl-C again ends at once");
                    }
                }
            }
            show.end();
        };
        // Without a thread nothing is shown, which no work shall fail for.
        let watcher = std::thread::Builder::new().name("progress".into()).spawn(watch).ok();
        Self { work, watcher }
    }

    /// So much is done.
    pub fn set_position(&self, done: u64) {
        self.work.get().done = done;
    }

    /// So much is to be done in all.
    pub fn set_total(&self, total: u64) {
        self.work.get().total = total;
    }

    /// So much more is done.
    pub fn inc(&self, more: u64) {
        self.work.get().done += more;
    }

    /// The work done.
    pub fn position(&self) -> u64 {
        self.work.get().done
    }

    /// Begins something else.
    #[cfg(feature = "hub")]
    pub fn restart(&self, what: &str, total: u64) {
        let mut work = self.work.get();
        (work.what, work.done, work.total) = (what.into(), 0, total);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.work.get().is_over = true;
        self.work.changed.notify_all();
        if let Some(watcher) = self.watcher.take() {
            let _ = watcher.join();
        }
    }
}

trait Show: Send {
    fn show(&mut self, work: &Work, elapsed: Duration);
    fn say(&mut self, line: &str);
    fn end(&mut self);
}

#[derive(Default)]
struct OnTerminal {
    bar: Option<ProgressBar>,
}

fn style(work: &Work) -> ProgressStyle {
    let template = match (work.total, work.is_bytes) {
        (0, _) => "{msg} {spinner} {elapsed}",
        (_, true) => "{msg} {wide_bar} {bytes}/{total_bytes} {eta}",
        (_, false) => "{msg} {wide_bar} {pos}/{len} {eta}",
    };
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

impl Show for OnTerminal {
    fn show(&mut self, work: &Work, elapsed: Duration) {
        if elapsed < LATE {
            return;
        }
        let bar =
            self.bar.get_or_insert_with(|| ProgressBar::new(work.total).with_style(style(work)));
        bar.set_message(work.what.clone());
        if work.total > 0 {
            bar.set_length(work.total);
            bar.set_position(work.done);
        }
        bar.tick();
    }

    fn say(&mut self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| note(line)),
            None => note(line),
        }
    }

    fn end(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

struct Lines<S> {
    between: Duration,
    said: Duration,
    say: S,
}

impl<S: Fn(&str) + Send> Show for Lines<S> {
    fn show(&mut self, work: &Work, elapsed: Duration) {
        if elapsed - self.said < self.between {
            return;
        }
        self.said = elapsed;
        let part = match (work.total, work.is_bytes) {
            (0, _) => String::new(),
            (total, true) => format!("{} of {}, ", size(work.done), size(total)),
            (total, false) => format!("{} of {total}, ", work.done),
        };
        (self.say)(&format!("{}: {part}{:.0} s", work.what, elapsed.as_secs_f64()));
    }

    fn say(&mut self, line: &str) {
        (self.say)(line);
    }

    fn end(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[test]
    fn where_there_is_no_terminal_a_line_comes_now_and_then() {
        let (sender, lines) = channel();
        let say = move |line: &str| sender.send(line.to_owned()).unwrap();
        let between = Duration::from_millis(150);
        let work = Work { what: "prompt".into(), total: 4800, ..Work::default() };
        let lines_of = Box::new(Lines { between, said: Duration::ZERO, say });
        let progress = Progress::new(work, lines_of);
        progress.set_position(1000);
        progress.inc(24);
        // The second one comes though nothing moved.
        for _ in 0..2 {
            assert_eq!(lines.recv().unwrap(), "prompt: 1024 of 4800, 0 s");
        }
        drop(progress);
        assert!(lines.recv().is_err(), "the end is silent");
    }

    #[test]
    fn lines_have_units_and_short_work_has_none() {
        let (sender, lines) = channel();
        let say = move |line: &str| sender.send(line.to_owned()).unwrap();
        let mut shown = Lines { between: BETWEEN_LINES, said: Duration::ZERO, say };
        let loading = Work {
            what: "loading".into(),
            done: 1_500_000,
            total: 3_000_000_000,
            is_bytes: true,
            is_over: false,
        };
        let compiling = Work { what: "compiling kernels".into(), ..Work::default() };
        for (work, seconds) in [(&loading, 9), (&loading, 10), (&loading, 19), (&compiling, 21)] {
            shown.show(work, Duration::from_secs(seconds));
        }
        drop(shown);
        assert_eq!(
            lines.iter().collect::<Vec<_>>(),
            ["loading: 1.5 MB of 3.00 GB, 10 s", "compiling kernels: 21 s"]
        );
    }
}
