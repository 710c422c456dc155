//! A server of one's own, for as long as it is asked.

use super::super::super::line::Line;
use super::super::super::served::{Served, ServedOptions};
use asynctls::gpu::Gpu;
use asynctls::model::SamplerSettings;
use asynctls::server::{self, ServerOptions};
use asynctls::{Error, Result};
use std::net::TcpListener;
use std::sync::mpsc::{TryRecvError, channel};
use std::time::Duration;

/// Does something with the URL of a server, which ends after it; and tells the device that it ran on.
///
/// # Errors
/// Why the model does not run, why the server ended, or what `ask` gives.
pub fn with<T>(
    options: &ServedOptions,
    line: &Line,
    ask: impl FnOnce(&str) -> Result<T>,
) -> Result<(T, Gpu)> {
    options.check()?;
    let read = options.read()?;
    let io = |source| Error::Io { path: "the network".into(), source };
    let listener = TcpListener::bind(("127.0.0.1", 0)).map_err(io)?;
    let url = format!("http://{}", listener.local_addr().map_err(io)?);
    let Served { batcher, steps, gpu } = options.load(read, line)?;
    let mut server = ServerOptions::new("model", SamplerSettings::default());
    server.grace = Duration::ZERO;
    let (here, gone) = channel::<()>();
    // However what is done with it ends.
    let stop = move || gone.try_recv() == Err(TryRecvError::Disconnected);
    let serve = move || server::serve(listener, batcher, steps, server, stop);
    let serving = std::thread::Builder::new().name("server".into()).spawn(serve).map_err(io)?;
    let asked = ask(&url);
    drop(here);
    // What it ended of says more than that nobody answers.
    serving.join().map_err(|_| Error::Gpu("the server panicked".into()))??;
    Ok((asked?, gpu))
}
