//! Ids to text, one id at a time.

use super::Tokenizer;
use std::ops::Deref;

/// Turns ids that arrive one by one into text: a character whose bytes come with several tokens
/// is held back until it is whole.
#[derive(Debug)]
pub struct Decoder<T: Deref<Target = Tokenizer>> {
    tokenizer: T,
    skip_control: bool,
    /// Control tokens that are spelled out in any case.
    shown: Vec<u32>,
    /// Whether nothing has come yet.
    begins: bool,
    /// The beginning of a character: at most three bytes between calls.
    pending: Vec<u8>,
}

impl<T: Deref<Target = Tokenizer>> Decoder<T> {
    /// A decoder with this tokenizer, borrowed or shared: see [`Tokenizer::decoder`].
    pub fn new(tokenizer: T, skip_control: bool) -> Self {
        Self { tokenizer, skip_control, shown: Vec::new(), begins: true, pending: Vec::new() }
    }

    /// With these control tokens spelled out.
    pub(crate) fn showing(self, shown: Vec<u32>) -> Self {
        Self { shown, ..self }
    }

    /// The text that `id` completes. Bytes that can no longer become a character are U+FFFD.
    pub fn push(&mut self, id: u32) -> String {
        let skip_control = self.skip_control && !self.shown.contains(&id);
        self.tokenizer.append_bytes(id, skip_control, &mut self.pending);
        if self.begins && !self.pending.is_empty() {
            self.begins = false;
            if self.tokenizer.strips() && self.pending[0] == b' ' {
                self.pending.remove(0);
            }
        }
        let whole = self.pending.len() - incomplete_tail(&self.pending);
        let text = String::from_utf8_lossy(&self.pending[..whole]).into_owned();
        self.pending.drain(..whole);
        text
    }

    /// The rest, which no further id will complete: nothing, or U+FFFD.
    pub fn finish(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.pending)).into_owned()
    }
}

/// How many bytes at the end are the beginning of a character.
fn incomplete_tail(bytes: &[u8]) -> usize {
    (1..=bytes.len().min(3))
        .find(|&length| {
            let tail = &bytes[bytes.len() - length..];
            std::str::from_utf8(tail)
                .is_err_and(|error| error.valid_up_to() == 0 && error.error_len().is_none())
        })
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tail_of_every_cut() {
        let text = "aé語😀";
        for cut in 0..=text.len() {
            let start = text.floor_char_boundary(cut);
            assert_eq!(incomplete_tail(&text.as_bytes()[..cut]), cut - start, "cut at {cut}");
        }
    }

    #[test]
    fn bytes_that_never_become_a_character_are_not_held_back() {
        for bytes in [&b"\xFF"[..], b"\x80", b"\xC0", b"\xE0\x80", b"\xF5", b"\xED\xA0", b"\xC3("] {
            assert_eq!(incomplete_tail(bytes), 0, "{bytes:?}");
        }
    }
}
