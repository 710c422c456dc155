//! A GGUF file's description of its tokens.

use tokenizers::AddedToken;

use super::parts::{Parts, Spelling, Unknown, marked};
use super::pre;
use super::words::Words;
use super::{check, scores};
use crate::model::gguf::Gguf;
use crate::{Error, Result};

/// A model file's description of its tokens.
#[derive(Debug, Clone, Default)]
pub struct Vocabulary {
    /// The tokens by id, in GPT-2's byte-level alphabet, or with marked spaces where there are scores (`tokenizer.ggml.tokens`).
    pub tokens: Vec<String>,
    /// The merges by rank, each two tokens with a space between (`tokenizer.ggml.merges`).
    pub merges: Vec<String>,
    /// The score of each token (`tokenizer.ggml.scores`), where there are no merges: SentencePiece's.
    pub scores: Vec<f32>,
    /// Whether such a text begins with a marked space (`tokenizer.ggml.add_space_prefix`); it does where nothing is said.
    pub space_prefix: Option<bool>,
    /// The kind of each token (`tokenizer.ggml.token_type`): 1 normal, 2 unknown, 3 control,
    /// 4 user defined, 5 unused, 6 byte.
    pub kinds: Vec<i32>,
    /// The name of the rule that cuts text into words (`tokenizer.ggml.pre`): `smollm`, `qwen2`,
    /// `glm4`, `llama-bpe` or `tekken`, or another name that llama.cpp has for one of them. Scores need none.
    pub pre_tokenizer: String,
    /// The token that begins a text (`tokenizer.ggml.bos_token_id`).
    pub bos: Option<u32>,
    /// The token that ends a text (`tokenizer.ggml.eos_token_id`).
    pub eos: Option<u32>,
    /// Further tokens that end generation: `tokenizer.ggml.eot_token_id`, `eom_token_id`, and the
    /// lists `eos_token_ids` and `eog_token_ids` that some converters write.
    pub stops: Vec<u32>,
    /// Whether a text begins with `bos` (`tokenizer.ggml.add_bos_token`);
    /// `None` leaves it to the pre-tokenizer's family.
    pub add_bos: Option<bool>,
}

impl Vocabulary {
    pub(super) fn read(file: &Gguf) -> Result<Self> {
        let kind = file.str("tokenizer.ggml.model")?;
        let has_merges = match kind {
            "gpt2" => true,
            "llama" => false,
            _ => {
                return Err(Error::Model(format!(
                    "the tokenizer (tokenizer.ggml.model) is {kind:?}, but only \"gpt2\" (byte-level BPE) and \"llama\" \
                     (SentencePiece's BPE) are supported"
                )));
            }
        };
        let id = |name: &str| file.opt_u32(&format!("tokenizer.ggml.{name}_token_id"));
        let mut stops: Vec<u32> = [id("eot")?, id("eom")?].into_iter().flatten().collect();
        for name in ["eos", "eog"] {
            let key = format!("tokenizer.ggml.{name}_token_ids");
            for &id in file.opt_i32s(&key)?.as_deref().unwrap_or_default() {
                let limit = "ids of tokens are 0 and above";
                let id = u32::try_from(id)
                    .map_err(|_| Error::Model(format!("{key} has {id}, but {limit}")))?;
                stops.push(id);
            }
        }
        Ok(Self {
            tokens: file.strings("tokenizer.ggml.tokens")?.to_vec(),
            merges: match has_merges {
                true => file.strings("tokenizer.ggml.merges")?.to_vec(),
                false => Vec::new(),
            },
            scores: match has_merges {
                true => Vec::new(),
                false => file.f32s("tokenizer.ggml.scores")?.to_vec(),
            },
            space_prefix: file.opt_bool("tokenizer.ggml.add_space_prefix")?,
            kinds: file.i32s("tokenizer.ggml.token_type")?.to_vec(),
            pre_tokenizer: match has_merges {
                true => file.str("tokenizer.ggml.pre")?.to_owned(),
                false => String::new(),
            },
            bos: id("bos")?,
            eos: id("eos")?,
            stops,
            add_bos: file.opt_bool("tokenizer.ggml.add_bos_token")?,
        })
    }

    pub(super) fn into_parts(self) -> Result<Parts> {
        if self.scores.is_empty() { self.with_merges() } else { self.with_scores() }
    }

    fn with_scores(self) -> Result<Parts> {
        let special = special(&self.tokens, &self.kinds)?;
        // Where a byte has no token either.
        let unknown = self.kinds.iter().position(|&kind| kind == UNKNOWN);
        let prefix = self.space_prefix.unwrap_or(true);
        Ok(Parts {
            merges: scores::merges(&self.tokens, &self.kinds, &self.scores)?,
            spelling: Spelling::Marked { strips: prefix },
            normalizer: Some(marked(prefix)?),
            words: Words::default(),
            whole_words: false,
            unknown: unknown.map_or(Unknown::Vanishes, |id| Unknown::Becomes {
                token: self.tokens[id].clone(),
                fuse: true,
            }),
            tokens: self.tokens,
            special,
            bos: self.bos,
            eos: self.eos,
            stops: self.stops,
            add_bos: self.add_bos,
            prefix: self.bos.into_iter().collect(),
        })
    }

    fn with_merges(self) -> Result<Parts> {
        let rule = pre::rule(&self.pre_tokenizer)?;
        let special = special(&self.tokens, &self.kinds)?;
        let merges = self.merges.iter().enumerate().map(|(rank, line)| check::pair(rank, line));
        Ok(Parts {
            merges: merges.collect::<Result<_>>()?,
            tokens: self.tokens,
            spelling: Spelling::Bytes,
            special,
            normalizer: None,
            words: rule.words()?,
            whole_words: rule.whole_words,
            unknown: Unknown::Splits,
            bos: self.bos,
            eos: self.eos,
            stops: self.stops,
            add_bos: self.add_bos,
            prefix: self.bos.filter(|_| rule.add_bos).into_iter().collect(),
        })
    }
}

/// The kind of tokens that are text, and that of the one that stands for what has no token.
pub const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;

/// The tokens that are not text.
fn special(tokens: &[String], kinds: &[i32]) -> Result<Vec<AddedToken>> {
    if kinds.len() != tokens.len() {
        return Err(Error::Model(format!(
            "tokenizer.ggml.token_type has {} entries, but the vocabulary has {} tokens",
            kinds.len(),
            tokens.len()
        )));
    }
    let mut special = Vec::new();
    for (id, (token, &kind)) in tokens.iter().zip(kinds).enumerate() {
        let is_control = match kind {
            0 | NORMAL | 5 | 6 => continue,
            UNKNOWN | 3 => true,
            4 => false,
            _ => {
                return Err(Error::Model(format!(
                    "token {id} {} is of kind {kind}, but kinds are 0 to 6",
                    check::quoted(token)
                )));
            }
        };
        special.push(AddedToken::from(token, is_control).normalized(false));
    }
    Ok(special)
}
