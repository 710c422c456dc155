//! The command line as it was given.

use clap::ArgMatches;
use clap::parser::ValueSource;

/// Which subcommand runs, and which options were given rather than left at their defaults.
pub struct Line {
    /// The subcommand, such as `generate` or `eval recall`.
    pub command: String,
    options: ArgMatches,
}

impl Line {
    /// From all matches.
    pub fn new(mut matches: ArgMatches) -> Self {
        let mut command = Vec::new();
        while let Some((name, options)) = matches.remove_subcommand() {
            command.push(name);
            matches = options;
        }
        Self { command: command.join(" "), options: matches }
    }

    /// The adapter that was asked for, by the option or its environment variable; one that is set to nothing asks for nothing.
    pub fn adapter(&self) -> Option<&str> {
        self.options
            .get_one::<String>("adapter")
            .map(String::as_str)
            .filter(|request| !request.is_empty())
    }

    /// Whether this option, named as its field is, was typed.
    pub fn gives(&self, option: &str) -> bool {
        self.options.ids().any(|id| id == option)
            && self.options.value_source(option) == Some(ValueSource::CommandLine)
    }

    /// The values of this option, typed or not, as text.
    pub fn values(&self, option: &str) -> Vec<String> {
        if !self.options.ids().any(|id| id == option) {
            return Vec::new();
        }
        let values = self.options.get_raw(option).into_iter().flatten();
        // Lists are cut at commas where they are parsed.
        values.map(|value| value.to_string_lossy().into_owned()).collect()
    }

    /// Whether this option stands at one value, and it is this one.
    pub fn is(&self, option: &str, value: &str) -> bool {
        self.values(option) == [value]
    }
}
