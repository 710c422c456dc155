//! Options for the names that the library uses.

use asynctls::{Error, subject};
use std::str::FromStr;

/// The subject of an error, and the option that says it.
const OPTIONS: [(&str, &str); 21] = [
    (subject::BLOCKS, "--blocks"),
    (subject::TOKENS, "--tokens"),
    (subject::BUDGET, "--budget"),
    (subject::BLOCK_SCORER, "--scorer"),
    (subject::TOKEN_SCORER, "--token-scorer"),
    (subject::INDEX_CHANNELS, "--index-channels"),
    (subject::INDEX_BITS, "--index-bits"),
    (subject::CHANNEL_SET, "--channels"),
    (subject::BLOCK_SIZE, "--block-size"),
    (subject::QUANTISE, "--quantize"),
    (subject::ROPE_CHANGE, "--rope-scaling"),
    (subject::KV_TYPE, "--kv-type"),
    (subject::HOT_BLOCKS, "--hot-blocks"),
    (subject::MISSED_MASS, "--missed-mass"),
    (subject::PREFILL, "--prefill"),
    (subject::TASK, "--tasks"),
    (subject::LENGTH, "--lengths"),
    (subject::ESSAY, "--text"),
    (subject::SYSTEM, "--system"),
    (subject::RAW, "--raw"),
    (subject::JSON_SCHEMA, "--json-schema"),
];

/// An error in the words of the command line.
pub fn message(error: &Error) -> String {
    match error {
        Error::Argument { what, value, limit } => {
            let option = OPTIONS.iter().find(|(subject, _)| subject == what);
            let what = option.map_or(what.as_str(), |(_, option)| option);
            Error::argument(what, value, limit).to_string()
        }
        Error::DeviceLost(_) => format!("{error} with --adapter"),
        _ => error.to_string(),
    }
}

/// Parses an option's value, for clap.
pub fn parse<T: FromStr<Err = Error>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error| message(&error))
}

#[cfg(test)]
mod tests {
    use super::super::Cli;
    use super::*;
    use clap::{Command, CommandFactory};

    fn has(command: &Command, option: &str) -> bool {
        command.get_arguments().any(|argument| argument.get_long() == option.strip_prefix("--"))
            || command.get_subcommands().any(|command| has(command, option))
    }

    #[test]
    fn every_option_that_an_error_names_is_there() {
        for (subject, option) in OPTIONS {
            assert!(has(&Cli::command(), option), "{option}");
            let error = Error::argument(subject, 7, "it must be less");
            assert_eq!(message(&error), format!("{option} is 7, but it must be less"));
        }
        assert!(!has(&Cli::command(), "--absent"));
    }

    #[test]
    fn what_has_no_option_keeps_its_name() {
        assert_eq!(
            message(&Error::argument("the prompt", "empty", "no")),
            "the prompt is empty, but no"
        );
        assert_eq!(
            message(&Error::DeviceLost("unplugged".into())),
            "the GPU device was lost: unplugged; run again, or choose another adapter with --adapter"
        );
    }
}
