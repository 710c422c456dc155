//! From text to token ids: the steps that a tokenizer takes.

use std::ops::Range;

use tokenizers::models::bpe::BPE;
use tokenizers::{
    AddedToken, AddedVocabulary, Model, NormalizerWrapper, OffsetReferential, OffsetType, Token,
};

use super::Kind;
use super::check::{self, Checked};
use super::parts::{Parts, Spelling, Unknown};
use super::words::Words;
use crate::{Error, Result};

/// The steps: special tokens are found, the text between them is normalised and cut into words,
/// and in each word tokens merge.
pub struct Pipeline {
    /// Texts that are one token wherever they occur: with and without the control tokens.
    with_control: AddedVocabulary,
    without_control: AddedVocabulary,
    normalizer: Option<NormalizerWrapper>,
    words: Words,
    whole_words: bool,
    bpe: BPE,
}

impl Pipeline {
    /// Puts the steps together; takes from the parts what it needs for itself.
    pub fn new(parts: &mut Parts, checked: &mut Checked) -> Result<Self> {
        let mut ids = std::mem::take(&mut checked.ids);
        let mut builder = BPE::builder();
        match &parts.unknown {
            Unknown::Vanishes => {}
            Unknown::Becomes { token, fuse } => {
                if !ids.contains_key(token) {
                    let token = check::quoted(token);
                    return Err(Error::Model(format!("the unknown token {token} is no token")));
                }
                builder = builder.unk_token(token.clone()).fuse_unk(*fuse);
            }
            // An unknown token of its own keeps the neighbours apart; its id tells it from others.
            Unknown::Splits => {
                ids.insert(String::new(), check::size(&parts.tokens)?);
                builder = builder.unk_token(String::new());
            }
        }
        let bpe = builder
            .byte_fallback(parts.spelling != Spelling::Bytes)
            .vocab_and_merges(ids, std::mem::take(&mut parts.merges))
            .build()
            .map_err(refusal)?;
        let normalizer = parts.normalizer.take();
        let find = |tokens: &[AddedToken]| {
            let mut added = AddedVocabulary::new();
            added.add_tokens(tokens, &bpe, normalizer.as_ref());
            added
        };
        let with_control = find(&parts.special);
        parts.special.retain(|token| !token.special);
        Ok(Self {
            with_control,
            without_control: find(&parts.special),
            normalizer,
            words: std::mem::take(&mut parts.words),
            whole_words: parts.whole_words,
            bpe,
        })
    }

    /// The ids of a text whose tokens are of these kinds, and which begins one or goes on with it.
    pub fn encode(
        &self,
        (text, begins): (&str, bool),
        parse_special: bool,
        kinds: &[Kind],
    ) -> Result<Vec<u32>> {
        let added = if parse_special { &self.with_control } else { &self.without_control };
        let mut parts = added.extract_and_normalize(self.normalizer.as_ref(), text);
        let encoding = self
            .words
            .cut(&mut parts, begins)
            .and_then(|()| parts.tokenize(|word| self.tokens(word.get(), kinds)))
            .and_then(|()| parts.into_encoding(None, 0, OffsetType::None))
            .map_err(refusal)?;
        let known = |id: &u32| (*id as usize) < kinds.len();
        Ok(encoding.get_ids().iter().copied().filter(known).collect())
    }

    /// The control tokens that a text spells out, and where.
    pub fn control_tokens(&self, text: &str, kinds: &[Kind]) -> Vec<(Range<usize>, u32)> {
        let parts = self.with_control.extract_and_normalize(self.normalizer.as_ref(), text);
        let found = parts.get_splits(OffsetReferential::Original, OffsetType::Byte).into_iter();
        found
            .filter_map(|(_, (start, end), tokens)| {
                Some((start..end, tokens.as_ref()?.first()?.id))
            })
            .filter(|(_, id)| kinds.get(*id as usize) == Some(&Kind::Control))
            .collect()
    }

    fn tokens(&self, word: &str, kinds: &[Kind]) -> tokenizers::Result<Vec<Token>> {
        if self.whole_words
            && let Some(id) = self.bpe.token_to_id(word)
            // Text that happens to spell a control token is text.
            && kinds.get(id as usize).is_some_and(|&kind| kind != Kind::Control)
        {
            return Ok(vec![Token::new(id, String::new(), (0, word.len()))]);
        }
        self.bpe.tokenize(word)
    }
}

fn refusal(error: tokenizers::Error) -> Error {
    Error::Model(format!("tokenizer: {error}"))
}
