//! How long something that failed is not tried again.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long nothing is tried after a failure.
pub(super) const REST: Duration = Duration::from_secs(60);

/// Until when nothing is tried.
pub(super) struct Rest {
    time: Duration,
    until: Mutex<Option<Instant>>,
}

impl Rest {
    pub(super) fn new(time: Duration) -> Self {
        Self { time, until: Mutex::default() }
    }

    // Every update leaves it whole, so that of a thread that panicked is too.
    fn until(&self) -> MutexGuard<'_, Option<Instant>> {
        self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn lasts(&self) -> bool {
        self.until().is_some_and(|until| Instant::now() < until)
    }

    /// Begins: whether nothing had failed since the last success, so that it is worth a word.
    pub(super) fn begin(&self) -> bool {
        self.until().replace(Instant::now() + self.time).is_none()
    }

    /// Something succeeded; what was asked for before a failure ends no rest.
    pub(super) fn end(&self) {
        let mut until = self.until();
        *until = until.filter(|until| Instant::now() < *until);
    }
}
