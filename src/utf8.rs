//! Bytes of a text file as text: UTF-8, with or without a byte order mark.

/// Why bytes are no text.
#[derive(Debug, PartialEq, Eq)]
pub struct NotText {
    /// The first byte that is none.
    pub offset: usize,
    /// The fault, in words.
    pub problem: &'static str,
}

const MARK: &[u8] = b"\xEF\xBB\xBF";

/// The bytes after the mark that some editors begin a file with.
pub fn without_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(MARK).unwrap_or(bytes)
}

/// The text, without the mark.
///
/// # Errors
/// [`NotText`] for what is not UTF-8.
pub fn text(mut bytes: Vec<u8>) -> Result<String, NotText> {
    if is_utf16(&bytes) {
        return Err(NotText { offset: 0, problem: "the text is UTF-16" });
    }
    let mark = bytes.len() - without_mark(&bytes).len();
    bytes.drain(..mark);
    String::from_utf8(bytes).map_err(|error| {
        let offset = mark + error.utf8_error().valid_up_to();
        NotText { offset, problem: "the bytes are not UTF-8" }
    })
}

// By its mark, or by the zeros beside two characters of ASCII.
fn is_utf16(bytes: &[u8]) -> bool {
    matches!(bytes, [0xFF, 0xFE, ..] | [0xFE, 0xFF, ..])
        || matches!(bytes, &[a, 0, b, 0, ..] | &[0, a, 0, b, ..] if a != 0 && b != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_dropped_once() {
        assert_eq!(text(b"\xEF\xBB\xBFHi".to_vec()).unwrap(), "Hi");
        assert_eq!(text(b"\xEF\xBB\xBF\xEF\xBB\xBFHi".to_vec()).unwrap(), "\u{FEFF}Hi");
        assert_eq!(text(b"Hi".to_vec()).unwrap(), "Hi");
        assert_eq!(text(Vec::new()).unwrap(), "");
    }

    #[test]
    fn other_encodings_are_named() {
        let utf16 = |text: &str, mark: &[u8]| {
            mark.iter().copied().chain(text.encode_utf16().flat_map(u16::to_le_bytes)).collect()
        };
        for bytes in [
            utf16("Häuser", &[0xFF, 0xFE]),
            utf16("Hi", &[]),
            b"\xFE\xFF\0H".to_vec(),
            b"\0H\0i".to_vec(),
        ] {
            let error = text(bytes).unwrap_err();
            assert_eq!((error.offset, error.problem), (0, "the text is UTF-16"));
        }
        for (bytes, offset) in [(&b"ab\xE4"[..], 2), (b"\xEF\xBB\xBFab\xFF", 5)] {
            let error = text(bytes.to_vec()).unwrap_err();
            assert_eq!((error.offset, error.problem), (offset, "the bytes are not UTF-8"));
        }
    }
}
