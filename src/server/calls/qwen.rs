//! `<tool_call>{"name": "f", "arguments": {"x": 1}}</tool_call>`: Qwen's, and those of many others.

use super::end::End;
use super::{Begins, Format, read_json};

pub(super) const FORMAT: Format = Format {
    words: &["<tool_call>"],
    begins: Begins::Mark("<tool_call>"),
    ends: Some(End { mark: "</tool_call>", quotes: ["\"", "\""] }),
    marks: &[],
    read: read_json,
};
