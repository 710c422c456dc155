//! Subjects of an [`Error::Argument`](crate::Error::Argument) that a program may know by another name: by an option,
//! say. What has no name here is called the same everywhere.

/// [`Budget::blocks`](crate::attention::Budget::blocks).
pub const BLOCKS: &str = "the budget of blocks";
/// [`Budget::tokens`](crate::attention::Budget::tokens).
pub const TOKENS: &str = "the budget of tokens";
/// Both, as [`parse_budget`](crate::eval::parse_budget) reads them.
pub const BUDGET: &str = "the budget";
/// [`TwoLevel::block_scorer`](crate::attention::TwoLevel::block_scorer).
pub const BLOCK_SCORER: &str = "the block scorer";
/// [`TwoLevel::token_scorer`](crate::attention::TwoLevel::token_scorer).
pub const TOKEN_SCORER: &str = "the token scorer";
/// [`IndexFormat::channels`](crate::attention::IndexFormat::channels).
pub const INDEX_CHANNELS: &str = "the number of index channels";
/// [`IndexFormat::bits`](crate::attention::IndexFormat::bits).
pub const INDEX_BITS: &str = "the number of index bits";
/// A [`ChannelSet`](crate::attention::ChannelSet).
pub const CHANNEL_SET: &str = "the set of index channels";
/// [`Shape::block`](crate::attention::Shape::block).
pub const BLOCK_SIZE: &str = "the block size";
/// A [`Quantise`](crate::formats::Quantise).
pub const QUANTISE: &str = "the type to quantise to";
/// A [`RopeChange`](crate::model::rope::RopeChange).
pub const ROPE_CHANGE: &str = "the scaling of the rotary embedding";
/// A [`KvType`](crate::formats::KvType).
pub const KV_TYPE: &str = "the type of the KV cache in CPU memory";
/// [`HostOptions::hot_blocks`](crate::engine::HostOptions::hot_blocks).
pub const HOT_BLOCKS: &str = "the hot cache of an evaluation";
/// The tokens of a text that are prefilled and not scored.
pub const PREFILL: &str = "the number of tokens to prefill";
/// A [`Task`](crate::eval::tasks::Task).
pub const TASK: &str = "the task";
/// The length of a task's prompt.
pub const LENGTH: &str = "the length in tokens";
/// A [`Haystack`](crate::eval::tasks::Haystack) of text.
pub const ESSAY: &str = "the essay";
/// The message with which a [`Chat`](crate::generate::Chat) begins.
pub const SYSTEM: &str = "the system message";
/// A text that no chat template frames.
pub const RAW: &str = "raw text";
/// What answers have to be: [`Framing::json_schema`](crate::generate::Framing::json_schema).
pub const JSON_SCHEMA: &str = "the JSON schema";
/// All that a [`Chat`](crate::generate::Chat) holds, as tokens.
pub const CONVERSATION: &str = "the conversation";
/// [`MostMissed`](crate::attention::MostMissed).
pub const MISSED_MASS: &str = "the most that a step may miss";
/// Where keys and values live.
pub const KV_CACHE: &str = "the KV cache";
/// GPU memory to make do with.
pub const GPU_MEMORY: &str = "the GPU memory";

#[cfg(test)]
mod tests {
    use std::fs::{read_dir, read_to_string};
    use std::path::Path;

    // Lines of code, not of comments, that hold what looks like a command line's option.
    fn options_in(path: &Path, found: &mut Vec<String>) {
        if path.is_dir() {
            let entries = read_dir(path).unwrap().map(|entry| entry.unwrap().path());
            return entries
                // A report of conformance says by which command a case runs again.
                .filter(|path| !path.ends_with("src/cli") && !path.ends_with("src/conformance"))
                .for_each(|path| options_in(&path, found));
        }
        let text = read_to_string(path).unwrap();
        let code =
            text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//"));
        let is_option = |line: &str| {
            line.match_indices("--")
                .any(|(at, _)| line[at + 2..].starts_with(|c: char| c.is_ascii_lowercase()))
        };
        let lines = code.filter(|(_, line)| is_option(line));
        found.extend(lines.map(|(i, line)| format!("{}:{}: {line}", path.display(), i + 1)));
    }

    #[test]
    fn the_library_names_no_options() {
        let mut found = Vec::new();
        for folder in ["src", "shaders"] {
            options_in(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder), &mut found);
        }
        assert!(found.is_empty(), "{}", found.join("\n"));
    }
}
