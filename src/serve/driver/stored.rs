//! What the driver does with a prefix cache: brings stored beginnings to requests, and has others stored, between steps.

use super::{Driver, From, Job, Source};
use crate::Error;
use crate::serve::Reuse;
use crate::serve::prefix::Chain;
use crate::serve::prefix::arriving::Arriving;
use crate::serve::prefix::storing::Stored;
use futures::StreamExt;
use futures::future::{Either, select};
use std::ops::Range;
use std::pin::pin;
use std::time::{Duration, Instant};

/// How long what is left is read back and stored once nobody asks any more.
const LAST: Duration = Duration::from_secs(30);

impl Driver {
    // Where a request's first tokens come from, its keys, and the blocks behind these tokens that are stored.
    pub(super) fn source_or_stored(&self, job: &Job) -> (Source, Chain, Range<usize>) {
        let source = self.source(job);
        let Some(prefix) = self.prefix.as_ref().filter(|_| self.options.reuse != Reuse::Nothing)
        else {
            return (source, Chain::default(), 0..0);
        };
        let prompt = &job.sequence.tokens()[..job.sequence.prompt_tokens()];
        let (chain, block) = (prefix.chain(prompt), self.engine.options.block);
        // The last token is computed in any case.
        let found = prefix.find(&chain, (prompt.len() - 1) / block as usize);
        if found as u32 * block <= source.tokens {
            return (source, chain, 0..0);
        }
        // Behind whole blocks of the session that are enough to choose its channels by.
        let whole = source.tokens / block * block;
        let source = match whole >= self.least_reused() {
            true => Source { tokens: whole, ..source },
            false => Source { from: From::Nowhere, tokens: 0 },
        };
        (source, chain, (source.tokens / block) as usize..found)
    }

    // Gives requests what was read for them since the last step.
    pub(super) async fn arrive(&mut self) {
        let Some(prefix) = &mut self.prefix else { return };
        // Where there is no step to take meanwhile, the first is waited for.
        let mut waits = self.running.iter().all(|active| active.arriving.is_some());
        let mut failed = Vec::new();
        for (at, active) in self.running.iter_mut().enumerate() {
            let Some(arriving) = &mut active.arriving else { continue };
            let tokens = active.job.sequence.tokens();
            let before = active.session.len();
            let most = active.job.prompt().min(before + prefix.piece_tokens());
            let needed = active.session.blocks_to(most);
            while self.engine.blocks_and_free().1 < needed && self.idle.forget() {}
            let (way, to) = ((&*self.engine, &mut self.arrivals), (&mut active.session, tokens));
            let waits = std::mem::take(&mut waits);
            let goes_on = match prefix.take(way, to, &mut active.chain, arriving, waits).await {
                Ok(goes_on) => goes_on,
                // There is no room for what was read: it is computed as soon as there is, and others may have to go for it.
                Err(Error::Argument { .. }) => false,
                Err(error) => {
                    failed.push((at, error));
                    continue;
                }
            };
            let held = active.job.sequence.reuse(active.session.tokens());
            let Arriving { counts, came, .. } = *arriving;
            if counts && let Some((_, reused)) = &mut active.job.began {
                *reused = held;
            }
            if held > before {
                active.moved = self.steps;
                active.job.tell_prefill(held);
            }
            if goes_on {
                continue;
            }
            active.arriving = None;
            self.shared.change(|stats| {
                stats.prefix.hits += u64::from(came > 0);
                stats.prefix.tokens += u64::from(came);
            });
            if counts {
                self.shared.count_found(held);
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
            (Stored::Full, Some(prefix)) => {
                let job = match select(self.jobs.next(), pin!(prefix.writer.wait())).await {
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
                    (Stored::Full, Some(prefix)) => prefix.writer.wait().await,
                    _ => break,
                }
            }
        }
        if let Some(prefix) = self.prefix.take() {
            prefix.finish().await;
        }
    }
}
