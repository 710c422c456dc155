//! `tokenizer.json` as Hugging Face's `tokenizers` writes it, where it is BPE of bytes, or of characters as SentencePiece has it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use tokenizers::normalizers::replace::ReplacePattern;
use tokenizers::normalizers::unicode::NFC;
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::pre_tokenizers::split::SplitPattern;
use tokenizers::{AddedToken, NormalizerWrapper, SplitDelimiterBehavior};

use super::check;
use super::parts::{Parts, SPACE, Spelling, Unknown, marked};
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
    decoder: Decoder,
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
    Prepend {
        prepend: String,
    },
    Replace {
        pattern: ReplacePattern,
        content: String,
    },
    Sequence {
        normalizers: Vec<Normalizer>,
    },
}

/// What makes text of tokens, step by step.
#[derive(Deserialize)]
#[serde(tag = "type")]
enum Decoder {
    ByteLevel {},
    Replace { pattern: ReplacePattern, content: String },
    ByteFallback {},
    Fuse {},
    Strip { content: char, start: usize, stop: usize },
    Sequence { decoders: Vec<Decoder> },
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
    Metaspace {
        replacement: char,
        /// Before there were schemes.
        add_prefix_space: Option<bool>,
        prepend_scheme: Option<PrependScheme>,
        #[serde(default = "yes")]
        split: bool,
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
    let only = |what: &str, part: Option<Named>, supported: &[&str]| {
        let name = part.and_then(|part| part.name);
        if name.as_deref().is_some_and(|name| supported.contains(&name)) {
            return Ok(());
        }
        let name = name.map_or_else(|| "missing".into(), |name| check::quoted(&name));
        Err(problem(
            path,
            format!(
                "the type of the {what} is {name}, but only BPE, of bytes or SentencePiece's, is supported ({})",
                supported.join(" or ")
            ),
        ))
    };
    only("model", Some(kinds.model), &["BPE"])?;
    only("decoder", kinds.decoder, &["ByteLevel", "Sequence"])?;
    content(parse(path, text)?).map_err(|error| named(path, error))
}

fn content(content: Content) -> Result<Parts> {
    let Content { added_tokens, normalizer, pre_tokenizer, post_processor, decoder, model } =
        content;
    let spelling = spelling(decoder)?;
    refuse_other_bpe(&model, spelling)?;
    let normalizer = normalizer.map(|own| normalizing(own, spelling)).transpose()?.flatten();
    // Where all spaces are marked none is left to cut a text at, as Gemma's tokenizers would.
    let has_marks = spelling != Spelling::Bytes && normalizer.is_some();
    let mut words = Words::default();
    if let Some(step) = pre_tokenizer.filter(|step| !(has_marks && cuts_at_spaces(step))) {
        add(step, &mut words)?;
    }
    match spelling {
        Spelling::Bytes if !words.are_bytes() => {
            return Err(Error::Model(
                "the pre-tokenizer does not end with \"ByteLevel\", but the decoder is of byte-level BPE"
                    .into(),
            ));
        }
        Spelling::Marked { .. } if !words.are_texts() => {
            return Err(Error::Model(
                "the pre-tokenizer is not \"Metaspace\" or none, but the decoder is SentencePiece's"
                    .into(),
            ));
        }
        _ => {}
    }
    let merges = model.merges.into_iter().enumerate().map(|(rank, merge)| match merge {
        Merge::Pair(left, right) => Ok((left, right)),
        Merge::Line(line) => check::pair(rank, &line),
    });
    let merges = merges.collect::<Result<_>>()?;
    Ok(Parts {
        tokens: tokens(model.vocab.0, &added_tokens)?,
        spelling,
        merges,
        special: added_tokens.into_iter().map(|added| added.token).collect(),
        normalizer,
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

/// How the decoder takes tokens to spell text.
fn spelling(decoder: Decoder) -> Result<Spelling> {
    let Decoder::Sequence { decoders } = decoder else { return Ok(Spelling::Bytes) };
    match decoders.as_slice() {
        [Decoder::ByteLevel {}] => Ok(Spelling::Bytes),
        [
            Decoder::Replace { pattern, content },
            Decoder::ByteFallback {},
            Decoder::Fuse {},
            rest @ ..,
        ] if *pattern == ReplacePattern::String(SPACE.into()) && content == " " => match rest {
            [] => Ok(Spelling::Marked { strips: false }),
            [Decoder::Strip { content: ' ', start: 1, stop: 0 }] => {
                Ok(Spelling::Marked { strips: true })
            }
            _ => Err(other_decoder()),
        },
        _ => Err(other_decoder()),
    }
}

fn other_decoder() -> Error {
    Error::Model(
        "the decoder is a \"Sequence\", but only SentencePiece's is supported: marks become spaces, tokens that name bytes \
         those, all is fused, and at most one space is stripped from the beginning"
            .into(),
    )
}

/// What is done to text first, if anything is.
fn normalizing(own: Normalizer, spelling: Spelling) -> Result<Option<NormalizerWrapper>> {
    let mut steps = Vec::new();
    flatten(own, &mut steps);
    let is_mark = |text: &str| text.chars().eq([SPACE]);
    match (spelling, steps.as_slice()) {
        (_, []) => Ok(None),
        (Spelling::Bytes, steps) if steps.iter().all(|step| matches!(step, Normalizer::Nfc)) => {
            Ok(Some(NFC.into()))
        }
        (
            Spelling::Marked { .. },
            [before @ .., Normalizer::Replace { pattern: ReplacePattern::String(space), content }],
        ) if space == " " && is_mark(content) => match before {
            [] => marked(false).map(Some),
            [Normalizer::Prepend { prepend }] if is_mark(prepend) => marked(true).map(Some),
            _ => Err(other_normalizer()),
        },
        _ => Err(other_normalizer()),
    }
}

fn flatten(step: Normalizer, steps: &mut Vec<Normalizer>) {
    match step {
        Normalizer::Sequence { normalizers } => {
            normalizers.into_iter().for_each(|step| flatten(step, steps));
        }
        step => steps.push(step),
    }
}

fn other_normalizer() -> Error {
    Error::Model(
        "the normalizer is another than Unicode's NFC, or than one that marks spaces where the decoder is SentencePiece's"
            .into(),
    )
}

fn refuse_other_bpe(model: &Bpe, spelling: Spelling) -> Result<()> {
    if spelling != Spelling::Bytes && !model.byte_fallback {
        return Err(Error::Model(
            "the model lacks `byte_fallback`, but only SentencePiece's BPE with it is supported"
                .into(),
        ));
    }
    let is_filled = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
    let other = [
        ("byte_fallback", model.byte_fallback && spelling == Spelling::Bytes),
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

fn cuts_at_spaces(step: &PreTokenizer) -> bool {
    matches!(step, PreTokenizer::Split { pattern: SplitPattern::String(text), .. } if text == " ")
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
        PreTokenizer::Metaspace { replacement, add_prefix_space, prepend_scheme, split } => {
            let usual = match add_prefix_space {
                Some(false) => PrependScheme::Never,
                _ => PrependScheme::Always,
            };
            if replacement != SPACE {
                let limit = format!("only {SPACE:?} is supported");
                return Err(Error::Model(format!(
                    "the pre-tokenizer \"Metaspace\" has {replacement:?} for a space, but {limit}"
                )));
            }
            words.spaces(Metaspace::new(SPACE, prepend_scheme.unwrap_or(usual), split));
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
