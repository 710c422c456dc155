//! Ctrl-C: ends the work and keeps what was made so far.

use super::INTERRUPTED;
use asynctls::{Error, Result};
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether there is something made so far, that the program will show once it notices.
static KEEPING: AtomicBool = AtomicBool::new(false);
static ASKED: AtomicBool = AtomicBool::new(false);

/// Begins to listen for Ctrl-C.
///
/// # Errors
/// Only when the system refuses.
pub fn listen() -> Result<()> {
    ctrlc::set_handler(|| {
        // Before there is anything to keep, and the second time, nobody wants to wait.
        if !KEEPING.load(Ordering::SeqCst) || ASKED.swap(true, Ordering::SeqCst) {
            std::process::exit(INTERRUPTED.into());
        }
    })
    .map_err(|e| Error::argument("the handler of Ctrl-C", "refused", format!("it is needed: {e}")))
}

/// Whether the user asked to end.
pub fn asked() -> bool {
    ASKED.load(Ordering::SeqCst)
}

/// Forgets that the user asked, once what was to end has ended and something else goes on.
pub fn forget() {
    ASKED.store(false, Ordering::SeqCst);
}

/// While this lives, Ctrl-C only sets what [`asked`] tells.
pub struct Keeping(());

impl Keeping {
    /// From now on.
    pub fn new() -> Self {
        KEEPING.store(true, Ordering::SeqCst);
        Self(())
    }
}

impl Drop for Keeping {
    fn drop(&mut self) {
        KEEPING.store(false, Ordering::SeqCst);
    }
}
