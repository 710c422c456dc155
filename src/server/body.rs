//! The bytes of a request, with a limit to how many there are and how long they take.

use super::fault::{Fault, Kind, Read};
use axum::body::{Body, Bytes, HttpBody, to_bytes};
use axum::extract::Request;
use axum::http::header::CONTENT_TYPE;
use std::time::Duration;
use tokio::time::timeout;

/// Reads the JSON of a request.
pub(super) async fn json(request: Request, most: usize, time: Duration) -> Read<Bytes> {
    let kind = request.headers().get(CONTENT_TYPE).map(|kind| kind.to_str().unwrap_or("?"));
    let kind = kind.unwrap_or("missing");
    // A page of another origin can send other types without being asked for its origin.
    let is_json = kind
        .split(';')
        .next()
        .is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"));
    if !is_json {
        let kind: String = kind.chars().take(60).collect();
        let message = format!("the header content-type is {kind}, but it must be application/json");
        return Err(Fault::new(Kind::MediaType, message));
    }
    let (_, body) = request.into_parts();
    let said = body.size_hint().lower();
    if said > most as u64 {
        return Err(too_large(&format!("{said} bytes"), most));
    }
    match timeout(time, to_bytes(body, most)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error)) if is_limit(&error) => Err(too_large("more", most)),
        Ok(Err(error)) => Err(Fault::new(Kind::Invalid, format!("the body broke off: {error}"))),
        Err(_) => {
            let message = format!("the body took more than {} seconds to come", time.as_secs());
            Err(Fault::new(Kind::SlowBody, message))
        }
    }
}

fn too_large(what: &str, most: usize) -> Fault {
    Fault::new(Kind::TooLarge, format!("the body is {what}, but at most {most} bytes are read"))
}

// The limit's own error is behind axum's.
fn is_limit(error: &axum::Error) -> bool {
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        if inner.to_string().contains("limit") {
            return true;
        }
        source = inner.source();
    }
    false
}

/// A body of text.
pub(super) fn of(text: impl Into<Bytes>) -> Body {
    Body::from(text.into())
}
