//! Many answers at a time over one engine: a step reads the weights once for all of them.
//!
//! A [`Batcher`] takes [`Request`]s and gives back the [`Events`] of each; the future that comes with it takes the steps. Prompts are read
//! beside the tokens of others, a piece a step. What a request's prompt has in common with a conversation that is there, running
//! or ended, is not computed again, and its blocks are held once ([`Reuse`]). A [`PrefixCache`] keeps blocks in a directory,
//! for later runs.
//!
//! ```no_run
//! use asynctls::attention::Attention;
//! use asynctls::engine::Engine;
//! use asynctls::generate::{AnswerOptions, Framing};
//! use asynctls::model::SamplerSettings;
//! use asynctls::serve::{Batcher, BatchOptions, Event, Request};
//!
//! # async fn run(engine: Engine, framing: Framing, prompts: Vec<Vec<u32>>) -> asynctls::Result<()> {
//! let options = BatchOptions::new(&engine, Attention::Dense);
//! let (batcher, steps) = Batcher::new(engine, framing, options)?;
//! let ask = |prompt| {
//!     let options = AnswerOptions::new(SamplerSettings::default(), Attention::Dense);
//!     batcher.submit(Request::new(prompt, options))
//! };
//! let answers: Vec<_> = prompts.into_iter().map(ask).collect::<asynctls::Result<_>>()?;
//! let read = async {
//!     for mut answer in answers {
//!         while let Some(event) = answer.next().await {
//!             if let Event::Piece(piece) = event {
//!                 print!("{}", piece.text);
//!             }
//!         }
//!     }
//!     drop(batcher);
//! };
//! // The steps end when no handle is left.
//! futures::future::join(steps, read).await;
//! # Ok(())
//! # }
//! ```

mod driver;
mod idle;
mod options;
mod policy;
mod prefix;
mod request;
mod shared;

pub use options::{BatchOptions, Reuse};
pub use prefix::{PrefixCache, PrefixStats};
pub use request::{Ended, Event, Events, Request};
pub use shared::Stats;

use crate::engine::Engine;
use crate::generate::{Framing, Sequence};
use crate::{Error, Result};
use driver::{Driver, Job};
use futures::channel::mpsc::{self, UnboundedSender};
use prefix::Prefix;
use shared::Shared;
use std::sync::Arc;

/// Answers many requests over one engine. A clone is another handle on the same.
#[derive(Clone)]
pub struct Batcher {
    engine: Arc<Engine>,
    framing: Arc<Framing>,
    options: Arc<BatchOptions>,
    jobs: UnboundedSender<Job>,
    shared: Arc<Shared>,
}

impl Batcher {
    /// A batcher, and the future that takes its steps: whoever has an executor or a thread runs it. It ends when no handle is left and
    /// all that was asked is answered, and when the device is lost, after all that was asked has failed; dropping it ends all requests, without an event.
    ///
    /// # Errors
    /// [`Error::Argument`] for options that the engine was not built for; [`Error::Write`] and [`Error::Io`] where there
    /// can be no prefix cache.
    pub fn new(
        engine: impl Into<Arc<Engine>>,
        framing: impl Into<Arc<Framing>>,
        options: BatchOptions,
    ) -> Result<(Self, impl Future<Output = ()> + Send + 'static)> {
        let (engine, framing, options) = (engine.into(), framing.into(), Arc::new(options));
        options.check(&engine)?;
        let shared = Arc::new(Shared::default());
        let (jobs, queue) = mpsc::unbounded();
        let prefix = options.prefix_cache.as_ref();
        let prefix = prefix.map(|prefix| Prefix::open(prefix, &engine, &shared)).transpose()?;
        let driver = Driver::new(engine.clone(), options.clone(), queue, shared.clone(), prefix);
        Ok((Self { engine, framing, options, jobs, shared }, driver.run()))
    }

    /// The engine.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// How prompts become tokens.
    pub fn framing(&self) -> &Arc<Framing> {
        &self.framing
    }

    /// The options.
    pub fn options(&self) -> &BatchOptions {
        &self.options
    }

    /// The most tokens that a prompt and its answer can have.
    pub fn context(&self) -> u32 {
        let options = &self.engine.options;
        options.context.min(u32::try_from(options.total_tokens).unwrap_or(u32::MAX))
    }

    /// Queues a request.
    ///
    /// # Errors
    /// [`Error::Busy`] where too many wait, or no more is taken; [`Error::Argument`] as [`Sequence::new`], and for unknown tokens and
    /// another attention than the batcher's.
    pub fn submit(&self, request: Request) -> Result<Events> {
        let Request { prompt, options, priority } = request;
        if options.attention != self.options.attention {
            let limit = "all requests of a batcher attend alike";
            return Err(Error::argument("the attention", "another one", limit));
        }
        let vocabulary = self.engine.config.vocabulary;
        if let Some(unknown) = prompt.iter().find(|token| **token >= vocabulary) {
            let limit = format!("the vocabulary has {vocabulary} tokens");
            return Err(Error::argument("a token id", unknown, limit));
        }
        let tokenizer = self.framing.tokenizer().clone();
        let sequence = Sequence::new(tokenizer, prompt, self.context(), &options, 0)?;
        let most = self.options.running as usize + self.options.queue;
        let pending = Shared::enter(&self.shared, most)?;
        let (sender, events) = mpsc::unbounded();
        let job = Job::new(sequence, priority, sender, pending);
        let ended = |_| Error::Busy("nobody takes steps any more".into());
        self.jobs.unbounded_send(job).map_err(ended)?;
        Ok(Events { events })
    }

    /// What there is, and what was done so far.
    pub fn stats(&self) -> Stats {
        self.shared.stats()
    }

    /// Takes no more requests, and waits for those that there are.
    pub async fn drain(&self) {
        self.shared.drain().await;
    }
}
