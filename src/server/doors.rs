//! Who may ask: keys, and pages of other origins.

use super::fault::{Fault, Kind};
use super::routes::{Interface, Shared, refuse};
use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, HOST, HeaderName};
use axum::http::{HeaderMap, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::Response;
use std::net::IpAddr;
use std::time::Duration;
use tower_http::cors::{AllowHeaders, Any, CorsLayer};

const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// Where only this machine's programs reach the server, and need no key, a page of another name may have that name lead here. It asks by
/// its name.
pub(super) async fn host(request: Request, next: Next) -> Response {
    let host = request.headers().get(HOST).map(|host| host.to_str().unwrap_or("?"));
    match host.filter(|host| !is_own(host)) {
        None => next.run(request).await,
        Some(host) => {
            let host: String = host.chars().take(60).collect();
            let limit = "it must be localhost, 127.0.0.1 or [::1] where no key is needed";
            let message = format!("the header host is {host}, but {limit}");
            refuse(Interface::of(request.uri().path()), &Fault::new(Kind::Host, message))
        }
    }
}

// Whether a host, with a port or without, is this machine by whatever name servers say.
fn is_own(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    name.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
}

/// Lets through who shows a key, where one is needed. The page itself, and whether the server is well, everybody may see.
pub(super) async fn keys(State(shared): State<Shared>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let is_open = matches!(path, "/" | "/health") || request.method() == Method::OPTIONS;
    let keys = &shared.options.keys;
    if is_open || keys.is_empty() {
        return next.run(request).await;
    }
    let message = match shown(request.headers()) {
        Some(key) if keys.iter().any(|one| is_same(one.as_bytes(), key)) => {
            return next.run(request).await;
        }
        Some(_) => "the key is not one of this server's",
        None => "a key is needed, as the header authorization: Bearer KEY, or x-api-key: KEY",
    };
    refuse(Interface::of(path), &Fault::new(Kind::Key, message))
}

// The key that a request shows, as OpenAI's clients do or as Anthropic's do.
fn shown(headers: &HeaderMap) -> Option<&[u8]> {
    let bearer = |value: &'_ HeaderValue| {
        value.as_bytes().len() > 7 && value.as_bytes()[..7].eq_ignore_ascii_case(b"bearer ")
    };
    let authorization = headers.get(AUTHORIZATION).filter(|value| bearer(value));
    let authorization = authorization.map(|value| value.as_bytes()[7..].trim_ascii());
    authorization.or_else(|| headers.get(X_API_KEY).map(HeaderValue::as_bytes))
}

// In a time that says nothing of where they differ.
fn is_same(key: &[u8], shown: &[u8]) -> bool {
    let differs = key.iter().zip(shown).fold(0, |all, (a, b)| all | (a ^ b));
    key.len() == shown.len() && std::hint::black_box(differs) == 0
}

/// Lets pages of these origins ask.
pub(super) fn origins(origins: &[String]) -> CorsLayer {
    let layer = CorsLayer::new()
        .allow_methods([Method::GET, Method::POST])
        // A star would let all through but authorization.
        .allow_headers(AllowHeaders::mirror_request())
        .max_age(Duration::from_secs(3600));
    if origins.iter().any(|origin| origin == "*") {
        return layer.allow_origin(Any);
    }
    let origins = origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok());
    layer.allow_origin(origins.collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_hosts_are_told_from_others() {
        for host in ["localhost", "LOCALHOST:8080", "127.0.0.1", "127.0.0.1:1", "[::1]", "[::1]:80"]
        {
            assert!(is_own(host), "{host}");
        }
        for host in ["", "x", "localhost.example", "127.0.0.1.example:80", "10.0.0.1", "[::2]:80"] {
            assert!(!is_own(host), "{host}");
        }
    }

    #[test]
    fn keys_are_shown_in_two_ways() {
        let headers = |name: HeaderName, value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, HeaderValue::from_str(value).unwrap());
            headers
        };
        for (name, value, key) in [
            (AUTHORIZATION, "Bearer abc", Some("abc")),
            (AUTHORIZATION, "bearer  abc ", Some("abc")),
            (AUTHORIZATION, "Basic abc", None),
            (AUTHORIZATION, "Bear", None),
            (X_API_KEY, "abc", Some("abc")),
        ] {
            assert_eq!(shown(&headers(name, value)), key.map(str::as_bytes), "{value}");
        }
        assert_eq!(shown(&HeaderMap::new()), None);
        assert!(is_same(b"abc", b"abc"));
        assert!(!is_same(b"abc", b"abd") && !is_same(b"abc", b"ab") && !is_same(b"abc", b""));
    }
}
