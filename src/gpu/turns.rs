//! Whose turn it is: pipelines are compiled by any number of threads at once, devices are taken down alone.
//!
//! NVIDIA's Vulkan driver (580.159) deadlocks where one thread destroys a device while others compile for devices of their
//! own: `vkDestroyDevice` waits for a thread that waits for a lock of theirs.

use super::device::lock;
use std::future::poll_fn;
use std::sync::{Condvar, Mutex, PoisonError};
use std::task::{Poll, Waker};

static TURNS: Turns = Turns { state: Mutex::new(State::Compiling(0)), changed: Condvar::new() };

struct Turns {
    state: Mutex<State>,
    changed: Condvar,
}

enum State {
    /// So many pipelines are being compiled.
    Compiling(usize),
    /// A device is being destroyed, and these wait for it.
    Destroying(Vec<Waker>),
}

/// A turn, until it is dropped: on any thread, which a lock's guard could not be.
#[derive(Debug)]
pub(super) struct Turn(());

/// Waits for devices that are being destroyed. The turn is not to be kept where something else is waited for.
pub(super) async fn compile() -> Turn {
    poll_fn(|context| match &mut *lock(&TURNS.state) {
        State::Compiling(turns) => {
            *turns += 1;
            Poll::Ready(Turn(()))
        }
        State::Destroying(waiting) => {
            waiting.push(context.waker().clone());
            Poll::Pending
        }
    })
    .await
}

/// Waits for all who compile, and for other devices that are being destroyed, and blocks meanwhile: what is dropped cannot do
/// otherwise.
pub(super) fn destroy() -> Turn {
    let mut state = lock(&TURNS.state);
    while !matches!(*state, State::Compiling(0)) {
        state = TURNS.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
    }
    *state = State::Destroying(Vec::new());
    Turn(())
}

impl Drop for Turn {
    fn drop(&mut self) {
        let waiting = {
            let mut state = lock(&TURNS.state);
            match &mut *state {
                State::Compiling(turns) => {
                    *turns = turns.saturating_sub(1);
                    Vec::new()
                }
                State::Destroying(waiting) => {
                    let waiting = std::mem::take(waiting);
                    *state = State::Compiling(0);
                    waiting
                }
            }
        };
        TURNS.changed.notify_all();
        waiting.into_iter().for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pollster::block_on;
    use std::pin::pin;
    use std::sync::mpsc::channel;
    use std::time::Duration;

    #[test]
    fn devices_are_destroyed_while_nobody_compiles() {
        let (first, second) = (block_on(compile()), block_on(compile()));
        let (sender, receiver) = channel();
        let destroyer = std::thread::spawn(move || {
            let turn = destroy();
            sender.send(()).expect("someone waits");
            drop(turn);
        });
        drop(first);
        let soon = Duration::from_millis(50);
        assert!(receiver.recv_timeout(soon).is_err(), "one still compiles");
        drop(second);
        receiver.recv_timeout(Duration::from_secs(60)).expect("its turn has come");
        destroyer.join().expect("it ended");
        drop(block_on(compile()));
    }

    #[test]
    fn who_compiles_is_woken_when_a_device_is_gone() {
        let turn = destroy();
        let mut compiling = pin!(compile());
        let first = block_on(poll_fn(|context| Poll::Ready(compiling.as_mut().poll(context))));
        // Tests beside this one may have taken the turn in between, but not this one.
        assert!(first.is_pending());
        let other = std::thread::spawn(move || drop(turn));
        drop(block_on(compiling));
        other.join().expect("it ended");
    }
}
