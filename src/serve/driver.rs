//! Takes the steps of a batcher over an engine, as the policy says.

mod stored;

use super::idle::{Idle, Kept};
use super::policy::{self, Change, Limits, Needs, Rank, Running, Share, Waiting};
use super::prefix::arriving::Arriving;
use super::prefix::{Chain, Prefix};
use super::shared::{Pending, Shared};
use super::{BatchOptions, Ended, Event, Reuse};
use crate::engine::{Arrivals, Engine, Session, Want, Work};
use crate::generate::{End, Sequence};
use crate::{Error, Result};
use futures::channel::mpsc::{UnboundedReceiver, UnboundedSender};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A request on its way.
pub(super) struct Job {
    sequence: Sequence,
    priority: i32,
    events: UnboundedSender<Event>,
    submitted: Instant,
    /// Time until it was admitted for the first time, and what it found then.
    began: Option<(Duration, u32)>,
    /// Whether what it found is counted: once all of that has come.
    is_counted: bool,
    /// Tokens that came from the prefix cache, and are not counted yet.
    came: u32,
    first_token: Duration,
    preempted: u32,
    /// Counted as long as it is there.
    _pending: Pending,
}

impl Job {
    pub(super) fn new(
        sequence: Sequence,
        priority: i32,
        events: UnboundedSender<Event>,
        pending: Pending,
    ) -> Self {
        Self {
            sequence,
            priority,
            events,
            submitted: Instant::now(),
            began: None,
            is_counted: false,
            came: 0,
            first_token: Duration::ZERO,
            preempted: 0,
            _pending: pending,
        }
    }

    // Nobody listening is no error: it is seen before the next step.
    fn tell(&self, event: Event) {
        let _ = self.events.unbounded_send(event);
    }

    // Notes what it begins with, as long as that is not counted.
    fn found(&mut self, tokens: u32) {
        let queued = self.began.map_or_else(|| self.submitted.elapsed(), |(queued, _)| queued);
        if !self.is_counted {
            self.began = Some((queued, tokens.min(self.prompt())));
        }
    }

    // Counts what it began with, once: when nothing more of it comes.
    fn count(&mut self, shared: &Shared) {
        let came = std::mem::take(&mut self.came);
        let is_first = !std::mem::replace(&mut self.is_counted, true);
        let found = self.began.map_or(0, |(_, found)| found);
        shared.change(|stats| {
            stats.prefix.hits += u64::from(came > 0);
            stats.prefix.tokens += u64::from(came);
            stats.hits += u64::from(is_first && found > 0);
            stats.reused_tokens += if is_first { u64::from(found) } else { 0 };
        });
    }

    fn prompt(&self) -> u32 {
        self.sequence.prompt_tokens() as u32
    }

    fn tell_prefill(&self, held: u32) {
        let reused = self.began.map_or(0, |(_, reused)| reused);
        let computed = held.min(self.prompt()).saturating_sub(reused);
        self.tell(Event::Prefill { reused, computed, all: self.prompt() });
    }

    fn ended(&self, end: End) -> Ended {
        let (queued, reused_tokens) = self.began.unwrap_or_default();
        Ended {
            end,
            prompt_tokens: self.prompt(),
            reused_tokens,
            answer_tokens: self.sequence.answer().len() as u32,
            preempted: self.preempted,
            queued,
            first_token: self.first_token,
            total: self.submitted.elapsed(),
        }
    }
}

/// A request in its place among others.
struct Queued {
    job: Job,
    rank: Rank,
}

/// A request that runs.
struct Active {
    job: Job,
    rank: Rank,
    session: Session,
    /// The keys of its blocks.
    chain: Chain,
    /// What comes of it from the prefix cache before its first step.
    arriving: Option<Arriving>,
    moved: u64,
}

impl Active {
    // Tokens of the prompt that its session lacks.
    fn prompt_left(&self) -> u32 {
        self.job.prompt().saturating_sub(self.session.len())
    }

    // What is left of it once its request is over or waits again.
    fn kept(self) -> Kept {
        Kept { read: self.job.prompt(), session: self.session, chain: self.chain }
    }
}

/// Where a request's first tokens come from.
#[derive(Clone, Copy, Debug, Default)]
struct Source {
    from: From,
    tokens: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum From {
    #[default]
    Nowhere,
    Running(usize),
    Idle(usize),
}

pub(super) struct Driver {
    engine: Arc<Engine>,
    options: Arc<BatchOptions>,
    jobs: UnboundedReceiver<Job>,
    shared: Arc<Shared>,
    waiting: Vec<Queued>,
    running: Vec<Active>,
    idle: Idle,
    prefix: Option<Prefix>,
    arrivals: Arrivals,
    steps: u64,
    numbers: u64,
    /// Why no further step can be taken.
    lost: Option<Error>,
}

impl Driver {
    pub(super) fn new(
        engine: Arc<Engine>,
        options: Arc<BatchOptions>,
        jobs: UnboundedReceiver<Job>,
        shared: Arc<Shared>,
        prefix: Option<Prefix>,
    ) -> Self {
        Self {
            engine,
            options,
            jobs,
            shared,
            waiting: Vec::new(),
            running: Vec::new(),
            idle: Idle::default(),
            prefix,
            arrivals: Arrivals::default(),
            steps: 0,
            numbers: 0,
            lost: None,
        }
    }

    /// Takes steps until no handle is left and all is answered, or the device is lost.
    pub(super) async fn run(mut self) {
        while self.lost.is_none() {
            while let Ok(job) = self.jobs.try_recv() {
                self.queue(job);
            }
            self.let_go();
            self.admit().await;
            self.publish();
            if !self.running.is_empty() {
                self.arrive().await;
                self.step().await;
                // Who has an answer is no longer running, though storing what it left may take a while.
                self.publish();
                self.store().await;
            } else if let Some(first) = self.first() {
                let stuck = self.waiting.remove(first);
                let limit = "the cache has too few blocks for it";
                let tokens = format!("{} tokens", stuck.job.sequence.tokens().len());
                self.fail(&stuck.job, Error::argument("the prompt", tokens, limit));
            } else if !self.rest().await {
                break;
            }
        }
        self.give_up();
        self.store_all().await;
    }

    // Takes no more requests, and fails those that there are.
    fn give_up(&mut self) {
        let Some(lost) = self.lost.take() else { return };
        self.jobs.close();
        while let Ok(job) = self.jobs.try_recv() {
            self.queue(job);
        }
        for job in std::mem::take(&mut self.waiting).into_iter().map(|queued| queued.job) {
            self.fail(&job, again(&lost));
        }
        for job in std::mem::take(&mut self.running).into_iter().map(|active| active.job) {
            self.fail(&job, again(&lost));
        }
        self.publish();
    }

    // The place of the one that would be next.
    fn first(&self) -> Option<usize> {
        (0..self.waiting.len()).min_by_key(|at| self.waiting[*at].rank)
    }

    fn queue(&mut self, job: Job) {
        let rank = Rank::new(self.numbers, self.steps, job.priority, self.options.patience);
        self.numbers += 1;
        self.waiting.push(Queued { job, rank });
    }

    // Lets go of requests that nobody listens to any more.
    fn let_go(&mut self) {
        let before = self.waiting.len() + self.running.len();
        let over = |queued: &mut Queued| queued.job.events.is_closed();
        for mut queued in self.waiting.extract_if(.., over) {
            queued.job.count(&self.shared);
        }
        let over = |active: &mut Active| active.job.events.is_closed();
        for mut active in self.running.extract_if(.., over) {
            active.job.count(&self.shared);
            self.idle.keep(active.kept());
        }
        let gone = before - self.waiting.len() - self.running.len();
        self.shared.change(|stats| stats.cancelled += gone as u64);
    }

    fn fail(&mut self, job: &Job, error: Error) {
        if let Error::DeviceLost(_) = &error {
            self.lost = Some(again(&error));
        }
        job.tell(Event::Failed(error));
        self.shared.change(|stats| stats.failed += 1);
    }

    fn publish(&self) {
        let (blocks, free) = self.engine.blocks_and_free();
        self.shared.change(|stats| {
            stats.queued = self.waiting.len() as u32;
            stats.running = self.running.len() as u32;
            stats.kept = self.idle.len() as u32;
            (stats.blocks, stats.used_blocks) = (blocks, blocks - free);
            stats.steps = self.steps;
        });
    }

    // Tokens that there has to be room for when a request begins, or goes on.
    fn reserved(&self, job: &Job) -> u32 {
        let held = job.sequence.tokens().len() as u32;
        let reserve = job.prompt().saturating_add(self.options.reserve).max(held);
        reserve.min(job.sequence.most_tokens() as u32)
    }

    fn snapshot<'a>(&self, running: impl Iterator<Item = &'a Active>) -> Vec<Running> {
        let of = |active: &Active| {
            let prompt = active.prompt_left();
            let decode = active.job.sequence.next_tokens().len() as u32 - prompt;
            Running {
                rank: active.rank,
                priority: active.job.priority,
                length: active.session.len(),
                prompt,
                decode,
                hot: self.engine.hot_needs(&active.session, &self.options.attention),
                needs: active.session.blocks_to(self.reserved(&active.job)),
                alone: active.session.blocks_alone(),
                moved: active.moved,
            }
        };
        running.map(of).collect()
    }

    // Asks the policy about all that run, with the limits of the engine.
    fn ask<T>(&self, question: impl FnOnce(&[Running], &Limits<'_>) -> T) -> T {
        self.ask_of(&self.snapshot(self.running.iter()), question)
    }

    fn ask_of<T>(
        &self,
        running: &[Running],
        question: impl FnOnce(&[Running], &Limits<'_>) -> T,
    ) -> T {
        let options = &self.engine.options;
        let chunk = |length: u32| self.engine.chunk_tokens_at(length);
        let decoding = options.most_decoding() as usize;
        let limits = Limits {
            running: self.options.running as usize,
            rows: (self.options.step_tokens as usize).min(options.most_rows() as usize),
            decoding,
            hot: self.engine.hot_blocks(),
            chunk: &chunk,
            patience: self.options.patience,
        };
        question(running, &limits)
    }

    async fn admit(&mut self) {
        loop {
            let held = self.engine.held(self.running.iter().map(|active| &active.session));
            let available = self.engine.blocks_and_free().0 - held.count();
            let place =
                |queued: &Queued| Waiting { rank: queued.rank, priority: queued.job.priority };
            let waiting: Vec<Waiting> = self.waiting.iter().map(place).collect();
            let mut needs = |number: u64| {
                let of = |queued: &&Queued| queued.rank.number() == number;
                let job = &self.waiting.iter().find(of).expect("it waits").job;
                let source = self.source(job);
                if self.is_computed_by_another(job, source.tokens) {
                    return Needs::Another;
                }
                let block = self.engine.options.block;
                let shared = self
                    .session(source.from)
                    .map_or(0, |session| held.shared(session, source.tokens / block));
                let copied = u32::from(!source.tokens.is_multiple_of(block));
                Needs::Blocks(self.reserved(job).div_ceil(block) - shared + copied)
            };
            let change = self.ask(|running, limits| {
                policy::admission(&waiting, running, available, limits, &mut needs)
            });
            match change {
                Some(Change::Admit(number)) => self.begin(number).await,
                Some(Change::Preempt(number)) => self.preempt(number),
                None => return,
            }
        }
    }

    fn session(&self, from: From) -> Option<&Session> {
        match from {
            From::Nowhere => None,
            From::Running(at) => Some(&self.running[at].session),
            From::Idle(at) => self.idle.iter().nth(at).map(|kept| &kept.session),
        }
    }

    // The fewest tokens that are worth a fork: they share a block.
    fn least_reused(&self) -> u32 {
        self.engine.least_reused().max(self.engine.options.block)
    }

    // The session that begins with the most of a request's tokens.
    fn source(&self, job: &Job) -> Source {
        let mut best = Source::default();
        if self.options.reuse == Reuse::Nothing {
            return best;
        }
        let running = self
            .running
            .iter()
            .enumerate()
            .map(|(at, active)| (From::Running(at), &active.session, active.job.prompt()));
        let idle = self.idle.iter().enumerate();
        let idle = idle.map(|(at, kept)| (From::Idle(at), &kept.session, kept.read));
        for (from, session, read) in running.chain(idle) {
            let common = job.sequence.common(session.tokens());
            let tokens = self.options.reusable(common, read);
            // Of those that hold as many, one that ends there is taken as it is.
            let is_better = tokens > best.tokens
                || tokens == best.tokens
                    && matches!(from, From::Idle(_))
                    && tokens == session.len();
            if is_better && tokens >= self.least_reused() && self.engine.is_reusable(session) {
                best = Source { from, tokens };
            }
        }
        best
    }

    // Whether a prompt that is being read begins with a block more of a request's tokens than are there.
    fn is_computed_by_another(&self, job: &Job, found: u32) -> bool {
        let most = |active: &Active| {
            let prompt = &active.job.sequence.tokens()[..active.job.sequence.prompt_tokens()];
            job.sequence.common(prompt)
        };
        let reading = self.running.iter().filter(|active| active.prompt_left() > 0);
        let later = reading.map(most).max().unwrap_or(0);
        let is_more = later >= found + self.engine.options.block;
        self.options.reuse != Reuse::Nothing && is_more && later >= self.least_reused()
    }

    async fn begin(&mut self, number: u64) {
        let of = |queued: &Queued| queued.rank.number() == number;
        let at = self.waiting.iter().position(of).expect("it waits");
        let Queued { mut job, rank } = self.waiting.remove(at);
        let source = self.source(&job);
        match self.session_from(source).await {
            Ok(mut session) => {
                let reused = job.sequence.reuse(&session.tokens()[..source.tokens as usize]);
                if let Err(error) = session.rewind(reused) {
                    return self.fail(&job, error);
                }
                job.found(reused);
                let (chain, arriving) = self.stored(&job, reused);
                if arriving.is_none() {
                    job.count(&self.shared);
                }
                job.tell_prefill(reused);
                self.running.push(Active {
                    job,
                    rank,
                    session,
                    chain,
                    arriving,
                    moved: self.steps,
                });
            }
            Err(error) => self.fail(&job, error),
        }
    }

    // A session that holds the source's tokens, and maybe more.
    async fn session_from(&mut self, source: Source) -> Result<Session> {
        let sessions = self.engine.options.sessions as usize;
        let has_slot = |driver: &Self| driver.running.len() + driver.idle.len() < sessions;
        let mut from = source.from;
        if let From::Idle(at) = from {
            let is_whole = self.session(from).is_some_and(|one| one.len() == source.tokens);
            if is_whole || (!has_slot(self) && self.idle.len() == 1) {
                return Ok(self.idle.take(at).session);
            }
            self.idle.touch(at);
        }
        while !has_slot(self) && self.idle.forget() {}
        if let From::Idle(_) = from {
            // The one used last.
            from = From::Idle(self.idle.len() - 1);
        }
        match from {
            From::Nowhere => self.engine.session(),
            From::Running(at) => self.engine.fork(&mut self.running[at].session).await,
            From::Idle(at) => self.engine.fork(&mut self.idle.touch(at).session).await,
        }
    }

    fn preempt(&mut self, number: u64) {
        let of = |active: &Active| active.rank.number() == number;
        let Some(at) = self.running.iter().position(of) else { return };
        let Active { mut job, rank, session, chain, .. } = self.running.remove(at);
        job.preempted += 1;
        self.shared.change(|stats| stats.preempted += 1);
        // It finds what nobody took of them when it goes on.
        self.idle.keep(Kept { session, read: job.prompt(), chain });
        self.waiting.push(Queued { job, rank });
    }

    // The parts of the next step, for which there are blocks.
    fn plan(&mut self) -> Vec<Share> {
        loop {
            let ready = self.running.iter().filter(|active| active.arriving.is_none());
            let shares = self.ask_of(&self.snapshot(ready), policy::step);
            let needed = |share: &Share| {
                let of = |active: &&Active| active.rank.number() == share.number;
                let active = self.running.iter().find(of).expect("it runs");
                active.session.blocks_to(active.session.len() + share.tokens as u32)
            };
            let needed: u32 = shares.iter().map(needed).sum();
            while self.engine.blocks_and_free().1 < needed && self.idle.forget() {}
            if self.engine.blocks_and_free().1 >= needed {
                return shares;
            }
            match self.ask(|running, _| policy::outgrown(running)) {
                Some(number) => self.preempt(number),
                None => return shares,
            }
        }
    }

    async fn step(&mut self) {
        let shares = self.plan();
        let (mut works, mut parts) = (Vec::new(), Vec::new());
        for (at, active) in self.running.iter_mut().enumerate() {
            let of = |share: &&Share| share.number == active.rank.number();
            let Some(share) = shares.iter().find(of) else { continue };
            let Active { job, session, .. } = active;
            let next = job.sequence.next_tokens();
            let is_last = share.tokens == next.len();
            let want = if is_last { job.sequence.want() } else { Want::Nothing };
            let (tokens, is_prompt) = (&next[..share.tokens], share.is_prompt);
            works.push(Work { session, tokens, is_prompt, want });
            parts.push((at, share, is_last));
        }
        if works.is_empty() {
            return;
        }
        let made = self.engine.step(&mut works, &self.options.attention).await;
        self.steps += 1;
        let outputs = match made {
            Ok(outputs) => outputs,
            Err(error) => {
                let over: Vec<usize> = parts.iter().map(|(at, ..)| *at).collect();
                return self.fail_all(&over, &error);
            }
        };
        let mut over = Vec::new();
        for ((at, share, is_last), output) in parts.into_iter().zip(outputs) {
            let active = &mut self.running[at];
            active.moved = self.steps;
            let job = &mut active.job;
            if share.is_prompt {
                self.shared.change(|stats| stats.prompt_tokens += share.tokens as u64);
                job.tell_prefill(active.session.len());
            }
            if !is_last {
                job.sequence.advance(share.tokens);
                continue;
            }
            match job.sequence.accept(&output) {
                Ok(piece) => {
                    if job.first_token.is_zero() {
                        job.first_token = job.submitted.elapsed();
                    }
                    let tokens = piece.tokens.len() as u64;
                    self.shared.change(|stats| stats.answer_tokens += tokens);
                    job.tell(Event::Piece(piece));
                    if let Some(end) = job.sequence.end() {
                        job.tell(Event::End(job.ended(end)));
                        self.shared.change(|stats| stats.ended += 1);
                        over.push(at);
                    }
                }
                Err(error) => {
                    job.tell(Event::Failed(error));
                    self.shared.change(|stats| stats.failed += 1);
                    over.push(at);
                }
            }
        }
        self.put_aside(&over);
    }

    // Keeps what sessions hold of requests that are over.
    fn put_aside(&mut self, over: &[usize]) {
        for &at in over.iter().rev() {
            let active = self.running.remove(at);
            self.idle.keep(active.kept());
        }
    }

    // The requests of a step that failed fail. Their sessions are what they were.
    fn fail_all(&mut self, over: &[usize], error: &Error) {
        for &at in over.iter().rev() {
            let mut active = self.running.remove(at);
            active.job.count(&self.shared);
            self.fail(&active.job, again(error));
            self.idle.keep(active.kept());
        }
    }
}

// The same error for another request.
fn again(error: &Error) -> Error {
    match error {
        Error::Argument { what, value, limit } => Error::argument(what, value, limit),
        Error::DeviceLost(reason) => Error::DeviceLost(reason.clone()),
        Error::OutOfMemory { what, bytes, detail } => {
            let (what, bytes, detail) = (what.clone(), *bytes, detail.clone());
            Error::OutOfMemory { what, bytes, detail }
        }
        Error::Gpu(reason) => Error::Gpu(reason.clone()),
        other => Error::Gpu(other.to_string()),
    }
}
