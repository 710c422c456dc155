//! Jinja as transformers set it up, where minijinja does otherwise.

use std::borrow::Cow;
use std::fmt::Write;

use fancy_regex::{Captures, Regex};
use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State};
use minijinja_contrib::pycompat::unknown_method_callback;

/// Bytes that JSON may have.
const LONGEST: usize = 1 << 20;

/// Levels of lists and objects within each other that JSON may have.
const DEEPEST: usize = 64;

/// Adds it all to an environment.
pub fn complete(environment: &mut Environment<'_>) {
    environment.set_unknown_method_callback(method);
    // It takes the square of a value's depth, without any fuel.
    environment.remove_filter("pprint");
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", strftime_now);
    environment.add_filter("default", default);
    environment.add_filter("d", default);
    environment.add_filter("tojson", tojson);
    environment.add_test("iterable", is_iterable);
    environment.add_test("sequence", is_sequence);
}

/// What JSON is to a template.
pub fn value(json: &serde_json::Value) -> Value {
    match json {
        serde_json::Value::Null => ().into(),
        serde_json::Value::Bool(flag) => (*flag).into(),
        serde_json::Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(whole), _) => whole.into(),
            (None, Some(whole)) => whole.into(),
            (None, None) => number.as_f64().unwrap_or(f64::NAN).into(),
        },
        serde_json::Value::String(text) => text.as_str().into(),
        serde_json::Value::Array(items) => items.iter().map(value).collect(),
        serde_json::Value::Object(fields) => {
            Value::from_pairs(fields.iter().map(|(name, field)| (name.as_str(), value(field))))
        }
    }
}

/// A template without `{% generation %}`, by which transformers find the model's own words when
/// they train: to whoever renders, its content is a scope of its own and nothing else.
pub fn without_generation(source: &str) -> Cow<'_, str> {
    let tag = Regex::new(r"\{%([-+]?)\s*(end)?generation\s*([-+]?)%\}");
    tag.map_or(Cow::Borrowed(source), |tag| {
        tag.replace_all(source, |found: &Captures<'_>| {
            let part = |at| found.get(at).map_or("", |part| part.as_str());
            format!("{{%{} {}with {}%}}", part(1), part(2), part(3))
        })
    })
}

/// Python's methods.
fn method(
    state: &mut State<'_, '_>,
    value: &Value,
    name: &str,
    arguments: &[Value],
) -> Result<Value, Error> {
    match (value.as_str(), name, arguments) {
        (Some(text), "title", []) => Ok(title(text).into()),
        _ => unknown_method_callback(state, value, name, arguments),
    }
}

/// In Python every letter that follows none begins a word.
fn title(text: &str) -> String {
    let mut titled = String::with_capacity(text.len());
    let mut is_inside = false;
    for symbol in text.chars() {
        if is_inside {
            titled.extend(symbol.to_lowercase());
        } else {
            titled.extend(symbol.to_uppercase());
        }
        is_inside = symbol.is_alphabetic();
    }
    titled
}

/// Jinja's filter, whose arguments have names.
fn default(
    value: &Value,
    other: Option<Value>,
    boolean: Option<bool>,
    options: Kwargs,
) -> Result<Value, Error> {
    let other = match other {
        None => options.get::<Option<Value>>("default_value")?,
        given => given,
    };
    let boolean = match boolean {
        None => options.get::<Option<bool>>("boolean")?.unwrap_or(false),
        Some(given) => given,
    };
    options.assert_all_used()?;
    let is_there = if boolean { value.is_true() } else { !value.is_undefined() };
    Ok(if is_there { value.clone() } else { other.unwrap_or_else(|| "".into()) })
}

/// How a template refuses a conversation.
fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

/// The local time in the format of C's `strftime`.
fn strftime_now(format: &str) -> Result<String, Error> {
    jiff::fmt::strtime::format(format, &jiff::Zoned::now())
        .map_err(|error| Error::new(ErrorKind::InvalidOperation, error.to_string()))
}

/// In Python `none` cannot be iterated.
fn is_iterable(value: &Value) -> bool {
    !value.is_none() && value.try_iter().is_ok()
}

/// In Python all that has a length and can be indexed is a sequence, texts and mappings too.
fn is_sequence(value: &Value) -> bool {
    use ValueKind::{Map, Seq, String, Undefined};
    matches!(value.kind(), Undefined | String | Seq | Map)
}

/// JSON as Python's `json` writes it, without the escapes for HTML that Jinja's own filter adds.
fn tojson(state: &State<'_, '_>, value: &Value, options: Kwargs) -> Result<String, Error> {
    let ascii = options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false);
    let sorted = options.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    let indent = options.get::<Option<Value>>("indent")?.filter(|value| !value.is_none());
    let separators = options.get::<Option<Vec<String>>>("separators")?;
    options.assert_all_used()?;
    let indent = match indent {
        None => None,
        Some(text) if text.as_str().is_some() => Some(text.to_string()),
        Some(number) => Some(" ".repeat(usize::try_from(number)?.min(DEEPEST))),
    };
    let (item, key) = match separators.as_deref() {
        Some([item, key]) => (item.clone(), key.clone()),
        Some(_) => {
            let reason = "tojson takes two separators";
            return Err(Error::new(ErrorKind::InvalidOperation, reason));
        }
        None => (if indent.is_some() { "," } else { ", " }.into(), ": ".into()),
    };
    let mut json = Json { state, ascii, sorted, indent, item, key, text: String::new() };
    json.value(value, 0)?;
    Ok(json.text)
}

/// A writer of JSON.
struct Json<'a, 'b, 'c> {
    state: &'a State<'b, 'c>,
    ascii: bool,
    sorted: bool,
    /// The indentation of a level, if each item has a line of its own.
    indent: Option<String>,
    item: String,
    key: String,
    text: String,
}

impl Json<'_, '_, '_> {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        self.state.consume_fuel(1)?;
        if depth > DEEPEST || self.text.len() > LONGEST {
            let reason = format!("tojson of more than {DEEPEST} levels or {LONGEST} bytes");
            return Err(Error::new(ErrorKind::InvalidOperation, reason));
        }
        match value.kind() {
            ValueKind::None => self.text.push_str("null"),
            ValueKind::Bool => self.text.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.text.push_str(&value.to_string()),
            ValueKind::String => self.string(value.as_str().unwrap_or_default()),
            ValueKind::Seq => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.list(['[', ']'], &items, depth, |json, item| json.value(item, depth + 1))?;
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sorted {
                    keys.sort();
                }
                self.list(['{', '}'], &keys, depth, |json, key| {
                    json.string(&match key.kind() {
                        ValueKind::None => "null".into(),
                        ValueKind::Bool => key.to_string().to_lowercase(),
                        _ => key.to_string(),
                    });
                    let separator = json.key.clone();
                    json.text.push_str(&separator);
                    json.value(&value.get_item(key)?, depth + 1)
                })?;
            }
            other => {
                let reason = format!("tojson of a value that is {other}, which JSON cannot hold");
                return Err(Error::new(ErrorKind::InvalidOperation, reason));
            }
        }
        Ok(())
    }

    fn list(
        &mut self,
        [open, close]: [char; 2],
        items: &[Value],
        depth: usize,
        mut write: impl FnMut(&mut Self, &Value) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.text.push(open);
        for (at, item) in items.iter().enumerate() {
            if at > 0 {
                let separator = self.item.clone();
                self.text.push_str(&separator);
            }
            self.line(depth + 1);
            write(self, item)?;
        }
        if !items.is_empty() {
            self.line(depth);
        }
        self.text.push(close);
        Ok(())
    }

    fn line(&mut self, depth: usize) {
        if let Some(indent) = &self.indent {
            self.text.push('\n');
            self.text.push_str(&indent.repeat(depth));
        }
    }

    fn string(&mut self, text: &str) {
        let quoted = serde_json::Value::from(text).to_string();
        if !self.ascii {
            self.text.push_str(&quoted);
            return;
        }
        for symbol in quoted.chars() {
            if symbol.is_ascii() && symbol != '\x7f' {
                self.text.push(symbol);
            } else {
                for unit in symbol.encode_utf16(&mut [0; 2]) {
                    // Writing to a String does not fail.
                    let _ = write!(self.text, "\\u{unit:04x}");
                }
            }
        }
    }
}
