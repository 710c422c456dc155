//! What the driver does with a prefix cache: brings stored beginnings to requests, and has others stored, between steps.

use super::{Driver, Job};
use crate::Error;
use crate::serve::Reuse;
use crate::serve::prefix::Chain;
use crate::serve::prefix::arriving::Arriving;
use crate::serve::prefix::storing::Stored;
use futures::StreamExt;
use futures::future::{Either, select};
use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::{Duration, Instant};

/// How long what is left is read back and stored once nobody asks any more.
const LAST: Duration = Duration::from_secs(30);

impl Driver {
    // The keys of a request that begins with so many tokens, and what may come behind them, if that can be more.
    pub(super) fn stored(&self, job: &Job, held: u32) -> (Chain, Option<Arriving>) {
        let Some(prefix) = self.prefix.as_ref().filter(|_| self.options.reuse != Reuse::Nothing)
        else {
            return (Chain::default(), None);
        };
        let prompt = &job.sequence.tokens()[..job.sequence.prompt_tokens()];
        let (chain, block) = (prefix.chain(prompt), self.engine.options.block);
        // The last token is computed in any case.
        let most = (prompt.len() as u32 - 1) / block;
        let arriving = (most * block > held).then(|| prefix.arrive(&chain, most as usize));
        (chain, arriving)
    }

    // Looks what came for requests. Where there is no step to take meanwhile it waits for something, or one more request.
    async fn look(&mut self) {
        let waits = self.running.iter().all(|active| active.arriving.is_some());
        let (running, jobs) = (&mut self.running, &mut self.jobs);
        let job = poll_fn(|context| {
            let arriving = running.iter_mut().filter_map(|active| active.arriving.as_mut());
            // Each of them is asked, so that any wakes who waits.
            let came = arriving.map(|arriving| arriving.poll(context)).filter(|came| *came).count();
            if came > 0 || !waits {
                return Poll::Ready(None);
            }
            match jobs.poll_next_unpin(context) {
                Poll::Ready(Some(job)) => Poll::Ready(Some(job)),
                // Once no handle is left those that run are answered all the same.
                Poll::Ready(None) | Poll::Pending => Poll::Pending,
            }
        });
        if let Some(job) = job.await {
            self.queue(job);
        }
    }

    // Gives requests what was read for them since the last step.
    pub(super) async fn arrive(&mut self) {
        if self.prefix.is_none() {
            return;
        }
        self.look().await;
        let Some(prefix) = &mut self.prefix else { return };
        let mut failed = Vec::new();
        for (at, active) in self.running.iter_mut().enumerate() {
            let Some(arriving) = &mut active.arriving else { continue };
            let tokens = active.job.sequence.tokens();
            let needed = arriving.blocks() as u32;
            while self.engine.blocks_and_free().1 < needed && self.idle.forget() {}
            let (way, to) = ((&*self.engine, &mut self.arrivals), (&mut active.session, tokens));
            let taken = prefix.take(way, to, &mut active.chain, arriving).await;
            let (came, goes_on) = match taken {
                Ok(taken) => taken,
                // There is no room for what was read, or for its way: it is computed as soon as there is, and others may have to go for it.
                Err(Error::Argument { .. } | Error::OutOfMemory { .. }) => (0, false),
                Err(error) => {
                    failed.push((at, error));
                    continue;
                }
            };
            let held = active.job.sequence.reuse(active.session.tokens());
            active.job.found(held);
            if came > 0 {
                active.moved = self.steps;
                active.job.came += came;
                active.job.tell_prefill(held);
            }
            if !goes_on {
                active.arriving = None;
                active.job.count(&self.shared);
            }
        }
        for (at, error) in failed.into_iter().rev() {
            self.fail_all(&[at], &error);
        }
    }

    // Has a piece stored of what others may begin with.
    pub(super) async fn store(&mut self) -> Stored {
        let Some(prefix) = &mut self.prefix else { return Stored::Nothing };
        let ready =
            |active: &&mut super::Active| active.arriving.is_none() && active.prompt_left() == 0;
        let running = self.running.iter_mut().filter(ready);
        let running = running.map(|one| (&one.session, &mut one.chain, one.job.prompt()));
        let idle = self.idle.iter_mut().rev();
        let idle = idle.map(|kept| (&kept.session, &mut kept.chain, kept.read));
        // Those that run first: nobody forgets them.
        for (session, chain, read) in running.chain(idle) {
            let tokens = self.options.reusable(session.len(), read);
            match prefix.store(&self.engine, session, chain, tokens).await {
                Ok(Stored::Nothing) => {}
                Ok(stored) => return stored,
                Err(error) => {
                    if let Error::DeviceLost(_) = &error {
                        self.lost = Some(error);
                        return Stored::Nothing;
                    }
                    log::warn!("blocks for the prefix cache cannot be read back: {error}");
                    return Stored::Some;
                }
            }
        }
        Stored::Nothing
    }

    // What there is to do while nobody asks; false once nobody will.
    pub(super) async fn rest(&mut self) -> bool {
        match (self.store().await, &mut self.prefix) {
            (Stored::Some, _) => return true,
            (Stored::Later, Some(prefix)) => {
                let job = match select(self.jobs.next(), pin!(prefix.wait())).await {
                    Either::Left((job, _)) => job,
                    Either::Right(_) => return true,
                };
                return job.map(|job| self.queue(job)).is_some();
            }
            _ => {}
        }
        if self.lost.is_some() {
            return true;
        }
        let job = self.jobs.next().await;
        job.map(|job| self.queue(job)).is_some()
    }

    // Has all stored that others may begin with, as far as that is done within [`LAST`], and waits until it is.
    pub(super) async fn store_all(&mut self) {
        let began = Instant::now();
        if self.engine.gpu.check().is_ok() {
            while began.elapsed() < LAST {
                match (self.store().await, &mut self.prefix) {
                    (Stored::Some, _) => {}
                    (Stored::Later, Some(prefix)) => prefix.wait().await,
                    _ => break,
                }
            }
        }
        if let Some(prefix) = self.prefix.take() {
            prefix.finish().await;
        }
    }
}
