//! Questions and answers, and the tokens that the model reads for them.

use super::terminal;
use asynctls::model::ModelFile;
use asynctls::model::chat::{ChatTemplate, Message};
use asynctls::model::tokenizer::Tokenizer;
use asynctls::{Error, Result};

/// A conversation.
pub struct Conversation<'a> {
    tokenizer: &'a Tokenizer,
    /// `None`: texts are given to the model as they are.
    template: Option<ChatTemplate>,
    messages: Vec<Message>,
}

impl<'a> Conversation<'a> {
    /// An empty conversation, framed by the file's chat template unless `raw`.
    pub fn new(
        file: &ModelFile,
        tokenizer: &'a Tokenizer,
        raw: bool,
        system: Option<&str>,
    ) -> Result<Self> {
        let source = if raw { None } else { file.chat_template()? };
        if source.is_none() && !raw {
            if let Some(system) = system {
                return Err(Error::argument(
                    "--system",
                    format!("{system:?}"),
                    "the model file has no chat template that could take it",
                ));
            }
            terminal::note(
                "note: the model file has no chat template, so the prompt is used as it is",
            );
        }
        let template = source.as_deref().map(ChatTemplate::new).transpose()?;
        let mut conversation = Self { tokenizer, template, messages: Vec::new() };
        if let Some(system) = system {
            conversation.add("system", system);
        }
        Ok(conversation)
    }

    /// Whether texts are given to the model as they are.
    pub fn is_raw(&self) -> bool {
        self.template.is_none()
    }

    /// Adds a question.
    pub fn ask(&mut self, question: &str) {
        self.add("user", question);
    }

    /// Adds the model's answer.
    pub fn answer(&mut self, answer: &str) {
        self.add("assistant", answer);
    }

    /// Takes the latest message back.
    pub fn take_back(&mut self) {
        self.messages.pop();
    }

    /// All tokens up to where the model's next answer begins.
    pub fn tokens(&self) -> Result<Vec<u32>> {
        let tokenizer = self.tokenizer;
        let Some(template) = &self.template else {
            let texts: Vec<&str> = self.messages.iter().map(|m| m.content.as_str()).collect();
            let mut tokens: Vec<u32> = tokenizer.leading_bos().into_iter().collect();
            // Who writes the whole text writes its control tokens too.
            tokens.extend(tokenizer.encode(&texts.join("\n"), true)?);
            return Ok(tokens);
        };
        let name = |id: Option<u32>| id.and_then(|id| tokenizer.token(id)).unwrap_or_default();
        let (bos, eos) = (name(tokenizer.bos()), name(tokenizer.eos()));
        tokenizer.encode(&template.render(&self.messages, true, bos, eos)?, true)
    }

    fn add(&mut self, role: &str, content: &str) {
        self.messages.push(Message { role: role.into(), content: content.into() });
    }
}
