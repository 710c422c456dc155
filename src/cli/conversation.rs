//! Questions and answers, and the tokens that the model reads for them.

use super::terminal::note;
use asynctls::model::chat::{ChatTemplate, Message};
use asynctls::model::tokenizer::Tokenizer;
use asynctls::{Error, Result};
use serde::{Deserialize, Serialize};

/// A message, and the documents that go before it in what the model reads.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Said {
    role: String,
    content: String,
    /// As they are laid out; they stay when the message is forgotten.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    documents: String,
}

impl Said {
    fn message(&self) -> Message {
        let content = format!("{}{}", self.documents, self.content);
        Message { role: self.role.clone(), content }
    }
}

/// A conversation.
pub struct Conversation<'a> {
    tokenizer: &'a Tokenizer,
    /// `None`: texts are given to the model as they are.
    template: Option<ChatTemplate>,
    /// Whether control tokens that messages spell out are those tokens.
    special_in_text: bool,
    messages: Vec<Said>,
    /// Documents that go before the next question, as they are laid out.
    documents: String,
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
            note("note: the model has no chat template, so the prompt is used as it is");
        }
        if let Some(template) = template.as_mut().filter(|_| no_think) {
            template.set_thinking(false).map_err(|_| {
                let limit = "the chat template does not mention enable_thinking, so it cannot turn thinking off";
                Error::argument("--no-think", "given", limit)
            })?;
        }
        // Who writes the whole text writes its control tokens too.
        let special_in_text = raw;
        let (messages, documents) = (Vec::new(), String::new());
        let mut conversation = Self { tokenizer, template, special_in_text, messages, documents };
        if let Some(system) = system {
            conversation.add("system", system, String::new());
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

    /// The messages so far.
    pub fn messages(&self) -> &[Said] {
        &self.messages
    }

    /// Whether anything was asked.
    pub fn is_begun(&self) -> bool {
        self.messages.iter().any(|said| said.role == "user")
    }

    /// Goes on with a conversation of an earlier run.
    ///
    /// # Errors
    /// [`Error::Argument`] for a system message that it did not begin with.
    pub fn resume(&mut self, messages: Vec<Said>) -> Result<()> {
        if let Some(system) = self.messages.first()
            && messages.first() != Some(system)
        {
            let limit = "the session's conversation did not begin with it";
            return Err(Error::argument("--system", format!("{:?}", system.content), limit));
        }
        self.messages = messages;
        Ok(())
    }

    /// Puts documents, as they are laid out, before the next question, unless the conversation has them already.
    pub fn give(&mut self, documents: &[String]) {
        for document in documents {
            if self.messages.iter().any(|said| said.documents.contains(document)) {
                note("note: the conversation has this document already, so it is not read again");
            } else {
                self.documents.push_str(document);
            }
        }
    }

    /// Adds a question.
    pub fn ask(&mut self, question: &str) {
        let documents = std::mem::take(&mut self.documents);
        self.add("user", question, documents);
    }

    /// Adds the model's answer.
    pub fn answer(&mut self, answer: &str) {
        self.add("assistant", answer, String::new());
    }

    /// Takes the latest message back.
    pub fn take_back(&mut self) {
        if let Some(said) = self.messages.pop() {
            self.documents.insert_str(0, &said.documents);
        }
    }

    /// Forgets all but the system message and the documents.
    pub fn clear(&mut self) {
        let first = self.messages.iter().position(|said| said.role != "system");
        for said in self.messages.drain(first.unwrap_or(self.messages.len())..).rev() {
            self.documents.insert_str(0, &said.documents);
        }
    }

    /// Forgets the oldest questions and their answers where a `context` of so many tokens has too little room for an answer
    /// of `answer` tokens, and tells how many. The system message, the documents and the latest question stay.
    ///
    /// A quarter of the context is made free at a time, since what stays has to be read again.
    pub fn make_room(&mut self, context: u32, answer: u32) -> Result<usize> {
        let (context, quarter) = (context as usize, context as usize / 4);
        if self.tokens()?.len() + quarter.min(answer as usize) <= context {
            return Ok(0);
        }
        let before = self.messages.clone();
        let mut dropped = 0;
        while self.drop_oldest() {
            dropped += 1;
            if self.tokens()?.len() + quarter <= context {
                break;
            }
        }
        if self.tokens()?.len() > context {
            // The latest question alone is too long, so nothing is gained.
            self.messages = before;
            return Ok(0);
        }
        Ok(dropped)
    }

    fn drop_oldest(&mut self) -> bool {
        let is_question = |said: &Said| said.role == "user";
        let mut questions = (0..self.messages.len()).filter(|&i| is_question(&self.messages[i]));
        let (Some(first), Some(next)) = (questions.next(), questions.next()) else { return false };
        let documents: String =
            self.messages.drain(first..next).map(|said| said.documents).collect();
        self.messages[first].documents.insert_str(0, &documents);
        true
    }

    /// All tokens up to where the model's next answer begins.
    pub fn tokens(&self) -> Result<Vec<u32>> {
        let tokenizer = self.tokenizer;
        let Some(template) = &self.template else {
            let mut text = String::new();
            for Said { role, content, .. } in &self.messages {
                // An answer went on where its question ended.
                if !text.is_empty() && role != "assistant" {
                    text.push('\n');
                }
                text.push_str(content);
            }
            return tokenizer.encode(&text, self.special_in_text).map(|ids| tokenizer.begin(ids));
        };
        let messages: Vec<Message> = self.messages.iter().map(Said::message).collect();
        template.encode(tokenizer, &messages, "")
    }

    fn add(&mut self, role: &str, content: &str, documents: String) {
        self.messages.push(Said { role: role.into(), content: content.into(), documents });
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

    const LINES: &str = "{% for m in messages %}[{{ m.role[0] }}] {{ m.content }}\n{% endfor %}";

    fn lines(conversation: &Conversation<'_>) -> String {
        conversation.tokenizer.decode(&conversation.tokens().unwrap())
    }

    #[test]
    fn documents_go_before_the_question_and_stay_with_it() {
        let tokenizer = tokenizer();
        let mut conversation =
            Conversation::new(template(LINES), &tokenizer, false, Some("S"), false).unwrap();
        conversation.give(&["<a>".into(), "<b>".into()]);
        conversation.ask("One?");
        assert_eq!(lines(&conversation), "[s] S\n[u] <a><b>One?\n");
        conversation.take_back();
        conversation.ask("Two?");
        conversation.answer("Yes.");
        conversation.ask("Three?");
        let whole = "[s] S\n[u] <a><b>Two?\n[a] Yes.\n[u] Three?\n";
        assert_eq!(lines(&conversation), whole);
        // They come back from a file, and are not given twice.
        let text = serde_json::to_string(conversation.messages()).unwrap();
        conversation.resume(serde_json::from_str(&text).unwrap()).unwrap();
        assert_eq!(lines(&conversation), whole);
        conversation.take_back();
        conversation.give(&["<b>".into(), "<c>".into()]);
        conversation.ask("Four?");
        assert_eq!(lines(&conversation), "[s] S\n[u] <a><b>Two?\n[a] Yes.\n[u] <c>Four?\n");
        conversation.clear();
        conversation.ask("Five?");
        assert_eq!(lines(&conversation), "[s] S\n[u] <a><b><c>Five?\n");
    }

    #[test]
    fn the_oldest_turns_make_room() {
        let tokenizer = tokenizer();
        let mut conversation =
            Conversation::new(template(LINES), &tokenizer, false, Some("S"), false).unwrap();
        conversation.give(&["<a>".into()]);
        for question in ["1", "2", "3", "4", "5", "6"] {
            conversation.ask(question);
            conversation.answer("Yes");
        }
        conversation.ask("7");
        let length = conversation.tokens().unwrap().len() as u32;
        let before = conversation.messages().to_vec();
        assert_eq!(conversation.make_room(length + 9, 9).unwrap(), 0, "there is room");
        assert_eq!(conversation.make_room(4 * length, u32::MAX).unwrap(), 0, "a quarter is enough");
        let dropped = conversation.make_room(length + 8, 9).unwrap();
        assert!((1..5).contains(&dropped), "{dropped} of 6");
        let left = conversation.tokens().unwrap().len() as u32;
        assert!(left + (length + 8) / 4 <= length + 8, "{left} of {length}");
        assert!(lines(&conversation).starts_with("[s] S\n[u] <a>"), "{}", lines(&conversation));
        assert!(lines(&conversation).ends_with("[a] Yes\n[u] 7\n"), "{}", lines(&conversation));
        // Where the latest question alone is too long, nothing is lost.
        conversation.resume(before.clone()).unwrap();
        assert_eq!(conversation.make_room(5, 9).unwrap(), 0);
        assert_eq!(conversation.messages(), before);
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
