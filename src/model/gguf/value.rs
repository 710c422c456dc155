//! The typed values of a file's metadata.

use std::borrow::Cow;
use std::fmt::{self, Display};

use super::cursor::{Cursor, Quoted};
use crate::Result;

/// The value of one metadata key.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// An unsigned 8-bit integer.
    U8(u8),
    /// A signed 8-bit integer.
    I8(i8),
    /// An unsigned 16-bit integer.
    U16(u16),
    /// A signed 16-bit integer.
    I16(i16),
    /// An unsigned 32-bit integer.
    U32(u32),
    /// A signed 32-bit integer.
    I32(i32),
    /// A 32-bit float.
    F32(f32),
    /// A truth value.
    Bool(bool),
    /// A string.
    String(String),
    /// Values of one type.
    Array(Array),
    /// An unsigned 64-bit integer.
    U64(u64),
    /// A signed 64-bit integer.
    I64(i64),
    /// A 64-bit float.
    F64(f64),
}

/// An array's values; arrays of arrays are not read.
#[derive(Debug, Clone, PartialEq)]
pub enum Array {
    /// Unsigned 8-bit integers.
    U8(Vec<u8>),
    /// Signed 8-bit integers.
    I8(Vec<i8>),
    /// Unsigned 16-bit integers.
    U16(Vec<u16>),
    /// Signed 16-bit integers.
    I16(Vec<i16>),
    /// Unsigned 32-bit integers.
    U32(Vec<u32>),
    /// Signed 32-bit integers.
    I32(Vec<i32>),
    /// 32-bit floats.
    F32(Vec<f32>),
    /// Truth values.
    Bool(Vec<bool>),
    /// Strings.
    String(Vec<String>),
    /// Unsigned 64-bit integers.
    U64(Vec<u64>),
    /// Signed 64-bit integers.
    I64(Vec<i64>),
    /// 64-bit floats.
    F64(Vec<f64>),
}

impl Value {
    /// Reads the type and the value that follow `key`.
    pub(super) fn read(cursor: &mut Cursor<'_>, key: &str) -> Result<Self> {
        let key = Quoted(key);
        let tag_at = cursor.at();
        let tag = cursor.u32(&format_args!("the value type of metadata key {key}"))?;
        let what = &format_args!("the value of metadata key {key}");
        Ok(match tag {
            0 => Self::U8(u8::from_le_bytes(cursor.array(what)?)),
            1 => Self::I8(i8::from_le_bytes(cursor.array(what)?)),
            2 => Self::U16(u16::from_le_bytes(cursor.array(what)?)),
            3 => Self::I16(i16::from_le_bytes(cursor.array(what)?)),
            4 => Self::U32(u32::from_le_bytes(cursor.array(what)?)),
            5 => Self::I32(i32::from_le_bytes(cursor.array(what)?)),
            6 => Self::F32(f32::from_le_bytes(cursor.array(what)?)),
            7 => Self::Bool(cursor.bool(what)?),
            8 => Self::String(cursor.string(what)?.to_owned()),
            9 => Self::Array(Array::read(cursor, &key)?),
            10 => Self::U64(u64::from_le_bytes(cursor.array(what)?)),
            11 => Self::I64(i64::from_le_bytes(cursor.array(what)?)),
            12 => Self::F64(f64::from_le_bytes(cursor.array(what)?)),
            _ => {
                let problem = format!(
                    "the value type of metadata key {key} is {tag}, but the known types are 0 to 12"
                );
                return Err(cursor.fail(tag_at, problem));
            }
        })
    }

    fn integer(&self) -> Option<i128> {
        match *self {
            Self::U8(value) => Some(value.into()),
            Self::I8(value) => Some(value.into()),
            Self::U16(value) => Some(value.into()),
            Self::I16(value) => Some(value.into()),
            Self::U32(value) => Some(value.into()),
            Self::I32(value) => Some(value.into()),
            Self::U64(value) => Some(value.into()),
            Self::I64(value) => Some(value.into()),
            Self::F32(_) | Self::F64(_) | Self::Bool(_) | Self::String(_) | Self::Array(_) => None,
        }
    }

    /// The value of an integer of any type, where it fits.
    pub fn as_u32(&self) -> Option<u32> {
        self.integer().and_then(|value| value.try_into().ok())
    }

    /// The value of a 32-bit float.
    pub fn as_f32(&self) -> Option<f32> {
        if let Self::F32(value) = self { Some(*value) } else { None }
    }

    /// The value of a number of any type.
    pub fn as_f64(&self) -> Option<f64> {
        match *self {
            Self::F32(value) => Some(value.into()),
            Self::F64(value) => Some(value),
            _ => self.integer().map(|value| value as f64),
        }
    }

    /// The value of a bool.
    pub fn as_bool(&self) -> Option<bool> {
        if let Self::Bool(value) = self { Some(*value) } else { None }
    }

    /// The text of a string.
    pub fn as_str(&self) -> Option<&str> {
        if let Self::String(value) = self { Some(value) } else { None }
    }

    /// The strings of an array of them.
    pub fn as_strings(&self) -> Option<&[String]> {
        if let Self::Array(Array::String(values)) = self { Some(values) } else { None }
    }

    /// The floats of an array of 32-bit floats.
    pub fn as_f32s(&self) -> Option<&[f32]> {
        if let Self::Array(Array::F32(values)) = self { Some(values) } else { None }
    }

    /// The integers of an array of any integer type, where all of them fit; borrowed where they are 32-bit already.
    pub fn as_i32s(&self) -> Option<Cow<'_, [i32]>> {
        let Self::Array(array) = self else { return None };
        match array {
            Array::I32(values) => Some(Cow::Borrowed(values)),
            Array::U8(values) => narrow(values),
            Array::I8(values) => narrow(values),
            Array::U16(values) => narrow(values),
            Array::I16(values) => narrow(values),
            Array::U32(values) => narrow(values),
            Array::U64(values) => narrow(values),
            Array::I64(values) => narrow(values),
            Array::F32(_) | Array::F64(_) | Array::Bool(_) | Array::String(_) => None,
        }
    }
}

fn narrow<T: Copy + TryInto<i32>>(values: &[T]) -> Option<Cow<'static, [i32]>> {
    values.iter().map(|value| (*value).try_into().ok()).collect::<Option<Vec<_>>>().map(Cow::Owned)
}

impl Array {
    fn read(cursor: &mut Cursor<'_>, key: &Quoted<'_>) -> Result<Self> {
        let tag_at = cursor.at();
        let tag =
            cursor.u32(&format_args!("the element type of the array of metadata key {key}"))?;
        let what = &format_args!("the array of metadata key {key}");
        Ok(match tag {
            0 => Self::U8(numbers(cursor, what, u8::from_le_bytes)?),
            1 => Self::I8(numbers(cursor, what, i8::from_le_bytes)?),
            2 => Self::U16(numbers(cursor, what, u16::from_le_bytes)?),
            3 => Self::I16(numbers(cursor, what, i16::from_le_bytes)?),
            4 => Self::U32(numbers(cursor, what, u32::from_le_bytes)?),
            5 => Self::I32(numbers(cursor, what, i32::from_le_bytes)?),
            6 => Self::F32(numbers(cursor, what, f32::from_le_bytes)?),
            7 => Self::Bool(elements(cursor, what, 1, |cursor, what| cursor.bool(what))?),
            8 => Self::String(elements(cursor, what, 8, |cursor, what| {
                cursor.string(what).map(str::to_owned)
            })?),
            10 => Self::U64(numbers(cursor, what, u64::from_le_bytes)?),
            11 => Self::I64(numbers(cursor, what, i64::from_le_bytes)?),
            12 => Self::F64(numbers(cursor, what, f64::from_le_bytes)?),
            9 => {
                let problem = format!("{what} holds arrays, but only scalars and strings are read");
                return Err(cursor.fail(tag_at, problem));
            }
            _ => {
                let problem =
                    format!("the element type of {what} is {tag}, but the known types are 0 to 12");
                return Err(cursor.fail(tag_at, problem));
            }
        })
    }

    fn len(&self) -> usize {
        match self {
            Self::U8(values) => values.len(),
            Self::I8(values) => values.len(),
            Self::U16(values) => values.len(),
            Self::I16(values) => values.len(),
            Self::U32(values) => values.len(),
            Self::I32(values) => values.len(),
            Self::F32(values) => values.len(),
            Self::Bool(values) => values.len(),
            Self::String(values) => values.len(),
            Self::U64(values) => values.len(),
            Self::I64(values) => values.len(),
            Self::F64(values) => values.len(),
        }
    }

    fn element(&self) -> &'static str {
        match self {
            Self::U8(_) => "u8",
            Self::I8(_) => "i8",
            Self::U16(_) => "u16",
            Self::I16(_) => "i16",
            Self::U32(_) => "u32",
            Self::I32(_) => "i32",
            Self::F32(_) => "f32",
            Self::Bool(_) => "bool",
            Self::String(_) => "string",
            Self::U64(_) => "u64",
            Self::I64(_) => "i64",
            Self::F64(_) => "f64",
        }
    }
}

/// An array's length, checked for elements of at least `least` bytes.
fn length(cursor: &mut Cursor<'_>, what: &dyn Display, least: usize) -> Result<usize> {
    let at = cursor.at();
    let count = cursor.u64(&format_args!("the length of {what}"))?;
    cursor.fits(at, count, least, &format_args!("the length of {what}"))
}

fn numbers<T, const N: usize>(
    cursor: &mut Cursor<'_>,
    what: &dyn Display,
    decode: fn([u8; N]) -> T,
) -> Result<Vec<T>> {
    let count = length(cursor, what, N)?;
    // No overflow: that many elements were just found to fit in the file.
    let (chunks, _) = cursor.take(count * N, what)?.as_chunks::<N>();
    Ok(chunks.iter().map(|chunk| decode(*chunk)).collect())
}

fn elements<T>(
    cursor: &mut Cursor<'_>,
    what: &dyn Display,
    least: usize,
    read: impl Fn(&mut Cursor<'_>, &dyn Display) -> Result<T>,
) -> Result<Vec<T>> {
    let count = length(cursor, what, least)?;
    // Not collected from an iterator of results, whose growth by doubling would waste up to half.
    let mut values = Vec::with_capacity(count);
    for index in 0..count {
        values.push(read(cursor, &format_args!("element {index} of {what}"))?);
    }
    Ok(values)
}

/// The type and the value, as messages show them.
impl Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::U8(value) => write!(f, "the u8 {value}"),
            Self::I8(value) => write!(f, "the i8 {value}"),
            Self::U16(value) => write!(f, "the u16 {value}"),
            Self::I16(value) => write!(f, "the i16 {value}"),
            Self::U32(value) => write!(f, "the u32 {value}"),
            Self::I32(value) => write!(f, "the i32 {value}"),
            Self::F32(value) => write!(f, "the f32 {value}"),
            Self::Bool(value) => write!(f, "the bool {value}"),
            Self::String(value) => write!(f, "the string {}", Quoted(value)),
            Self::Array(array) => write!(f, "an array of {} {}", array.len(), array.element()),
            Self::U64(value) => write!(f, "the u64 {value}"),
            Self::I64(value) => write!(f, "the i64 {value}"),
            Self::F64(value) => write!(f, "the f64 {value}"),
        }
    }
}
