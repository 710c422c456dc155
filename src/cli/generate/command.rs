//! The lines typed in a conversation: questions, and commands that begin with a slash.

use std::path::PathBuf;

/// A line, or several that were pasted.
#[derive(Debug, PartialEq, Eq)]
pub enum Typed {
    /// A question for the model.
    Question(String),
    /// Something to do.
    Command(Command),
    /// A line that looks like a command, and is none.
    Unknown(String),
}

/// Something to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    /// Lists the commands.
    Help,
    /// Forgets what was said.
    Clear,
    /// Saves the session, to this file if there is none yet.
    Save(Option<PathBuf>),
    /// Shows times, memory and settings.
    Stats,
    /// Ends the conversation.
    Bye,
}

/// The text of `/help`.
pub const HELP: &str = "\
/help         this list
/clear        forget what was said; the system message and documents stay
/save [FILE]  keep the conversation in FILE from now on, as --session does; without FILE, save it once more
/stats        times, memory and settings
/bye          leave; so do Ctrl-D, and Ctrl-C where nothing is typed
Ctrl-C ends an answer and keeps what was made of it. A question that begins with a slash is typed with two.";

/// Tells what was typed. A path is no command, and neither is what has several lines.
pub fn parse(text: &str) -> Typed {
    let question = || Typed::Question(text.into());
    if let Some(rest) = text.strip_prefix("//") {
        return Typed::Question(format!("/{rest}"));
    }
    let Some(rest) = text.strip_prefix('/').filter(|_| !text.trim_end().contains('\n')) else {
        return question();
    };
    let (name, rest) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let rest = rest.trim();
    let command = match (name, rest) {
        ("help", "") => Command::Help,
        ("clear", "") => Command::Clear,
        ("save", "") => Command::Save(None),
        ("save", file) => Command::Save(Some(file.into())),
        ("stats", "") => Command::Stats,
        ("bye", "") => Command::Bye,
        _ if name.chars().all(|c| c.is_ascii_alphanumeric()) => {
            return Typed::Unknown(text.trim_end().into());
        }
        _ => return question(),
    };
    Typed::Command(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_told_from_questions() {
        for (text, command) in [
            ("/help", Command::Help),
            ("/clear ", Command::Clear),
            ("/save", Command::Save(None)),
            ("/save  my talk.kv", Command::Save(Some("my talk.kv".into()))),
            ("/stats", Command::Stats),
            ("/bye\r", Command::Bye),
        ] {
            assert_eq!(parse(text), Typed::Command(command), "{text}");
        }
        for unknown in ["/quit", "/help me", "/Clear", "/", "/1"] {
            assert_eq!(parse(unknown), Typed::Unknown(unknown.into()));
        }
        for question in
            ["Hi", " /help", "/etc/passwd is what?", "/* a comment */", "/help\nme", "1/2"]
        {
            assert_eq!(parse(question), Typed::Question(question.into()));
        }
        assert_eq!(parse("//help"), Typed::Question("/help".into()));
    }
}
