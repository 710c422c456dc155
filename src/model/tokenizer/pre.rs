//! The rules that GGUF files name for cutting text into words.

use tokenizers::SplitDelimiterBehavior::Isolated;

use super::words::{GPT2, Words};
use crate::{Error, Result};

/// Qwen2's and Qwen3's: GPT-2's with contractions in either case, a sign that may precede a word, single
/// digits, and line ends that belong to what precedes them.
const QWEN2: &str = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// GLM-4's and Llama 3's: the same with up to three digits.
const GLM4: &str = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Mistral's tekken: words of capitals, then of small letters, as far as ASCII tells them apart, and single digits.
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{L}&&[^a-z]]*[\p{L}&&[^A-Z]]+|[^\r\n\p{L}\p{N}]?[\p{L}&&[^a-z]]+[\p{L}&&[^A-Z]]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// How a family of tokenizers treats text.
pub struct Rule {
    /// Its names in `tokenizer.ggml.pre`, the usual one first.
    names: &'static [&'static str],
    /// Expressions that cut the text, one after the other; each match is a piece, and so is what lies between
    /// two matches.
    patterns: &'static [&'static str],
    /// Whether a word that is a token becomes that token without merging (`ignore_merges` in
    /// tokenizer.json).
    pub whole_words: bool,
    /// Whether a text begins with the bos token where the file does not say.
    pub add_bos: bool,
}

/// Every rule this program knows, as llama.cpp has it.
const RULES: [Rule; 5] = [
    Rule { names: &["smollm"], patterns: &[r"\p{N}", GPT2], whole_words: false, add_bos: false },
    Rule {
        names: &["qwen2", "deepseek-r1-qwen"],
        patterns: &[QWEN2],
        whole_words: false,
        add_bos: false,
    },
    Rule { names: &["glm4", "chatglm-bpe"], patterns: &[GLM4], whole_words: true, add_bos: false },
    Rule {
        names: &["llama-bpe", "llama3", "llama-v3"],
        patterns: &[GLM4],
        whole_words: true,
        add_bos: true,
    },
    Rule { names: &["tekken"], patterns: &[TEKKEN], whole_words: true, add_bos: true },
];

/// The rule of this name.
pub fn rule(name: &str) -> Result<&'static Rule> {
    RULES.iter().find(|rule| rule.names.contains(&name)).ok_or_else(|| {
        let known: Vec<&str> = RULES.iter().flat_map(|rule| rule.names).copied().collect();
        Error::Model(format!(
            "the pre-tokenizer (tokenizer.ggml.pre) is `{name}`, but only these are supported: {}",
            known.join(", ")
        ))
    })
}

impl Rule {
    /// The words that it cuts text into.
    pub fn words(&self) -> Result<Words> {
        let mut words = Words::default();
        for pattern in self.patterns {
            words.split(pattern, Isolated, false)?;
        }
        words.bytes();
        Ok(words)
    }
}
