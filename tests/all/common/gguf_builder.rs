//! A writer of small GGUF files for tests, sound or broken in a chosen place.

use asynctls::model::{Array, Value};

/// A file to be; its parts are written in the order in which they were added.
#[derive(Clone)]
pub struct GgufBuilder {
    magic: [u8; 4],
    version: u32,
    alignment: usize,
    pairs: Vec<Vec<u8>>,
    tensors: Vec<Tensor>,
    metadata_count: Option<u64>,
    tensor_count: Option<u64>,
}

#[derive(Clone)]
struct Tensor {
    name: Vec<u8>,
    shape: Vec<u64>,
    kind: u32,
    bytes: Vec<u8>,
    offset: Option<u64>,
}

impl GgufBuilder {
    pub fn new(version: u32) -> Self {
        Self {
            magic: *b"GGUF",
            version,
            alignment: 32,
            pairs: Vec::new(),
            tensors: Vec::new(),
            metadata_count: None,
            tensor_count: None,
        }
    }

    /// Pads the tensors to `alignment`, and says so in the metadata.
    pub fn alignment(mut self, alignment: u32) -> Self {
        self.alignment = alignment as usize;
        self.u32("general.alignment", alignment)
    }

    pub fn u32(self, key: &str, value: u32) -> Self {
        self.value(key, &Value::U32(value))
    }

    pub fn f32(self, key: &str, value: f32) -> Self {
        self.value(key, &Value::F32(value))
    }

    pub fn bool(self, key: &str, value: bool) -> Self {
        self.value(key, &Value::Bool(value))
    }

    pub fn string(self, key: &str, value: &str) -> Self {
        self.value(key, &Value::String(value.to_owned()))
    }

    pub fn strings(self, key: &str, values: &[&str]) -> Self {
        let values = values.iter().map(|value| (*value).to_owned()).collect();
        self.value(key, &Value::Array(Array::String(values)))
    }

    pub fn i32s(self, key: &str, values: &[i32]) -> Self {
        self.value(key, &Value::Array(Array::I32(values.to_vec())))
    }

    pub fn f32s(self, key: &str, values: &[f32]) -> Self {
        self.value(key, &Value::Array(Array::F32(values.to_vec())))
    }

    pub fn value(self, key: &str, value: &Value) -> Self {
        let (tag, bytes) = encode(value);
        self.raw_value(key, tag, &bytes)
    }

    /// A key whose value is of any type number and bytes.
    pub fn raw_value(self, key: &str, tag: u32, bytes: &[u8]) -> Self {
        let mut pair = string(key.as_bytes());
        pair.extend(tag.to_le_bytes());
        pair.extend(bytes);
        self.raw_pair(&pair)
    }

    /// Any bytes in the place of a key and its value.
    pub fn raw_pair(mut self, bytes: &[u8]) -> Self {
        self.pairs.push(bytes.to_vec());
        self
    }

    /// A tensor behind those before it.
    pub fn tensor(self, name: &str, shape: &[u64], kind: u32, bytes: &[u8]) -> Self {
        self.raw_tensor(name.as_bytes(), shape, kind, bytes, None)
    }

    /// A tensor that is listed with any name, and any offset if there is one, without a say in where its bytes go.
    pub fn raw_tensor(
        mut self,
        name: &[u8],
        shape: &[u64],
        kind: u32,
        bytes: &[u8],
        offset: Option<u64>,
    ) -> Self {
        let (name, shape, bytes) = (name.to_vec(), shape.to_vec(), bytes.to_vec());
        self.tensors.push(Tensor { name, shape, kind, bytes, offset });
        self
    }

    pub fn magic(mut self, magic: [u8; 4]) -> Self {
        self.magic = magic;
        self
    }

    /// Writes this instead of the number of metadata keys.
    pub fn metadata_count(mut self, count: u64) -> Self {
        self.metadata_count = Some(count);
        self
    }

    /// Writes this instead of the number of tensors.
    pub fn tensor_count(mut self, count: u64) -> Self {
        self.tensor_count = Some(count);
        self
    }

    /// All that precedes the tensor data and its padding.
    pub fn header(&self) -> Vec<u8> {
        let mut file = self.magic.to_vec();
        file.extend(self.version.to_le_bytes());
        file.extend(self.tensor_count.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        file.extend(self.metadata_count.unwrap_or(self.pairs.len() as u64).to_le_bytes());
        file.extend(self.pairs.concat());
        let mut end = 0;
        for tensor in &self.tensors {
            let begin = align(end, self.alignment);
            end = begin + tensor.bytes.len();
            file.extend(string(&tensor.name));
            file.extend((tensor.shape.len() as u32).to_le_bytes());
            tensor.shape.iter().for_each(|dimension| file.extend(dimension.to_le_bytes()));
            file.extend(tensor.kind.to_le_bytes());
            file.extend(tensor.offset.unwrap_or(begin as u64).to_le_bytes());
        }
        file
    }

    /// The whole file, which ends with the last tensor's last byte.
    pub fn build(&self) -> Vec<u8> {
        let mut file = self.header();
        for tensor in &self.tensors {
            file.resize(align(file.len(), self.alignment), 0);
            file.extend(&tensor.bytes);
        }
        file
    }
}

fn align(offset: usize, alignment: usize) -> usize {
    offset.next_multiple_of(alignment)
}

/// A string as the format has it: its length, then its bytes.
pub fn string(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u64).to_le_bytes(), bytes].concat()
}

/// A value's type number and bytes.
fn encode(value: &Value) -> (u32, Vec<u8>) {
    match value {
        Value::U8(value) => (0, value.to_le_bytes().to_vec()),
        Value::I8(value) => (1, value.to_le_bytes().to_vec()),
        Value::U16(value) => (2, value.to_le_bytes().to_vec()),
        Value::I16(value) => (3, value.to_le_bytes().to_vec()),
        Value::U32(value) => (4, value.to_le_bytes().to_vec()),
        Value::I32(value) => (5, value.to_le_bytes().to_vec()),
        Value::F32(value) => (6, value.to_le_bytes().to_vec()),
        Value::Bool(value) => (7, vec![u8::from(*value)]),
        Value::String(value) => (8, string(value.as_bytes())),
        Value::Array(array) => (9, encode_array(array)),
        Value::U64(value) => (10, value.to_le_bytes().to_vec()),
        Value::I64(value) => (11, value.to_le_bytes().to_vec()),
        Value::F64(value) => (12, value.to_le_bytes().to_vec()),
    }
}

fn encode_array(array: &Array) -> Vec<u8> {
    match array {
        Array::U8(values) => array_of(0, values, |value| value.to_le_bytes().to_vec()),
        Array::I8(values) => array_of(1, values, |value| value.to_le_bytes().to_vec()),
        Array::U16(values) => array_of(2, values, |value| value.to_le_bytes().to_vec()),
        Array::I16(values) => array_of(3, values, |value| value.to_le_bytes().to_vec()),
        Array::U32(values) => array_of(4, values, |value| value.to_le_bytes().to_vec()),
        Array::I32(values) => array_of(5, values, |value| value.to_le_bytes().to_vec()),
        Array::F32(values) => array_of(6, values, |value| value.to_le_bytes().to_vec()),
        Array::Bool(values) => array_of(7, values, |value| vec![u8::from(*value)]),
        Array::String(values) => array_of(8, values, |value| string(value.as_bytes())),
        Array::U64(values) => array_of(10, values, |value| value.to_le_bytes().to_vec()),
        Array::I64(values) => array_of(11, values, |value| value.to_le_bytes().to_vec()),
        Array::F64(values) => array_of(12, values, |value| value.to_le_bytes().to_vec()),
    }
}

fn array_of<T>(tag: u32, values: &[T], encode: impl Fn(&T) -> Vec<u8>) -> Vec<u8> {
    let mut bytes = raw_array(tag, values.len() as u64);
    bytes.extend(values.iter().flat_map(encode));
    bytes
}

/// An array's element type and length, without elements.
pub fn raw_array(tag: u32, length: u64) -> Vec<u8> {
    [tag.to_le_bytes().as_slice(), &length.to_le_bytes()].concat()
}
