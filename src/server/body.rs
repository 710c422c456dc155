//! The bytes of a request, with a limit to how many there are and how long they take.

use super::fault::{Fault, Kind, Read};
use axum::body::{Body, Bytes, HttpBody, to_bytes};
use axum::extract::Request;
use axum::http::header::CONTENT_TYPE;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// Bytes that all bodies together have that are read, or more where one may have more.
const TOGETHER: usize = 256 << 20;

/// After how many seconds it may be tried again.
pub(super) const RETRY_AFTER: u32 = 5;

/// What bodies may have.
#[derive(Debug)]
pub(super) struct Bodies {
    /// Bytes of one.
    most: usize,
    /// Time that one may wait for room, and again that its bytes may take.
    time: Duration,
    /// Bytes of all together, and the room that is left for them.
    together: usize,
    room: Arc<Semaphore>,
}

/// A body. There is room for others once it is dropped.
#[derive(Debug)]
pub(super) struct Json {
    bytes: Bytes,
    _room: OwnedSemaphorePermit,
}

impl Deref for Json {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Bodies {
    pub(super) fn new(most: usize, time: Duration) -> Self {
        Self::within(TOGETHER, most, time)
    }

    fn within(together: usize, most: usize, time: Duration) -> Self {
        let together = together.max(most).min(Semaphore::MAX_PERMITS);
        Self { most, time, together, room: Arc::new(Semaphore::new(together)) }
    }

    /// Reads the JSON of a request, once there is room for as much as it says it has, or may have.
    pub(super) async fn json(&self, request: Request) -> Read<Json> {
        let Self { most, time, together, .. } = *self;
        let kind = request.headers().get(CONTENT_TYPE).map(|kind| kind.to_str().unwrap_or("?"));
        let kind = kind.unwrap_or("missing");
        // A page of another origin can send other types without being asked for its origin.
        let is_json = kind
            .split(';')
            .next()
            .is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"));
        if !is_json {
            let kind: String = kind.chars().take(60).collect();
            let message =
                format!("the header content-type is {kind}, but it must be application/json");
            return Err(Fault::new(Kind::MediaType, message));
        }
        let (_, body) = request.into_parts();
        let said = body.size_hint();
        if said.lower() > most as u64 {
            return Err(too_large(&format!("{} bytes", said.lower()), most));
        }
        let bytes = said.exact().map_or(most, |bytes| bytes as usize);
        // Permits are numbers of 32 bits: those of more are as many as there are.
        let permits = u32::try_from(bytes).unwrap_or(u32::MAX);
        let room = timeout(time, self.room.clone().acquire_many_owned(permits)).await;
        let Ok(Ok(room)) = room else {
            let message = format!(
                "the body is {bytes} bytes, but those of other requests had all {together} that are read at a time for {} seconds; \
                 try again later",
                time.as_secs()
            );
            return Err(Fault::new(Kind::Crowded, message));
        };
        match timeout(time, to_bytes(body, most)).await {
            Ok(Ok(bytes)) => Ok(Json { bytes, _room: room }),
            Ok(Err(error)) if is_limit(&error) => Err(too_large("more", most)),
            Ok(Err(error)) => {
                Err(Fault::new(Kind::Invalid, format!("the body broke off: {error}")))
            }
            Err(_) => {
                let message = format!("the body took more than {} seconds to come", time.as_secs());
                Err(Fault::new(Kind::SlowBody, message))
            }
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

#[cfg(test)]
mod tests {
    use super::*;
    use futures::StreamExt;
    use std::future::Future;
    use std::io;
    use tokio::time::sleep;

    const SHORT: Duration = Duration::from_millis(200);

    fn asked(body: Body) -> Request {
        let mut request = Request::new(body);
        request.headers_mut().insert(CONTENT_TYPE, "application/json".parse().unwrap());
        request
    }

    // One whose length is not said, and which never ends.
    fn endless() -> Request {
        let first = futures::stream::iter([Ok::<_, io::Error>("{")]);
        asked(Body::from_stream(first.chain(futures::stream::pending())))
    }

    fn run<F: Future>(what: F) -> F::Output {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(what)
    }

    #[test]
    fn bodies_wait_for_room_and_are_told_where_there_is_none_for_long() {
        run(async {
            let bodies = Bodies::within(100, 60, SHORT);
            let first = bodies.json(asked(of("[1]"))).await.unwrap();
            assert_eq!(&first[..], b"[1]");
            // It may have sixty, and the next too: only one of them finds room until it is given up.
            let (slow, late) = tokio::join!(bodies.json(endless()), async {
                sleep(SHORT / 2).await;
                bodies.json(asked(of("x".repeat(60)))).await.map(|body| body.len())
            });
            assert_eq!(slow.unwrap_err().kind, Kind::SlowBody);
            assert_eq!(late.unwrap_or_else(|fault| panic!("{fault:?}")), 60);
            let held = bodies.json(asked(of("x".repeat(60)))).await.unwrap();
            let fault = bodies.json(asked(of("x".repeat(50)))).await.unwrap_err();
            assert_eq!(fault.kind, Kind::Crowded);
            let said = "the body is 50 bytes, but those of other requests had all 100 that are read at a time for 0 seconds";
            assert!(fault.message.starts_with(said), "{}", fault.message);
            // What is small finds room beside.
            assert_eq!(bodies.json(asked(of("[]"))).await.unwrap().len(), 2);
            drop(held);
            assert_eq!(bodies.json(asked(of("x".repeat(60)))).await.unwrap().len(), 60);
        });
    }

    #[test]
    fn one_body_has_room_whatever_the_limit() {
        let bodies = Bodies::within(10, 60, SHORT);
        assert_eq!(run(bodies.json(asked(of("x".repeat(60))))).unwrap().len(), 60);
        let fault = run(bodies.json(asked(of("x".repeat(61))))).unwrap_err();
        assert_eq!(fault.kind, Kind::TooLarge);
    }
}
