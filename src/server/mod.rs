//! A model over HTTP, by the interfaces of OpenAI and Anthropic.
//!
//! [`serve`] answers over a [`Batcher`]: each request is read strictly, put into our own words, answered, and given back in the shape of
//! its interface, at once or as a stream. `docs/server.md` says what there is.

mod answering;
mod anthropic;
mod ask;
mod body;
mod calls;
mod connections;
mod doors;
mod fault;
mod fields;
mod form;
mod frame;
mod logprobs;
mod metrics;
mod openai;
mod plain;
mod reasoning;
mod routes;
mod schema;
mod slots;
mod tools;

use crate::model::SamplerSettings;
use crate::serve::Batcher;
use crate::{Error, Result};
use connections::Limits;
use frame::Shape;
use std::cell::Cell;
use std::future::Future;
use std::net::TcpListener;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::sleep;

/// How often it is looked whether the server shall stop.
const LOOK: Duration = Duration::from_millis(50);

/// How long there is to write that answers end.
const LAST: Duration = Duration::from_secs(1);
/// Bodies that are read and made tokens at a time: each may take a core.
const READING: usize = 4;

/// How a server answers.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// The model's name, as requests say it.
    pub model: String,
    /// How tokens are chosen where a request says nothing of it.
    pub sampling: SamplerSettings,
    /// The seed of requests that name none; else each has a random one.
    pub seed: Option<u64>,
    /// Keys, of which a request has to show one; none: everybody may ask.
    pub keys: Vec<String>,
    /// Origins of pages that may ask besides the server's own; `*`: all.
    pub origins: Vec<String>,
    /// Bytes that a request may have.
    pub body_bytes: usize,
    /// Time that its bytes may take.
    pub body_time: Duration,
    /// Time that an answer may take.
    pub answer_time: Duration,
    /// Time that running answers have once the server shall stop.
    pub grace: Duration,
}

impl ServerOptions {
    /// A server for everybody who reaches it: 32 MiB and a minute for a request's bytes, an hour for an answer, half a minute at the end.
    pub fn new(model: impl Into<String>, sampling: SamplerSettings) -> Self {
        Self {
            model: model.into(),
            sampling,
            seed: None,
            keys: Vec::new(),
            origins: Vec::new(),
            body_bytes: 32 << 20,
            body_time: Duration::from_secs(60),
            answer_time: Duration::from_secs(3600),
            grace: Duration::from_secs(30),
        }
    }

    /// Whether the values make sense.
    ///
    /// # Errors
    /// [`Error::Argument`].
    pub fn validate(&self) -> Result<()> {
        self.sampling.validate()?;
        // Both go into a header, byte by byte.
        let is_word =
            |text: &String| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
        if !self.keys.iter().all(is_word) {
            let limit = "it must be ASCII, without blanks, and not empty";
            return Err(Error::argument("a key", "something else", limit));
        }
        if let Some(origin) = self.origins.iter().find(|origin| !is_word(origin)) {
            let limit = "it must be an origin such as https://example.org, or *";
            return Err(Error::argument("an origin", format!("{origin:?}"), limit));
        }
        Ok(())
    }
}

/// What an answer is called.
#[derive(Clone, Debug)]
struct Naming {
    id: String,
    created: u64,
    model: String,
}

type Boxed = Box<dyn Shape>;

/// Answers requests until `stop` tells to, then those that run for [`ServerOptions::grace`]. `steps` came with the batcher, and is run on a thread
/// of its own.
///
/// # Errors
/// [`Error::Argument`] for options that make no sense; [`Error::Io`] where the system has no thread or no more connections;
/// [`Error::Gpu`] where the steps ended before `stop` told to, as they do when the GPU is lost.
pub fn serve(
    listener: TcpListener,
    batcher: Batcher,
    steps: impl Future<Output = ()> + Send + 'static,
    options: ServerOptions,
    stop: impl Fn() -> bool,
) -> Result<()> {
    options.validate()?;
    let io = |source| Error::Io { path: "the network".into(), source };
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().max_blocking_threads(READING).build()
    };
    let stepping = runtime().map_err(io)?;
    let builder = std::thread::Builder::new().name("steps".into());
    let (ended, steps_ended) = watch::channel(false);
    let steps = builder.spawn(move || {
        // Told too where a step panics.
        let _ended = Ending(ended);
        stepping.block_on(steps);
    });
    let steps = steps.map_err(io)?;
    let is_broken = Cell::new(false);
    let broken = &is_broken;
    let served = runtime().map_err(io)?.block_on(async move {
        listener.set_nonblocking(true)?;
        let is_local = listener.local_addr()?.ip().is_loopback();
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let (ending, running) = watch::channel(false);
        let (closing, mut asked) = watch::channel(false);
        let grace = options.grace;
        let router = routes::router(batcher, options, running, steps_ended.clone(), is_local);
        let serving = connections::serve(listener, router, Limits::default(), async move {
            let _ = asked.wait_for(|closing| *closing).await;
        });
        let until = async {
            while !stop() && !broken.get() {
                sleep(LOOK).await;
                broken.set(*steps_ended.borrow());
            }
            closing.send_replace(true);
            // All has failed already where no step is taken any more.
            if !broken.get() {
                sleep(grace).await;
            }
            ending.send_replace(true);
            // Who does not read that it ends is not waited for.
            sleep(LAST).await;
        };
        tokio::select! {
            () = serving => {}
            () = until => {}
        }
        Ok(())
    });
    // The router, with the last handles on the batcher, went with the runtime.
    let stepped = steps.join();
    served.map_err(io)?;
    if stepped.is_err() {
        return Err(Error::Gpu("a step panicked".into()));
    }
    if is_broken.get() {
        return Err(Error::Gpu("it was lost, and nothing more could be answered".into()));
    }
    Ok(())
}

/// Tells that it is gone.
struct Ending(watch::Sender<bool>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.send_replace(true);
    }
}
