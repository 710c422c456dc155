//! Signals that ask the program to end, as Ctrl-C does: the work ends, and what was made so far is kept.

use asynctls::{Error, Result};
use std::process::ExitCode;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};

/// Ctrl-C's signal, by the number that it has on Unix.
const SIGINT: i32 = 2;

/// How many [`Keeping`] live: whether there is something made so far, that the program will show once it notices.
static KEEPING: AtomicUsize = AtomicUsize::new(0);
/// The signal that asked to end, or 0.
static ASKED: AtomicI32 = AtomicI32::new(0);

/// Begins to listen.
///
/// # Errors
/// Only when the system refuses.
pub fn listen() -> Result<()> {
    system::listen().map_err(|e| {
        Error::argument("the handler of signals", "refused", format!("it is needed: {e}"))
    })
}

/// Whether the user asked to end, or the system did.
pub fn asked() -> bool {
    ASKED.load(Ordering::SeqCst) != 0
}

/// Forgets that the user asked by Ctrl-C, once what was to end has ended and something else goes on. What the system asked
/// for stays.
pub fn forget() {
    let _ = ASKED.compare_exchange(SIGINT, 0, Ordering::SeqCst, Ordering::SeqCst);
}

/// That of a program which ends now: 128 and the number of the signal that asked for it, as shells have it.
pub fn exit_code() -> ExitCode {
    match ASKED.load(Ordering::SeqCst) {
        0 => ExitCode::SUCCESS,
        signal => ExitCode::from(code_of(signal) as u8),
    }
}

/// That of a program whose user left it by Ctrl-C where it waited for what is typed.
pub fn left() -> ExitCode {
    ExitCode::from(code_of(SIGINT) as u8)
}

fn code_of(signal: i32) -> i32 {
    128 + signal
}

/// Called where a signal arrives, which may be between any two instructions: no lock, no memory.
fn ask(signal: i32) {
    // Before there is anything to keep, and the second time, nobody wants to wait.
    if KEEPING.load(Ordering::SeqCst) == 0 || ASKED.swap(signal, Ordering::SeqCst) != 0 {
        system::exit(code_of(signal));
    }
}

/// While this lives, signals only set what [`asked`] tells.
pub struct Keeping(());

impl Keeping {
    /// From now on.
    pub fn new() -> Self {
        KEEPING.fetch_add(1, Ordering::SeqCst);
        Self(())
    }
}

impl Drop for Keeping {
    fn drop(&mut self) {
        KEEPING.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(unix)]
mod system {
    use signal_hook::consts::{SIGBUS, SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
    use signal_hook::low_level::register;
    use std::io;

    /// Ends the process from within a handler, which no other handler of its end would notice.
    pub fn exit(code: i32) -> ! {
        crate::cli::keys::restore();
        signal_hook::low_level::exit(code)
    }

    /// Models and sessions are read through memory maps; what another program takes from under one cannot be read.
    const UNREADABLE: &str = "error: a file that is mapped into memory cannot be read any more: \
        the model or the session was cut short, or its disk failed\n";

    pub fn listen() -> io::Result<()> {
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            // Who started this may want it to outlive the terminal, as `nohup` does.
            if signal == SIGINT || !is_ignored(signal) {
                // SAFETY: the action is atomics and the end of the process, which handlers may use.
                unsafe { register(signal, move || super::ask(signal)) }?;
            }
        }
        // SAFETY: nothing is done. A write beyond the largest size of a file fails then, and does not end the program.
        unsafe { register(SIGXFSZ, || ()) }?;
        // SAFETY: writing and ending the process are what handlers may do.
        unsafe { register(SIGBUS, unreadable) }?;
        Ok(())
    }

    fn unreadable() {
        // SAFETY: the bytes are there for the whole time of the program.
        unsafe { libc::write(libc::STDERR_FILENO, UNREADABLE.as_ptr().cast(), UNREADABLE.len()) };
        exit(2);
    }

    fn is_ignored(signal: i32) -> bool {
        // SAFETY: an action is numbers, which may be zero.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        // SAFETY: nothing is set, and there is room for what is.
        let asked = unsafe { libc::sigaction(signal, std::ptr::null(), &raw mut action) };
        asked == 0 && action.sa_sigaction == libc::SIG_IGN
    }
}

#[cfg(not(unix))]
mod system {
    use std::io;

    pub use std::process::exit;

    pub fn listen() -> io::Result<()> {
        ctrlc::set_handler(|| super::ask(super::SIGINT)).map_err(io::Error::other)
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::fs::OpenOptions;
    use std::process::Command;

    #[test]
    fn a_mapped_file_that_is_cut_short_is_one_error() {
        // Reading it ends the process, which is one of its own: this test.
        const FILE: &str = "ASYNCTLS_TEST_CUT_SHORT";
        if let Some(path) = std::env::var_os(FILE) {
            super::listen().unwrap();
            let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
            // SAFETY: that it is cut short meanwhile is what is tried.
            let map = unsafe { memmap2::Mmap::map(&file) }.unwrap();
            file.set_len(0).unwrap();
            panic!("{} is there", map[100_000]);
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(200_000).unwrap();
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["a_mapped_file_that_is_cut_short_is_one_error", "--nocapture"])
            .env(FILE, file.path())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        let err = String::from_utf8(output.stderr).unwrap();
        assert!(
            err.starts_with("error: a file that is mapped into memory cannot be read"),
            "{err}"
        );
        assert_eq!(err.lines().count(), 1, "{err}");
    }
}
