//! What a model thinks before it answers, told from the answer.

use crate::generate::{CLOSE, Marks, OPEN, Place};
use crate::model::Tokenizer;

/// Tells reasoning from the answer, piece by piece.
#[derive(Debug)]
pub(super) struct Reasoning {
    at: At,
    /// The end of what came, which may be the beginning of a mark.
    held: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// Before anything but blanks.
    Start,
    /// Behind the first mark, where there are only blanks.
    Opening,
    /// Within what it thinks.
    Inside,
    /// Between that and the answer, where there are only blanks.
    Between,
    Answer,
}

/// What a piece adds to either.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) reasoning: String,
    pub(super) answer: String,
}

impl Reasoning {
    /// For the answer to this prompt. A model whose vocabulary has no marks does not think; some templates write the first
    /// mark themselves.
    pub(super) fn after(tokenizer: &Tokenizer, prompt: &[u32]) -> Self {
        let place = Marks::of(tokenizer).map(|marks| marks.after(tokenizer, prompt));
        let at = match place {
            None => At::Answer,
            Some(Place::Thought) => At::Opening,
            // Some think once more.
            Some(Place::Start | Place::Answer) => At::Start,
        };
        Self { at, held: String::new() }
    }

    /// For what is an answer whatever it says.
    pub(super) fn none() -> Self {
        Self { at: At::Answer, held: String::new() }
    }

    /// Whether it thinks.
    pub(super) fn is_inside(&self) -> bool {
        matches!(self.at, At::Opening | At::Inside)
    }

    /// Takes a piece.
    pub(super) fn push(&mut self, piece: &str) -> Told {
        self.held.push_str(piece);
        let mut told = Told::default();
        loop {
            match self.at {
                At::Start => {
                    let text = self.held.trim_start();
                    if let Some(rest) = text.strip_prefix(OPEN) {
                        self.held = rest.to_owned();
                        self.at = At::Opening;
                    } else if OPEN.starts_with(text) {
                        return told;
                    } else {
                        self.at = At::Answer;
                    }
                }
                At::Opening => {
                    self.held = self.held.trim_start().to_owned();
                    if self.held.is_empty() {
                        return told;
                    }
                    self.at = At::Inside;
                }
                At::Inside => {
                    if let Some(at) = self.held.find(CLOSE) {
                        told.reasoning += self.held[..at].trim_end();
                        self.held.drain(..at + CLOSE.len());
                        self.at = At::Between;
                        continue;
                    }
                    // Blanks before the end are not part of it.
                    let may_end = |at: &usize| CLOSE.starts_with(self.held[*at..].trim_start());
                    let places = self.held.char_indices().map(|(at, _)| at);
                    let keep = places.into_iter().find(may_end).unwrap_or(self.held.len());
                    told.reasoning.extend(self.held.drain(..keep));
                    return told;
                }
                At::Between => {
                    self.held = self.held.trim_start().to_owned();
                    if self.held.is_empty() {
                        return told;
                    }
                    self.at = At::Answer;
                }
                At::Answer => {
                    told.answer += &std::mem::take(&mut self.held);
                    return told;
                }
            }
        }
    }

    /// What was held back, once nothing follows.
    pub(super) fn finish(&mut self) -> Told {
        let held = std::mem::take(&mut self.held);
        match self.at {
            At::Inside => Told { reasoning: held, ..Told::default() },
            _ => Told { answer: held, ..Told::default() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(at: At, text: &str, cut: usize) -> (String, String) {
        let mut reasoning = Reasoning { at, held: String::new() };
        let chars: Vec<char> = text.chars().collect();
        let mut all = Told::default();
        let mut add = |told: Told| {
            all.reasoning += &told.reasoning;
            all.answer += &told.answer;
        };
        for piece in chars.chunks(cut) {
            add(reasoning.push(&piece.iter().collect::<String>()));
        }
        add(reasoning.finish());
        (all.reasoning, all.answer)
    }

    #[test]
    fn it_is_told_however_the_text_comes() {
        for cut in [1, 2, 3, 5, 100] {
            for (at, text, reasoning, answer) in [
                (At::Start, "<think>\nHm < 3.\n</think>\n\nYes.", "Hm < 3.", "Yes."),
                (At::Start, "\n<think></think>Yes.", "", "Yes."),
                (At::Start, "Yes <think>no</think>.", "", "Yes <think>no</think>."),
                (At::Start, "<thin air", "", "<thin air"),
                (At::Start, "<think>never ends </thi", "never ends </thi", ""),
                (At::Opening, "\nSo.\n</think>\nYes.\n", "So.", "Yes.\n"),
                (At::Answer, "<think>x</think>", "", "<think>x</think>"),
                (At::Start, "", "", ""),
            ] {
                let is = (reasoning.to_owned(), answer.to_owned());
                assert_eq!(told(at, text, cut), is, "{text} by {cut}");
            }
        }
    }
}
