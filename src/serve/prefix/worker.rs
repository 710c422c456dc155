//! A thread that does one thing after another, for who must not wait for a disk.

use futures::channel::oneshot::{self, Receiver};
use std::io;
use std::sync::mpsc::{Sender, channel};
use std::thread;

type Work = Box<dyn FnOnce() + Send>;

/// A thread and its queue. It ends once that is dropped and all is done.
pub(super) struct Worker(Sender<Work>);

impl Worker {
    pub(super) fn start(name: &str) -> io::Result<Self> {
        let (works, queue) = channel::<Work>();
        let run = move || queue.into_iter().for_each(|work| work());
        thread::Builder::new().name(name.into()).spawn(run)?;
        Ok(Self(works))
    }

    /// Has something done behind what was asked for before.
    pub(super) fn tell(&self, work: impl FnOnce() + Send + 'static) {
        // Only a thread that panicked takes nothing more.
        let _ = self.0.send(Box::new(work));
    }

    /// Has something made, unless nobody waits for it by then. Of a thread that panicked the receiver is told.
    pub(super) fn ask<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Receiver<T> {
        let (sender, made) = oneshot::channel();
        self.tell(move || {
            if !sender.is_canceled() {
                let _ = sender.send(work());
            }
        });
        made
    }
}
