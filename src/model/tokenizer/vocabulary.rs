//! A GGUF file's description of its tokens.

use tokenizers::AddedToken;

use super::check;
use super::parts::{Parts, Unknown};
use super::pre;
use crate::model::gguf::Gguf;
use crate::{Error, Result};

/// A model file's description of its tokens.
#[derive(Debug, Clone, Default)]
pub struct Vocabulary {
    /// The tokens by id, in GPT-2's byte-level alphabet (`tokenizer.ggml.tokens`).
    pub tokens: Vec<String>,
    /// The merges by rank, each two tokens with a space between (`tokenizer.ggml.merges`).
    pub merges: Vec<String>,
    /// The kind of each token (`tokenizer.ggml.token_type`): 1 normal, 2 unknown, 3 control,
    /// 4 user defined, 5 unused, 6 byte.
    pub kinds: Vec<i32>,
    /// The name of the rule that cuts text into words (`tokenizer.ggml.pre`): `smollm`, `qwen2`,
    /// `glm4` or `llama-bpe`, or another name that llama.cpp has for one of them.
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
        if kind != "gpt2" {
            return Err(Error::Model(format!(
                "the tokenizer (tokenizer.ggml.model) is {kind:?}, but only \"gpt2\" (byte-level BPE) is supported"
            )));
        }
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
            merges: file.strings("tokenizer.ggml.merges")?.to_vec(),
            kinds: file.i32s("tokenizer.ggml.token_type")?.to_vec(),
            pre_tokenizer: file.str("tokenizer.ggml.pre")?.to_owned(),
            bos: id("bos")?,
            eos: id("eos")?,
            stops,
            add_bos: file.opt_bool("tokenizer.ggml.add_bos_token")?,
        })
    }

    pub(super) fn into_parts(self) -> Result<Parts> {
        let rule = pre::rule(&self.pre_tokenizer)?;
        let special = special(&self.tokens, &self.kinds)?;
        let merges = self.merges.iter().enumerate().map(|(rank, line)| check::pair(rank, line));
        Ok(Parts {
            merges: merges.collect::<Result<_>>()?,
            tokens: self.tokens,
            special,
            is_nfc: false,
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

/// The tokens that are not text in the byte-level alphabet.
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
            0 | 1 | 5 | 6 => continue,
            2 | 3 => true,
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
