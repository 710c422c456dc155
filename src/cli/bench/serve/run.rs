//! A load, asked.

use super::super::super::interrupt;
use super::client::{Asked, Client};
use super::load::{Load, Pace};
use asynctls::{Error, Result};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::{Builder, Scope, scope, sleep};
use std::time::{Duration, Instant};

/// The longest that nobody looks whether the user asked to end.
const LOOK: Duration = Duration::from_millis(100);

/// Asks all, or until the user asks to end; what came of each, and seconds until the last had ended.
///
/// # Errors
/// [`Error::Io`] where the system has no thread for one more client.
pub fn run(
    client: &Client,
    text: &(impl Fn(usize) -> String + Sync),
    load: &Load,
    progress: &(impl Fn() + Sync),
) -> Result<(Vec<Asked>, f64)> {
    let (arrivals, drops) = (load.arrivals(), load.drops());
    let made = Mutex::new(Vec::with_capacity(load.requests));
    let ask = |request: usize| {
        let asked = client.ask(&text(request), load.length, drops[request]);
        made.lock().unwrap_or_else(PoisonError::into_inner).push(asked);
        progress();
    };
    let next = AtomicUsize::new(0);
    let one = || {
        let request = next.fetch_add(1, Ordering::Relaxed);
        let goes_on = request < load.requests && !interrupt::asked();
        goes_on.then(|| ask(request)).is_some()
    };
    let many = || while one() {};
    let began = Instant::now();
    scope(|scope| match load.pace {
        Pace::Clients(clients) => (0..clients).try_for_each(|_| spawn(scope, &many)),
        Pace::Rate(_) => arrivals.iter().try_for_each(|at| {
            let left = || Duration::from_secs_f64(*at).saturating_sub(began.elapsed());
            while !left().is_zero() && !interrupt::asked() {
                sleep(left().min(LOOK));
            }
            if interrupt::asked() { Ok(()) } else { spawn(scope, &one) }
        }),
    })
    .map_err(|source| Error::Io { path: "a thread for a client".into(), source })?;
    let seconds = began.elapsed().as_secs_f64();
    Ok((made.into_inner().unwrap_or_else(PoisonError::into_inner), seconds))
}

fn spawn<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    work: &'scope (impl Fn() -> T + Sync),
) -> std::io::Result<()> {
    Builder::new().name("client".into()).spawn_scoped(scope, work).map(drop)
}
