//! Whose turn it is: pipelines are compiled by any number of threads at once, devices are taken down alone.
//!
//! NVIDIA's Vulkan driver (580.159) deadlocks where one thread destroys a device while others compile for devices of their
//! own: `vkDestroyDevice` waits for a thread that waits for a lock of theirs.

use super::device::lock;
use std::future::poll_fn;
use std::sync::{Condvar, Mutex, PoisonError};
use std::task::{Poll, Waker};

static TURNS: Turns = Turns {
    state: Mutex::new(State {
        compiling: 0,
        destroyers: 0,
        is_destroying: false,
        waiting: Vec::new(),
    }),
    changed: Condvar::new(),
};

struct Turns {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// So many pipelines are being compiled.
    compiling: usize,
    /// So many devices are to be destroyed, one of which may be under way: nobody begins to compile before they are gone, or
    /// they would have to wait until nobody does by chance.
    destroyers: usize,
    is_destroying: bool,
    /// Who wants to compile and has to wait.
    waiting: Vec<Waker>,
}

/// Until it is dropped somebody compiles: on any thread, which a lock's guard could not be.
#[derive(Debug)]
pub(super) struct Compiling(());

/// Until it is dropped a device is being destroyed, and nothing else happens.
#[derive(Debug)]
pub(super) struct Destroying(());

/// Waits for devices that are being destroyed. The turn is not to be kept where something else is waited for.
pub(super) async fn compile() -> Compiling {
    poll_fn(|context| {
        let mut state = lock(&TURNS.state);
        if state.destroyers > 0 {
            state.waiting.push(context.waker().clone());
            return Poll::Pending;
        }
        state.compiling += 1;
        Poll::Ready(Compiling(()))
    })
    .await
}

/// Waits for all who compile, and for other devices that are being destroyed, and blocks meanwhile: what is dropped cannot do
/// otherwise.
pub(super) fn destroy() -> Destroying {
    let mut state = lock(&TURNS.state);
    state.destroyers += 1;
    while state.compiling > 0 || state.is_destroying {
        state = TURNS.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
    }
    state.is_destroying = true;
    Destroying(())
}

impl Drop for Compiling {
    fn drop(&mut self) {
        lock(&TURNS.state).compiling -= 1;
        TURNS.changed.notify_all();
    }
}

impl Drop for Destroying {
    fn drop(&mut self) {
        let waiting = {
            let mut state = lock(&TURNS.state);
            state.is_destroying = false;
            state.destroyers -= 1;
            if state.destroyers == 0 { std::mem::take(&mut state.waiting) } else { Vec::new() }
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

    fn is_pending<T>(future: std::pin::Pin<&mut impl Future<Output = T>>) -> bool {
        let mut future = future;
        block_on(poll_fn(|context| Poll::Ready(future.as_mut().poll(context).is_pending())))
    }

    #[test]
    fn devices_are_destroyed_while_nobody_compiles_or_begins_to() {
        let first = block_on(compile());
        let (sender, receiver) = channel();
        let destroyer = std::thread::spawn(move || {
            let turn = destroy();
            sender.send(()).expect("someone waits");
            drop(turn);
        });
        let soon = Duration::from_millis(50);
        assert!(receiver.recv_timeout(soon).is_err(), "one still compiles");
        let mut second = pin!(compile());
        assert!(is_pending(second.as_mut()), "others who compile could go on for ever");
        drop(first);
        receiver.recv_timeout(Duration::from_secs(60)).expect("its turn has come");
        destroyer.join().expect("it ended");
        drop(block_on(second));
    }

    #[test]
    fn who_compiles_is_woken_when_a_device_is_gone() {
        let turn = destroy();
        let mut compiling = pin!(compile());
        assert!(is_pending(compiling.as_mut()));
        let other = std::thread::spawn(move || drop(turn));
        drop(block_on(compiling));
        other.join().expect("it ended");
    }
}
