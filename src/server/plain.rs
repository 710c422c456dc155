//! What belongs to no interface: tokens, models, and how the server is.

use super::fault::{Fault, Kind, Read};
use super::fields::{Fields, shown};
use super::routes::{Interface, Shared, beside, json, refuse, respond};
use super::{anthropic, metrics as table};
use crate::attention::Attention;
use crate::model::Tokenizer;
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::http::header::{CONTENT_SECURITY_POLICY, HeaderValue};
use axum::response::Response;
use serde_json::{Value, json as object};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// The page for people.
const PAGE: &str = include_str!("page.html");
/// It loads nothing, and asks this server alone.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; frame-ancestors 'none'";

/// How long metrics wait for a step to end.
const A_STEP: Duration = Duration::from_secs(1);

// In the shape of OpenAI's interface.
fn answer(read: Read<Value>) -> Response {
    match read {
        Ok(value) => json(&value),
        Err(fault) => refuse(Interface::OpenAi, &fault),
    }
}

// Makes an answer of a request's bytes with the tokenizer.
async fn read(
    server: &Shared,
    request: Request,
    work: impl FnOnce(&[u8], Arc<Tokenizer>) -> Read<Value> + Send + 'static,
) -> Read<Value> {
    let bytes = server.bytes(request).await?;
    let tokenizer = server.batcher.framing().tokenizer().clone();
    beside(move || work(&bytes, tokenizer)).await
}

/// `/v1/messages/count_tokens`.
pub(super) async fn count(State(server): State<Shared>, request: Request) -> Response {
    let counted = async {
        let bytes = server.bytes(request).await?;
        let (naming, framing) = (server.naming(), server.batcher.framing().clone());
        let count = move || {
            let (prompt, tools) = anthropic::count(&bytes, &naming)?;
            Ok(prompt.tokens(&tools, &framing)?.len())
        };
        Ok(object!({"input_tokens": beside(count).await?}))
    };
    match counted.await {
        Ok(value) => json(&value),
        Err(fault) => refuse(Interface::Anthropic, &fault),
    }
}

/// `/tokenize`: a text's tokens.
pub(super) async fn tokenize(State(server): State<Shared>, request: Request) -> Response {
    let work = |bytes: &[u8], tokenizer: Arc<Tokenizer>| {
        let mut fields = Fields::body(bytes)?;
        let content = fields.text("content")?;
        let content = fields.needed("content", content)?;
        let begins = fields.flag("add_special")?.unwrap_or(false);
        let parses = fields.flag("parse_special")?.unwrap_or(true);
        fields.end()?;
        let tokens = tokenizer.encode(&content, parses)?;
        let tokens = if begins { tokenizer.begin(tokens) } else { tokens };
        Ok(object!({"tokens": tokens}))
    };
    answer(read(&server, request, work).await)
}

/// `/detokenize`: the text of tokens.
pub(super) async fn detokenize(State(server): State<Shared>, request: Request) -> Response {
    let work = |bytes: &[u8], tokenizer: Arc<Tokenizer>| {
        let mut fields = Fields::body(bytes)?;
        let tokens = fields.list("tokens")?;
        let tokens = fields.needed("tokens", tokens)?;
        fields.end()?;
        let size = tokenizer.vocabulary_size() as u64;
        let limit = format!("it must be a whole number below {size}");
        let mut ids = Vec::with_capacity(tokens.len());
        for (at, token) in tokens.iter().enumerate() {
            let id = token.as_u64().filter(|id| *id < size);
            let refusal = || Fault::field(format!("tokens[{at}]"), shown(token), &limit);
            ids.push(id.ok_or_else(refusal)? as u32);
        }
        Ok(object!({"content": tokenizer.decode(&ids)}))
    };
    answer(read(&server, request, work).await)
}

fn described(server: &Shared) -> Value {
    object!({
        "id": server.options.model,
        "object": "model",
        "created": server.began(),
        "owned_by": "asynctls",
        "context_length": server.batcher.context(),
    })
}

/// `/v1/models`.
pub(super) async fn models(State(server): State<Shared>) -> Response {
    json(&object!({"object": "list", "data": [described(&server)]}))
}

/// `/v1/models/{model}`.
pub(super) async fn model(State(server): State<Shared>, Path(name): Path<String>) -> Response {
    if name == server.options.model {
        return json(&described(&server));
    }
    let limit = format!("this server has {:?}", server.options.model);
    let fault = Fault::field("model", shown(&name.into()), &limit);
    refuse(Interface::OpenAi, &Fault { kind: Kind::NotFound, ..fault })
}

/// `/health`.
pub(super) async fn health(State(server): State<Shared>) -> Response {
    let is_well = server.is_well();
    let attention = match server.batcher.options().attention {
        Attention::Dense => "dense",
        Attention::TwoLevel(_) => "two-level",
    };
    let value = object!({
        "status": if is_well { "ok" } else { "stopped" },
        "model": server.options.model,
        "context_length": server.batcher.context(),
        "attention": attention,
        "parallel": server.batcher.options().running,
    });
    let status = if is_well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    respond(status, "application/json", value.to_string())
}

/// `/metrics`.
pub(super) async fn metrics(State(server): State<Shared>) -> Response {
    let engine = server.batcher.engine();
    let offload = timeout(A_STEP, engine.offload_stats()).await.ok().flatten();
    let (stats, measured) = (server.batcher.stats(), server.slots.measured());
    let (kv, stores) = (engine.kv_gpu_bytes(), server.batcher.options().prefix_cache.is_some());
    let text = table::text(&stats, &measured, kv, offload.as_ref(), stores);
    respond(StatusCode::OK, "text/plain; version=0.0.4", text)
}

/// `/slots`.
pub(super) async fn slots(State(server): State<Shared>) -> Response {
    json(&object!(server.slots.shown()))
}

/// The page.
pub(super) async fn page() -> Response {
    let mut page = respond(StatusCode::OK, "text/html; charset=utf-8", PAGE.into());
    page.headers_mut().insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    page
}
