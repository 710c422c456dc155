//! Sliding windows: how many tokens they have, and which layers have one.

use super::description::{self, Description, Key, key};
use crate::model::config::SlidingWindow;
use crate::{Error, Result};

const WINDOW: Key = key("attention.sliding_window", "sliding_window");
const PATTERN: Key = key("attention.sliding_window_pattern", "");
const SWITCH: &str = "use_sliding_window";
const TYPES: &str = "layer_types";
/// The kinds of layers in `layer_types`, which transformers 5 writes: without a window and with one.
const KINDS: [&str; 2] = ["full_attention", "sliding_attention"];
const FIRST: Key = key("", "max_window_layers");
/// A window's tokens, and Qwen's first layer that has one, where `config.json` does not say, as in transformers.
const TOKENS: u32 = 4096;
const FIRST_LAYER: u32 = 28;

/// Refuses a `config.json` that says of windows what its family does not have.
pub(super) fn nowhere(description: Description<'_>) -> Result<()> {
    description.must_be_off(SWITCH)?;
    must_be(description, false)
}

/// Mistral's rule: every layer has one, unless a `config.json` says null, or a GGUF file nothing.
pub(super) fn everywhere(
    description: Description<'_>,
    layers: u32,
) -> Result<Option<SlidingWindow>> {
    description.must_be(PATTERN, 1)?;
    let tokens = tokens(description)?;
    must_be(description, tokens.is_some())?;
    Ok(tokens.map(|tokens| SlidingWindow { tokens, layers: vec![true; layers as usize] }))
}

/// The first layer that has one, by Qwen's rule.
pub(super) fn first_layer(description: Description<'_>) -> Result<u32> {
    Ok(description.opt_number(FIRST)?.unwrap_or(FIRST_LAYER))
}

/// Qwen's rule: where it is switched on, the layers that are listed have one, or those from `first` on.
pub(super) fn where_switched_on(
    description: Description<'_>,
    layers: u32,
    first: u32,
) -> Result<Option<SlidingWindow>> {
    description.must_be(key(WINDOW.gguf, ""), 0)?;
    // A GGUF file has no switch.
    let is_on = description.is_json() && description.opt_flag(key("", SWITCH))? == Some(true);
    let tokens = if is_on { tokens(description)? } else { None };
    in_layers(description, tokens, layers, |layer| layer >= first)
}

/// Gemma 2's rule: the layers that are listed have one, or every other from the first on.
pub(super) fn every_other(
    description: Description<'_>,
    layers: u32,
) -> Result<Option<SlidingWindow>> {
    description.must_be(PATTERN, 2)?;
    let tokens = match description.opt_number(WINDOW)? {
        // As in llama.cpp.
        None if !description.is_json() => Some(TOKENS),
        _ => tokens(description)?,
    };
    in_layers(description, tokens, layers, |layer| layer.is_multiple_of(2))
}

// Windows of so many tokens in the layers that are listed, or in those that usually have one.
fn in_layers(
    description: Description<'_>,
    tokens: Option<u32>,
    layers: u32,
    usual: impl Fn(u32) -> bool,
) -> Result<Option<SlidingWindow>> {
    let Some(tokens) = tokens else { return must_be(description, false).map(|()| None) };
    let layers = match listed(description)? {
        None => (0..layers).map(usual).collect(),
        Some(listed) if listed.len() == layers as usize => listed,
        Some(listed) => {
            let limit = format!("the model has {layers} layers");
            return Err(Error::Model(format!(
                "{TYPES} lists {} layers, but {limit}",
                listed.len()
            )));
        }
    };
    Ok(Some(SlidingWindow { tokens, layers }).filter(|sliding| sliding.layers.contains(&true)))
}

fn tokens(description: Description<'_>) -> Result<Option<u32>> {
    let tokens = match description {
        Description::Gguf { .. } => description.opt_number(WINDOW)?.filter(|&tokens| tokens > 0),
        Description::Json { folder } if folder.config().get(WINDOW.json).is_none() => Some(TOKENS),
        Description::Json { .. } => description.opt_number(WINDOW)?,
    };
    match tokens {
        Some(0) => Err(Error::Model(format!(
            "{} is 0, but a window has at least the token itself",
            description.name(WINDOW)
        ))),
        tokens => Ok(tokens),
    }
}

// Which layers have a window, if that is listed.
fn listed(description: Description<'_>) -> Result<Option<Vec<bool>>> {
    let Some(types) = description.json(TYPES) else { return Ok(None) };
    let list = types.as_array().ok_or_else(|| description::wrong(TYPES, types, "a list"))?;
    let has_window = |kind: &serde_json::Value| match KINDS.iter().position(|known| kind == known) {
        Some(found) => Ok(found == 1),
        None => Err(description::wrong(TYPES, kind, &format!("{:?} or {:?}", KINDS[0], KINDS[1]))),
    };
    list.iter().map(has_window).collect::<Result<_>>().map(Some)
}

// Refuses a list that says otherwise of some layer.
fn must_be(description: Description<'_>, windows: bool) -> Result<()> {
    match listed(description)? {
        Some(listed) if listed.contains(&!windows) => Err(description::wrong(
            TYPES,
            &KINDS[usize::from(!windows)].into(),
            &format!("{:?} in every layer", KINDS[usize::from(windows)]),
        )),
        _ => Ok(()),
    }
}
