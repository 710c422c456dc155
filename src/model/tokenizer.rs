//! Text to token ids and back: byte-level BPE as a GGUF file describes it.
//!
//! The reference is llama.cpp: the same text must become the same ids as there.

mod bytes;
mod check;
mod decoder;
mod pre;
#[cfg(test)]
mod tests;

pub use decoder::Decoder;

use std::fmt;

use tokenizers::models::bpe::BPE;
use tokenizers::normalizers::NormalizerWrapper;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::{AddedToken, AddedVocabulary, Model, OffsetType, PreTokenizer};

use crate::model::gguf::Gguf;
use crate::{Error, Result};

/// Control tokens that end a turn or a document in known model families. A model file names only
/// one of them as its end, yet its model emits the others too.
const ENDS: [&str; 5] =
    ["<|endoftext|>", "<|im_end|>", "<|eot_id|>", "<|user|>", "<|observation|>"];

/// What a model file says about its tokens.
#[derive(Debug, Clone, Default)]
pub struct Vocabulary {
    /// The tokens by id, in GPT-2's byte-level alphabet (`tokenizer.ggml.tokens`).
    pub tokens: Vec<String>,
    /// The merges by rank, each two tokens with a space between (`tokenizer.ggml.merges`).
    pub merges: Vec<String>,
    /// The kind of each token (`tokenizer.ggml.token_type`): 1 normal, 2 unknown, 3 control,
    /// 4 user defined, 5 unused, 6 byte.
    pub kinds: Vec<i32>,
    /// The name of the rule that cuts text into words (`tokenizer.ggml.pre`).
    pub pre_tokenizer: String,
    /// The token that begins a text (`tokenizer.ggml.bos_token_id`).
    pub bos: Option<u32>,
    /// The token that ends a text (`tokenizer.ggml.eos_token_id`).
    pub eos: Option<u32>,
    /// Further tokens that end generation, such as `tokenizer.ggml.eot_token_id`.
    pub stops: Vec<u32>,
    /// Whether a text without a chat template begins with `bos` (`tokenizer.ggml.add_bos_token`).
    pub add_bos: bool,
}

/// What a token stands for, as far as encoding and decoding differ by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Text in the byte-level alphabet.
    Text,
    /// A mark such as `<|im_end|>`, which no text can contain unless the caller says so.
    Control,
    /// Plain text that is one token wherever it occurs.
    UserDefined,
}

/// Encodes text to token ids and decodes them.
pub struct Tokenizer {
    bpe: BPE,
    words: Sequence,
    /// What is one token wherever it occurs in a text: with and without the control tokens.
    with_control: AddedVocabulary,
    without_control: AddedVocabulary,
    tokens: Vec<String>,
    kinds: Vec<Kind>,
    bos: Option<u32>,
    eos: Option<u32>,
    stops: Vec<u32>,
    add_bos: bool,
}

impl Tokenizer {
    /// Builds the tokenizer that a model file describes.
    ///
    /// # Errors
    /// [`Error::Model`] when the file has none, or one that is not supported.
    pub fn read(file: &Gguf) -> Result<Self> {
        let kind = file.str("tokenizer.ggml.model")?;
        if kind != "gpt2" {
            return Err(Error::Model(format!(
                "the tokenizer (tokenizer.ggml.model) is {kind:?}, but only \"gpt2\" (byte-level BPE) is supported"
            )));
        }
        let id = |name: &str| file.opt_u32(&format!("tokenizer.ggml.{name}_token_id"));
        Self::new(Vocabulary {
            tokens: file.strings("tokenizer.ggml.tokens")?.to_vec(),
            merges: file.strings("tokenizer.ggml.merges")?.to_vec(),
            kinds: file.i32s("tokenizer.ggml.token_type")?.to_vec(),
            pre_tokenizer: file.str("tokenizer.ggml.pre")?.to_owned(),
            bos: id("bos")?,
            eos: id("eos")?,
            stops: [id("eot")?, id("eom")?].into_iter().flatten().collect(),
            add_bos: file.opt_bool("tokenizer.ggml.add_bos_token")?.unwrap_or(false),
        })
    }

    /// Builds the tokenizer, or says what in the vocabulary contradicts itself.
    pub fn new(vocabulary: Vocabulary) -> Result<Self> {
        let words = pre::words(&vocabulary.pre_tokenizer)?;
        let checked = check::check(&vocabulary)?;
        let missing = checked.missing;
        let bpe = BPE::builder()
            .vocab_and_merges(checked.ids, checked.merges)
            // A byte that has no token: nothing may merge across it.
            .unk_token(missing)
            .build()
            .map_err(|error| Error::Model(format!("tokenizer: {error}")))?;
        let kinds = checked.kinds;
        let Vocabulary { tokens, bos, eos, mut stops, add_bos, .. } = vocabulary;

        let chosen = |control: bool| {
            let mut added = AddedVocabulary::new();
            let list: Vec<AddedToken> = tokens
                .iter()
                .zip(&kinds)
                .filter(|&(_, &kind)| kind == Kind::UserDefined || control && kind == Kind::Control)
                .map(|(token, _)| AddedToken::from(token, true))
                .collect();
            added.add_tokens::<NormalizerWrapper>(&list, &bpe, None);
            added
        };
        let (with_control, without_control) = (chosen(true), chosen(false));

        stops.extend(eos);
        let is_end = |(token, kind): (&String, &Kind)| {
            *kind == Kind::Control && ENDS.contains(&token.as_str())
        };
        stops.extend((0u32..).zip(tokens.iter().zip(&kinds)).filter(|e| is_end(e.1)).map(|e| e.0));
        stops.sort_unstable();
        stops.dedup();
        Ok(Self {
            bpe,
            words,
            with_control,
            without_control,
            tokens,
            kinds,
            bos,
            eos,
            stops,
            add_bos,
        })
    }

    /// The ids of `text`, without a leading `bos`. Control tokens that `text` spells out become
    /// their ids only if `parse_special`; otherwise they are text like any other.
    ///
    /// A byte that the vocabulary has no token for is left out, as in llama.cpp.
    pub fn encode(&self, text: &str, parse_special: bool) -> Result<Vec<u32>> {
        pre::check_text(text)?;
        let added = if parse_special { &self.with_control } else { &self.without_control };
        let mut parts = added.extract_and_normalize::<NormalizerWrapper>(None, text);
        self.words
            .pre_tokenize(&mut parts)
            .and_then(|()| parts.tokenize(|word| self.bpe.tokenize(word.get())))
            .and_then(|()| parts.into_encoding(None, 0, OffsetType::None))
            .map(|encoding| {
                let known = |id: &u32| (*id as usize) < self.tokens.len();
                encoding.get_ids().iter().copied().filter(known).collect()
            })
            .map_err(|error| Error::Model(format!("tokenizer: {error}")))
    }

    /// The text of `ids`, control tokens spelled out. What is not UTF-8, or no token, becomes
    /// U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> String {
        let mut decoder = self.decoder(false);
        let mut text: String = ids.iter().map(|&id| decoder.push(id)).collect();
        text += &decoder.finish();
        text
    }

    /// A decoder for ids that arrive one by one; control tokens become nothing if `skip_control`,
    /// and are spelled out otherwise.
    pub fn decoder(&self, skip_control: bool) -> Decoder<'_> {
        Decoder::new(self, skip_control)
    }

    /// The token as the file spells it: in the byte-level alphabet unless it is a control token
    /// or user defined.
    pub fn token(&self, id: u32) -> Option<&str> {
        self.tokens.get(id as usize).map(String::as_str)
    }

    /// The token that begins a text.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The token that ends a text.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// The token to put before a text that no chat template has framed, if the model wants one.
    pub fn leading_bos(&self) -> Option<u32> {
        self.bos.filter(|_| self.add_bos)
    }

    /// Whether generation ends with this token.
    pub fn is_stop(&self, id: u32) -> bool {
        self.stops.binary_search(&id).is_ok()
    }

    /// How many tokens there are.
    pub fn vocabulary_size(&self) -> usize {
        self.tokens.len()
    }

    /// Appends the bytes that a token stands for.
    fn append_bytes(&self, id: u32, skip_control: bool, to: &mut Vec<u8>) {
        let Some((token, kind)) = self.token(id).zip(self.kinds.get(id as usize)) else {
            to.extend("\u{FFFD}".bytes());
            return;
        };
        match kind {
            Kind::Control if skip_control => {}
            Kind::Control | Kind::UserDefined => to.extend(token.bytes()),
            Kind::Text => bytes::append(token, to),
        }
    }
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer")
            .field("tokens", &self.tokens.len())
            .field("bos", &self.bos)
            .field("eos", &self.eos)
            .field("stops", &self.stops)
            .finish_non_exhaustive()
    }
}
