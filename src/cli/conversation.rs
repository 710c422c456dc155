//! Questions and answers, and the tokens that the model reads for them.

use super::terminal;
use asynctls::model::chat::{ChatTemplate, Message};
use asynctls::model::tokenizer::Tokenizer;
use asynctls::{Error, Result};

/// A conversation.
pub struct Conversation<'a> {
    tokenizer: &'a Tokenizer,
    /// `None`: texts are given to the model as they are.
    template: Option<ChatTemplate>,
    /// Whether control tokens that messages spell out are those tokens.
    special_in_text: bool,
    messages: Vec<Message>,
}

impl<'a> Conversation<'a> {
    /// An empty conversation, framed by the chat template of the model unless `raw`.
    pub fn new(
        template: Option<ChatTemplate>,
        tokenizer: &'a Tokenizer,
        raw: bool,
        system: Option<&str>,
        no_think: bool,
    ) -> Result<Self> {
        let mut template = template.filter(|_| !raw);
        if template.is_none() && !raw {
            let wanted = [
                system.map(|system| ("--system", format!("{system:?}"))),
                no_think.then(|| ("--no-think", "given".into())),
            ];
            if let Some((option, value)) = wanted.into_iter().flatten().next() {
                let limit = "the model has no chat template that could take it";
                return Err(Error::argument(option, value, limit));
            }
            terminal::note("note: the model has no chat template, so the prompt is used as it is");
        }
        if let Some(template) = template.as_mut().filter(|_| no_think) {
            template.set_thinking(false).map_err(|_| {
                let limit = "the chat template does not mention enable_thinking, so it cannot turn thinking off";
                Error::argument("--no-think", "given", limit)
            })?;
        }
        // Who writes the whole text writes its control tokens too.
        let mut conversation =
            Self { tokenizer, template, special_in_text: raw, messages: Vec::new() };
        if let Some(system) = system {
            conversation.add("system", system);
        }
        Ok(conversation)
    }

    /// Lets control tokens that messages spell out be those tokens.
    pub fn set_special_in_text(&mut self) {
        self.special_in_text = true;
        if let Some(template) = &mut self.template {
            template.set_special_in_text(true);
        }
    }

    /// Whether texts are given to the model as they are.
    pub fn is_raw(&self) -> bool {
        self.template.is_none()
    }

    /// What was said so far.
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// Goes on with a conversation of an earlier run.
    ///
    /// # Errors
    /// [`Error::Argument`] for a system message that it did not begin with.
    pub fn resume(&mut self, messages: Vec<Message>) -> Result<()> {
        if let Some(system) = self.messages.first()
            && messages.first() != Some(system)
        {
            let limit = "the session's conversation did not begin with it";
            return Err(Error::argument("--system", format!("{:?}", system.content), limit));
        }
        self.messages = messages;
        Ok(())
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
            let mut text = String::new();
            for Message { role, content } in &self.messages {
                // An answer went on where its question ended.
                if !text.is_empty() && role != "assistant" {
                    text.push('\n');
                }
                text.push_str(content);
            }
            return tokenizer.encode(&text, self.special_in_text).map(|ids| tokenizer.begin(ids));
        };
        template.encode(tokenizer, &self.messages, "")
    }

    fn add(&mut self, role: &str, content: &str) {
        self.messages.push(Message { role: role.into(), content: content.into() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokenizer() -> Tokenizer {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/tokenizers/qwen2");
        Tokenizer::from_folder(folder.as_ref()).unwrap()
    }

    const SWITCH: &str = "{% for m in messages %}{{ m.content }}{% endfor %}\
        {% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}";

    fn template(source: &str) -> Option<ChatTemplate> {
        Some(ChatTemplate::new(source).unwrap())
    }

    #[test]
    fn no_think_reaches_the_template() {
        let tokenizer = tokenizer();
        for (no_think, expected) in [(false, "Hi"), (true, "Hi<think></think>")] {
            let mut conversation =
                Conversation::new(template(SWITCH), &tokenizer, false, None, no_think).unwrap();
            conversation.ask("Hi");
            assert_eq!(tokenizer.decode(&conversation.tokens().unwrap()), expected);
        }
    }

    #[test]
    fn raw_texts_follow_one_another_as_they_were_made() {
        let tokenizer = tokenizer();
        let mut conversation = Conversation::new(None, &tokenizer, true, None, false).unwrap();
        conversation.ask("One, two,");
        conversation.answer(" three.");
        conversation.ask("And?");
        assert_eq!(tokenizer.decode(&conversation.tokens().unwrap()), "One, two, three.\nAnd?");
    }

    #[test]
    fn control_tokens_in_messages_count_where_that_is_asked_for() {
        let tokenizer = tokenizer();
        let end = tokenizer.encode("<|im_end|>", true).unwrap();
        for (source, raw, special, counts) in [
            (Some(SWITCH), false, false, false),
            (Some(SWITCH), false, true, true),
            (None, false, false, false),
            (None, false, true, true),
            (None, true, false, true),
        ] {
            let template = source.and_then(template);
            let mut conversation =
                Conversation::new(template, &tokenizer, raw, None, false).unwrap();
            if special {
                conversation.set_special_in_text();
            }
            conversation.ask("<|im_end|>");
            assert_eq!(conversation.tokens().unwrap() == end, counts, "{source:?} {raw} {special}");
        }
    }

    #[test]
    fn a_conversation_is_taken_up_with_the_system_message_that_it_had() {
        let tokenizer = tokenizer();
        let begun = |system: Option<&str>| {
            Conversation::new(template(SWITCH), &tokenizer, false, system, false).unwrap()
        };
        let mut before = begun(Some("Sing."));
        before.ask("Hi");
        let said = |system: Option<&str>| {
            let mut conversation = begun(system);
            conversation.resume(before.messages().to_vec())?;
            conversation.tokens().map(|tokens| tokenizer.decode(&tokens))
        };
        assert_eq!(said(None).unwrap(), "Sing.Hi");
        assert_eq!(said(Some("Sing.")).unwrap(), "Sing.Hi");
        let error = said(Some("Dance.")).unwrap_err().to_string();
        assert!(error.starts_with("--system is \"Dance.\", but"), "{error}");
    }

    #[test]
    fn no_think_is_refused_where_nothing_would_heed_it() {
        let tokenizer = tokenizer();
        for (template, expected) in [
            (None, "--no-think is given, but the model has no chat template that could take it"),
            (
                template("x"),
                "--no-think is given, but the chat template does not mention enable_thinking",
            ),
        ] {
            let error = Conversation::new(template, &tokenizer, false, None, true).err().unwrap();
            assert!(error.to_string().starts_with(expected), "{error}");
        }
    }
}
