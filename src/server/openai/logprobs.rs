//! Log-probabilities, as they are asked for and as they come back.

use crate::server::fault::{Fault, Read};
use crate::server::fields::Fields;
use crate::server::logprobs::{Entry, Spelled};
use serde_json::{Map, Value, json};

/// The likeliest tokens that may be asked for.
const MOST: i64 = 20;

/// What stands for minus infinity, which JSON has not.
const NEVER: f64 = -9999.0;

/// Of chats: `logprobs` says whether, `top_logprobs` of how many tokens.
pub(super) fn read_chat(fields: &mut Fields) -> Read<Option<usize>> {
    let wanted = fields.flag("logprobs")?.unwrap_or(false);
    let count = fields.whole("top_logprobs", 0..=MOST)?.unwrap_or(0);
    if !wanted && count > 0 {
        return Err(Fault::field("top_logprobs", count, "logprobs is not true"));
    }
    Ok(wanted.then_some(count as usize))
}

/// Of completions: `logprobs` is the number of tokens.
pub(super) fn read_completion(fields: &mut Fields) -> Read<Option<usize>> {
    Ok(fields.whole("logprobs", 0..=MOST)?.map(|count| count as usize))
}

fn text(token: &Spelled) -> String {
    String::from_utf8_lossy(&token.bytes).into_owned()
}

fn number(token: &Spelled) -> f64 {
    token.logprob.max(NEVER)
}

/// Those of a chat's answer, or of a part of it.
pub(super) fn of_chat(entries: &[Entry]) -> Value {
    let shown = |token: &Spelled| json!({"token": text(token), "logprob": number(token), "bytes": token.bytes});
    let content = entries.iter().map(|entry| {
        let mut value = shown(&entry.chosen);
        value["top_logprobs"] = entry.likeliest.iter().map(shown).collect();
        value
    });
    json!({"content": content.collect::<Value>(), "refusal": null})
}

/// Those of a completion's answer, or of a part of it, before which there are so many characters.
pub(super) fn of_completion(entries: &[Entry], characters: usize) -> Value {
    let mut offset = characters;
    let offsets = entries.iter().map(|entry| {
        let begins = offset;
        offset += begun(entry);
        begins
    });
    let offsets: Vec<usize> = offsets.collect();
    let likeliest = entries.iter().map(|entry| {
        // Among the likeliest in any case; of tokens with one text the likelier counts.
        let all = entry.likeliest.iter().rev().chain([&entry.chosen]);
        all.map(|token| (text(token), json!(number(token)))).collect::<Map<_, _>>()
    });
    json!({
        "tokens": entries.iter().map(|entry| text(&entry.chosen)).collect::<Vec<_>>(),
        "token_logprobs": entries.iter().map(|entry| number(&entry.chosen)).collect::<Vec<_>>(),
        "top_logprobs": likeliest.collect::<Vec<_>>(),
        "text_offset": offsets,
    })
}

/// The characters that begin with a token.
pub(super) fn begun(entry: &Entry) -> usize {
    let begins = |byte: &&u8| !(0x80..0xC0).contains(*byte);
    entry.chosen.bytes.iter().filter(begins).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(bytes: &[u8], logprob: f64) -> Spelled {
        Spelled { bytes: bytes.to_vec(), logprob }
    }

    // A whole word, then a character in two tokens, of which the first is not the likeliest.
    fn entries() -> [Entry; 3] {
        let entry = |chosen: Spelled, likeliest| Entry { chosen, likeliest };
        [
            entry(token(b" a", -0.25), vec![token(b" a", -0.25), token(b"b", f64::NEG_INFINITY)]),
            entry(token(b"\xC3", -2.0), vec![token(b"x", -0.5), token(b"x", -3.0)]),
            entry(token(b"\xA9!", -1.0), Vec::new()),
        ]
    }

    #[test]
    fn of_a_chat() {
        let found = of_chat(&entries());
        assert_eq!(
            found["content"][0],
            json!({
                "token": " a", "logprob": -0.25, "bytes": [32, 97],
                "top_logprobs": [
                    {"token": " a", "logprob": -0.25, "bytes": [32, 97]},
                    {"token": "b", "logprob": -9999.0, "bytes": [98]},
                ],
            })
        );
        let partial = &found["content"][1];
        assert_eq!((&partial["token"], &partial["bytes"]), (&json!("\u{FFFD}"), &json!([0xC3])));
        assert_eq!(found["content"][2]["top_logprobs"], json!([]));
        assert_eq!(of_chat(&[]), json!({"content": [], "refusal": null}));
    }

    #[test]
    fn of_a_completion() {
        let found = of_completion(&entries(), 3);
        assert_eq!(found["tokens"], json!([" a", "\u{FFFD}", "\u{FFFD}!"]));
        assert_eq!(found["token_logprobs"], json!([-0.25, -2.0, -1.0]));
        assert_eq!(found["text_offset"], json!([3, 5, 6]));
        assert_eq!(
            found["top_logprobs"],
            json!([{" a": -0.25, "b": -9999.0}, {"x": -0.5, "\u{FFFD}": -2.0}, {"\u{FFFD}!": -1.0}])
        );
    }

    #[test]
    fn what_may_be_asked() {
        let fields = |value: Value| Fields::body(value.to_string().as_bytes()).unwrap();
        for (value, asked) in [
            (json!({}), None),
            (json!({"logprobs": false, "top_logprobs": 0}), None),
            (json!({"logprobs": true}), Some(0)),
            (json!({"logprobs": true, "top_logprobs": 20}), Some(20)),
        ] {
            assert_eq!(read_chat(&mut fields(value)).unwrap(), asked);
        }
        for (value, said) in [
            (json!({"top_logprobs": 2}), "top_logprobs is 2, but logprobs is not true"),
            (
                json!({"logprobs": true, "top_logprobs": 21}),
                "top_logprobs is 21, but it must be a whole number from 0 to 20",
            ),
        ] {
            assert_eq!(read_chat(&mut fields(value)).unwrap_err().message, said);
        }
        assert_eq!(read_completion(&mut fields(json!({"logprobs": 0}))).unwrap(), Some(0));
        assert!(read_completion(&mut fields(json!({"logprobs": true}))).is_err());
    }
}
