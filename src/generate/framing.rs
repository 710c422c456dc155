//! How a model reads what is said to it.

use super::Turn;
use super::grammar::{Grammar, Spelling};
use super::thoughts::Marks;
use crate::Result;
use crate::model::ModelFile;
use crate::model::chat::{ChatTemplate, Message};
use crate::model::tokenizer::Tokenizer;
use serde_json::Value;
use std::sync::{Arc, OnceLock};

/// A model's tokenizer, and the template that frames the messages of a chat; without one they are a text.
#[derive(Debug)]
pub struct Framing {
    tokenizer: Arc<Tokenizer>,
    template: Option<ChatTemplate>,
    /// Whether control tokens that messages spell out are those tokens.
    special_in_text: bool,
    /// Made for the first grammar.
    spelling: OnceLock<Spelling>,
    /// The source of a template that tells of tools, found out for the first request that has some.
    #[cfg(feature = "server")]
    with_tools: OnceLock<Option<String>>,
}

impl Framing {
    /// The framing of a model file's own tokenizer and template.
    ///
    /// # Errors
    /// As [`ModelFile::tokenizer`] and [`ModelFile::chat_template`].
    pub fn read(file: &ModelFile) -> Result<Self> {
        Ok(Self::new(file.tokenizer()?, file.chat_template()?))
    }

    /// Messages as this template frames them; without one, one after the other.
    pub fn new(tokenizer: impl Into<Arc<Tokenizer>>, template: Option<ChatTemplate>) -> Self {
        Self {
            tokenizer: tokenizer.into(),
            template,
            special_in_text: false,
            spelling: OnceLock::new(),
            #[cfg(feature = "server")]
            with_tools: OnceLock::new(),
        }
    }

    /// Texts as they are. Who writes the whole text writes its control tokens too.
    pub fn raw(tokenizer: impl Into<Arc<Tokenizer>>) -> Self {
        Self { special_in_text: true, ..Self::new(tokenizer, None) }
    }

    /// Lets control tokens that messages spell out be those tokens, or text like any other.
    pub fn set_special_in_text(&mut self, enabled: bool) {
        self.special_in_text = enabled;
        if let Some(template) = &mut self.template {
            template.set_special_in_text(enabled);
        }
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Arc<Tokenizer> {
        &self.tokenizer
    }

    /// Whether texts are given to the model as they are.
    pub fn is_raw(&self) -> bool {
        self.template.is_none()
    }

    /// Whether the template lets the model think first, and could turn that off.
    #[cfg(feature = "server")]
    pub(crate) fn may_think(&self) -> bool {
        self.template.as_ref().is_some_and(ChatTemplate::may_think)
    }

    /// The source of the template, if it tells the model of tools.
    #[cfg(feature = "server")]
    pub(crate) fn template_with_tools(&self) -> Option<&str> {
        let template = || self.template.as_ref().filter(|template| template.takes_tools());
        self.with_tools.get_or_init(|| template().map(ChatTemplate::source)).as_deref()
    }

    /// A grammar for answers that are JSON by this schema: any value, if it is `true`. What a model thinks before it answers is
    /// free, unless texts are given to it as they are.
    ///
    /// # Errors
    /// [`Error::Argument`](crate::Error::Argument) for a schema that says what is not understood, or that nothing can meet.
    pub fn json_schema(&self, schema: &Value) -> Result<Grammar> {
        let spelling = match self.spelling.get() {
            Some(spelling) => spelling,
            None => {
                let made = Spelling::new(&self.tokenizer)?;
                self.spelling.get_or_init(|| made)
            }
        };
        // A vocabulary may have marks that its model was never taught: whose template knows none does not think.
        let knows = |template: &ChatTemplate| template.source().contains("think>");
        let thinks = self.template.as_ref().is_some_and(knows);
        let marks = if thinks { Marks::of(&self.tokenizer) } else { None };
        Grammar::new(spelling, marks, schema)
    }

    /// All tokens up to where the model's next answer begins, which may call tools of these definitions.
    pub(crate) fn tokens(&self, turns: &[Turn], tools: &[Value]) -> Result<Vec<u32>> {
        let tokenizer = &*self.tokenizer;
        let Some(template) = &self.template else {
            let mut text = String::new();
            for turn in turns {
                // An answer went on where its question ended.
                if !text.is_empty() && !turn.is_answer() {
                    text.push('\n');
                }
                text.push_str(&turn.text());
            }
            return tokenizer.encode(&text, self.special_in_text).map(|ids| tokenizer.begin(ids));
        };
        let message = |turn: &Turn| {
            let fields = turn.fields.clone();
            Message { fields, ..Message::new(turn.role.as_str(), turn.text()) }
        };
        let messages: Vec<Message> = turns.iter().map(message).collect();
        template.encode_with_tools(tokenizer, &messages, tools)
    }
}
