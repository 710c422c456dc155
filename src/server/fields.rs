//! The fields of a JSON object, each read once; what nobody read is refused.

use super::fault::{Fault, Kind, Read};
use serde_json::{Map, Value};
use std::ops::RangeInclusive;

/// Characters of a value that a message shows.
const SHOWN: usize = 60;

/// An object whose fields are taken out one by one.
#[derive(Debug)]
pub(super) struct Fields {
    /// Where the object is, with a point behind it; empty for the body.
    path: String,
    map: Map<String, Value>,
}

/// A value for a message: short, on one line.
pub(super) fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(SHOWN) {
        None => text,
        Some((at, _)) => format!("{}...", &text[..at]),
    }
}

impl Fields {
    /// The object that is a request's body.
    pub(super) fn body(bytes: &[u8]) -> Read<Self> {
        let value: Value = serde_json::from_slice(bytes)
            .map_err(|error| Fault::new(Kind::Invalid, format!("the body is not JSON: {error}")))?;
        match value {
            Value::Object(map) => Ok(Self { path: String::new(), map }),
            other => Err(Fault::field("the body", shown(&other), "it must be a JSON object")),
        }
    }

    /// The object at this path.
    pub(super) fn of(path: &str, value: Value) -> Read<Self> {
        match value {
            Value::Object(map) => Ok(Self { path: format!("{path}."), map }),
            other => Err(Fault::field(path, shown(&other), "it must be an object")),
        }
    }

    /// The path of a field.
    pub(super) fn path(&self, name: &str) -> String {
        format!("{}{name}", self.path)
    }

    /// Whatever is there; null is nothing.
    pub(super) fn take(&mut self, name: &str) -> Option<Value> {
        self.map.remove(name).filter(|value| !value.is_null())
    }

    /// Whatever is there, which stays to be read.
    pub(super) fn get(&self, name: &str) -> Option<Value> {
        self.map.get(name).filter(|value| !value.is_null()).cloned()
    }

    /// What has to be there.
    pub(super) fn needed<T>(&self, name: &str, value: Option<T>) -> Read<T> {
        value.ok_or_else(|| Fault::field(self.path(name), "missing", "it is needed"))
    }

    fn is(&self, name: &str, value: &Value, limit: &str) -> Fault {
        Fault::field(self.path(name), shown(value), limit)
    }

    pub(super) fn text(&mut self, name: &str) -> Read<Option<String>> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.is(name, &other, "it must be a text")),
        }
    }

    pub(super) fn flag(&mut self, name: &str) -> Read<Option<bool>> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(flag)),
            Some(other) => Err(self.is(name, &other, "it must be true or false")),
        }
    }

    pub(super) fn whole(&mut self, name: &str, range: RangeInclusive<i64>) -> Read<Option<i64>> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let whole = value.as_i64().filter(|whole| range.contains(whole));
        whole.map(Some).ok_or_else(|| {
            let (low, high) = range.into_inner();
            self.is(name, &value, &format!("it must be a whole number from {low} to {high}"))
        })
    }

    /// A count of tokens, at least one.
    pub(super) fn tokens(&mut self, name: &str) -> Read<Option<u32>> {
        let tokens = self.whole(name, 1..=u32::MAX.into())?;
        Ok(tokens.map(|tokens| tokens as u32))
    }

    pub(super) fn number(
        &mut self,
        name: &str,
        holds: impl Fn(f64) -> bool,
        limit: &str,
    ) -> Read<Option<f32>> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let number = value.as_f64().filter(|number| holds(*number));
        let limit = format!("it must be {limit}");
        number.map(|number| Some(number as f32)).ok_or_else(|| self.is(name, &value, &limit))
    }

    pub(super) fn list(&mut self, name: &str) -> Read<Option<Vec<Value>>> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Array(list)) => Ok(Some(list)),
            Some(other) => Err(self.is(name, &other, "it must be a list")),
        }
    }

    pub(super) fn object(&mut self, name: &str) -> Read<Option<Self>> {
        let path = self.path(name);
        self.take(name).map(|value| Self::of(&path, value)).transpose()
    }

    /// A text, or a list of up to `most` of them; none is empty.
    pub(super) fn texts(&mut self, name: &str, most: usize) -> Read<Vec<String>> {
        let limit =
            format!("it must be a text or a list of up to {most} texts, none of them empty");
        let value = self.take(name);
        let list = match value.clone() {
            None => Vec::new(),
            Some(Value::Array(list)) => list,
            Some(other) => vec![other],
        };
        let texts: Option<Vec<String>> = list
            .into_iter()
            .map(|value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned))
            .collect();
        texts
            .filter(|texts| texts.len() <= most)
            .ok_or_else(|| self.is(name, &value.unwrap_or_default(), &limit))
    }

    /// Fields that change nothing here, whatever they say.
    pub(super) fn pass(&mut self, names: &[&str]) {
        for name in names {
            self.map.remove(*name);
        }
    }

    /// A field of which only these values, or none, ask for nothing that there is not.
    pub(super) fn only(&mut self, name: &str, values: &[Value]) -> Read<()> {
        match self.take(name) {
            Some(value) if !values.contains(&value) => Err(self.unsupported(name, &value)),
            _ => Ok(()),
        }
    }

    /// Whether a field, which has this value or none, has it.
    pub(super) fn turned_off(&mut self, name: &str, off: &Value) -> Read<bool> {
        match self.take(name) {
            Some(value) if value != *off => Err(self.unsupported(name, &value)),
            value => Ok(value.is_some()),
        }
    }

    fn unsupported(&self, name: &str, value: &Value) -> Fault {
        self.is(name, value, "that is not supported")
    }

    /// Refuses what was not read.
    pub(super) fn end(mut self) -> Read<()> {
        self.map.retain(|_, value| !value.is_null());
        match self.map.iter().next() {
            None => Ok(()),
            // Names are the sender's too.
            Some((name, value)) => {
                let name: String = name.escape_debug().take(SHOWN).collect();
                Err(self.unsupported(&name, value))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused<T>(json: &str, read: impl Fn(&mut Fields) -> Read<T>) -> String {
        let mut fields = Fields::body(json.as_bytes()).unwrap();
        read(&mut fields).err().expect("it is refused").message
    }

    #[test]
    fn what_is_wrong_is_named_with_its_value_and_the_limit() {
        let positive = |number: f64| number > 0.0;
        for (said, is) in [
            (
                refused(r#"{"a":"x"}"#, |f| f.whole("a", 1..=9)),
                "a is \"x\", but it must be a whole number from 1 to 9",
            ),
            (
                refused(r#"{"a":1.5}"#, |f| f.whole("a", 1..=9)),
                "a is 1.5, but it must be a whole number from 1 to 9",
            ),
            (
                refused(r#"{"a":99999999999999999999}"#, |f| f.tokens("a")),
                "a is 1e+20, but it must be a whole number from 1 to 4294967295",
            ),
            (
                refused(r#"{"a":-1}"#, |f| f.number("a", positive, "above 0")),
                "a is -1, but it must be above 0",
            ),
            (refused(r#"{"a":[1]}"#, |f| f.text("a")), "a is [1], but it must be a text"),
            (refused(r#"{"a":1}"#, |f| f.flag("a")), "a is 1, but it must be true or false"),
            (refused(r#"{"a":{}}"#, |f| f.list("a")), "a is {}, but it must be a list"),
            (
                refused(r#"{"a":""}"#, |f| f.texts("a", 4)),
                "a is \"\", but it must be a text or a list of up to 4 texts, none of them empty",
            ),
            (refused("{}", |f| f.needed::<()>("a", None)), "a is missing, but it is needed"),
            (
                refused(r#"{"a":2}"#, |f| f.only("a", &[1.into()])),
                "a is 2, but that is not supported",
            ),
        ] {
            assert_eq!(said, is);
        }
        let inner = Fields::of("messages[0]", serde_json::json!({"b": 1})).unwrap();
        assert_eq!(
            inner.end().unwrap_err().message,
            "messages[0].b is 1, but that is not supported"
        );
    }

    #[test]
    fn null_is_nothing_and_long_values_are_cut() {
        let mut fields = Fields::body(br#"{"a":null,"b":null}"#).unwrap();
        assert_eq!(fields.text("a").unwrap(), None);
        assert!(fields.end().is_ok());
        let long = format!(r#"{{"a":"{}"}}"#, "\u{e9}".repeat(500));
        assert!(refused(&long, |f| f.flag("a")).len() < 200);
        for body in ["", "[", "[]", "7", "\u{0}", "{\"a\":}", &"[".repeat(10_000)] {
            let fault = Fields::body(body.as_bytes()).unwrap_err();
            assert!(fault.message.starts_with("the body is "), "{}", fault.message);
        }
        assert!(Fields::body(b"{\"a\":\"\xff\"}").is_err());
    }
}
