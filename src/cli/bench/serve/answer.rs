//! What a stream of OpenAI's chats says, line by line. Pure.

use serde_json::Value;

/// What a server gave, or why it did not.
pub type Heard<T> = Result<T, String>;

/// The longest part of a server's words that a reason repeats.
const LONGEST: usize = 200;

/// Tokens, as the server counted them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    pub prompt: u64,
    pub answer: u64,
    /// Of the prompt, those that were not computed again, where it tells.
    pub cached: Option<u64>,
}

/// An answer as far as it came.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// Seconds from the request to each piece of text, most of them a token.
    pub pieces: Vec<f64>,
    pub usage: Option<Usage>,
    /// Whether the server said why it ended.
    pub has_ended: bool,
}

/// Why a stream that ended is no answer.
pub const CUT: &str = "the stream ended before the answer did";

impl Answer {
    /// Takes a line that came so many seconds after the request; whether it was the last.
    ///
    /// # Errors
    /// What is wrong with the stream, or what the server says is.
    pub fn take(&mut self, line: &str, at: f64) -> Heard<bool> {
        // Others are comments, and blank lines between events.
        let Some(data) = line.strip_prefix("data:").map(str::trim) else { return Ok(false) };
        if data == "[DONE]" {
            return if self.has_ended { Ok(true) } else { Err(CUT.into()) };
        }
        let event: Value = serde_json::from_str(data)
            .map_err(|_| format!("the stream has what is no JSON: {}", cut(data)))?;
        if event.get("error").is_some_and(|error| !error.is_null()) {
            return Err(refusal(&event.to_string()));
        }
        let choice = &event["choices"][0];
        // Servers call thoughts by either name.
        let said = ["content", "reasoning_content", "reasoning"].map(|part| &choice["delta"][part]);
        if said.iter().any(|text| text.as_str().is_some_and(|text| !text.is_empty())) {
            self.pieces.push(at);
        }
        self.has_ended |= choice["finish_reason"].is_string();
        let usage = &event["usage"];
        let counts = (usage["prompt_tokens"].as_u64(), usage["completion_tokens"].as_u64());
        if let (Some(prompt), Some(answer)) = counts {
            let cached = usage["prompt_tokens_details"]["cached_tokens"].as_u64();
            self.usage = Some(Usage { prompt, answer, cached });
        }
        Ok(false)
    }
}

/// What a body says is wrong, in the shapes that servers have for it.
pub fn refusal(body: &str) -> String {
    let value: Value = serde_json::from_str(body).unwrap_or_default();
    let places = [&value["error"]["message"], &value["error"], &value["message"], &value["detail"]];
    let message = places.iter().find_map(|place| place.as_str());
    cut(message.unwrap_or(body).trim())
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(lines: &[&str]) -> (Answer, Heard<bool>) {
        let mut answer = Answer::default();
        let mut last = Ok(false);
        for (at, line) in (0_u32..).zip(lines) {
            assert_eq!(last, Ok(false), "{line} comes after the end");
            last = answer.take(&format!("{line}\r\n"), at.into());
        }
        (answer, last)
    }

    #[test]
    fn pieces_and_the_usage_are_found() {
        let (answer, last) = take(&[
            r#"data: {"choices":[{"delta":{"role":"assistant","content":""},"finish_reason":null}]}"#,
            ": prefill 3",
            "",
            r#"data: {"choices":[{"delta":{"reasoning_content":"Hm"}}],"usage":null}"#,
            r#"data:{"choices":[{"delta":{"content":"Hi"}}]}"#,
            r#"data: {"choices":[{"delta":{},"finish_reason":"length"}]}"#,
            r#"data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":4}}}"#,
            "data: [DONE]",
        ]);
        assert_eq!((last, answer.pieces), (Ok(true), vec![3.0, 4.0]));
        assert_eq!(answer.usage, Some(Usage { prompt: 9, answer: 2, cached: Some(4) }));
        // Servers that keep nothing leave that out, or say null.
        let (answer, _) = take(&[
            r#"data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":2,"prompt_tokens_details":null}}"#,
        ]);
        assert_eq!(answer.usage, Some(Usage { prompt: 9, answer: 2, cached: None }));
    }

    #[test]
    fn what_is_wrong_is_told_in_the_servers_words() {
        for (line, reason) in [
            ("data: [DONE]", CUT),
            (r#"data: {"error":{"message":"it stops"}}"#, "it stops"),
            ("data: {\"choi", "the stream has what is no JSON: {\"choi"),
        ] {
            assert_eq!(take(&[line]).1, Err(reason.into()));
        }
        for (body, reason) in [
            (r#"{"error":{"message":"no","type":"x"}}"#, "no"),
            (r#"{"error":"no model"}"#, "no model"),
            (r#"{"object":"error","message":"too long"}"#, "too long"),
            (r#"{"detail":"Not Found"}"#, "Not Found"),
            (" Bad Gateway\n", "Bad Gateway"),
            ("", ""),
        ] {
            assert_eq!(refusal(body), reason);
        }
        assert_eq!(refusal(&"ü".repeat(300)), "ü".repeat(200) + "...");
    }
}
