//! Texts that end an answer, wherever the borders of tokens are.

/// Looks for stop texts in what is made piece by piece.
#[derive(Debug)]
pub(super) struct StopTexts {
    texts: Vec<String>,
    /// The end of what was made, which may be the beginning of a stop text.
    held: String,
}

/// The text that may be shown after a piece.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Passed {
    /// The text, without a stop text and what followed it.
    pub(super) text: String,
    /// Whether there was a stop text.
    pub(super) is_over: bool,
}

impl StopTexts {
    /// Looks for these; none of them is empty.
    pub(super) fn new(texts: Vec<String>) -> Self {
        Self { texts, held: String::new() }
    }

    /// Takes the next piece.
    pub(super) fn push(&mut self, piece: &str) -> Passed {
        self.held.push_str(piece);
        if let Some(at) = self.texts.iter().filter_map(|text| self.held.find(text)).min() {
            self.held.truncate(at);
            return Passed { text: std::mem::take(&mut self.held), is_over: true };
        }
        let may_begin =
            |&at: &usize| self.texts.iter().any(|text| text.starts_with(&self.held[at..]));
        let longest = self.texts.iter().map(String::len).max().unwrap_or(0);
        let from = self.held.len().saturating_sub(longest);
        let places = self.held.char_indices().map(|(at, _)| at).filter(|at| *at >= from);
        let keep = places.into_iter().find(may_begin).unwrap_or(self.held.len());
        let held = self.held.split_off(keep);
        Passed { text: std::mem::replace(&mut self.held, held), is_over: false }
    }

    /// The text that was held back, once nothing follows.
    pub(super) fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // All that is shown of these pieces, and whether a stop text came.
    fn shown(texts: &[&str], pieces: &[&str]) -> (Vec<String>, bool) {
        let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
        let mut stop = StopTexts::new(texts);
        let mut all = Vec::new();
        for piece in pieces {
            let passed = stop.push(piece);
            all.push(passed.text);
            if passed.is_over {
                return (all, true);
            }
        }
        all.push(stop.finish());
        (all, false)
    }

    #[test]
    fn a_stop_text_is_found_across_pieces_and_not_shown() {
        assert_eq!(
            shown(&["\n\n"], &["a\n", "b\n", "\nc"]),
            (vec!["a".into(), "\nb".into(), "".into()], true)
        );
        assert_eq!(shown(&["User:"], &["Hi U", "se", "r: x"]).0.concat(), "Hi ");
        assert_eq!(shown(&["END"], &["one END two"]), (vec!["one ".into()], true));
    }

    #[test]
    fn what_only_looked_like_one_is_shown_as_soon_as_that_is_known() {
        assert_eq!(
            shown(&["abc"], &["ab", "ab", "d"]),
            (vec!["".into(), "ab".into(), "abd".into(), "".into()], false)
        );
        assert_eq!(shown(&["abc"], &["xab"]), (vec!["x".into(), "ab".into()], false));
        assert_eq!(shown(&["aab"], &["aa", "ab"]).0.concat(), "a");
    }

    #[test]
    fn the_first_of_several_counts_and_characters_stay_whole() {
        assert_eq!(shown(&["two", "one"], &["zero one two"]).0.concat(), "zero ");
        assert_eq!(shown(&["é!"], &["né", "e"]), (vec!["n".into(), "ée".into(), "".into()], false));
        assert_eq!(shown(&["語!"], &["日本語", "!"]), (vec!["日本".into(), "".into()], true));
        assert_eq!(shown(&[], &["a", "b"]), (vec!["a".into(), "b".into(), "".into()], false));
    }
}
