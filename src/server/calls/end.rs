//! Where a call ends.

/// What ends a call, and what is around parts of it that may have that in them.
#[derive(Debug)]
pub(super) struct End {
    pub(super) mark: &'static str,
    /// What begins and ends such a part, neither longer than the mark.
    pub(super) quotes: [&'static str; 2],
}

/// A place behind an end's mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ending {
    pub(super) behind: usize,
    pub(super) is_quoted: bool,
}

/// How far a call has been looked at: once, however it comes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Search {
    at: usize,
    is_quoted: bool,
}

impl Search {
    /// Of a call that begins here.
    pub(super) fn from(at: usize) -> Self {
        Self { at, is_quoted: false }
    }

    /// The next mark in all that came so far.
    pub(super) fn next(&mut self, end: &End, text: &str) -> Option<Ending> {
        let [open, close] = end.quotes;
        // Less may be the beginning of any of them.
        while let Some(rest) = text.as_bytes().get(self.at..).filter(|r| r.len() >= end.mark.len())
        {
            let starts = |mark: &str| rest.starts_with(mark.as_bytes());
            if starts(end.mark) {
                self.at += end.mark.len();
                return Some(Ending { behind: self.at, is_quoted: self.is_quoted });
            }
            self.at += match self.is_quoted {
                // What JSON escapes.
                true if close == "\"" && starts("\\") => 2,
                true if starts(close) => {
                    self.is_quoted = false;
                    close.len()
                }
                false if starts(open) => {
                    self.is_quoted = true;
                    open.len()
                }
                _ => 1,
            };
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const JSON: End = End { mark: "</call>", quotes: ["\"", "\""] };
    const MARKED: End = End { mark: "</call>", quotes: ["<v>", "</v>"] };

    fn endings(end: &End, text: &str, cut: usize) -> Vec<(usize, bool)> {
        let (mut search, mut all) = (Search::from(0), Vec::new());
        for to in (0..text.len()).step_by(cut).chain([text.len()]) {
            if text.is_char_boundary(to) {
                while let Some(Ending { behind, is_quoted }) = search.next(end, &text[..to]) {
                    all.push((behind, is_quoted));
                }
            }
        }
        all
    }

    #[test]
    fn marks_are_found_however_the_text_comes() {
        for cut in [1, 2, 5, 100] {
            for (end, text, places) in [
                (&JSON, "{}</call></call>", &[(9, false), (16, false)][..]),
                (
                    &JSON,
                    r#"{"é": "</call>\"</call>"}</call>"#,
                    &[(15, true), (24, true), (33, false)],
                ),
                (&JSON, r#"{"a": "\\"}</call>"#, &[(18, false)]),
                (&MARKED, r#"f<v>"</call>\</v></call>"#, &[(12, true), (24, false)]),
                (&MARKED, "f<v></v</call>", &[(14, true)]),
                (&JSON, "</cal", &[]),
            ] {
                assert_eq!(endings(end, text, cut), places, "{text} by {cut}");
            }
        }
    }
}
