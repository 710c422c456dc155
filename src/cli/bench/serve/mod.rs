//! `asynctls bench serve`: many requests to a server that speaks OpenAI's chats: how fast they are answered, and how many fail.
//!
//! Whose server it is makes no difference to what is asked: texts are made to be as long as was said by what the server itself counts.

mod answer;
mod client;
mod load;
mod own;
mod report;
mod run;
mod texts;

use super::super::Outcome;
use super::super::interrupt;
use super::super::line::Line;
use super::super::progress::bar;
use super::super::served::ServedOptions;
use super::super::terminal::{note, print, print_json};
use super::super::vain::{self, Known};
use super::offload::{percent, share};
use asynctls::gpu::Gpu;
use asynctls::{Error, Result};
use clap::Args;
use client::Client;
use load::{Length, Load, Pace};
use report::{Row, Way, ratio, reasons, table};
use serde::Serialize;
use std::process::ExitCode;
use std::time::Duration;
use texts::{Sizes, Texts};

/// What only a server of one's own heeds: options by name where they stand beside groups, and groups.
const OWN: [&str; 20] = [
    "model",
    "quantize",
    "parallel",
    "queue",
    "context",
    "total_tokens",
    "chat_template",
    "no_think",
    "stats",
    "attention",
    "blocks",
    "tokens",
    "dense_below",
    "scorer",
    "token_scorer",
    "HubOption",
    "RopeOptions",
    "IndexFlags",
    "CacheOptions",
    "PrefixOptions",
];

/// Options of `asynctls bench serve`.
#[derive(Args, Debug)]
#[command(mut_arg("model", |model| model.required_unless_present("url")))]
pub struct Options {
    /// Ask this server, such as http://127.0.0.1:8000, and start none of one's own
    #[arg(long, value_name = "URL", conflicts_with_all = OWN)]
    url: Option<String>,
    /// The key that it wants
    #[arg(long, value_name = "KEY")]
    api_key: Option<String>,
    /// The model to ask for [default: the first that it names]
    #[arg(long, value_name = "NAME")]
    model_name: Option<String>,
    /// Clients, each of which asks again once it is answered
    #[arg(long, value_name = "N", default_value_t = 8, allow_negative_numbers = true,
        value_parser = clap::value_parser!(u32).range(1..=1024))]
    clients: u32,
    /// Requests a second that come on average, at random, whether those before are answered or not
    #[arg(long, value_name = "R", conflicts_with = "clients", allow_negative_numbers = true, value_parser = rate)]
    rate: Option<f64>,
    /// Requests in all
    #[arg(long, value_name = "N", default_value_t = 64, allow_negative_numbers = true,
        value_parser = clap::value_parser!(u32).range(1..=100_000))]
    requests: u32,
    /// Tokens of each prompt, chat template and all
    #[arg(long, value_name = "N", default_value_t = 1024, allow_negative_numbers = true,
        value_parser = clap::value_parser!(u32).range(1..))]
    prompt_tokens: u32,
    /// Of these, the tokens that all prompts begin with
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true)]
    shared_prefix: u32,
    /// The most tokens of an answer
    #[arg(long, value_name = "N", default_value_t = 64, allow_negative_numbers = true,
        value_parser = clap::value_parser!(u32).range(1..))]
    max_tokens: u32,
    /// Have all answers as long as that, wherever the model would end them: vLLM, SGLang, llama.cpp and this server take the field
    /// `ignore_eos`, and others may refuse it
    #[arg(long)]
    ignore_eos: bool,
    /// Share of the requests that are dropped amid their answer
    #[arg(long, value_name = "P%", default_value = "0%", allow_hyphen_values = true, value_parser = share)]
    cancel: f64,
    /// Seconds that a request may take; then it has failed
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u32).range(1..))]
    timeout: u32,
    /// Ask the same one by one too, and compare
    #[arg(long)]
    one_by_one: bool,
    /// What texts, arrivals and drops are drawn from. A server that was asked with a seed before may have what its prompts begin with
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    served: ServedOptions,
}

fn rate(text: &str) -> std::result::Result<f64, String> {
    let rate = text.parse().ok().filter(|rate| (0.001..=10_000.0).contains(rate));
    rate.ok_or_else(|| "requests a second, from 0.001 to 10000".into())
}

#[derive(Serialize)]
struct Report<'a> {
    /// The server that was asked; none where it was one of our own.
    url: Option<&'a str>,
    /// The model, as the server calls it.
    model: &'a str,
    adapter: Option<&'a str>,
    driver: Option<&'a str>,
    kernels: Option<&'static str>,
    clients: Option<u32>,
    rate: Option<f64>,
    requests: u32,
    prompt_tokens: u32,
    shared_prefix: u32,
    max_tokens: u32,
    ignore_eos: bool,
    cancel: f64,
    seed: u64,
    results: &'a [Row],
    /// Tokens a second as a multiple of those one by one.
    ratio: Option<f64>,
}

/// Runs it.
pub fn run(options: &Options, line: &Line) -> Outcome<ExitCode> {
    if options.shared_prefix > options.prompt_tokens {
        let limit = format!("--prompt-tokens is {}, of which it is a part", options.prompt_tokens);
        return Err(Error::argument("--shared-prefix", options.shared_prefix, limit).into());
    }
    // Clap asks of nothing what it requires beside --model, which --url excludes.
    for (name, given) in [("--api-key", &options.api_key), ("--model-name", &options.model_name)] {
        if given.is_some() && options.url.is_none() {
            let limit = "only a server that --url names is asked with it";
            return Err(Error::argument(name, "given", limit).into());
        }
    }
    let ask = |url: &str| {
        let limit = Duration::from_secs(options.timeout.into());
        let (key, model) = (options.api_key.as_deref(), options.model_name.as_deref());
        let client = Client::new(url, key, model, limit)?;
        Ok((measure(options, &client)?, client.model))
    };
    let (rows, model, gpu) = match &options.url {
        Some(url) => {
            vain::warn(line, &Known::default());
            let (rows, model) = ask(url)?;
            (rows, model, None)
        }
        None => {
            let ((rows, model), gpu) = own::with(&options.served, line, ask)?;
            (rows, model, Some(gpu))
        }
    };
    show(options, &model, gpu.as_ref(), &rows)?;
    if interrupt::asked() {
        let asked: usize = rows.iter().map(|row| row.done + row.failed + row.cancelled).sum();
        let all = options.requests as usize * if options.one_by_one { 2 } else { 1 };
        note(&format!("interrupted: {asked} of {all} requests were asked"));
        return Ok(interrupt::exit_code());
    }
    let failed: usize = rows.iter().map(|row| row.failed).sum();
    if failed == 0 {
        return Ok(ExitCode::SUCCESS);
    }
    let all = rows.len() * options.requests as usize;
    note(&format!("error: {failed} of {all} requests failed: {}", reasons(&rows)));
    Ok(ExitCode::from(2))
}

fn measure(options: &Options, client: &Client) -> Result<Vec<Row>> {
    let sizes = Sizes { prompt: options.prompt_tokens, shared: options.shared_prefix };
    let texts = Texts::new(options.seed, sizes, |text| client.prompt_tokens(text))?;
    let pace = options.rate.map_or(Pace::Clients(options.clients), Pace::Rate);
    let load = Load {
        requests: options.requests as usize,
        pace,
        length: Length { most: options.max_tokens, ignores_eos: options.ignore_eos },
        cancel: options.cancel,
        seed: options.seed,
    };
    let mut loads = vec![(Way::Together, load)];
    if options.one_by_one {
        loads.push((Way::OneByOne, Load { pace: Pace::Clients(1), ..load }));
    }
    let progress = bar("asking", loads.len() as u64 * u64::from(options.requests), false);
    let mut rows = Vec::new();
    let _keeping = interrupt::Keeping::new();
    for (number, (way, load)) in (0..).zip(&loads) {
        if interrupt::asked() {
            break;
        }
        let text = texts.of_run(number);
        let (asked, seconds) = run::run(client, &text, load, &|| progress.inc(1))?;
        rows.push(Row::new(*way, &asked, seconds));
    }
    Ok(rows)
}

fn show(options: &Options, model: &str, gpu: Option<&Gpu>, rows: &[Row]) -> Outcome<()> {
    let ratio = ratio(rows);
    let clients = options.rate.is_none().then_some(options.clients);
    if options.json {
        let report = Report {
            url: options.url.as_deref(),
            model,
            adapter: gpu.map(Gpu::label),
            driver: gpu.map(|gpu| gpu.info().driver_info.as_str()),
            kernels: gpu.map(|gpu| gpu.tier().name),
            clients,
            rate: options.rate,
            requests: options.requests,
            prompt_tokens: options.prompt_tokens,
            shared_prefix: options.shared_prefix,
            max_tokens: options.max_tokens,
            ignore_eos: options.ignore_eos,
            cancel: options.cancel,
            seed: options.seed,
            results: rows,
            ratio,
        };
        return print_json("bench serve", &report);
    }
    let place =
        gpu.map_or_else(|| options.url.clone().unwrap_or_default(), |gpu| gpu.label().into());
    let pace = match options.rate {
        Some(rate) => format!("{rate} a second"),
        None => format!("{} clients", options.clients),
    };
    let mut text = format!(
        "{model} on {place}: {} requests, {pace}; prompts of {} tokens, {} of them shared; answers of {}{} tokens; {} dropped\n\n{}",
        options.requests,
        options.prompt_tokens,
        options.shared_prefix,
        if options.ignore_eos { "" } else { "up to " },
        options.max_tokens,
        percent(options.cancel),
        table(rows)?.to_text()
    );
    if let Some(ratio) = ratio {
        text += &format!("\n{ratio:.2} times the tokens a second of the same one by one\n");
    }
    print(&text)
}
