//! The requests that are there, and what was measured of those that ended.

use crate::serve::Ended;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

/// Upper ends of the classes of times, in seconds.
pub(super) const CLASSES: [f64; 12] =
    [0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0];

/// Times, counted by class.
#[derive(Clone, Debug, Default)]
pub(super) struct Times {
    /// As many as are no longer than the class's upper end.
    pub(super) up_to: [u64; CLASSES.len()],
    pub(super) count: u64,
    pub(super) sum: f64,
}

impl Times {
    fn add(&mut self, seconds: f64) {
        for (count, class) in self.up_to.iter_mut().zip(CLASSES) {
            *count += u64::from(seconds <= class);
        }
        self.count += 1;
        self.sum += seconds;
    }
}

/// What was measured of all answers.
#[derive(Clone, Debug, Default)]
pub(super) struct Measured {
    /// Until a request was begun.
    pub(super) queued: Times,
    /// Until its first token.
    pub(super) first_token: Times,
    /// Between one token and the next, in the mean of an answer.
    pub(super) token: Times,
    /// Until its end.
    pub(super) total: Times,
}

/// What a request is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Queued,
    Prompt,
    Answer,
}

#[derive(Clone, Debug)]
struct Entry {
    path: &'static str,
    state: State,
    prompt_tokens: u32,
    reused_tokens: u32,
    computed_tokens: u32,
    answer_tokens: u32,
    since: Instant,
}

/// A request as `/slots` tells it.
#[derive(Debug, Serialize)]
pub(super) struct Shown {
    id: u64,
    path: &'static str,
    state: State,
    prompt_tokens: u32,
    reused_tokens: u32,
    computed_tokens: u32,
    answer_tokens: u32,
    seconds: f64,
}

#[derive(Debug, Default)]
struct All {
    next: u64,
    entries: BTreeMap<u64, Entry>,
    measured: Measured,
}

/// All requests that are there.
#[derive(Clone, Debug, Default)]
pub(super) struct Slots(Arc<Mutex<All>>);

impl Slots {
    // Each change leaves the whole sound, whoever panicked.
    fn lock(&self) -> MutexGuard<'_, All> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// One more.
    pub(super) fn enter(&self, path: &'static str, prompt_tokens: u32) -> Slot {
        let mut all = self.lock();
        let id = all.next;
        all.next += 1;
        let entry = Entry {
            path,
            state: State::Queued,
            prompt_tokens,
            reused_tokens: 0,
            computed_tokens: 0,
            answer_tokens: 0,
            since: Instant::now(),
        };
        all.entries.insert(id, entry);
        Slot { id, slots: self.clone() }
    }

    /// The requests, the oldest first.
    pub(super) fn shown(&self) -> Vec<Shown> {
        let show = |(id, entry): (&u64, &Entry)| {
            let Entry { path, state, prompt_tokens, reused_tokens, .. } = *entry;
            let Entry { computed_tokens, answer_tokens, since, .. } = *entry;
            let seconds = since.elapsed().as_secs_f64();
            let id = *id;
            Shown {
                id,
                path,
                state,
                prompt_tokens,
                reused_tokens,
                computed_tokens,
                answer_tokens,
                seconds,
            }
        };
        self.lock().entries.iter().map(show).collect()
    }

    /// What was measured so far.
    pub(super) fn measured(&self) -> Measured {
        self.lock().measured.clone()
    }
}

/// The entry of a request, as long as it is there.
#[derive(Debug)]
pub(super) struct Slot {
    id: u64,
    slots: Slots,
}

impl Slot {
    fn change(&self, change: impl FnOnce(&mut Entry)) {
        if let Some(entry) = self.slots.lock().entries.get_mut(&self.id) {
            change(entry);
        }
    }

    pub(super) fn prefill(&self, reused: u32, computed: u32, all: u32) {
        self.change(|entry| {
            entry.state = State::Prompt;
            (entry.reused_tokens, entry.computed_tokens) = (reused, computed);
            entry.prompt_tokens = all;
        });
    }

    pub(super) fn answered(&self, tokens: u32) {
        self.change(|entry| {
            entry.state = State::Answer;
            entry.answer_tokens = tokens;
        });
    }

    pub(super) fn ended(&self, ended: &Ended) {
        let mut all = self.slots.lock();
        let measured = &mut all.measured;
        measured.queued.add(ended.queued.as_secs_f64());
        measured.total.add(ended.total.as_secs_f64());
        if ended.answer_tokens > 0 {
            measured.first_token.add(ended.first_token.as_secs_f64());
        }
        if ended.answer_tokens > 1 {
            let rest = ended.total.saturating_sub(ended.first_token).as_secs_f64();
            measured.token.add(rest / f64::from(ended.answer_tokens - 1));
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.slots.lock().entries.remove(&self.id);
    }
}
