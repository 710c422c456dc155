//! How long something that failed is not tried again.

use super::lock;
use std::sync::Mutex;
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

    pub(super) fn lasts(&self) -> bool {
        lock(&self.until).is_some_and(|until| Instant::now() < until)
    }

    /// Begins: whether nothing had failed since the last success, so that it is worth a word.
    pub(super) fn begin(&self) -> bool {
        lock(&self.until).replace(Instant::now() + self.time).is_none()
    }

    /// Something succeeded; what was asked for before a failure ends no rest.
    pub(super) fn end(&self) {
        let mut until = lock(&self.until);
        *until = until.filter(|until| Instant::now() < *until);
    }
}
