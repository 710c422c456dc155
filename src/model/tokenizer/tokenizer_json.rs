//! `tokenizer.json` as Hugging Face's `tokenizers` writes it, where it is byte-level BPE.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use tokenizers::pre_tokenizers::split::SplitPattern;
use tokenizers::{AddedToken, SplitDelimiterBehavior};

use super::check;
use super::parts::{Parts, Unknown};
use super::words::{GPT2, Words};
use crate::model::json_file::{named, parse, problem};
use crate::{Error, Result};

/// How far beyond their number the ids of tokens may go: some files leave gaps.
const SLACK: usize = 1 << 16;

/// The kinds of a file's parts, read first: a part of another kind has another form.
#[derive(Deserialize)]
struct Kinds {
    model: Named,
    decoder: Option<Named>,
}

#[derive(Deserialize)]
struct Named {
    #[serde(rename = "type")]
    name: Option<String>,
}

#[derive(Deserialize)]
struct Content {
    #[serde(default)]
    added_tokens: Vec<Added>,
    normalizer: Option<Normalizer>,
    pre_tokenizer: Option<PreTokenizer>,
    post_processor: Option<PostProcessor>,
    model: Bpe,
}

#[derive(Deserialize)]
struct Added {
    id: u32,
    #[serde(flatten)]
    token: AddedToken,
}

#[derive(Deserialize)]
#[serde(tag = "type")]
enum Normalizer {
    #[serde(rename = "NFC")]
    Nfc,
    Sequence {
        normalizers: Vec<Normalizer>,
    },
}

#[derive(Deserialize)]
#[serde(tag = "type")]
enum PreTokenizer {
    Sequence {
        pretokenizers: Vec<PreTokenizer>,
    },
    Split {
        pattern: SplitPattern,
        behavior: SplitDelimiterBehavior,
        invert: bool,
    },
    Digits {
        individual_digits: bool,
    },
    ByteLevel {
        add_prefix_space: bool,
        #[serde(default = "yes")]
        use_regex: bool,
    },
}

/// The tokens put around those of a text.
#[derive(Deserialize)]
#[serde(tag = "type")]
enum PostProcessor {
    Sequence {
        processors: Vec<PostProcessor>,
    },
    TemplateProcessing {
        single: Vec<Framing>,
        special_tokens: BTreeMap<String, FramingToken>,
    },
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
enum Framing {
    SpecialToken { id: String },
    Sequence {},
}

#[derive(Deserialize)]
struct FramingToken {
    ids: Vec<u32>,
}

fn yes() -> bool {
    true
}

#[derive(Deserialize)]
struct Bpe {
    vocab: Ids,
    merges: Vec<Merge>,
    #[serde(default)]
    ignore_merges: bool,
    unk_token: Option<String>,
    #[serde(default)]
    fuse_unk: bool,
    #[serde(default)]
    byte_fallback: bool,
    dropout: Option<f32>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Pair(String, String),
    Line(String),
}

/// The entries of an object as they come, which a map would hide if they contradict each other.
struct Ids(Vec<(String, u32)>);

impl<'de> Deserialize<'de> for Ids {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Ids;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tokens and their ids")
            }

            fn visit_map<A: MapAccess<'de>>(
                self,
                mut map: A,
            ) -> std::result::Result<Ids, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Ids(entries))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

/// The parts that a file's text describes; which tokens begin and end texts, it does not say.
pub fn read(path: &Path, text: &str) -> Result<Parts> {
    let kinds: Kinds = parse(path, text)?;
    let only = |what: &str, part: Option<Named>, supported: &str| {
        let name = part.and_then(|part| part.name);
        if name.as_deref() == Some(supported) {
            return Ok(());
        }
        let name = name.map_or_else(|| "missing".into(), |name| check::quoted(&name));
        Err(problem(
            path,
            format!(
                "the type of the {what} is {name}, but only byte-level BPE ({supported:?}) is supported"
            ),
        ))
    };
    only("model", Some(kinds.model), "BPE")?;
    only("decoder", kinds.decoder, "ByteLevel")?;
    content(parse(path, text)?).map_err(|error| named(path, error))
}

fn content(content: Content) -> Result<Parts> {
    let Content { added_tokens, normalizer, pre_tokenizer, post_processor, model } = content;
    refuse_other_bpe(&model)?;
    let mut words = Words::default();
    if let Some(step) = pre_tokenizer {
        add(step, &mut words)?;
    }
    if !words.are_bytes() {
        return Err(Error::Model(
            "the pre-tokenizer does not end with \"ByteLevel\", but only byte-level BPE is supported"
                .into(),
        ));
    }
    let merges = model.merges.into_iter().enumerate().map(|(rank, merge)| match merge {
        Merge::Pair(left, right) => Ok((left, right)),
        Merge::Line(line) => check::pair(rank, &line),
    });
    let merges = merges.collect::<Result<_>>()?;
    Ok(Parts {
        tokens: tokens(model.vocab.0, &added_tokens)?,
        merges,
        special: added_tokens.into_iter().map(|added| added.token).collect(),
        is_nfc: normalizer.is_some_and(|normalizer| is_nfc(&normalizer)),
        words,
        whole_words: model.ignore_merges,
        unknown: model
            .unk_token
            .map_or(Unknown::Vanishes, |token| Unknown::Becomes { token, fuse: model.fuse_unk }),
        bos: None,
        eos: None,
        stops: Vec::new(),
        add_bos: None,
        prefix: post_processor.as_ref().map_or_else(Vec::new, prefix),
    })
}

/// The tokens before a text; those behind it would end a text that is to go on.
fn prefix(processor: &PostProcessor) -> Vec<u32> {
    match processor {
        PostProcessor::Sequence { processors } => {
            processors.iter().rev().flat_map(prefix).collect()
        }
        PostProcessor::TemplateProcessing { single, special_tokens } => {
            let before = single.iter().map_while(|part| match part {
                Framing::SpecialToken { id } => special_tokens.get(id),
                Framing::Sequence {} => None,
            });
            before.flat_map(|token| token.ids.iter().copied()).collect()
        }
        PostProcessor::Other => Vec::new(),
    }
}

fn refuse_other_bpe(model: &Bpe) -> Result<()> {
    let is_filled = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
    let other = [
        ("byte_fallback", model.byte_fallback),
        ("dropout", model.dropout.is_some_and(|dropout| dropout != 0.0)),
        ("continuing_subword_prefix", is_filled(&model.continuing_subword_prefix)),
        ("end_of_word_suffix", is_filled(&model.end_of_word_suffix)),
    ];
    other.iter().find(|setting| setting.1).map_or(Ok(()), |(setting, _)| {
        Err(Error::Model(format!(
            "the model has `{setting}`, but only byte-level BPE without it is supported"
        )))
    })
}

fn is_nfc(normalizer: &Normalizer) -> bool {
    match normalizer {
        Normalizer::Nfc => true,
        Normalizer::Sequence { normalizers } => normalizers.iter().any(is_nfc),
    }
}

fn add(step: PreTokenizer, words: &mut Words) -> Result<()> {
    match step {
        PreTokenizer::Sequence { pretokenizers } => {
            pretokenizers.into_iter().try_for_each(|step| add(step, words))
        }
        PreTokenizer::Split { pattern, behavior, invert } => {
            let pattern = match pattern {
                SplitPattern::Regex(pattern) => pattern,
                SplitPattern::String(text) => fancy_regex::escape(&text).into_owned(),
            };
            words.split(&pattern, behavior, invert)
        }
        PreTokenizer::Digits { individual_digits } => {
            words.digits(individual_digits);
            Ok(())
        }
        PreTokenizer::ByteLevel { add_prefix_space: true, .. } => Err(Error::Model(
            "the pre-tokenizer \"ByteLevel\" has `add_prefix_space`, which is not supported".into(),
        )),
        PreTokenizer::ByteLevel { use_regex, .. } => {
            if use_regex {
                words.split(GPT2, SplitDelimiterBehavior::Isolated, false)?;
            }
            words.bytes();
            Ok(())
        }
    }
}

/// The tokens by id.
fn tokens(vocab: Vec<(String, u32)>, added: &[Added]) -> Result<Vec<String>> {
    let count = vocab.len() + added.len();
    let most = count + SLACK;
    let mut tokens = Vec::with_capacity(count);
    let added = added.iter().map(|added| (added.token.content.clone(), added.id));
    for (token, id) in vocab.into_iter().chain(added) {
        let at = id as usize;
        if at >= most {
            return Err(Error::Model(format!(
                "the token {} has the id {id}, but ids of {count} tokens are below {most}",
                check::quoted(&token)
            )));
        }
        if at >= tokens.len() {
            tokens.resize(at + 1, String::new());
        }
        let place: &mut String = &mut tokens[at];
        // Published files list some tokens in both places.
        if !place.is_empty() && *place != token {
            return Err(Error::Model(format!(
                "the tokens {} and {} both have the id {id}",
                check::quoted(place),
                check::quoted(&token)
            )));
        }
        *place = token;
    }
    Ok(tokens)
}
