//! A client of OpenAI's chats.

use super::super::super::interrupt;
use super::answer::{Answer, CUT, Heard, refusal};
use super::load::Length;
use asynctls::{Error, Result};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, ErrorKind};
use std::time::{Duration, Instant};
use ureq::http::Response;
use ureq::{Agent, Body, RequestBuilder, Timeout};

type Sent = std::result::Result<Response<Body>, ureq::Error>;

/// The longest that a connection may take: a server that is there is reached sooner.
const CONNECT: Duration = Duration::from_secs(10);

/// A server, and the model that is asked there.
pub struct Client {
    agent: Agent,
    /// Its address, without `/v1`.
    base: String,
    key: Option<String>,
    /// The longest that a request may take.
    limit: Duration,
    pub model: String,
}

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    Done,
    /// It was dropped amid its answer, as it was to be, or since the user asked to end.
    Cancelled,
    /// For this reason.
    Failed(String),
}

/// A request, and what came of it.
#[derive(Clone, Debug)]
pub struct Asked {
    pub answer: Answer,
    pub end: End,
}

impl Client {
    /// Asks for the model's name, unless it was said.
    ///
    /// # Errors
    /// [`Error::Argument`] that names the URL where nobody there answers as a server of models does.
    pub fn new(url: &str, key: Option<&str>, model: Option<&str>, limit: Duration) -> Result<Self> {
        let config = Agent::config_builder()
            .timeout_global(Some(limit))
            .timeout_connect(Some(limit.min(CONNECT)))
            .http_status_as_error(false)
            .proxy(None)
            // Each request is a client's first, and what comes of its answer is not held back to be packed.
            .max_idle_connections(0)
            .accept_encoding("identity");
        let base = url.trim_end_matches('/').trim_end_matches("/v1").to_owned();
        let (agent, key) = (config.build().into(), key.map(str::to_owned));
        let mut client = Self { agent, base, key, limit, model: String::new() };
        client.model = match model {
            Some(model) => model.into(),
            None => client.first_model().map_err(|reason| client.refused(&reason))?,
        };
        Ok(client)
    }

    fn first_model(&self) -> Heard<String> {
        let request = self.with_key(self.agent.get(format!("{}/v1/models", self.base)));
        let mut response = self.fine(request.call())?;
        let body = response.body_mut().read_to_string().map_err(|error| self.reason(error))?;
        let models: Value = serde_json::from_str(&body).unwrap_or_default();
        let name = models["data"][0]["id"].as_str();
        name.map(str::to_owned).ok_or_else(|| "/v1/models names no model".into())
    }

    /// Tokens of a prompt of this text, as the server counts them.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn prompt_tokens(&self, text: &str) -> Result<u64> {
        let asked = self.ask(text, Length { most: 1, ignores_eos: false }, None);
        match (asked.end, asked.answer.usage) {
            (End::Failed(reason), _) => Err(self.refused(&reason)),
            (_, Some(usage)) => Ok(usage.prompt),
            (_, None) => Err(self.refused("its answers tell no usage")),
        }
    }

    /// Asks, and listens to the end or until so many pieces have come.
    pub fn ask(&self, text: &str, length: Length, drop_after: Option<usize>) -> Asked {
        let mut answer = Answer::default();
        let end = self.listen(text, length, drop_after, &mut answer);
        Asked { answer, end: end.unwrap_or_else(End::Failed) }
    }

    fn listen(
        &self,
        text: &str,
        length: Length,
        drop_after: Option<usize>,
        answer: &mut Answer,
    ) -> Heard<End> {
        let mut body = json!({
            "model": self.model,
            "messages": [{"role": "user", "content": text}],
            "max_tokens": length.most,
            "temperature": 0,
            "stream": true,
            "stream_options": {"include_usage": true},
        });
        if length.ignores_eos {
            body["ignore_eos"] = true.into();
        }
        let url = format!("{}/v1/chat/completions", self.base);
        let request = self.with_key(self.agent.post(url).content_type("application/json"));
        let body = body.to_string();
        let began = Instant::now();
        let response = self.fine(request.send(body))?;
        let mut lines = BufReader::new(response.into_body().into_reader());
        let mut line = String::new();
        loop {
            line.clear();
            let read = lines.read_line(&mut line).map_err(|error| self.reason(error.into()))?;
            if read == 0 {
                // Some say nothing after the reason why the answer ended.
                return if answer.has_ended { Ok(End::Done) } else { Err(CUT.into()) };
            }
            if answer.take(&line, began.elapsed().as_secs_f64())? {
                return Ok(End::Done);
            }
            let is_dropped = drop_after.is_some_and(|pieces| answer.pieces.len() >= pieces);
            if is_dropped || interrupt::asked() {
                return Ok(End::Cancelled);
            }
        }
    }

    fn with_key<B>(&self, request: RequestBuilder<B>) -> RequestBuilder<B> {
        match &self.key {
            Some(key) => request.header("authorization", format!("Bearer {key}")),
            None => request,
        }
    }

    // A response that is what was asked for.
    fn fine(&self, sent: Sent) -> Heard<Response<Body>> {
        let mut response = sent.map_err(|error| self.reason(error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let body = response.body_mut().read_to_string().unwrap_or_default();
        Err(format!("status {}: {}", response.status().as_u16(), refusal(&body)))
    }

    fn reason(&self, error: ureq::Error) -> String {
        match error {
            ureq::Error::Timeout(Timeout::Connect) => "it cannot be reached in time".into(),
            ureq::Error::Timeout(_) => {
                format!("the answer did not end within {} s", self.limit.as_secs())
            }
            ureq::Error::Io(error) if error.kind() == ErrorKind::UnexpectedEof => CUT.into(),
            other => other.to_string(),
        }
    }

    fn refused(&self, reason: &str) -> Error {
        let limit = format!("a server of OpenAI's chats has to answer there: {reason}");
        Error::argument("--url", &self.base, limit)
    }
}
