//! Metadata by key and type.

use std::borrow::Cow;

use super::cursor::Quoted;
use super::{Gguf, Value};
use crate::{Error, Result};

const U32: &str = "an integer from 0 to 4294967295";
const F32: &str = "an f32";
const BOOL: &str = "a bool";
const STR: &str = "a string";
const STRINGS: &str = "an array of strings";
const I32S: &str = "an array of integers from -2147483648 to 2147483647";
const F32S: &str = "an array of f32";

/// The plain getters fail where the key is absent, and those named `opt_` return `None` there. All of them fail where
/// the value has another type, but an integer may be stored as any integer type that its value fits.
impl Gguf {
    /// An unsigned integer.
    pub fn u32(&self, key: &str) -> Result<u32> {
        self.present(key, U32, self.opt_u32(key)?)
    }

    /// An unsigned integer, if the key is there.
    pub fn opt_u32(&self, key: &str) -> Result<Option<u32>> {
        self.typed(key, U32, Value::as_u32)
    }

    /// A 32-bit float.
    pub fn f32(&self, key: &str) -> Result<f32> {
        self.present(key, F32, self.opt_f32(key)?)
    }

    /// A 32-bit float, if the key is there.
    pub fn opt_f32(&self, key: &str) -> Result<Option<f32>> {
        self.typed(key, F32, Value::as_f32)
    }

    /// A truth value.
    pub fn bool(&self, key: &str) -> Result<bool> {
        self.present(key, BOOL, self.opt_bool(key)?)
    }

    /// A truth value, if the key is there.
    pub fn opt_bool(&self, key: &str) -> Result<Option<bool>> {
        self.typed(key, BOOL, Value::as_bool)
    }

    /// A string.
    pub fn str(&self, key: &str) -> Result<&str> {
        self.present(key, STR, self.opt_str(key)?)
    }

    /// A string, if the key is there.
    pub fn opt_str(&self, key: &str) -> Result<Option<&str>> {
        self.typed(key, STR, Value::as_str)
    }

    /// An array of strings.
    pub fn strings(&self, key: &str) -> Result<&[String]> {
        self.present(key, STRINGS, self.opt_strings(key)?)
    }

    /// An array of strings, if the key is there.
    pub fn opt_strings(&self, key: &str) -> Result<Option<&[String]>> {
        self.typed(key, STRINGS, Value::as_strings)
    }

    /// An array of signed integers; borrowed where they are stored as such.
    pub fn i32s(&self, key: &str) -> Result<Cow<'_, [i32]>> {
        self.present(key, I32S, self.opt_i32s(key)?)
    }

    /// An array of signed integers, if the key is there.
    pub fn opt_i32s(&self, key: &str) -> Result<Option<Cow<'_, [i32]>>> {
        self.typed(key, I32S, Value::as_i32s)
    }

    /// An array of 32-bit floats.
    pub fn f32s(&self, key: &str) -> Result<&[f32]> {
        self.present(key, F32S, self.opt_f32s(key)?)
    }

    /// An array of 32-bit floats, if the key is there.
    pub fn opt_f32s(&self, key: &str) -> Result<Option<&[f32]>> {
        self.typed(key, F32S, Value::as_f32s)
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        needed: &str,
        convert: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.value(key) else { return Ok(None) };
        convert(value).map(Some).ok_or_else(|| self.unfit(key, &value.to_string(), needed))
    }

    fn present<T>(&self, key: &str, needed: &str, value: Option<T>) -> Result<T> {
        value.ok_or_else(|| self.unfit(key, "absent", needed))
    }

    fn unfit(&self, key: &str, found: &str, needed: &str) -> Error {
        let path = self.path().display();
        Error::Model(format!(
            "{path}: metadata key {} is {found}, but {needed} is needed",
            Quoted(key)
        ))
    }
}
