//! Text to token ids and back: BPE of bytes, or of characters as SentencePiece has it, as a GGUF file or a folder with
//! `tokenizer.json` describes it.

mod bytes;
mod check;
mod decoder;
mod ends;
mod folder;
mod parts;
mod pipeline;
mod pre;
mod scores;
#[cfg(test)]
mod tests;
mod tokenizer_json;
mod vocabulary;
mod words;

pub use decoder::Decoder;
pub use vocabulary::Vocabulary;

use std::fmt;
use std::path::Path;

use parts::{Parts, Spelling};
use pipeline::Pipeline;

use crate::Result;
use crate::model::gguf::Gguf;
use crate::model::json_file;

/// The kind of a token, as far as encoding and decoding differ by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Text, as the tokenizer spells it.
    Text,
    /// A mark such as `<|im_end|>`, which no text can contain unless the caller says so.
    Control,
    /// Plain text that is one token wherever it occurs.
    UserDefined,
}

/// A part of a text that was put together from several sources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece<'a> {
    /// Its text.
    pub text: &'a str,
    /// Whether control tokens that it spells out are those tokens rather than text.
    pub control: bool,
}

/// Encodes text to token ids and decodes them.
pub struct Tokenizer {
    pipeline: Pipeline,
    spelling: Spelling,
    tokens: Vec<String>,
    kinds: Vec<Kind>,
    control: Vec<u32>,
    bos: Option<u32>,
    eos: Option<u32>,
    stops: Vec<u32>,
    leading: Vec<u32>,
    warnings: Vec<String>,
}

impl Tokenizer {
    /// Builds the tokenizer that a GGUF file describes. The same text becomes the same ids as in
    /// llama.cpp.
    ///
    /// # Errors
    /// [`Error::Model`](crate::Error::Model) when the file has none, or one that is not supported.
    #[cfg_attr(feature = "measure", visibility::make(pub))]
    pub(crate) fn read(file: &Gguf) -> Result<Self> {
        Self::new(Vocabulary::read(file)?)
    }

    /// Builds the tokenizer of a model folder as published on Hugging Face: `tokenizer.json`,
    /// with what `tokenizer_config.json`, `generation_config.json` and `config.json` say about the
    /// tokens that begin and end texts. The same text becomes the same ids as with the
    /// `tokenizers` package; what its post-processor puts in front is [`begin`](Self::begin)'s.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) for a file that cannot be read, and [`Error::Model`](crate::Error::Model) for one that is
    /// malformed or describes another kind of tokenizer; both name the file.
    ///
    /// ```no_run
    /// use asynctls::model::Tokenizer;
    ///
    /// let tokenizer = Tokenizer::from_folder("Qwen3-4B".as_ref())?;
    /// let ids = tokenizer.encode("How many sonnets did he write?", false)?;
    /// assert_eq!(tokenizer.decode(&ids), "How many sonnets did he write?");
    /// # Ok::<(), asynctls::Error>(())
    /// ```
    #[cfg_attr(feature = "measure", visibility::make(pub))]
    pub(crate) fn from_folder(folder: &Path) -> Result<Self> {
        folder::read(folder).and_then(|parts| {
            Self::build(parts).map_err(|error| json_file::named(&folder.join(folder::FILE), error))
        })
    }

    /// Builds the tokenizer, or says what in the vocabulary contradicts itself.
    #[cfg_attr(feature = "measure", visibility::make(pub))]
    pub(crate) fn new(vocabulary: Vocabulary) -> Result<Self> {
        Self::build(vocabulary.into_parts()?)
    }

    fn build(mut parts: Parts) -> Result<Self> {
        let mut checked = check::check(&parts)?;
        let warnings = ends::settle(&mut parts, &mut checked);
        let pipeline = Pipeline::new(&mut parts, &mut checked)?;
        let leading = parts.leading();
        let Parts { spelling, tokens, bos, eos, mut stops, .. } = parts;
        let kinds = checked.kinds;
        stops.sort_unstable();
        stops.dedup();
        let is_control = |entry: &(u32, &Kind)| *entry.1 == Kind::Control;
        let control = (0u32..).zip(&kinds).filter(is_control).map(|entry| entry.0).collect();
        Ok(Self { pipeline, spelling, tokens, kinds, control, bos, eos, stops, leading, warnings })
    }

    /// The ids of `text` and no others: see [`begin`](Self::begin). Control tokens that `text` spells out become
    /// their ids only if `parse_special`; otherwise they are text like any other.
    ///
    /// A byte that the vocabulary has no token for is left out, unless a tokenizer.json names an
    /// unknown token for it.
    pub fn encode(&self, text: &str, parse_special: bool) -> Result<Vec<u32>> {
        self.pipeline.encode((text, true), parse_special, &self.kinds)
    }

    /// The ids of a text in pieces. A control token is one only where it lies within pieces that may spell it; all that
    /// is between two of them is encoded as one text, as if there were no pieces.
    ///
    /// ```no_run
    /// # use asynctls::model::{Piece, Tokenizer};
    /// # let tokenizer = Tokenizer::from_folder("Qwen3-4B".as_ref())?;
    /// let (frame, text) = ("<|im_start|>user\n", "What does <|im_end|> mean?");
    /// let pieces = [Piece { text: frame, control: true }, Piece { text, control: false }];
    /// let ids = tokenizer.encode_pieces(&pieces)?;
    /// assert_eq!(tokenizer.decode(&ids), format!("{frame}{text}"));
    /// # Ok::<(), asynctls::Error>(())
    /// ```
    #[cfg_attr(feature = "measure", visibility::make(pub))]
    pub(crate) fn encode_pieces(&self, pieces: &[Piece<'_>]) -> Result<Vec<u32>> {
        let (mut ids, mut run) = (Vec::new(), String::new());
        for chunk in pieces.chunk_by(|a, b| a.control == b.control) {
            let text: String = chunk.iter().map(|piece| piece.text).collect();
            let mut from = 0;
            if chunk[0].control {
                for (found, id) in self.pipeline.control_tokens(&text, &self.kinds) {
                    run.push_str(&text[from..found.start]);
                    ids.extend(self.run(&std::mem::take(&mut run), ids.is_empty())?);
                    ids.push(id);
                    from = found.end;
                }
            }
            run.push_str(&text[from..]);
        }
        ids.extend(self.run(&run, ids.is_empty())?);
        Ok(ids)
    }

    // What lies between two control tokens.
    fn run(&self, text: &str, begins: bool) -> Result<Vec<u32>> {
        self.pipeline.encode((text, begins), false, &self.kinds)
    }

    /// The ids of a whole text, behind the tokens with which the files of this model begin one.
    ///
    /// It is the one rule for every text, framed by a chat template or not, from a GGUF file or a folder: the tokens are
    /// added unless the text begins with them already. Which they are, `add_bos_token` says, else what `tokenizer.json`
    /// puts in front (its post-processor) or, in a GGUF file, the pre-tokenizer's family. So a chat template that writes
    /// no `bos` gets one, as in llama.cpp; transformers leave it out there.
    pub fn begin(&self, mut ids: Vec<u32>) -> Vec<u32> {
        if !ids.starts_with(&self.leading) {
            ids.splice(0..0, self.leading.iter().copied());
        }
        ids
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
    pub fn decoder(&self, skip_control: bool) -> Decoder<&Self> {
        Decoder::new(self, skip_control)
    }

    /// The token as the file spells it: in the byte-level alphabet or with marked spaces, unless it is a control token or user
    /// defined.
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

    /// The tokens with which texts begin: see [`begin`](Self::begin).
    #[cfg_attr(feature = "measure", visibility::make(pub))]
    pub(crate) fn leading(&self) -> &[u32] {
        &self.leading
    }

    /// All control tokens, such as `<|im_end|>`.
    #[cfg_attr(feature = "measure", visibility::make(pub))]
    pub(crate) fn control_tokens(&self) -> impl Iterator<Item = &str> {
        self.control.iter().filter_map(|&id| self.token(id))
    }

    /// Faults of the files' tokens, and what was taken for granted instead; a sentence each.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Whether generation ends with this token.
    pub fn is_stop(&self, id: u32) -> bool {
        self.stops.binary_search(&id).is_ok()
    }

    /// The tokens with which generation ends.
    pub(crate) fn stops(&self) -> impl Iterator<Item = u32> {
        self.stops.iter().copied()
    }

    /// How many ids there are: one more than the highest that has a token. A model may have more
    /// rows of embeddings, which stand for nothing.
    pub fn vocabulary_size(&self) -> usize {
        self.tokens.len()
    }

    /// The bytes that a token stands for; a control token's are none if `skip_control`, and its name otherwise.
    pub(crate) fn bytes(&self, id: u32, skip_control: bool) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.append_bytes(id, skip_control, &mut bytes);
        bytes
    }

    /// Appends the bytes that a token stands for.
    fn append_bytes(&self, id: u32, skip_control: bool, to: &mut Vec<u8>) {
        let Some((token, kind)) = self.token(id).zip(self.kinds.get(id as usize)) else {
            to.extend("\u{FFFD}".bytes());
            return;
        };
        match (kind, self.spelling) {
            (Kind::Control, _) if skip_control => {}
            (Kind::Control, _) | (Kind::UserDefined, Spelling::Bytes) => to.extend(token.bytes()),
            (Kind::Text, Spelling::Bytes) => bytes::append(token, to),
            (_, Spelling::Marked { .. }) => bytes::append_marked(token, to),
        }
    }

    // Whether a text loses a space at its beginning.
    fn strips(&self) -> bool {
        self.spelling == Spelling::Marked { strips: true }
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
