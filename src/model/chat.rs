//! Messages to the one text a model reads, by the template that comes with it.

use std::path::Path;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value};
use minijinja::{AutoEscape, Environment, ErrorKind, context};
use serde::{Deserialize, Serialize};

use crate::model::gguf::Gguf;
use crate::model::json_file::{self, named, problem};
use crate::{Error, Result};

/// The template's only name; it must not look like HTML, which would be escaped.
const NAME: &str = "chat_template";

/// Instructions a rendering may take: a second or so, and some hundred times what the longest
/// conversation takes. A template that loops ends here.
const FUEL: u64 = 10_000_000;

/// Bytes a template may have; the longest published ones have about 30,000.
const LONGEST: usize = 1 << 20;

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks: `system`, `user`, `assistant` or what else the template knows.
    pub role: String,
    /// What is said.
    pub content: String,
}

/// The variable by which templates of models that think let thinking be turned off.
const THINKING: &str = "enable_thinking";

/// A model's chat template: Jinja, with what Hugging Face's
/// transformers give templates besides.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    thinking: Option<bool>,
}

impl ChatTemplate {
    /// The template of a GGUF file (`tokenizer.chat_template`), if it has one.
    pub fn read(file: &Gguf) -> Result<Option<Self>> {
        file.opt_str("tokenizer.chat_template")?.map(Self::new).transpose()
    }

    /// The template of a model folder as published on Hugging Face, if it has one:
    /// `chat_template.jinja`, or else `chat_template` in `tokenizer_config.json`, which is a
    /// template or a list of named ones, of which the one named `default` counts.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Model`], which name the file.
    pub fn from_folder(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join("chat_template.jinja");
        if let Some(source) = json_file::text(&path, LONGEST as u64)? {
            return Self::new(&source).map(Some).map_err(|error| named(&path, error));
        }
        let path = folder.join("tokenizer_config.json");
        let config = json_file::object(&path)?;
        let Some(template) = config.get("chat_template").filter(|value| !value.is_null()) else {
            return Ok(None);
        };
        let is_default = |entry: &&serde_json::Value| entry["name"] == "default";
        let source = match template.as_array() {
            None => template.as_str(),
            Some(list) => list.iter().find(is_default).and_then(|entry| entry["template"].as_str()),
        };
        let source = source.ok_or_else(|| {
            problem(&path, "chat_template is neither a text nor a list with one named \"default\"")
        })?;
        Self::new(source).map(Some).map_err(|error| named(&path, error))
    }

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
        environment.add_filter("tojson", tojson);
        environment.add_template_owned(NAME, source.to_owned()).map_err(refusal)?;
        Ok(Self { environment, thinking: None })
    }

    /// Whether the model shall think before it answers (the template's `enable_thinking`); until
    /// this is called, the template decides.
    ///
    /// # Errors
    /// [`Error::Argument`] for a template that does not mention `enable_thinking`.
    pub fn set_thinking(&mut self, enabled: bool) -> Result<()> {
        let template = self.environment.get_template(NAME).map_err(refusal)?;
        if !template.undeclared_variables(false).contains(THINKING) {
            return Err(Error::argument(
                "thinking",
                if enabled { "turned on" } else { "turned off" },
                format!("the chat template does not mention {THINKING}, which would do it"),
            ));
        }
        self.thinking = Some(enabled);
        Ok(())
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
        let values = match self.thinking {
            None => values,
            Some(enabled) => context! { enable_thinking => enabled, ..values },
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

/// JSON as transformers write it, without the escapes for HTML that Jinja's own filter adds.
/// Messages hold nothing but text, so no template needs it for more.
fn tojson(value: &Value, _options: Kwargs) -> std::result::Result<String, minijinja::Error> {
    let text = value.as_str().ok_or_else(|| {
        let reason = format!("tojson of a {}, but only texts are supported", value.kind());
        minijinja::Error::new(ErrorKind::InvalidOperation, reason)
    })?;
    Ok(serde_json::Value::from(text).to_string())
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
