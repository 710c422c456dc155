//! `{"name": "f", "parameters": {"x": 1}}`, which is all of the answer: Llama 3's. Several stand behind one another.

use super::{Begins, Format, Found, Written, json_call};
use crate::server::tools::Tools;
use serde_json::Deserializer;

pub(super) const FORMAT: Format = Format {
    words: &["\"parameters\"", "ipython"],
    begins: Begins::Answer("{"),
    ends: None,
    marks: &[],
    read,
};

fn read(text: &str, tools: &Tools) -> Found {
    let mut calls = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let mut values = Deserializer::from_str(rest).into_iter::<Written<'_>>();
        let Some(Ok(written)) = values.next() else { return Found::Text };
        let Some(call) = json_call(tools, &written) else { return Found::Text };
        calls.push(call);
        // Some separate them.
        rest = rest[values.byte_offset()..].trim_start_matches([' ', '\n', ';', ',']);
    }
    Found::Calls(calls)
}
