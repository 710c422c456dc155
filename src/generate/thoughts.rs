//! What a model thinks before it answers: the tokens between which it does.

use crate::model::Tokenizer;

/// What begins a thought.
pub(crate) const OPEN: &str = "<think>";
/// What ends it.
pub(crate) const CLOSE: &str = "</think>";

/// The tokens that begin and end a thought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Marks {
    pub(crate) open: u32,
    close: u32,
}

/// Where an answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Before its first token, which may begin a thought.
    Start,
    Thought,
    Answer,
}

impl Marks {
    /// Those of a vocabulary; a model without them does not think.
    pub(crate) fn of(tokenizer: &Tokenizer) -> Option<Self> {
        let token = |mark: &str| match tokenizer.encode(mark, true).ok()?[..] {
            [token] => Some(token),
            _ => None,
        };
        Some(Self { open: token(OPEN)?, close: token(CLOSE)? })
    }

    /// Where the answer to this prompt begins: some templates write marks themselves, and blanks behind them.
    pub(crate) fn after(self, tokenizer: &Tokenizer, prompt: &[u32]) -> Place {
        let tail = tokenizer.decode(&prompt[prompt.len().saturating_sub(4)..]);
        let tail = tail.trim_end();
        if tail.ends_with(OPEN) {
            Place::Thought
        } else if tail.ends_with(CLOSE) {
            Place::Answer
        } else {
            Place::Start
        }
    }

    /// Where it is after one more token.
    pub(crate) fn next(self, place: Place, token: u32) -> Place {
        match place {
            Place::Start if token == self.open => Place::Thought,
            Place::Thought if token != self.close => Place::Thought,
            _ => Place::Answer,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_that_ends_a_prompt_says_where_its_answer_begins() {
        let folder =
            |name: &str| format!("{}/tests/goldens/tokenizers/{name}", env!("CARGO_MANIFEST_DIR"));
        let without = Tokenizer::from_folder(folder("llama3").as_ref()).unwrap();
        assert_eq!(Marks::of(&without), None);
        let tokenizer = Tokenizer::from_folder(folder("qwen2").as_ref()).unwrap();
        let marks = Marks::of(&tokenizer).expect("Qwen's has them");
        let place = |prompt: &str| {
            let prompt = tokenizer.encode(prompt, true).unwrap();
            marks.after(&tokenizer, &prompt)
        };
        assert_eq!(place("Hi<think>\n"), Place::Thought);
        assert_eq!(place("Hi<think>\n\n</think>\n\n"), Place::Answer);
        assert_eq!(place("Hi"), Place::Start);
        assert_eq!(marks.next(Place::Start, marks.open), Place::Thought);
        assert_eq!(marks.next(Place::Start, marks.close), Place::Answer);
        assert_eq!(marks.next(Place::Thought, marks.open), Place::Thought);
        assert_eq!(marks.next(Place::Thought, marks.close), Place::Answer);
        assert_eq!(marks.next(Place::Answer, marks.open), Place::Answer);
    }
}
