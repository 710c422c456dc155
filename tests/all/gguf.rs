//! The GGUF reader: what it reads, what it refuses, and that no file makes it panic or allocate much.

use std::path::Path;

use asynctls::Error;
use asynctls::model::Gguf;

mod mutated;
mod refused;
mod sound;

use crate::common::gguf_builder::GgufBuilder;
use crate::common::peak_memory::measure;

/// What a test returns that reads sound files.
type Outcome = Result<(), Box<dyn std::error::Error>>;

/// Reads a file, checks what holds for every file, sound or not, and returns the error's text.
fn open(bytes: &[u8]) -> Result<Gguf, String> {
    let size = bytes.len();
    let copy = bytes.to_vec();
    let (result, peak) = measure(|| Gguf::from_bytes(Path::new("some.gguf"), copy));
    assert!(peak <= 64 * size + (1 << 20), "a file of {size} bytes took {peak} bytes of memory");
    match result {
        Ok(file) => {
            check_tensors(&file);
            Ok(file)
        }
        Err(Error::File { path, offset, problem }) => {
            assert_eq!(path, Path::new("some.gguf"));
            assert!(offset <= size as u64, "{problem}: byte {offset} of {size}");
            assert!(problem.len() < 1000, "{problem}");
            Err(problem)
        }
        Err(error) => panic!("not a file error: {error:?}"),
    }
}

/// That every tensor lies in the file, is found by its name, and shares no byte with another.
fn check_tensors(file: &Gguf) {
    let mut ends = Vec::new();
    for tensor in file.tensors() {
        assert_eq!(file.tensor(&tensor.name), Some(tensor));
        assert_eq!(file.bytes(tensor).len() as u64, tensor.bytes);
        assert!(tensor.offset + tensor.bytes <= file.file_size());
        if tensor.bytes > 0 {
            ends.push((tensor.offset, tensor.offset + tensor.bytes));
        }
    }
    ends.sort_unstable();
    assert!(ends.windows(2).all(|pair| pair[0].1 <= pair[1].0), "{ends:?}");
    for (key, value) in file.metadata() {
        assert!(file.value(key).is_some());
        assert!(!value.to_string().is_empty());
    }
}

/// Asserts that a file is refused with a message that contains all of `parts`.
fn refused(file: &[u8], parts: &[&str]) {
    match open(file) {
        Ok(_) => panic!("accepted, but a problem with {parts:?} was expected"),
        Err(problem) => {
            for part in parts {
                assert!(problem.contains(part), "{problem:?} lacks {part:?}");
            }
        }
    }
}

/// A file with a little of everything, which ends with the last tensor's last byte.
fn small() -> GgufBuilder {
    GgufBuilder::new(3)
        .string("general.architecture", "llama")
        .u32("llama.block_count", 2)
        .f32("llama.eps", 1e-5)
        .bool("flag", true)
        .strings("tokens", &["a", "", "é"])
        .i32s("types", &[1, -2])
        .tensor("first", &[32, 2], 8, &[1; 68])
        .tensor("second", &[3], 0, &[2; 12])
}
