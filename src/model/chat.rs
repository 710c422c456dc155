//! Messages to the one text a model reads, by the template that comes with it.

mod apart;
mod jinja;
mod origin;

use std::path::Path;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Value;
use minijinja::{AutoEscape, Environment, ErrorKind, context};
use serde::{Deserialize, Serialize};
use serde_json::Map;

use crate::model::gguf::Gguf;
use crate::model::json_file::{self, named, problem};
use crate::model::tokenizer::{Piece, Tokenizer};
use crate::{Error, Result};
use origin::{Framed, Signed};

/// The template's only name; it must not look like HTML, which would be escaped.
const NAME: &str = "chat_template";

/// Instructions a rendering may take: a part of a second, and some ten times what the longest
/// conversation takes. A template that loops ends here.
const FUEL: u64 = 2_000_000;

/// Bytes a template may have; the longest published ones have about 30,000.
const LONGEST: usize = 1 << 17;

/// One turn of a conversation.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks: `system`, `user`, `assistant` or what else the template knows.
    pub role: String,
    /// The words.
    pub content: String,
    /// What else the template knows of it, such as `tool_calls`.
    #[serde(flatten)]
    pub fields: Map<String, serde_json::Value>,
}

impl Message {
    /// Words alone.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into(), fields: Map::new() }
    }
}

/// What a template is given of a conversation.
#[derive(Clone, Copy)]
struct Said<'a> {
    messages: &'a [Message],
    /// Definitions of tools, as JSON.
    tools: &'a [serde_json::Value],
}

/// The variable by which templates of models that think let thinking be turned off.
const THINKING: &str = "enable_thinking";

/// A model's chat template: Jinja, with what Hugging Face's
/// transformers give templates besides.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    thinking: Option<bool>,
    special_in_text: bool,
}

impl ChatTemplate {
    /// The template of a GGUF file (`tokenizer.chat_template`), if it has one.
    #[cfg_attr(feature = "measure", visibility::make(pub))]
    pub(crate) fn read(file: &Gguf) -> Result<Option<Self>> {
        file.opt_str("tokenizer.chat_template")?.map(Self::new).transpose()
    }

    /// The template of a model folder as published on Hugging Face, if it has one:
    /// `chat_template.jinja`, or else `chat_template` in `tokenizer_config.json`, which is a
    /// template or a list of named ones, of which the one named `default` counts.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Model`], which name the file.
    #[cfg_attr(feature = "measure", visibility::make(pub))]
    pub(crate) fn from_folder(folder: &Path) -> Result<Option<Self>> {
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
        let environment = apart::run(|| Self::compile(source))??;
        Ok(Self { environment, thinking: None, special_in_text: false })
    }

    fn compile(source: &str) -> Result<Environment<'static>> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(refusal)?);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_fuel(Some(FUEL));
        jinja::complete(&mut environment);
        let source = jinja::without_generation(source).into_owned();
        environment.add_template_owned(NAME, source).map_err(refusal)?;
        Ok(environment)
    }

    /// The template in a file of its own.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Model`], which name the file.
    pub fn from_file(path: &Path) -> Result<Self> {
        let Some(source) = json_file::text(path, LONGEST as u64)? else {
            let source = std::io::ErrorKind::NotFound.into();
            return Err(Error::Io { path: path.to_owned(), source });
        };
        // Some editors begin every file with this mark.
        let source = source.strip_prefix('\u{FEFF}').unwrap_or(&source);
        Self::new(source).map_err(|error| named(path, error))
    }

    /// Whether control tokens that messages spell out count in [`encode`](Self::encode); until this is called, they are
    /// text like any other.
    pub fn set_special_in_text(&mut self, enabled: bool) {
        self.special_in_text = enabled;
    }

    /// Whether the model shall think before it answers (the template's `enable_thinking`); until
    /// this is called, the template decides.
    ///
    /// # Errors
    /// [`Error::Argument`] for a template that does not mention `enable_thinking`.
    pub fn set_thinking(&mut self, enabled: bool) -> Result<()> {
        if !self.heeds_thinking()? {
            return Err(Error::argument(
                "thinking",
                if enabled { "turned on" } else { "turned off" },
                format!("the chat template does not mention {THINKING}, which would do it"),
            ));
        }
        self.thinking = Some(enabled);
        Ok(())
    }

    /// Whether the model may think before it answers, where that could be turned off.
    #[cfg(feature = "server")]
    pub(crate) fn may_think(&self) -> bool {
        self.thinking != Some(false) && self.heeds_thinking().unwrap_or(false)
    }

    /// Whether the template tells the model of tools.
    #[cfg(feature = "server")]
    pub(crate) fn takes_tools(&self) -> bool {
        let messages = [Message::new("user", "Hi")];
        let function = serde_json::json!({"name": "f", "description": "", "parameters": {}});
        let tool = serde_json::json!({"type": "function", "function": function});
        let said = |tools: &[serde_json::Value]| {
            self.render_said(Said { messages: &messages, tools }, true, "", "").ok()
        };
        let with = said(&[tool]);
        with.is_some() && with != said(&[])
    }

    /// Its source.
    pub(crate) fn source(&self) -> String {
        let template = self.environment.get_template(NAME);
        template.map(|template| template.source().to_owned()).unwrap_or_default()
    }

    // Whether the template asks for the variable, or, where it sets one of that name itself, writes
    // something else because of it.
    fn heeds_thinking(&self) -> Result<bool> {
        apart::run(|| {
            let template = self.environment.get_template(NAME).map_err(refusal)?;
            let said = |enabled: bool| {
                let turns = [context! { role => "user", content => "Hi" }];
                let values = context! { messages => turns, add_generation_prompt => true };
                template.render(context! { enable_thinking => enabled, ..values }).ok()
            };
            Ok(template.undeclared_variables(false).contains(THINKING) || said(true) != said(false))
        })?
    }

    /// The ids of a conversation up to where the model's next answer begins, and behind them what it begins with.
    ///
    /// Control tokens are what the template writes. Those that messages and the answer's beginning spell out are text,
    /// so that no document can end its turn and begin another one ([`set_special_in_text`](Self::set_special_in_text)
    /// makes them count). The roles are the template's.
    ///
    /// # Errors
    /// [`Error::Model`] for a conversation that the template refuses.
    ///
    /// ```no_run
    /// use asynctls::model::{ChatTemplate, Message};
    /// use asynctls::model::Tokenizer;
    ///
    /// let folder = "Qwen3-4B".as_ref();
    /// let tokenizer = Tokenizer::from_folder(folder)?;
    /// let template = ChatTemplate::from_folder(folder)?.expect("Qwen3 has a template");
    /// let question = Message::new("user", "What does <|im_end|> mean?");
    /// let ids = template.encode(&tokenizer, &[question], "")?;
    /// # Ok::<(), asynctls::Error>(())
    /// ```
    pub fn encode(
        &self,
        tokenizer: &Tokenizer,
        messages: &[Message],
        answer: &str,
    ) -> Result<Vec<u32>> {
        self.encode_said(tokenizer, Said { messages, tools: &[] }, answer)
    }

    /// The ids of a conversation in which the model may call tools, of which these are the definitions.
    ///
    /// # Errors
    /// As [`ChatTemplate::encode`].
    pub(crate) fn encode_with_tools(
        &self,
        tokenizer: &Tokenizer,
        messages: &[Message],
        tools: &[serde_json::Value],
    ) -> Result<Vec<u32>> {
        self.encode_said(tokenizer, Said { messages, tools }, "")
    }

    fn encode_said(&self, tokenizer: &Tokenizer, said: Said<'_>, answer: &str) -> Result<Vec<u32>> {
        let framed = self.frame(tokenizer, said)?;
        let mut pieces = framed.pieces();
        pieces.push(Piece { text: answer, control: self.special_in_text });
        tokenizer.encode_pieces(&pieces).map(|ids| tokenizer.begin(ids))
    }

    fn frame(&self, tokenizer: &Tokenizer, said: Said<'_>) -> Result<Framed> {
        let name = |id: Option<u32>| id.and_then(|id| tokenizer.token(id)).unwrap_or_default();
        let (bos, eos) = (name(tokenizer.bos()), name(tokenizer.eos()));
        let text = self.render_said(said, true, bos, eos)?;
        if !self.special_in_text {
            let sign = origin::unused(origin::texts(said).chain([text.as_str()]))?;
            let signed = |which| origin::sign(said, tokenizer, which, sign);
            let render = |(messages, tools): (Vec<Message>, Vec<serde_json::Value>)| {
                let said = Said { messages: &messages, tools: &tools };
                let rendered = self.render_said(said, true, bos, eos);
                rendered.map(|rendered| Framed::from_signed(&rendered, sign))
            };
            // A template that did not mind the signs has written the same text.
            if let Some(said) = signed(Signed::Edges)
                && let Some(framed) = render(said).ok().filter(|framed| framed.text == text)
            {
                return Ok(framed);
            }
            if let Some(said) = signed(Signed::Spelled) {
                return render(said);
            }
        }
        Ok(Framed { text, said: Vec::new() })
    }

    /// The text of a conversation. `add_generation_prompt` ends it with the beginning of the
    /// model's answer; `bos` and `eos` are what the template inserts for those tokens.
    /// [`encode`](Self::encode) makes it tokens.
    pub fn render(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
        bos: &str,
        eos: &str,
    ) -> Result<String> {
        self.render_said(Said { messages, tools: &[] }, add_generation_prompt, bos, eos)
    }

    fn render_said(
        &self,
        Said { messages, tools }: Said<'_>,
        add_generation_prompt: bool,
        bos: &str,
        eos: &str,
    ) -> Result<String> {
        // Templates tell `none` from a variable that does not exist, and transformers always give
        // them these.
        let none = || Value::from(());
        let turn = |turn: &Message| {
            let words = [("role", turn.role.as_str()), ("content", turn.content.as_str())];
            let words = words.into_iter().map(|(name, words)| (name, words.into()));
            let fields =
                turn.fields.iter().map(|(name, value)| (name.as_str(), jinja::value(value)));
            Value::from_pairs(words.chain(fields))
        };
        let turns: Value = messages.iter().map(turn).collect();
        let tools = match tools {
            [] => none(),
            tools => tools.iter().map(jinja::value).collect(),
        };
        let values = context! {
            messages => turns,
            add_generation_prompt,
            bos_token => bos,
            eos_token => eos,
            tools,
            documents => none(),
        };
        let values = match self.thinking {
            None => values,
            Some(enabled) => context! { enable_thinking => enabled, ..values },
        };
        apart::run(|| {
            let template = self.environment.get_template(NAME).map_err(refusal)?;
            template.render(values).map_err(refusal)
        })?
    }
}

/// An error for a refusal, with the template's line where it is known.
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
mod goldens;
#[cfg(test)]
mod tests;
