//! A model folder as published on Hugging Face.

use std::path::Path;

use serde_json::{Map, Value};

use super::check;
use super::parts::Parts;
use super::tokenizer_json;
use crate::model::json_file::{object, problem, text};
use crate::{Error, Result};

/// The file that holds the vocabulary.
pub const FILE: &str = "tokenizer.json";

/// Bytes that it may have; the longest published ones have about 35 million.
const MOST: u64 = 256 << 20;

/// Everything that a folder says about its tokenizer.
pub fn read(folder: &Path) -> Result<Parts> {
    let path = folder.join(FILE);
    let Some(text) = text(&path, MOST)? else {
        let source = std::io::ErrorKind::NotFound.into();
        return Err(Error::Io { path, source });
    };
    let mut parts = tokenizer_json::read(&path, &text)?;
    drop(text);

    let [tokenizer, generation, model] =
        ["tokenizer_config.json", "generation_config.json", "config.json"]
            .map(|name| Config::read(folder, name));
    let (tokenizer, generation, model) = (tokenizer?, generation?, model?);

    parts.bos = match tokenizer.token("bos_token", &parts.tokens)? {
        Some(id) => id,
        None => model.ids("bos_token_id", &parts.tokens)?.first().copied(),
    };
    parts.stops = generation.ids("eos_token_id", &parts.tokens)?;
    parts.stops.extend(model.ids("eos_token_id", &parts.tokens)?);
    for key in ["eot_token", "eom_token"] {
        parts.stops.extend(tokenizer.token(key, &parts.tokens)?.flatten());
    }
    parts.eos = match tokenizer.token("eos_token", &parts.tokens)? {
        Some(id) => id,
        None => parts.stops.first().copied(),
    };
    parts.add_bos = tokenizer.flag("add_bos_token")?;
    Ok(parts)
}

/// One of the small files beside the vocabulary; an absent one says nothing.
struct Config {
    path: std::path::PathBuf,
    content: Map<String, Value>,
}

impl Config {
    fn read(folder: &Path, name: &str) -> Result<Self> {
        let path = folder.join(name);
        let content = object(&path)?;
        Ok(Self { path, content })
    }

    /// The id of the token that a key spells. `None` if the key is absent, `Some(None)` if there
    /// shall be no such token.
    fn token(&self, key: &str, tokens: &[String]) -> Result<Option<Option<u32>>> {
        let Some(value) = self.content.get(key) else { return Ok(None) };
        if value.is_null() {
            return Ok(Some(None));
        }
        let spelled = value.as_str().or_else(|| value.get("content").and_then(Value::as_str));
        let spelled = spelled.ok_or_else(|| self.wrong(key, value, "a token"))?;
        // Special tokens have the highest ids.
        let found = tokens.iter().rposition(|token| token == spelled);
        let id = found.and_then(|id| u32::try_from(id).ok()).filter(|_| !spelled.is_empty());
        id.map_or_else(
            || Err(self.wrong(key, value, "a token of the vocabulary")),
            |id| Ok(Some(Some(id))),
        )
    }

    /// The ids that a key lists: a number, several or none.
    fn ids(&self, key: &str, tokens: &[String]) -> Result<Vec<u32>> {
        let values = match self.content.get(key) {
            None | Some(Value::Null) => &[],
            Some(Value::Array(values)) => values.as_slice(),
            Some(value) => std::slice::from_ref(value),
        };
        let id = |value: &Value| {
            let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
            id.filter(|&id| (id as usize) < tokens.len()).ok_or_else(|| {
                self.wrong(key, value, &format!("an id below {} (or a list of them)", tokens.len()))
            })
        };
        values.iter().map(id).collect()
    }

    fn flag(&self, key: &str) -> Result<Option<bool>> {
        match self.content.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(value) => Err(self.wrong(key, value, "true or false")),
        }
    }

    fn wrong(&self, key: &str, value: &Value, needed: &str) -> Error {
        let value = check::quoted(&value.to_string());
        problem(&self.path, format!("{key} is {value}, but {needed} is needed"))
    }
}
