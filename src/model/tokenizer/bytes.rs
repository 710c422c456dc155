//! What tokens spell: GPT-2's byte-level alphabet, 256 printable characters, one for each byte; and SentencePiece's marks.

use super::parts::SPACE;

/// The byte that a character of the alphabet stands for.
///
/// Printable Latin-1 stands for itself; the 68 other bytes follow in order from U+0100.
fn byte(symbol: char) -> Option<u8> {
    let code = u32::from(symbol);
    let byte = match code {
        0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF => code,
        0x100..=0x120 => code - 0x100,
        0x121..=0x142 => code - 0x121 + 0x7F,
        0x143 => 0xAD,
        _ => return None,
    };
    u8::try_from(byte).ok()
}

/// Appends the bytes of a token; a character outside the alphabet stands for its own UTF-8.
pub fn append(token: &str, to: &mut Vec<u8>) {
    for symbol in token.chars() {
        match byte(symbol) {
            Some(byte) => to.push(byte),
            None => to.extend(symbol.encode_utf8(&mut [0; 4]).bytes()),
        }
    }
}

/// Appends what a token with marked spaces spells: the byte that it names, or its text.
pub fn append_marked(token: &str, to: &mut Vec<u8>) {
    match named(token) {
        Some(byte) => to.push(byte),
        None => to.extend(token.replace(SPACE, " ").bytes()),
    }
}

// The byte that a token such as `<0x0A>` names.
fn named(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    let is_one = digits.len() == 2 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    u8::from_str_radix(digits, 16).ok().filter(|_| is_one)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use tokenizers::pre_tokenizers::byte_level::ByteLevel;
    use tokenizers::{PreTokenizedString, PreTokenizer};

    use super::*;

    #[test]
    fn alphabet_is_the_encoders() {
        let alphabet = ByteLevel::alphabet();
        let bytes: BTreeSet<u8> = alphabet.iter().filter_map(|&symbol| byte(symbol)).collect();
        assert_eq!((alphabet.len(), bytes.len()), (256, 256));

        let every_char: String = ('\0'..='\u{FFF}').chain('\u{10000}'..='\u{10FFF}').collect();
        let mut parts = PreTokenizedString::from(every_char.as_str());
        ByteLevel::new(false, false, false).pre_tokenize(&mut parts).unwrap();
        let spelled: String = parts
            .get_splits(tokenizers::OffsetReferential::Original, tokenizers::OffsetType::None)
            .iter()
            .map(|part| part.0)
            .collect();
        let mut back = Vec::new();
        append(&spelled, &mut back);
        assert_eq!(back, every_char.as_bytes());
    }

    #[test]
    fn marked_tokens_name_bytes_and_spaces() {
        let mut bytes = Vec::new();
        for token in ["▁a▁▁b", "<0xE8>", "<0xAA>", "<0x9E>", "<0x+A>", "<0x0A", "<0x0a>"] {
            append_marked(token, &mut bytes);
        }
        assert_eq!(bytes, " a  b語<0x+A><0x0A\n".as_bytes());
    }

    #[test]
    fn other_characters_stand_for_themselves() {
        let mut bytes = Vec::new();
        append("Ġa\u{144}語", &mut bytes);
        assert_eq!(bytes, " a\u{144}語".as_bytes());
    }
}
