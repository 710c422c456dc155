//! A step over any work: chunks of prompts, next tokens and drafts, of many sessions at a time.

use super::forward::GoesOn;
use super::record::Role;
use super::residency::Residency;
use super::{Engine, Output, Session};
use crate::attention::{Attended, Attention, TwoLevel, Want};
use crate::model::config::AttentionConfig;
use crate::{Error, Result};
use std::ops::Range;
use std::slice;

/// What a step does with one session.
#[derive(Debug)]
pub struct Work<'a> {
    /// The session.
    pub session: &'a mut Session,
    /// The tokens that it is extended by, at least one.
    pub tokens: &'a [u32],
    /// Whether they are a chunk of a prompt, of which every token attends all before it, in tiles. Otherwise they decode: each
    /// attends what the step's attention says, in splits, as if it had a step of its own.
    pub is_prompt: bool,
    /// What is wanted of them.
    pub want: Want,
}

impl<'a> Work<'a> {
    /// A chunk of a prompt.
    pub fn prompt(session: &'a mut Session, tokens: &'a [u32], want: Want) -> Self {
        Self { session, tokens, is_prompt: true, want }
    }

    /// The next token, and drafts of those that may follow it.
    pub fn decode(session: &'a mut Session, tokens: &'a [u32], want: Want) -> Self {
        Self { session, tokens, is_prompt: false, want }
    }

    // Tokens that are there to stay after the step: a caller may take drafts back.
    fn lasting(&self) -> u32 {
        self.session.len() + if self.is_prompt { self.tokens.len() as u32 } else { 1 }
    }

    // How many of its tokens are attended densely, the first ones.
    fn dense(&self, selection: Option<&TwoLevel>) -> usize {
        let count = self.tokens.len();
        let selection = selection.filter(|_| !self.is_prompt);
        selection.map_or(count, |two_level| {
            let before = two_level.budget.dense_below.saturating_sub(self.session.len());
            (before as usize).min(count)
        })
    }
}

impl Engine {
    /// Extends sessions by any work, in one pass through the layers: chunks of prompts beside single tokens and drafts. What is
    /// wanted comes back in the order of `works`.
    ///
    /// Each token that decodes has the result that it would have in a step of its own, up to the order of sums: of drafts each
    /// attends the drafts before it and selects among all blocks, those that its own step seals included. A caller that refuses
    /// drafts takes them back by [`Session::rewind`]. Sessions at or below `dense_below` tokens are attended densely.
    ///
    /// Results are the same, but layers are gone through several times, one part of the work after the other: where the KV cache
    /// is in CPU memory, for tokens that decode one by one, those that are attended alike together, and then for each prompt;
    /// where attention is latent, for tokens that decode and then for each prompt; and where drafts of a session begin at or
    /// below `dense_below` and end above it.
    ///
    /// # Errors
    /// [`Error::Argument`] for a work without tokens, unknown tokens, more tokens than the context holds, and more rows than
    /// the engine was built for (`chunk`, `decode_rows` and `logit_rows` of its [options](super::EngineOptions),
    /// [`Engine::chunk_tokens`] for prompts); else what the device answers. Every session then has the tokens that it had, as it
    /// has where nobody waits for the step any more, its future being dropped.
    pub async fn step(&self, works: &mut [Work<'_>], attention: &Attention) -> Result<Vec<Output>> {
        let selection = match attention {
            Attention::Dense => None,
            Attention::TwoLevel(two_level) => Some(two_level),
        };
        if let Some(two_level) = selection {
            self.check_selection(two_level)?;
        }
        self.check_works(works)?;
        let mut rounds = Rounds::begin(works);
        let made = self.step_by_rounds(rounds.works, selection).await;
        rounds.are_done = made.is_ok();
        made
    }

    /// Appends one token to each session and attends as `attention` says: [`Engine::step`] with a token of each.
    ///
    /// # Errors
    /// As [`Engine::step`].
    pub async fn decode(
        &self,
        batch: &mut [(&mut Session, u32)],
        attention: &Attention,
        want: Want,
    ) -> Result<Vec<Output>> {
        let works = batch.iter_mut();
        let mut works: Vec<Work<'_>> = works
            .map(|(session, token)| Work::decode(session, slice::from_ref(token), want))
            .collect();
        self.step(&mut works, attention).await
    }

    /// Tokens of a prompt that one step takes at most of a session as long as this one. Those of several prompts in a step are
    /// together as many as that of the longest session allows.
    pub fn chunk_tokens(&self, session: &Session) -> usize {
        self.chunk_tokens_at(session.len())
    }

    /// The same, of a session of so many tokens.
    pub(crate) fn chunk_tokens_at(&self, length: u32) -> usize {
        self.chunk(length, Want::Nothing)
    }

    fn check_works(&self, works: &[Work<'_>]) -> Result<()> {
        for work in works {
            if work.tokens.is_empty() {
                let limit = "at least one is needed";
                return Err(Error::argument("the tokens of a session in a step", 0, limit));
            }
            self.check_tokens(work.session, work.tokens)?;
        }
        let sum = |of: &dyn Fn(&Work<'_>) -> usize| works.iter().map(of).sum::<usize>();
        let prompts = |work: &Work<'_>| if work.is_prompt { work.tokens.len() } else { 0 };
        let rows = sum(&|work| work.tokens.len());
        let outputs = sum(&|work| work.want.outputs(work.tokens.len()));
        let chunk = works.iter().filter(|work| work.is_prompt);
        let chunk = chunk.map(|work| self.chunk_tokens(work.session)).min().unwrap_or(0);
        for (what, count, most) in [
            ("the tokens of prompts in a step", sum(&prompts), chunk),
            (
                "the tokens that decode in a step",
                rows - sum(&prompts),
                self.options.most_decoding() as usize,
            ),
            ("the tokens of a step", rows, self.options.most_rows() as usize),
            ("the rows whose logits are wanted", outputs, self.options.most_logits() as usize),
        ] {
            if count > most {
                let limit = format!("this engine takes {most} at most");
                return Err(Error::argument(what, count, limit));
            }
        }
        Ok(())
    }

    async fn step_by_rounds(
        &self,
        works: &mut [Work<'_>],
        selection: Option<&TwoLevel>,
    ) -> Result<Vec<Output>> {
        for work in works.iter_mut() {
            let selects = work.dense(selection) < work.tokens.len();
            // What was rewound is counted anew when channels are chosen, not for every draft that is refused before.
            let is_due = selects || self.chooses_channels(work.lasting());
            if is_due || work.session.lacks_cache() {
                self.recount(work.session).await?;
            }
        }
        let tasks: Vec<Task> = works.iter().map(|work| Task::new(work, selection)).collect();
        let mut outputs = vec![Output::default(); works.len()];
        for round in rounds(&tasks, self.mixes()) {
            let mut members: Vec<(Part, &mut Work<'_>)> = Vec::with_capacity(round.len());
            let mut parts = round.into_iter().peekable();
            for (i, work) in works.iter_mut().enumerate() {
                if let Some(part) = parts.next_if(|part| part.work == i) {
                    members.push((part, work));
                }
            }
            members.sort_by_key(|(part, _)| part.role.attended);
            for (part, work) in &mut members {
                if part.role.attended == Attended::Selected {
                    self.freeze(work.session).await?;
                }
            }
            let roles: Vec<Role> = members.iter().map(|(part, _)| part.role).collect();
            let mut batch: Vec<(&mut Session, &[u32])> = members
                .iter_mut()
                .map(|(part, work)| (&mut *work.session, &work.tokens[part.tokens.clone()]))
                .collect();
            let made = self.take_step(&mut batch, &roles, selection, &mut || true).await?;
            let made = made.unwrap_or_default();
            let (mut tokens, mut logits) = (made.tokens.into_iter(), made.logits.into_iter());
            for (part, _) in &members {
                let (want, output) = (part.role.want, &mut outputs[part.work]);
                let count = want.outputs(part.tokens.len());
                if want.is_token() {
                    output.tokens.extend(tokens.by_ref().take(count));
                } else {
                    output.logits.extend(logits.by_ref().take(count));
                }
            }
        }
        Ok(outputs)
    }

    // Whether so many tokens of a session choose its index channels.
    fn chooses_channels(&self, tokens: u32) -> bool {
        self.options.index.as_ref().is_some_and(|index| tokens >= index.stats_tokens)
    }

    fn mixes(&self) -> Mixes {
        match (&self.residency, &self.config.attention) {
            (Residency::Hot(_), _) => Mixes::Alike,
            (Residency::Whole(_), AttentionConfig::Latent(_)) => Mixes::Decoding,
            (Residency::Whole(_), AttentionConfig::Grouped(_)) => Mixes::Everything,
        }
    }

    /// Takes sessions through the layers, in the order of [`Attended`]. `None` where `goes_on` told that it does not: the sessions
    /// are as they were.
    pub(super) async fn take_step(
        &self,
        batch: &mut [(&mut Session, &[u32])],
        roles: &[Role],
        selection: Option<&TwoLevel>,
        goes_on: GoesOn<'_>,
    ) -> Result<Option<Output>> {
        let turn = self.runner.turn().await;
        self.gpu.check()?;
        let begun = self.begin(batch)?;
        let made = self.run(&begun, roles, selection, goes_on).await?;
        let Some(output) = made else { return Ok(None) };
        self.end(begun);
        drop(turn);
        for ((session, tokens), role) in batch.iter_mut().zip(roles) {
            let drafts = if role.attended == Attended::Prompt { 0 } else { tokens.len() - 1 };
            let lasting = session.len() - drafts as u32;
            if self.chooses_channels(lasting) && !session.is_miscounted {
                self.freeze(session).await?;
            }
        }
        Ok(Some(output))
    }
}

/// The works of a step, which goes round by round: sessions that some have extended have their tokens back where another fails,
/// or nobody waits for it any more.
struct Rounds<'a, 'w> {
    works: &'a mut [Work<'w>],
    lengths: Vec<u32>,
    are_done: bool,
}

impl<'a, 'w> Rounds<'a, 'w> {
    fn begin(works: &'a mut [Work<'w>]) -> Self {
        let lengths = works.iter().map(|work| work.session.len()).collect();
        Self { works, lengths, are_done: false }
    }
}

impl Drop for Rounds<'_, '_> {
    fn drop(&mut self) {
        if self.are_done {
            return;
        }
        for (work, &length) in self.works.iter_mut().zip(&self.lengths) {
            // Of one that is no longer than it was there is nothing to take back.
            let _ = work.session.rewind(length);
        }
    }
}

/// Which rows may go through the layers together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mixes {
    Everything,
    /// All that decode; each prompt by itself.
    Decoding,
    /// One token of each session, attended alike; each prompt by itself.
    Alike,
}

/// A work, as far as its parts follow from it.
#[derive(Clone, Copy, Debug)]
struct Task {
    tokens: usize,
    /// The first tokens that are attended densely.
    dense: usize,
    is_prompt: bool,
    want: Want,
}

/// Tokens of a work that go through the layers at a time.
#[derive(Clone, Debug, PartialEq)]
struct Part {
    work: usize,
    tokens: Range<usize>,
    role: Role,
}

impl Task {
    fn new(work: &Work<'_>, selection: Option<&TwoLevel>) -> Self {
        let Work { tokens, is_prompt, want, .. } = *work;
        Self { tokens: tokens.len(), dense: work.dense(selection), is_prompt, want }
    }

    fn part(&self, work: usize, tokens: Range<usize>) -> Part {
        let attended = match tokens.start < self.dense {
            _ if self.is_prompt => Attended::Prompt,
            true => Attended::Dense,
            false => Attended::Selected,
        };
        let is_wanted = tokens.end == self.tokens || self.want.is_of_every_row();
        let want = if is_wanted { self.want } else { Want::Nothing };
        Part { work, tokens, role: Role { attended, want } }
    }
}

/// The parts of works that go through the layers together, round by round.
fn rounds(tasks: &[Task], mixes: Mixes) -> Vec<Vec<Part>> {
    let all = || tasks.iter().enumerate();
    let mut rounds = Vec::new();
    if mixes == Mixes::Alike {
        let longest = all().filter(|(_, task)| !task.is_prompt).map(|(_, task)| task.tokens).max();
        for at in 0..longest.unwrap_or(0) {
            let here = all().filter(|(_, task)| !task.is_prompt && at < task.tokens);
            let parts: Vec<Part> = here.map(|(i, task)| task.part(i, at..at + 1)).collect();
            rounds.extend(alike(parts));
        }
    } else {
        // Where the dense ones end, a second round begins.
        let (mut first, mut second) = (Vec::new(), Vec::new());
        for (i, task) in all().filter(|(_, task)| !task.is_prompt || mixes == Mixes::Everything) {
            let cut = if task.dense == 0 { task.tokens } else { task.dense };
            first.push(task.part(i, 0..cut));
            if cut < task.tokens {
                second.push(task.part(i, cut..task.tokens));
            }
        }
        rounds.extend([first, second]);
    }
    if mixes != Mixes::Everything {
        let prompts = all().filter(|(_, task)| task.is_prompt);
        rounds.extend(prompts.map(|(i, task)| vec![task.part(i, 0..task.tokens)]));
    }
    rounds.retain(|round| !round.is_empty());
    rounds
}

// Parts of the same role together, the dense ones first.
fn alike(parts: Vec<Part>) -> Vec<Vec<Part>> {
    let mut groups: Vec<Vec<Part>> = Vec::new();
    for part in parts {
        match groups.iter_mut().find(|group| group[0].role == part.role) {
            Some(group) => group.push(part),
            None => groups.push(vec![part]),
        }
    }
    groups.sort_by_key(|group| group[0].role.attended == Attended::Selected);
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(tokens: usize, dense: usize, is_prompt: bool, want: Want) -> Task {
        Task { tokens, dense, is_prompt, want }
    }

    /// Work, tokens, how they are attended and what is wanted.
    type Flat = (usize, Range<usize>, Attended, Want);

    // Round by round.
    fn planned(mixes: Mixes) -> Vec<Vec<Flat>> {
        let tasks = [
            task(70, 70, true, Want::Nothing),
            // A token that selects, drafts that do, drafts of which the first do not yet, and a short session's.
            task(1, 0, false, Want::Token),
            task(3, 0, false, Want::EveryToken),
            task(4, 2, false, Want::Logits),
            task(1, 1, false, Want::Token),
        ];
        let flat = |part: Part| (part.work, part.tokens, part.role.attended, part.role.want);
        let rounds = rounds(&tasks, mixes).into_iter();
        rounds.map(|round| round.into_iter().map(flat).collect()).collect()
    }

    #[test]
    fn whatever_can_goes_through_the_layers_together() {
        use Attended::{Dense, Prompt, Selected};
        let drafts = [
            (1, 0..1, Selected, Want::Token),
            (2, 0..3, Selected, Want::EveryToken),
            (3, 0..2, Dense, Want::Nothing),
            (4, 0..1, Dense, Want::Token),
        ];
        let prompt = vec![(0, 0..70, Prompt, Want::Nothing)];
        let rest = vec![(3, 2..4, Selected, Want::Logits)];
        let all = [&prompt[..], &drafts[..]].concat();
        assert_eq!(planned(Mixes::Everything), [all, rest.clone()]);
        assert_eq!(planned(Mixes::Decoding), [drafts.to_vec(), rest, prompt]);
    }

    #[test]
    fn over_a_hot_cache_tokens_go_one_by_one() {
        use Attended::{Dense, Prompt, Selected};
        let one = |work, at, attended, want| vec![(work, at..at + 1, attended, want)];
        assert_eq!(
            planned(Mixes::Alike),
            [
                one(3, 0, Dense, Want::Nothing),
                one(4, 0, Dense, Want::Token),
                one(1, 0, Selected, Want::Token),
                one(2, 0, Selected, Want::EveryToken),
                one(3, 1, Dense, Want::Nothing),
                one(2, 1, Selected, Want::EveryToken),
                one(2, 2, Selected, Want::EveryToken),
                one(3, 2, Selected, Want::Nothing),
                one(3, 3, Selected, Want::Logits),
                vec![(0, 0..70, Prompt, Want::Nothing)],
            ]
        );
    }
}
