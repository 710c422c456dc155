//! Connections: so many at a time, and none that is silent, or does not read, for ever.

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use std::future::Future;
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::sleep;
use tokio_io_timeout::TimeoutStream;

/// What the system lacks when it has no connection left may be there a little later.
const BETWEEN_TRIES: Duration = Duration::from_millis(200);

/// What connections may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Connections at a time; more wait to be accepted.
    pub(super) most: usize,
    /// Time in which a request's headers have to come, after the answer before.
    pub(super) header_time: Duration,
    /// Time in which some of what is written has to be taken.
    pub(super) write_time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        let (header_time, write_time) = (Duration::from_secs(60), Duration::from_secs(300));
        Self { most: 1024, header_time, write_time }
    }
}

/// Answers by the router until `closing` ends, and then the requests that are there.
pub(super) async fn serve(
    listener: TcpListener,
    router: Router,
    limits: Limits,
    closing: impl Future<Output = ()>,
) {
    let graceful = GracefulShutdown::new();
    let room = Arc::new(Semaphore::new(limits.most));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(limits.header_time);
    let mut closing = std::pin::pin!(closing);
    loop {
        let (stream, place) = tokio::select! {
            next = accept(&listener, &room) => next,
            () = &mut closing => break,
        };
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(limits.write_time));
        let service = TowerToHyperService::new(router.clone());
        let connection = http.serve_connection(TokioIo::new(Box::pin(stream)), service);
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            // Whoever broke it off knows.
            let _ = connection.await;
            drop(place);
        });
    }
    // Who tries now is refused, and not kept waiting.
    drop(listener);
    graceful.shutdown().await;
}

/// The next connection, and its place among those that may be.
async fn accept(
    listener: &TcpListener,
    room: &Arc<Semaphore>,
) -> (TcpStream, Option<OwnedSemaphorePermit>) {
    let place = room.clone().acquire_owned().await.ok();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // Pieces of an answer are small, and none waits for the next. Where that is refused they come later.
                let _ = stream.set_nodelay(true);
                return (stream, place);
            }
            Err(error) if is_of_the_other(error.kind()) => {}
            Err(_) => sleep(BETWEEN_TRIES).await,
        }
    }
}

// Whether only the one connection failed.
fn is_of_the_other(kind: ErrorKind) -> bool {
    use ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(kind, ConnectionAborted | ConnectionRefused | ConnectionReset)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::routing::get;
    use std::io;
    use std::net::SocketAddr;
    use std::time::Instant;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::oneshot;
    use tokio::time::timeout;

    const SHORT: Duration = Duration::from_millis(300);
    const LONG: Duration = Duration::from_secs(60);
    const ASK: &[u8] = b"GET /short HTTP/1.1\r\nhost: localhost\r\n\r\n";

    // Does something with a server of these limits, and ends it.
    fn with<F: Future>(limits: Limits, what: impl FnOnce(SocketAddr, oneshot::Sender<()>) -> F) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            // More than any socket holds.
            let router = Router::new()
                .route("/short", get(async || "done"))
                .route("/long", get(async || vec![b'x'; 64 << 20]))
                .route("/late", get(async || sleep(SHORT).await));
            let (close, closing) = oneshot::channel();
            let closing = async {
                let _ = closing.await;
            };
            let (_, ended) = tokio::join!(what(address, close), async {
                timeout(LONG, serve(listener, router, limits, closing)).await
            });
            ended.expect("it ends");
        });
    }

    async fn ask(address: SocketAddr, words: &[u8]) -> io::Result<TcpStream> {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(words).await?;
        Ok(stream)
    }

    async fn is_answered(stream: &mut TcpStream) -> bool {
        let mut bytes = [0; 15];
        let read = timeout(LONG, stream.read_exact(&mut bytes)).await;
        read.expect("an answer, or an end").is_ok() && bytes.starts_with(b"HTTP/1.1 200")
    }

    #[test]
    fn half_a_request_makes_room_for_others() {
        let limits = Limits { most: 1, header_time: SHORT, write_time: LONG };
        with(limits, async |address, close| {
            let mut half = ask(address, b"GET /short HTTP/1.1\r\nhos").await.unwrap();
            let mut whole = ask(address, ASK).await.unwrap();
            assert!(is_answered(&mut whole).await);
            let mut rest = Vec::new();
            let _ = timeout(LONG, half.read_to_end(&mut rest)).await.expect("it is closed");
            assert!(!rest.starts_with(b"HTTP/1.1 200"), "{rest:?}");
            close.send(()).unwrap();
        });
    }

    #[test]
    fn who_does_not_read_makes_room_for_others() {
        let limits = Limits { most: 1, header_time: LONG, write_time: SHORT };
        with(limits, async |address, close| {
            let deaf = ask(address, b"GET /long HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
            let mut whole = ask(address, ASK).await.unwrap();
            assert!(is_answered(&mut whole).await);
            drop(deaf);
            close.send(()).unwrap();
        });
    }

    #[test]
    fn who_asks_again_is_heard_and_what_runs_is_answered_at_the_end() {
        with(Limits::default(), async |address, close| {
            let mut stream = ask(address, ASK).await.unwrap();
            assert!(is_answered(&mut stream).await);
            stream.write_all(ASK).await.unwrap();
            let mut late =
                ask(address, b"GET /late HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
            sleep(SHORT / 3).await;
            let began = Instant::now();
            close.send(()).unwrap();
            assert!(is_answered(&mut late).await && began.elapsed() < LONG / 2);
            let mut rest = String::new();
            stream.read_to_string(&mut rest).await.unwrap();
            assert!(rest.contains("HTTP/1.1 200"), "{rest}");
        });
    }
}
