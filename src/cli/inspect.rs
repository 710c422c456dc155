//! `asynctls inspect`: what is in a model file or folder, and whether it can run.

use super::Outcome;
use super::line::Line;
use super::model_option::HubOption;
use super::terminal::{print, print_json, size, visible};
use super::vain::{self, Known};
use asynctls::Result;
use asynctls::model::{
    ChatTemplate, Gguf, Message, ModelConfig, ModelFile, Source, Tokenizer, Value,
};
use clap::Args;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

/// Options of `asynctls inspect`.
#[derive(Args, Debug)]
pub struct Options {
    /// The model: a GGUF file, or a model folder with config.json and safetensors
    #[arg(value_name = "MODEL", required_unless_present = "hf", conflicts_with = "hf")]
    model: Option<PathBuf>,
    #[command(flatten)]
    hub: HubOption,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

/// Everything that is reported; what the file does not tell, or this program does not understand, is null.
#[derive(Debug, Serialize)]
struct Inspection {
    path: String,
    file_bytes: u64,
    /// Null for a folder.
    gguf_version: Option<u32>,
    name: Option<String>,
    architecture: Option<String>,
    /// Whether the model can run here; `problem` says why not.
    runs: bool,
    problem: Option<String>,
    /// The longest context, with the scaling where there is one.
    context_length: Option<u32>,
    /// The scaling of the rotary embedding.
    rope_scaling: Option<String>,
    /// The file's description of its architecture, by key.
    shapes: BTreeMap<String, serde_json::Value>,
    tensors: usize,
    weights: Vec<Weights>,
    kv_bytes_a_token: Option<u64>,
    index_bytes_a_token: Option<u64>,
    tokenizer: TokenizerInfo,
    chat_template: bool,
    chat_template_problem: Option<String>,
}

/// All tensors of one type.
#[derive(Debug, Serialize)]
struct Weights {
    #[serde(rename = "type")]
    kind: String,
    tensors: usize,
    weights: u64,
    bytes: u64,
}

#[derive(Debug, Serialize)]
struct TokenizerInfo {
    model: Option<String>,
    pre_tokenizer: Option<String>,
    tokens: Option<usize>,
    bos: Option<u32>,
    eos: Option<u32>,
    problem: Option<String>,
    /// Its oddities.
    warnings: Vec<String>,
}

/// Runs it.
pub fn run(options: &Options, line: &Line) -> Outcome<ExitCode> {
    vain::warn(line, &Known::default());
    let file = ModelFile::open(&options.hub.or(options.model.as_deref())?)?;
    let inspection = Inspection::new(&file);
    if options.json {
        print_json("inspect", &inspection)?;
    } else {
        print(&inspection.text())?;
    }
    Ok(ExitCode::SUCCESS)
}

impl Inspection {
    fn new(file: &ModelFile) -> Self {
        let config = ModelConfig::read(file);
        let tokenizer = file.tokenizer();
        let template = file.chat_template().transpose();
        let template_problem = template.as_ref().and_then(|template| match template {
            Ok(template) => {
                tokenizer.as_ref().ok().and_then(|tokenizer| refusal(template, tokenizer))
            }
            Err(error) => Some(error.to_string()),
        });
        let shape = config.as_ref().ok();
        // The parts that `generate` needs, in the order in which it would complain.
        let problem = problem(&config)
            .or_else(|| problem(&tokenizer))
            .or_else(|| template_problem.clone())
            .or_else(|| shape.and_then(|shape| problem(&shape.check_tensors(file))));
        Self {
            path: file.path().display().to_string(),
            file_bytes: file.tensors().iter().map(|tensor| tensor.bytes).sum(),
            gguf_version: None,
            name: None,
            runs: problem.is_none(),
            problem,
            context_length: shape.map(|shape| shape.context_length),
            rope_scaling: shape.map(|shape| shape.rope().scaling.to_string()),
            shapes: BTreeMap::new(),
            tensors: file.tensors().len(),
            weights: weights(file),
            kv_bytes_a_token: shape.map(ModelConfig::kv_bytes_a_token),
            index_bytes_a_token: shape.map(ModelConfig::index_bytes_a_token),
            tokenizer: TokenizerInfo::new(file, &tokenizer),
            chat_template: template.is_some(),
            chat_template_problem: template_problem,
            architecture: None,
        }
        .described(file)
    }

    // Facts that only one of the formats tells.
    fn described(mut self, file: &ModelFile) -> Self {
        match file.source() {
            Source::Gguf(file) => {
                self.file_bytes = file.file_size();
                self.gguf_version = Some(file.version());
                self.name = text(file, "general.name");
                self.architecture = text(file, "general.architecture");
                let prefix = format!("{}.", self.architecture.as_deref().unwrap_or_default());
                let key = format!("{prefix}context_length");
                let stated = file.value(&key).and_then(Value::as_u32);
                self.context_length = self.context_length.or(stated);
                self.shapes = file
                    .metadata()
                    .filter_map(|(key, value)| Some((key.strip_prefix(&prefix)?, json(value)?)))
                    .map(|(key, value)| (key.to_owned(), value))
                    .collect();
            }
            Source::Folder(folder) => {
                let config = folder.config();
                self.name = config.get("_name_or_path").and_then(|v| v.as_str()).map(str::to_owned);
                self.architecture = config
                    .get("architectures")
                    .and_then(|list| list.get(0)?.as_str())
                    .map(str::to_owned);
                // Lists and objects can have any length.
                let scalars = config.as_object().into_iter().flatten();
                self.shapes = scalars
                    .filter(|(_, value)| {
                        value.is_number() || value.is_boolean() || value.is_string()
                    })
                    .map(|(key, value)| (key.clone(), value.clone()))
                    .collect();
            }
        }
        self
    }

    fn text(&self) -> String {
        let mut rows = Vec::new();
        let mut row = |what: &str, value: String| rows.push((visible(what), visible(&value)));
        let unknown = || "not in the file".to_owned();
        row(
            "file",
            match self.gguf_version {
                Some(version) => {
                    format!("{}, {}, GGUF version {version}", self.path, size(self.file_bytes))
                }
                None => format!("{}, {} of weights", self.path, size(self.file_bytes)),
            },
        );
        row("name", self.name.clone().unwrap_or_else(unknown));
        row("architecture", self.architecture.clone().unwrap_or_else(unknown));
        row("context", self.context_length.map_or_else(unknown, |n| format!("{n} tokens")));
        if let Some(scaling) = &self.rope_scaling {
            row("RoPE scaling", scaling.clone());
        }
        for (key, value) in &self.shapes {
            // Said above, unless it is another number.
            if key != "context_length" || value.as_u64() != self.context_length.map(u64::from) {
                row(&format!("  {key}"), value.to_string());
            }
        }
        row("tensors", self.tensors.to_string());
        for Weights { kind, tensors, weights, bytes } in &self.weights {
            row(
                &format!("  {kind}"),
                format!("{tensors} tensors, {weights} weights, {}", size(*bytes)),
            );
        }
        if let Some(bytes) = self.kv_bytes_a_token {
            row("KV cache", format!("{bytes} bytes a token"));
        }
        if let Some(bytes) = self.index_bytes_a_token {
            row("index", format!("{bytes} bytes a token"));
        }
        row("tokenizer", self.tokenizer.text());
        row(
            "chat template",
            match (&self.chat_template_problem, self.chat_template) {
                (Some(problem), _) => format!("yes, but unusable: {problem}"),
                (None, true) => "yes".into(),
                (None, false) => "no".into(),
            },
        );
        row(
            "can run",
            match &self.problem {
                None => "yes".into(),
                Some(problem) => format!("no: {problem}"),
            },
        );
        let width = rows.iter().map(|(what, _)| what.chars().count()).max().unwrap_or_default();
        rows.iter().map(|(what, value)| format!("{what:<width$}  {value}\n")).collect()
    }
}

impl TokenizerInfo {
    fn new(file: &ModelFile, tokenizer: &Result<Tokenizer>) -> Self {
        let read = tokenizer.as_ref().ok();
        let told = |key| match file.source() {
            Source::Gguf(file) => text(file, key),
            Source::Folder(_) => None,
        };
        Self {
            model: told("tokenizer.ggml.model").or(read.map(|_| "tokenizer.json".into())),
            pre_tokenizer: told("tokenizer.ggml.pre"),
            tokens: match file.source() {
                Source::Gguf(file) => {
                    file.strings("tokenizer.ggml.tokens").ok().map(<[String]>::len)
                }
                Source::Folder(_) => read.map(Tokenizer::vocabulary_size),
            },
            bos: read.and_then(Tokenizer::bos),
            eos: read.and_then(Tokenizer::eos),
            problem: problem(tokenizer),
            warnings: read.map_or_else(Vec::new, |read| read.warnings().to_vec()),
        }
    }

    fn text(&self) -> String {
        let Some(model) = &self.model else { return "none".into() };
        let mut text = model.clone();
        if let Some(rule) = &self.pre_tokenizer {
            text += &format!(" ({rule})");
        }
        if let Some(tokens) = self.tokens {
            text += &format!(", {tokens} tokens");
        }
        if let Some(problem) = &self.problem {
            text += &format!(", unusable: {problem}");
        }
        for warning in &self.warnings {
            text += &format!("; {warning}");
        }
        text
    }
}

fn text(file: &Gguf, key: &str) -> Option<String> {
    file.value(key).and_then(Value::as_str).map(str::to_owned)
}

fn problem<T>(result: &Result<T>) -> Option<String> {
    result.as_ref().err().map(ToString::to_string)
}

// Why a template does not take the simplest question there is.
fn refusal(template: &ChatTemplate, tokenizer: &Tokenizer) -> Option<String> {
    let question = Message::new("user", "Hi");
    problem(&template.encode(tokenizer, &[question], ""))
}

// Numbers, truth values and strings; lists can have any length.
fn json(value: &Value) -> Option<serde_json::Value> {
    let number = value.as_u32().map(serde_json::Value::from);
    // As decimal digits, so that 0.1 does not become 0.10000000149.
    let decimal = |float: f32| float.to_string().parse::<f64>().ok().map(serde_json::Value::from);
    number
        .or_else(|| value.as_f32().and_then(decimal))
        .or_else(|| value.as_bool().map(serde_json::Value::from))
        .or_else(|| value.as_str().map(serde_json::Value::from))
}

// The largest first.
fn weights(file: &ModelFile) -> Vec<Weights> {
    let mut by_kind = BTreeMap::<String, Weights>::new();
    for tensor in file.tensors() {
        let kind = tensor.kind.to_string();
        let entry = by_kind.entry(kind.clone()).or_insert(Weights {
            kind,
            tensors: 0,
            weights: 0,
            bytes: 0,
        });
        entry.tensors += 1;
        // A type of unknown size can claim any shape.
        let count = tensor.shape.iter().fold(1u64, |product, &n| product.saturating_mul(n));
        entry.weights = entry.weights.saturating_add(count);
        entry.bytes += tensor.bytes;
    }
    let mut list: Vec<Weights> = by_kind.into_values().collect();
    list.sort_by_key(|entry| std::cmp::Reverse(entry.bytes));
    list
}
