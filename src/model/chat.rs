//! Messages to the one text a model reads, by the template in its file.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Value;
use minijinja::{AutoEscape, Environment, ErrorKind, context};

use crate::{Error, Result};

/// The template's only name; it must not look like HTML, which would be escaped.
const NAME: &str = "chat_template";

/// Instructions a rendering may take: a second or so, and some hundred times what the longest
/// conversation takes. A template that loops ends here.
const FUEL: u64 = 10_000_000;

/// Bytes a template may have; the longest published ones have about 30,000.
const LONGEST: usize = 1 << 20;

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Who speaks: `system`, `user`, `assistant` or what else the template knows.
    pub role: String,
    /// What is said.
    pub content: String,
}

/// A model's chat template (`tokenizer.chat_template`): Jinja, with what Hugging Face's
/// transformers give templates besides.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
}

impl ChatTemplate {
    /// Compiles the template.
    pub fn new(source: &str) -> Result<Self> {
        if source.len() > LONGEST {
            return Err(Error::Model(format!(
                "the chat template has {} bytes, but at most {LONGEST} are allowed",
                source.len()
            )));
        }
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(refusal)?);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_fuel(Some(FUEL));
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", strftime_now);
        environment.add_template_owned(NAME, source.to_owned()).map_err(refusal)?;
        Ok(Self { environment })
    }

    /// The text of a conversation, which the tokenizer then encodes with its control tokens
    /// recognised. `add_generation_prompt` ends it with the beginning of the model's answer;
    /// `bos` and `eos` are what the template inserts for those tokens.
    pub fn render(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
        bos: &str,
        eos: &str,
    ) -> Result<String> {
        // Templates tell `none` from a variable that does not exist, and transformers always give
        // them these.
        let none = || Value::from(());
        let turns: Value = messages
            .iter()
            .map(|turn| context! { role => turn.role.as_str(), content => turn.content.as_str() })
            .collect();
        let values = context! {
            messages => turns,
            add_generation_prompt,
            bos_token => bos,
            eos_token => eos,
            tools => none(),
            documents => none(),
        };
        self.environment
            .get_template(NAME)
            .and_then(|template| template.render(values))
            .map_err(refusal)
    }
}

/// How a template refuses a conversation.
fn raise_exception(message: String) -> std::result::Result<Value, minijinja::Error> {
    Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
}

/// The local time in the format of C's `strftime`.
fn strftime_now(format: &str) -> std::result::Result<String, minijinja::Error> {
    jiff::fmt::strtime::format(format, &jiff::Zoned::now())
        .map_err(|error| minijinja::Error::new(ErrorKind::InvalidOperation, error.to_string()))
}

/// What went wrong, with the template's line where it is known.
fn refusal(error: minijinja::Error) -> Error {
    let reason = match error.kind() {
        ErrorKind::OutOfFuel => {
            format!("it takes more than {FUEL} steps; it may never end")
        }
        _ => error.detail().map_or_else(|| error.to_string(), str::to_owned),
    };
    let line = error.line().map_or_else(String::new, |line| format!(" (line {line})"));
    Error::Model(format!("the chat template{line}: {reason}"))
}

#[cfg(test)]
mod tests;
