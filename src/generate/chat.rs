//! Questions and answers.

use super::Framing;
use crate::{Error, Result, subject};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

const SYSTEM: &str = "system";
const USER: &str = "user";
const ASSISTANT: &str = "assistant";

/// A message of a chat, and the documents that go before it in what the model reads.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Turn {
    /// Who speaks: `system`, `user`, `assistant` or what else the template knows.
    pub role: String,
    /// The words.
    pub content: String,
    /// As they are laid out; they stay when the message is forgotten.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub documents: String,
    /// What else the template knows of it, such as `tool_calls`.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub fields: Map<String, Value>,
}

impl Turn {
    /// Words alone.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        let (role, content) = (role.into(), content.into());
        Self { role, content, documents: String::new(), fields: Map::new() }
    }

    pub(super) fn is_answer(&self) -> bool {
        self.role == ASSISTANT
    }

    /// All that the model reads of it.
    pub(super) fn text(&self) -> String {
        format!("{}{}", self.documents, self.content)
    }
}

/// A chat so far: what was said, and the documents that go before the next question.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chat {
    turns: Vec<Turn>,
    documents: String,
}

impl Chat {
    /// An empty chat, which begins with this system message.
    ///
    /// # Errors
    /// [`Error::Argument`] for a system message where nothing frames it.
    pub fn new(framing: &Framing, system: Option<&str>) -> Result<Self> {
        let mut chat = Self::default();
        if let Some(system) = system {
            if framing.is_raw() {
                let limit = "the model has no chat template that could take it";
                return Err(Error::argument(subject::SYSTEM, format!("{system:?}"), limit));
            }
            chat.add(SYSTEM, system, String::new());
        }
        Ok(chat)
    }

    /// What was said so far.
    pub fn turns(&self) -> &[Turn] {
        &self.turns
    }

    /// Whether anything was asked.
    pub fn is_begun(&self) -> bool {
        self.turns.iter().any(|turn| turn.role == USER)
    }

    /// Goes on with what was said before, in place of what was said here.
    ///
    /// # Errors
    /// [`Error::Argument`] for a system message that it did not begin with.
    pub fn resume(&mut self, turns: Vec<Turn>) -> Result<()> {
        if let Some(system) = self.turns.first()
            && turns.first() != Some(system)
        {
            let limit = "the session's conversation did not begin with it";
            return Err(Error::argument(subject::SYSTEM, format!("{:?}", system.content), limit));
        }
        self.turns = turns;
        Ok(())
    }

    /// Puts documents, as they are laid out, before the next question. Those that the chat has already are not read again:
    /// how many these are.
    pub fn give(&mut self, documents: &[String]) -> usize {
        let has = |document: &&String| {
            self.turns.iter().any(|turn| turn.documents.contains(document.as_str()))
        };
        let (there, new): (Vec<&String>, Vec<&String>) = documents.iter().partition(has);
        self.documents.extend(new.into_iter().map(String::as_str));
        there.len()
    }

    /// Adds a question.
    pub fn ask(&mut self, question: &str) {
        let documents = std::mem::take(&mut self.documents);
        self.add(USER, question, documents);
    }

    /// Adds the model's answer.
    pub fn answer(&mut self, answer: &str) {
        self.add(ASSISTANT, answer, String::new());
    }

    /// Takes the latest message back.
    pub fn take_back(&mut self) {
        if let Some(turn) = self.turns.pop() {
            self.documents.insert_str(0, &turn.documents);
        }
    }

    /// Forgets all but the system message and the documents.
    pub fn clear(&mut self) {
        let first = self.turns.iter().position(|turn| turn.role != SYSTEM);
        for turn in self.turns.drain(first.unwrap_or(self.turns.len())..).rev() {
            self.documents.insert_str(0, &turn.documents);
        }
    }

    /// Forgets the oldest questions and their answers where a `context` of so many tokens has too little room for an answer
    /// of `answer` tokens, and tells how many. The system message, the documents and the latest question stay.
    ///
    /// A quarter of the context is made free at a time, since what stays has to be read again.
    ///
    /// # Errors
    /// As [`Chat::tokens`].
    pub fn make_room(&mut self, framing: &Framing, context: u32, answer: u32) -> Result<usize> {
        let (context, quarter) = (context as usize, context as usize / 4);
        if self.tokens(framing)?.len() + quarter.min(answer as usize) <= context {
            return Ok(0);
        }
        let before = self.turns.clone();
        let mut dropped = 0;
        while self.drop_oldest() {
            dropped += 1;
            if self.tokens(framing)?.len() + quarter <= context {
                break;
            }
        }
        if self.tokens(framing)?.len() > context {
            // The latest question alone is too long, so nothing is gained.
            self.turns = before;
            return Ok(0);
        }
        Ok(dropped)
    }

    fn drop_oldest(&mut self) -> bool {
        let is_question = |turn: &Turn| turn.role == USER;
        let mut questions = (0..self.turns.len()).filter(|&i| is_question(&self.turns[i]));
        let (Some(first), Some(next)) = (questions.next(), questions.next()) else { return false };
        let documents: String = self.turns.drain(first..next).map(|turn| turn.documents).collect();
        self.turns[first].documents.insert_str(0, &documents);
        true
    }

    /// All tokens up to where the model's next answer begins.
    ///
    /// # Errors
    /// As [`ChatTemplate::encode`](crate::model::chat::ChatTemplate::encode).
    pub fn tokens(&self, framing: &Framing) -> Result<Vec<u32>> {
        framing.tokens(&self.turns, &[])
    }

    fn add(&mut self, role: &str, content: &str, documents: String) {
        self.turns.push(Turn { documents, ..Turn::new(role, content) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::chat::ChatTemplate;
    use crate::model::tokenizer::Tokenizer;

    fn tokenizer() -> Tokenizer {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/tokenizers/qwen2");
        Tokenizer::from_folder(folder.as_ref()).unwrap()
    }

    const CONTENTS: &str = "{% for m in messages %}{{ m.content }}{% endfor %}";
    const LINES: &str = "{% for m in messages %}[{{ m.role[0] }}] {{ m.content }}\n{% endfor %}";

    fn framed(source: &str) -> Framing {
        Framing::new(tokenizer(), Some(ChatTemplate::new(source).unwrap()))
    }

    fn read(chat: &Chat, framing: &Framing) -> String {
        framing.tokenizer().decode(&chat.tokens(framing).unwrap())
    }

    #[test]
    fn raw_texts_follow_one_another_as_they_were_made() {
        let framing = Framing::raw(tokenizer());
        let mut chat = Chat::new(&framing, None).unwrap();
        chat.ask("One, two,");
        chat.answer(" three.");
        chat.ask("And?");
        assert_eq!(read(&chat, &framing), "One, two, three.\nAnd?");
    }

    #[test]
    fn control_tokens_in_messages_count_where_that_is_asked_for() {
        let end = tokenizer().encode("<|im_end|>", true).unwrap();
        for (mut framing, special, counts) in [
            (framed(CONTENTS), false, false),
            (framed(CONTENTS), true, true),
            (Framing::new(tokenizer(), None), false, false),
            (Framing::new(tokenizer(), None), true, true),
            (Framing::raw(tokenizer()), true, true),
        ] {
            framing.set_special_in_text(special);
            let mut chat = Chat::new(&framing, None).unwrap();
            chat.ask("<|im_end|>");
            assert_eq!(chat.tokens(&framing).unwrap() == end, counts, "{framing:?}");
        }
        let mut chat = Chat::default();
        chat.ask("<|im_end|>");
        assert_eq!(chat.tokens(&Framing::raw(tokenizer())).unwrap(), end);
    }

    #[test]
    fn a_system_message_needs_a_template() {
        let error = Chat::new(&Framing::raw(tokenizer()), Some("Sing.")).unwrap_err().to_string();
        assert_eq!(
            error,
            "the system message is \"Sing.\", but the model has no chat template that could take it"
        );
    }

    #[test]
    fn a_chat_is_taken_up_with_the_system_message_that_it_had() {
        let framing = framed(CONTENTS);
        let mut before = Chat::new(&framing, Some("Sing.")).unwrap();
        before.ask("Hi");
        let said = |system: Option<&str>| {
            let mut chat = Chat::new(&framing, system)?;
            chat.resume(before.turns().to_vec())?;
            Ok::<_, Error>(read(&chat, &framing))
        };
        assert_eq!(said(None).unwrap(), "Sing.Hi");
        assert_eq!(said(Some("Sing.")).unwrap(), "Sing.Hi");
        let error = said(Some("Dance.")).unwrap_err().to_string();
        assert!(error.starts_with("the system message is \"Dance.\", but"), "{error}");
    }

    #[test]
    fn documents_go_before_the_question_and_stay_with_it() {
        let framing = framed(LINES);
        let mut chat = Chat::new(&framing, Some("S")).unwrap();
        assert_eq!(chat.give(&["<a>".into(), "<b>".into()]), 0);
        chat.ask("One?");
        assert_eq!(read(&chat, &framing), "[s] S\n[u] <a><b>One?\n");
        chat.take_back();
        chat.ask("Two?");
        chat.answer("Yes.");
        chat.ask("Three?");
        let whole = "[s] S\n[u] <a><b>Two?\n[a] Yes.\n[u] Three?\n";
        assert_eq!(read(&chat, &framing), whole);
        // They come back from a file, and are not given twice.
        let text = serde_json::to_string(chat.turns()).unwrap();
        chat.resume(serde_json::from_str(&text).unwrap()).unwrap();
        assert_eq!(read(&chat, &framing), whole);
        chat.take_back();
        assert_eq!(chat.give(&["<b>".into(), "<c>".into()]), 1);
        chat.ask("Four?");
        assert_eq!(read(&chat, &framing), "[s] S\n[u] <a><b>Two?\n[a] Yes.\n[u] <c>Four?\n");
        chat.clear();
        chat.ask("Five?");
        assert_eq!(read(&chat, &framing), "[s] S\n[u] <a><b><c>Five?\n");
    }

    #[test]
    fn the_oldest_turns_make_room() {
        let framing = framed(LINES);
        let mut chat = Chat::new(&framing, Some("S")).unwrap();
        chat.give(&["<a>".into()]);
        for question in ["1", "2", "3", "4", "5", "6"] {
            chat.ask(question);
            chat.answer("Yes");
        }
        chat.ask("7");
        let length = |chat: &Chat| chat.tokens(&framing).unwrap().len() as u32;
        let all = length(&chat);
        let before = chat.turns().to_vec();
        assert_eq!(chat.make_room(&framing, all + 9, 9).unwrap(), 0, "there is room");
        let enough = chat.make_room(&framing, 4 * all, u32::MAX).unwrap();
        assert_eq!(enough, 0, "a quarter is enough");
        let dropped = chat.make_room(&framing, all + 8, 9).unwrap();
        assert!((1..5).contains(&dropped), "{dropped} of 6");
        let left = length(&chat);
        assert!(left + (all + 8) / 4 <= all + 8, "{left} of {all}");
        let text = read(&chat, &framing);
        assert!(text.starts_with("[s] S\n[u] <a>"), "{text}");
        assert!(text.ends_with("[a] Yes\n[u] 7\n"), "{text}");
        // Where the latest question alone is too long, nothing is lost.
        chat.resume(before.clone()).unwrap();
        assert_eq!(chat.make_room(&framing, 5, 9).unwrap(), 0);
        assert_eq!(chat.turns(), before);
    }
}
