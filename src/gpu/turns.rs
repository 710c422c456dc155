//! Whose turn it is: pipelines are compiled by any number of threads at once, devices are taken down alone.
//!
//! NVIDIA's Vulkan driver (580.159) deadlocks where one thread destroys a device while others compile for devices of their
//! own: `vkDestroyDevice` waits for a thread that waits for a lock of theirs.

use super::device::lock;
use std::sync::{Condvar, Mutex, PoisonError};

static TURNS: Turns = Turns { state: Mutex::new(State::Compiling(0)), changed: Condvar::new() };

struct Turns {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Clone, Copy)]
enum State {
    /// So many pipelines are being compiled.
    Compiling(usize),
    /// A device is being destroyed.
    Destroying,
}

/// A turn, until it is dropped: on any thread, which a lock's guard could not be.
#[derive(Debug)]
pub(super) struct Turn(());

impl Turns {
    // The next state, as soon as there is one.
    fn take(&self, next: impl Fn(State) -> Option<State>) -> Turn {
        let mut state = lock(&self.state);
        loop {
            if let Some(next) = next(*state) {
                *state = next;
                return Turn(());
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Waits for devices that are being destroyed.
pub(super) fn compile() -> Turn {
    TURNS.take(|state| match state {
        State::Compiling(others) => Some(State::Compiling(others + 1)),
        State::Destroying => None,
    })
}

/// Waits for all who compile, and for other devices that are being destroyed.
pub(super) fn destroy() -> Turn {
    TURNS.take(|state| matches!(state, State::Compiling(0)).then_some(State::Destroying))
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut state = lock(&TURNS.state);
        *state = match *state {
            State::Compiling(turns) => State::Compiling(turns.saturating_sub(1)),
            State::Destroying => State::Compiling(0),
        };
        TURNS.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;
    use std::time::Duration;

    #[test]
    fn devices_are_destroyed_while_nobody_compiles() {
        let (first, second) = (compile(), compile());
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
        drop(compile());
    }
}
