//! The haystacks that needles are hidden in.

use std::sync::Arc;

use crate::{Error, Result, subject};

/// One unit of RULER's noise.
pub const NOISE: &str =
    "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.";

/// The text that needles are hidden in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Haystack {
    /// [`NOISE`], over and over, a unit a line.
    Noise,
    /// A text from a sentence that the seed picks, cut at the end of a sentence: where white space follows `.`,
    /// `!` or `?`. Behind its end it begins again; white space becomes single spaces.
    Essay(Arc<str>),
}

/// A haystack as units that needles go between.
pub(super) struct Filling {
    units: Vec<String>,
    /// The text between two units.
    pub separator: &'static str,
}

impl Filling {
    pub fn new(haystack: &Haystack) -> Result<Self> {
        match haystack {
            Haystack::Noise => Ok(Self { units: vec![NOISE.into()], separator: "\n" }),
            Haystack::Essay(text) => {
                let units = sentences(text);
                if units.is_empty() {
                    return Err(Error::argument(subject::ESSAY, "empty", "needles need a text"));
                }
                Ok(Self { units, separator: " " })
            }
        }
    }

    /// How many units there are before they begin again.
    pub fn len(&self) -> u32 {
        self.units.len() as u32
    }

    /// The units without end.
    pub fn units(&self) -> impl Iterator<Item = &str> {
        self.units.iter().map(String::as_str).cycle()
    }
}

/// The sentences of a text, the last one perhaps without an end.
fn sentences(text: &str) -> Vec<String> {
    let mut sentences = vec![];
    let mut words = vec![];
    for word in text.split_whitespace() {
        words.push(word);
        // Quotation marks and brackets close after the full stop.
        let bare = word.trim_end_matches(['"', '\'', '”', '’', '»', ')', ']']);
        if bare.ends_with(['.', '!', '?']) {
            sentences.push(words.join(" "));
            words.clear();
        }
    }
    if !words.is_empty() {
        sentences.push(words.join(" "));
    }
    sentences
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_end_where_they_end() {
        let text = "One 3.5 two.\n\nIs it (he\task  it?) \"Yes!\" An end...";
        let expected = ["One 3.5 two.", "Is it (he ask it?)", "\"Yes!\"", "An end..."];
        assert_eq!(sentences(text), expected);
        assert_eq!(sentences("A. no end"), ["A.", "no end"]);
    }

    #[test]
    fn essays_without_words_are_refused() {
        let error = Filling::new(&Haystack::Essay(" \n".into())).err().unwrap().to_string();
        assert_eq!(error, "the essay is empty, but needles need a text");
    }
}
