//! `asynctls serve`: a model over HTTP.

use super::cache::parse_size;
use super::generate::sampling::SamplingOptions;
use super::line::Line;
use super::served::{Served, ServedOptions};
use super::terminal::note;
use super::{Outcome, interrupt, prompt};
use asynctls::server::{self, ServerOptions};
use asynctls::{Error, Result};
use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Options of `asynctls serve`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Options {
    #[command(flatten)]
    served: ServedOptions,
    /// The model's name, as requests say it [default: that of its file or folder]
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    model_name: Option<String>,
    /// The address to listen at; 0.0.0.0 is every one of this machine
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    host: String,
    /// The port to listen at; 0 takes a free one, which is printed
    #[arg(long, value_name = "N", default_value_t = 8080)]
    port: u16,
    /// A key that requests have to show. May be given several times
    #[arg(
        long,
        value_name = "KEY",
        env = "ASYNCTLS_API_KEY",
        hide_env_values = true,
        value_delimiter = ','
    )]
    api_key: Vec<String>,
    /// A file with such keys, one a line
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// An origin whose pages may ask, such as https://example.org; * is every one. May be given several times
    #[arg(long, value_name = "ORIGIN")]
    cors_origin: Vec<String>,
    /// The most bytes of a request
    #[arg(long, value_name = "SIZE", default_value = "32M", value_parser = bytes)]
    body_limit: usize,
    /// Seconds that a request's bytes may take
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
    body_timeout: u32,
    /// Seconds that an answer may take, with the time that it waits
    #[arg(long, value_name = "SECONDS", default_value_t = 3600, value_parser = clap::value_parser!(u32).range(1..))]
    timeout: u32,
    /// Seconds that running answers have after Ctrl-C or SIGTERM; a second one ends at once
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    grace: u32,
    #[command(flatten)]
    sampling: SamplingOptions,
}

const EXAMPLES: &str = "\
Examples:
  asynctls serve --model model.gguf
  asynctls serve --model model.gguf --host 0.0.0.0 --port 8000 --api-key-file keys.txt --parallel 8
  asynctls serve --model model.gguf --prefix-cache ~/.cache/asynctls --prefix-cache-size 200G
  asynctls serve --hf Qwen/Qwen3-8B --quantize q4_0 --context 32768 --cors-origin https://example.org
  curl localhost:8080/v1/chat/completions -H 'content-type: application/json' \\
    -d '{\"messages\": [{\"role\": \"user\", \"content\": \"Why is the sky blue?\"}]}'

It speaks the interfaces of OpenAI (/v1/chat/completions, /v1/completions, /v1/responses, /v1/models) and of Anthropic
(/v1/messages); / is a page to ask from. What is chosen under Sampling is for requests that say nothing else. Ctrl-C and SIGTERM
take no more requests, and end with 0 once those that run are answered, or --grace is over.";

fn bytes(text: &str) -> std::result::Result<usize, String> {
    let bytes = parse_size("--body-limit", text).map_err(|error| match error {
        Error::Argument { limit, .. } => limit,
        other => other.to_string(),
    })?;
    usize::try_from(bytes).map_err(|_| "this machine has no memory as large".into())
}

/// Runs it.
pub fn run(options: &Options, line: &Line) -> Outcome<ExitCode> {
    options.served.check()?;
    let keys = options.keys()?;
    // Whoever has the port is known before a model is loaded.
    let listener = options.listen()?;
    let read = options.served.read()?;
    for line in &read.suggested.unused {
        note(&format!("note: {line}"));
    }
    let settings = options.sampling.settings(&read.suggested, None);
    if options.served.stats {
        note(&options.sampling.line(&read.suggested, &settings));
    }
    let mut server = ServerOptions::new(options.name(&read.path), settings);
    server.seed = options.sampling.fixed_seed();
    (server.keys, server.origins) = (keys, options.cors_origin.clone());
    server.body_bytes = options.body_limit;
    server.body_time = seconds(options.body_timeout);
    server.answer_time = seconds(options.timeout);
    server.grace = seconds(options.grace);
    server.validate()?;

    let Served { batcher, steps, .. } = options.served.load(read, line)?;
    let address = listener.local_addr().map_err(|source| io(&options.host, source))?;
    let _keeping = interrupt::Keeping::new();
    note(&format!(
        "{} at http://{address}, {} requests of up to {} tokens at a time",
        server.model,
        options.served.parallel,
        batcher.context()
    ));
    server::serve(listener, batcher, steps, server, interrupt::asked)?;
    Ok(ExitCode::SUCCESS)
}

fn seconds(seconds: u32) -> Duration {
    Duration::from_secs(seconds.into())
}

fn io(what: &str, source: std::io::Error) -> Error {
    Error::Io { path: what.into(), source }
}

impl Options {
    fn listen(&self) -> Result<TcpListener> {
        TcpListener::bind((self.host.as_str(), self.port)).map_err(|error| {
            let address = format!("{}:{}", self.host, self.port);
            let limit = match error.kind() {
                std::io::ErrorKind::AddrInUse => {
                    "another program listens there: --port N takes another one, 0 any that is free"
                        .into()
                }
                std::io::ErrorKind::PermissionDenied => {
                    "it is not allowed: --port N of 1024 or more is for everybody".into()
                }
                _ => format!(
                    "that is none to listen at here ({error}): --host ADDRESS takes another one"
                ),
            };
            Error::argument("the address", address, limit)
        })
    }

    fn keys(&self) -> Result<Vec<String>> {
        let mut keys = self.api_key.clone();
        if let Some(path) = &self.api_key_file {
            let text = prompt::read_text("--api-key-file", path)?;
            let before = keys.len();
            keys.extend(
                text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned),
            );
            // Whoever names a file wants nobody in without a key.
            if keys.len() == before {
                return Err(Error::argument(
                    "--api-key-file",
                    path.display(),
                    "there is no key in it",
                ));
            }
        }
        Ok(keys)
    }

    fn name(&self, path: &std::path::Path) -> String {
        let own = || {
            let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
            let name = if path.is_dir() { path.file_name() } else { path.file_stem() };
            name.unwrap_or_default().to_string_lossy().into_owned()
        };
        self.model_name.clone().unwrap_or_else(own)
    }
}
