//! What `--batch` reads: a JSON object a line.

use crate::cli::prompt;
use asynctls::generate::{AnswerOptions, Chat, Framing, Turn};
use asynctls::model::SamplerSettings;
use asynctls::{Error, Result};
use serde::Deserialize;
use serde_json::Value;
use std::io::Read;
use std::path::Path;

/// A line.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Line {
    /// Its number in the file, from 1.
    #[serde(skip)]
    pub number: usize,
    /// CRC-32 of its text, by which a result is known to be its own.
    #[serde(skip)]
    pub checksum: String,
    /// What the result's line is named by.
    #[serde(default)]
    pub id: Value,
    prompt: Option<String>,
    messages: Option<Vec<Message>>,
    max_tokens: Option<u32>,
    stop: Option<Vec<String>>,
    temperature: Option<f32>,
    top_k: Option<usize>,
    top_p: Option<f32>,
    min_p: Option<f32>,
    repetition_penalty: Option<f32>,
    presence_penalty: Option<f32>,
    frequency_penalty: Option<f32>,
    seed: Option<u64>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Message {
    role: String,
    content: String,
}

/// The lines of a file, without those that are blank.
///
/// # Errors
/// Naming the first line that is no such object.
pub fn read(path: &Path) -> Result<Vec<Line>> {
    let mut bytes = Vec::new();
    let io = |source| Error::Io { path: path.to_owned(), source };
    if prompt::is_stdin(path) {
        std::io::stdin().lock().read_to_end(&mut bytes).map_err(io)?;
    } else {
        bytes = std::fs::read(path).map_err(io)?;
    }
    let mut lines = Vec::new();
    for (at, text) in bytes.split(|byte| *byte == b'\n').enumerate() {
        if text.trim_ascii().is_empty() {
            continue;
        }
        let number = at + 1;
        let line = parse(text).map_err(|problem| {
            let what = format!("line {number} of {}", path.display());
            Error::argument(what, "unusable", problem)
        })?;
        let checksum = format!("{:08x}", crc32fast::hash(text.trim_ascii()));
        lines.push(Line { number, checksum, ..line });
    }
    Ok(lines)
}

fn parse(text: &[u8]) -> std::result::Result<Line, String> {
    // The place in the file is said already.
    let problem = |error: serde_json::Error| {
        let said = error.to_string();
        said.split(" at line ").next().unwrap_or(&said).to_owned()
    };
    let line: Line = serde_json::from_slice(text).map_err(problem)?;
    if !matches!(line.id, Value::Null | Value::String(_) | Value::Number(_)) {
        return Err("its id must be a string or a number".into());
    }
    match (&line.prompt, &line.messages) {
        (Some(_), Some(_)) => Err("it may have a prompt or messages, not both".into()),
        (None, None) => Err("it must have a prompt or messages".into()),
        _ => Ok(line),
    }
}

impl Line {
    /// The tokens of its prompt, where what all are told before stands in `chat`.
    ///
    /// # Errors
    /// As [`Chat::tokens`], and for messages that are none.
    pub fn tokens(&self, chat: &Chat, framing: &Framing) -> Result<Vec<u32>> {
        let mut chat = chat.clone();
        if let Some(prompt) = &self.prompt {
            if prompt.is_empty() {
                let limit = "at least one character is needed";
                return Err(Error::argument("the prompt", "empty", limit));
            }
            chat.ask(prompt);
        }
        if let Some(messages) = &self.messages {
            if messages.is_empty() {
                return Err(Error::argument("the messages", "none", "at least one is needed"));
            }
            let turn = |message: &Message| Turn::new(&*message.role, &*message.content);
            let said: Vec<Turn> = messages.iter().map(turn).collect();
            // Its own system message takes the place of the one for all.
            let is_told = said[0].role == "system";
            let before = if is_told { &[] } else { chat.turns() };
            let turns = [before, &said].concat();
            chat = Chat::default();
            chat.resume(turns)?;
        }
        chat.tokens(framing)
    }

    /// How it is answered, where all are by `usual`.
    pub fn options(&self, usual: &AnswerOptions) -> AnswerOptions {
        let all = usual.sampling;
        let sampling = SamplerSettings {
            temperature: self.temperature.unwrap_or(all.temperature),
            top_k: self.top_k.unwrap_or(all.top_k),
            top_p: self.top_p.unwrap_or(all.top_p),
            min_p: self.min_p.unwrap_or(all.min_p),
            repetition_penalty: self.repetition_penalty.unwrap_or(all.repetition_penalty),
            presence_penalty: self.presence_penalty.unwrap_or(all.presence_penalty),
            frequency_penalty: self.frequency_penalty.unwrap_or(all.frequency_penalty),
            // The same prompt on two lines is answered in two ways.
            seed: self.seed.unwrap_or(all.seed.wrapping_add(self.number as u64)),
            ..all
        };
        AnswerOptions {
            max_tokens: self.max_tokens.unwrap_or(usual.max_tokens),
            stop: self.stop.clone().unwrap_or_else(|| usual.stop.clone()),
            sampling,
            ..usual.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_such_line_is_named() {
        for (text, problem) in [
            (r#"{"prompt": "a", "max_token": 3}"#, "unknown field `max_token`"),
            (r#"{"messages": [{"role": "user", "text": "a"}]}"#, "unknown field `text`"),
            (r#"{"prompt": "a", "messages": []}"#, "it may have a prompt or messages, not both"),
            (r#"{"id": 1}"#, "it must have a prompt or messages"),
            (r#"{"id": [1], "prompt": "a"}"#, "its id must be a string or a number"),
            (r#"{"prompt": 1}"#, "invalid type: integer `1`, expected a string"),
            (r#"{"prompt": "a""#, "EOF while parsing an object"),
            (r#"["a"]"#, "invalid"),
            ("{\"prompt\": \"\u{0}\"}", "control character"),
        ] {
            let error = parse(text.as_bytes()).unwrap_err();
            assert!(error.contains(problem), "{text}: {error}");
            assert!(!error.contains("at line"), "{error}");
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "{\"prompt\": \"a\"}\r\n\n{}\n").unwrap();
        let error = read(file.path()).unwrap_err().to_string();
        assert!(error.starts_with("line 3 of ") && error.contains("must have a prompt"), "{error}");
    }

    #[test]
    fn lines_differ_from_what_is_usual() {
        let line =
            parse(br#"{"prompt": "a", "max_tokens": 3, "stop": ["x"], "seed": 9, "top_k": 2}"#);
        let sampling = SamplerSettings { temperature: 0.5, seed: 40, ..Default::default() };
        let usual = AnswerOptions::new(sampling, asynctls::attention::Attention::Dense);
        let own = line.unwrap().options(&usual);
        assert_eq!((own.max_tokens, own.stop.len(), own.sampling.seed), (3, 1, 9));
        assert_eq!((own.sampling.top_k, own.sampling.temperature), (2, 0.5));
        let other = Line { number: 2, ..parse(br#"{"prompt": "a"}"#).unwrap() };
        assert_eq!(other.options(&usual).sampling.seed, 42);
    }
}
