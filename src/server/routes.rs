//! What is at which path, and the way of a request from its bytes to its answer.

use super::answering::{Answering, Part, Telling};
use super::ask::{Ask, Prompt};
use super::body::{Bodies, Json};
use super::calls::{Calls, Format};
use super::fault::{Fault, Kind, Read};
use super::frame::Frame;
use super::reasoning::Reasoning;
use super::slots::Slots;
use super::{Boxed, Naming, ServerOptions, anthropic, body, doors, openai, plain};
use crate::generate::AnswerOptions;
use crate::model::random_seed;
use crate::serve::{Batcher, Request as Job};
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{Method, StatusCode, Uri};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::Response;
use axum::routing::{MethodRouter, get, post};
use serde_json::Value;
use std::convert::Infallible;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::watch;
use tokio::time::timeout;

const CHATS: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";
const RESPONSES: &str = "/v1/responses";
const MESSAGES: &str = "/v1/messages";

/// How long a stream is silent at most: what lies between may close one that is for longer.
const SILENCE: Duration = Duration::from_secs(10);

/// What all requests share.
pub(super) struct Server {
    pub(super) batcher: Batcher,
    pub(super) options: ServerOptions,
    pub(super) slots: Slots,
    bodies: Bodies,
    /// Whether what still runs is to end.
    ending: watch::Receiver<bool>,
    steps_ended: watch::Receiver<bool>,
    /// Answers so far, behind what no other run of the program has.
    base: u64,
    answers: AtomicU64,
    began: u64,
}

pub(super) type Shared = Arc<Server>;

/// The interfaces, as far as faults have the shape of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Interface {
    OpenAi,
    Anthropic,
}

impl Interface {
    /// That of a path. What belongs to neither is as OpenAI's.
    pub(super) fn of(path: &str) -> Self {
        if path == MESSAGES || path.starts_with("/v1/messages/") {
            Self::Anthropic
        } else {
            Self::OpenAi
        }
    }
}

/// A fault in the shape of an interface.
pub(super) fn refuse(interface: Interface, fault: &Fault) -> Response {
    let value = match interface {
        Interface::OpenAi => openai::error(fault),
        Interface::Anthropic => anthropic::error(fault),
    };
    let status = StatusCode::from_u16(fault.kind.status());
    let mut response = respond(
        status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
        "application/json",
        value.to_string(),
    );
    if fault.kind == Kind::Crowded {
        response.headers_mut().insert(RETRY_AFTER, body::RETRY_AFTER.into());
    }
    response
}

/// A response of this type.
pub(super) fn respond(status: StatusCode, kind: &'static str, text: String) -> Response {
    let mut response = Response::new(body::of(text));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, kind.parse().expect("a type is a header's value"));
    response
}

/// Does what may take a while, as reading a long body does, beside other requests.
pub(super) async fn beside<T: Send + 'static>(
    work: impl FnOnce() -> Read<T> + Send + 'static,
) -> Read<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| Fault::new(Kind::Broken, "the request could not be read"))?
}

/// Some JSON.
pub(super) fn json(value: &Value) -> Response {
    respond(StatusCode::OK, "application/json", value.to_string())
}

/// What answers at all paths.
pub(super) fn router(
    batcher: Batcher,
    options: ServerOptions,
    ending: watch::Receiver<bool>,
    steps_ended: watch::Receiver<bool>,
    is_local: bool,
) -> Router {
    let origins = doors::origins(&options.origins);
    let is_open_here = is_local && options.keys.is_empty();
    let bodies = Bodies::new(options.body_bytes, options.body_time);
    let server = Arc::new(Server {
        batcher,
        options,
        bodies,
        slots: Slots::default(),
        ending,
        steps_ended,
        base: random_seed(),
        answers: AtomicU64::new(0),
        began: now(),
    });
    let router = Router::new()
        .route(CHATS, answering(CHATS, openai::chat::read))
        .route(COMPLETIONS, answering(COMPLETIONS, openai::completions::read))
        .route(RESPONSES, answering(RESPONSES, openai::responses::read))
        .route(MESSAGES, answering(MESSAGES, anthropic::read))
        .route("/v1/messages/count_tokens", post(plain::count))
        .route("/v1/models", get(plain::models))
        .route("/v1/models/{model}", get(plain::model))
        .route("/tokenize", post(plain::tokenize))
        .route("/detokenize", post(plain::detokenize))
        .route("/health", get(plain::health))
        .route("/metrics", get(plain::metrics))
        .route("/slots", get(plain::slots))
        .route("/", get(plain::page))
        .fallback(|uri: Uri| async move {
            let path: String = uri.path().chars().take(60).collect();
            refuse(
                Interface::of(&path),
                &Fault::new(Kind::NotFound, format!("there is nothing at {path}")),
            )
        })
        .method_not_allowed_fallback(|method: Method, uri: Uri| async move {
            let path = uri.path();
            let message = format!("the method is {method}, but {path} takes another one");
            refuse(Interface::of(path), &Fault::new(Kind::Method, message))
        })
        .layer(from_fn_with_state(server.clone(), doors::keys))
        .layer(origins)
        .with_state(server);
    if is_open_here { router.layer(from_fn(doors::host)) } else { router }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Reads the bytes of an interface.
type Reader = fn(&[u8], &Naming) -> Read<(Ask, Boxed)>;

// What answers at a path whose requests are read so.
fn answering(path: &'static str, read: Reader) -> MethodRouter<Shared> {
    post(move |State(server): State<Shared>, request: Request| server.answer(path, request, read))
}

impl Server {
    /// When it began, in seconds of Unix.
    pub(super) fn began(&self) -> u64 {
        self.began
    }

    /// Whether it takes requests, and can answer them.
    pub(super) fn is_well(&self) -> bool {
        !*self.steps_ended.borrow() && !*self.ending.borrow()
    }

    /// A name for the next answer.
    pub(super) fn naming(&self) -> Naming {
        let number = self.answers.fetch_add(1, Ordering::Relaxed);
        let id = format!("{:08x}{number:08x}", self.base);
        Naming { id, created: now(), model: self.options.model.clone() }
    }

    /// The JSON of a request.
    pub(super) async fn bytes(&self, request: Request) -> Read<Json> {
        self.bodies.json(request).await
    }

    async fn answer(
        self: Arc<Self>,
        path: &'static str,
        request: Request,
        read: Reader,
    ) -> Response {
        match self.begin(path, request, read).await {
            Ok(response) => response,
            Err(fault) => refuse(Interface::of(path), &fault),
        }
    }

    async fn begin(&self, path: &'static str, request: Request, read: Reader) -> Read<Response> {
        let bytes = self.bytes(request).await?;
        let (naming, framing) = (self.naming(), self.batcher.framing().clone());
        let asked = beside(move || {
            let (Ask { prompt, wishes, tools, stream }, shape) = read(&bytes, &naming)?;
            drop(bytes);
            // Who writes the prompt is given all that follows it.
            let is_raw = matches!(prompt, Prompt::Text(_) | Prompt::Tokens(_));
            let grammar = wishes.form.as_ref().map(|form| form.grammar(&framing)).transpose()?;
            let prompt = prompt.tokens(&tools, &framing)?;
            let tokenizer = framing.tokenizer();
            let reasoning =
                if is_raw { Reasoning::none() } else { Reasoning::after(tokenizer, &prompt) };
            let (mut calls, mut shown) = (None, Vec::new());
            if tools.are_callable() {
                let source = framing.template_with_tools().unwrap_or_default();
                let format = Format::of(source, &tools).ok_or_else(|| {
                    let limit = "the model's chat template has calls in none of the ways that are known: Qwen's, \
                        Llama 3's, Mistral's and GLM's";
                    Fault::field("tools", "given", limit)
                })?;
                shown = format.tokens(tokenizer);
                calls = Some(Calls::new(format, tools));
            }
            let telling = Telling { reasoning, calls, stops: wishes.stop.clone(), shown };
            Ok((prompt, telling, wishes, grammar, stream, shape))
        });
        let (prompt, telling, wishes, grammar, stream, shape) = asked.await?;
        let prompt_tokens = prompt.len() as u32;
        let tokenizer = self.batcher.framing().tokenizer().clone();
        let options = AnswerOptions {
            max_tokens: wishes.max_tokens.unwrap_or(u32::MAX),
            stop: wishes.stop.clone(),
            shown: telling.shown.clone(),
            sampling: wishes.settings(self.options.sampling, self.options.seed),
            attention: self.batcher.options().attention,
            logprobs: wishes.logprobs,
            grammar,
            ignore_eos: wishes.ignore_eos,
        };
        let events = self.batcher.submit(Job::new(prompt, options)).map_err(|error| {
            let mut fault = Fault::from(error);
            if fault.kind == Kind::Busy && !self.is_well() {
                fault.kind = Kind::Stopping;
            }
            fault
        })?;
        let slot = self.slots.enter(path, prompt_tokens);
        let (longest, ending) = (self.options.answer_time, self.ending.clone());
        let answering = Answering::new(events, tokenizer, telling, longest, ending, slot);
        if stream {
            return Ok(streamed(answering, shape, prompt_tokens));
        }
        let whole = answering.whole().await?;
        Ok(respond(StatusCode::OK, "application/json", shape.whole(&whole)))
    }
}

/// A stream on its way.
struct Streaming {
    answering: Answering,
    shape: Boxed,
}

impl Streaming {
    // The next events as text; `None` after the last.
    async fn next(&mut self) -> Option<String> {
        let frames = match timeout(SILENCE, self.answering.next()).await {
            Err(_) => vec![Frame::Comment("waiting".into())],
            Ok(part) => match part? {
                Part::Prefill { reused, computed, all } => {
                    let progress =
                        serde_json::json!({"reused": reused, "computed": computed, "all": all});
                    vec![Frame::Comment(format!("prefill {progress}"))]
                }
                part => self.shape.part(part),
            },
        };
        Some(text(&frames))
    }
}

fn text(frames: &[Frame]) -> String {
    frames.iter().fold(String::new(), |mut text, frame| {
        // Into memory nothing fails.
        let _ = write!(text, "{frame}");
        text
    })
}

fn streamed(answering: Answering, mut shape: Boxed, prompt_tokens: u32) -> Response {
    let begin = text(&shape.begin(prompt_tokens));
    let streaming = Streaming { answering, shape };
    // What is not read yet waits in the batcher, which waits for nobody.
    let events =
        futures::stream::unfold((Some(begin), streaming), |(begin, mut streaming)| async {
            let text = match begin {
                Some(begin) => begin,
                None => streaming.next().await?,
            };
            Some((Ok::<_, Infallible>(text), (None, streaming)))
        });
    let mut response = Response::new(Body::from_stream(events));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, axum::http::HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, axum::http::HeaderValue::from_static("no-cache"));
    response
}
