//! Waits for the GPU that hold no thread of an executor.
//!
//! A wait asks the device whenever it is polled. While an answer is likely near it has itself polled again at once, behind
//! whatever else its executor has to do. After that a thread of the device's own sleeps in the driver, and wakes it.
//! In a browser nobody sleeps: its callbacks wake.

use super::device::{Gpu, lock};
use super::turns;
use crate::{Error, Result};
use futures::task::AtomicWaker;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::task::{Poll, Waker};
use std::thread::JoinHandle;
use web_time::{Duration, Instant};

/// How long an answer of a discrete card is likely near, which a decode step ends within: a thread that sleeps is woken some
/// 100 us late, and its core then takes twice as long to record the next step.
const NEAR: Duration = Duration::from_millis(10);
/// The same of other GPUs: they may share their power with the core that asks.
const NEAR_ELSEWHERE: Duration = Duration::from_micros(300);
/// The longest that the device's thread sleeps in OpenGL, whose context it holds meanwhile: others may want it.
const SLEEP: Duration = Duration::from_millis(20);

/// Whether a program has threads, and a device that can be asked.
const IS_NATIVE: bool = !cfg!(target_arch = "wasm32");

// Asks a device; none where the time was over before what was waited for.
//
// wgpu 30 panics where the time of a wait is over just when another thread finds the queue empty. So nobody waits for a time
// unless it must, and those who ask only let callbacks run.
fn ask(device: &wgpu::Device, how: wgpu::PollType) -> Result<Option<wgpu::PollStatus>> {
    // Where waiting fails, since the device is lost, it panics too: by then it has called back with the cause.
    match catch_unwind(AssertUnwindSafe(|| device.poll(how))) {
        Ok(Ok(status)) => Ok(Some(status)),
        Ok(Err(wgpu::PollError::Timeout)) => Ok(None),
        Ok(Err(error)) => Err(Error::Gpu(error.to_string())),
        Err(_) => Err(Error::DeviceLost("it cannot be waited for".into())),
    }
}

// Sleeps until it has finished, or for a while.
fn sleep(
    device: &wgpu::Device,
    submission_index: Option<wgpu::SubmissionIndex>,
) -> Result<Option<wgpu::PollStatus>> {
    let is_gl = device.adapter_info().backend == wgpu::Backend::Gl;
    let timeout = is_gl.then_some(SLEEP);
    ask(device, wgpu::PollType::Wait { submission_index, timeout })
}

fn near(device: wgpu::DeviceType) -> Duration {
    match device {
        wgpu::DeviceType::DiscreteGpu => NEAR,
        wgpu::DeviceType::Cpu => Duration::ZERO,
        _ => NEAR_ELSEWHERE,
    }
}

impl Gpu {
    /// Lets callbacks of what has finished run.
    ///
    /// # Errors
    /// As [`Gpu::check`].
    pub fn poll(&self) -> Result<()> {
        self.ask(wgpu::PollType::Poll).map(drop)
    }

    /// Waits until a submission has finished. The thread is free meanwhile.
    ///
    /// # Errors
    /// As [`Gpu::check`].
    pub async fn wait(&self, index: wgpu::SubmissionIndex) -> Result<()> {
        if !IS_NATIVE {
            let (sender, receiver) = futures::channel::oneshot::channel();
            self.queue.on_submitted_work_done(move || {
                // Who waits may have given up.
                let _ = sender.send(());
            });
            receiver.await.map_err(|e| Error::Gpu(e.to_string()))?;
            return self.check();
        }
        self.wait_for(Some(index), |has_finished| {
            let is_idle = self.ask(wgpu::PollType::Poll)? == Some(wgpu::PollStatus::QueueEmpty);
            Ok((has_finished || is_idle).then_some(()))
        })
        .await
    }

    /// Waits for what `find` finds, which the callbacks of this submission bring, or of the latest one.
    ///
    /// # Errors
    /// Those of `find`, which has to tell that the device is lost.
    pub(crate) async fn until<T>(
        &self,
        index: Option<wgpu::SubmissionIndex>,
        mut find: impl FnMut() -> Result<Option<T>>,
    ) -> Result<T> {
        self.wait_for(index, |_| find()).await
    }

    // `find` is told whether the submission is known to have finished.
    async fn wait_for<T>(
        &self,
        mut index: Option<wgpu::SubmissionIndex>,
        mut find: impl FnMut(bool) -> Result<Option<T>>,
    ) -> Result<T> {
        let began = IS_NATIVE.then(Instant::now);
        let near = near(self.info().device_type);
        let is_near = || began.is_some_and(|began| began.elapsed() < near);
        let mut place: Option<Place<'_>> = None;
        poll_fn(|context| {
            let has_finished = place.as_ref().is_some_and(Place::has_finished);
            if let Some(found) = find(has_finished)? {
                return Poll::Ready(Ok(found));
            }
            if is_near() {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            let place = place.get_or_insert_with(|| Place::new(&self.waits));
            // What was to bring it has finished, if it was waited for before: a callback is still to come.
            place.wait(&self.device, &mut index, context.waker());
            // A callback that another thread ran since then has woken nobody.
            find(place.has_finished())?.map_or(Poll::Pending, |found| Poll::Ready(Ok(found)))
        })
        .await
    }

    fn ask(&self, how: wgpu::PollType) -> Result<Option<wgpu::PollStatus>> {
        let asked = ask(&self.device, how);
        self.check()?;
        asked
    }

    /// Waits until a submission has finished, and blocks: for measuring.
    ///
    /// # Errors
    /// As [`Gpu::check`].
    pub(super) fn block(&self, index: wgpu::SubmissionIndex) -> Result<()> {
        let how = wgpu::PollType::Wait { submission_index: Some(index), timeout: None };
        self.ask(how).map(drop)
    }
}

/// Everyone who waits for a device, and the thread that wakes them.
#[derive(Default)]
pub(crate) struct Waits {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// In the order in which they came, each with the submission that it waits for, or none for the latest.
    waiting: VecDeque<(Option<wgpu::SubmissionIndex>, Arc<Waiter>)>,
    thread: Option<JoinHandle<()>>,
    is_over: bool,
}

#[derive(Default)]
struct Waiter {
    waker: AtomicWaker,
    is_listed: AtomicBool,
    has_finished: AtomicBool,
}

// A wait's own place among them, left when the wait is dropped.
struct Place<'a> {
    waits: &'a Arc<Waits>,
    waiter: Arc<Waiter>,
}

impl<'a> Place<'a> {
    fn new(waits: &'a Arc<Waits>) -> Self {
        Self { waits, waiter: Arc::default() }
    }

    fn has_finished(&self) -> bool {
        self.waiter.has_finished.load(Ordering::SeqCst)
    }

    fn wait(
        &self,
        device: &wgpu::Device,
        index: &mut Option<wgpu::SubmissionIndex>,
        waker: &Waker,
    ) {
        self.waiter.waker.register(waker);
        if !self.waiter.is_listed.swap(true, Ordering::SeqCst)
            && !self.waits.list(device, index.take(), &self.waiter)
        {
            // Without a thread it is the caller's that sleeps, a little.
            self.waiter.is_listed.store(false, Ordering::SeqCst);
            if let Ok(Some(_)) = sleep(device, None) {
                self.waiter.has_finished.store(true, Ordering::SeqCst);
            }
            waker.wake_by_ref();
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        lock(&self.waits.state).waiting.retain(|(_, other)| !Arc::ptr_eq(other, &self.waiter));
    }
}

impl Waits {
    /// Wakes everyone: a callback has brought something to one of them.
    pub(crate) fn wake(&self) {
        let waiting: Vec<_> =
            lock(&self.state).waiting.iter().map(|(_, waiter)| waiter.clone()).collect();
        for waiter in waiting {
            waiter.waker.wake();
        }
    }

    /// Ends the thread.
    pub(super) fn end(&self) {
        let thread = {
            let mut state = lock(&self.state);
            state.is_over = true;
            state.thread.take()
        };
        self.changed.notify_all();
        // Whoever is woken may drop the device, on this very thread.
        if let Some(thread) =
            thread.filter(|thread| thread.thread().id() != std::thread::current().id())
        {
            let _ = thread.join();
        }
    }

    // Whether there is a thread that will wake it, or a browser.
    fn list(
        self: &Arc<Self>,
        device: &wgpu::Device,
        index: Option<wgpu::SubmissionIndex>,
        waiter: &Arc<Waiter>,
    ) -> bool {
        let mut state = lock(&self.state);
        if IS_NATIVE && state.thread.is_none() {
            let (waits, device) = (self.clone(), device.clone());
            let thread = std::thread::Builder::new().name("waits for the GPU".into());
            let Ok(thread) = thread.spawn(move || waits.serve(device)) else { return false };
            state.thread = Some(thread);
        }
        state.waiting.push_back((index, waiter.clone()));
        self.changed.notify_all();
        true
    }

    fn serve(&self, device: wgpu::Device) {
        while let Some((index, waiter)) = self.first() {
            match sleep(&device, index) {
                Ok(Some(_)) => self.wake_one(&waiter),
                // Those behind it may wait for less.
                Ok(None) => self.turn(),
                // Each finds out for itself.
                Err(_) => self.wake_all(),
            }
        }
        // The device may be gone with this.
        let _alone = turns::destroy();
        drop(device);
    }

    // The one who has waited the longest, as soon as there is one; none once the device is dropped.
    fn first(&self) -> Option<(Option<wgpu::SubmissionIndex>, Arc<Waiter>)> {
        let mut state = lock(&self.state);
        loop {
            if state.is_over {
                return None;
            }
            if let Some((index, waiter)) = state.waiting.front() {
                return Some((index.clone(), waiter.clone()));
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn wake_one(&self, waiter: &Arc<Waiter>) {
        lock(&self.state).waiting.retain(|(_, other)| !Arc::ptr_eq(other, waiter));
        waiter.has_finished.store(true, Ordering::SeqCst);
        waiter.is_listed.store(false, Ordering::SeqCst);
        waiter.waker.wake();
    }

    // Puts the first behind the others.
    fn turn(&self) {
        let mut state = lock(&self.state);
        if !state.waiting.is_empty() {
            state.waiting.rotate_left(1);
        }
    }

    fn wake_all(&self) {
        let waiting = std::mem::take(&mut lock(&self.state).waiting);
        for (_, waiter) in waiting {
            waiter.is_listed.store(false, Ordering::SeqCst);
            waiter.waker.wake();
        }
    }
}
