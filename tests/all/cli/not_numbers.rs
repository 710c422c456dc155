//! Logits of which one is not a number: no answer is made of them.

use super::program::{command, model, run_command, text};
use asynctls::formats::TensorType;
use asynctls::model::Gguf;
use half::f16;
use std::path::{Path, PathBuf};

const MESSAGE: &str = "no token can be chosen: the ";

/// A model like the real one, but that one token's logit is not a number: with the largest scales that there are, and the last
/// norm's weights large too, its row's blocks come to infinities of both signs. All weights are finite.
fn broken(folder: &Path) -> PathBuf {
    let path = model();
    let mut bytes = std::fs::read(&path).unwrap();
    let file = Gguf::open(path.as_ref()).unwrap();
    let embedding = file.tensor("token_embd.weight").unwrap();
    let block = embedding.kind.block().unwrap().bytes as usize;
    let row_bytes = (embedding.bytes / embedding.shape[1]) as usize;
    let row = &mut bytes[embedding.offset as usize + 40_000 * row_bytes..][..row_bytes];
    for block in row.chunks_exact_mut(block) {
        block[..2].copy_from_slice(&f16::MAX.to_le_bytes());
    }
    let norm = file.tensor("output_norm.weight").unwrap();
    assert_eq!(norm.kind, TensorType::F32);
    let weights = &mut bytes[norm.offset as usize..][..norm.bytes as usize];
    for weight in weights.chunks_exact_mut(4) {
        weight.copy_from_slice(&1e33f32.to_le_bytes());
    }
    let path = folder.join("broken.gguf");
    std::fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn no_answer_is_made_of_what_is_not_a_number() {
    let folder = tempfile::tempdir().unwrap();
    let model = broken(folder.path());
    let session = folder.path().join("talk.kv");
    let generate = ["generate", "--model", text(&model), "--max-tokens", "4"];
    for more in [&["--temperature", "0"][..], &["--temperature", "0.8"]] {
        let saved = ["--prompt", "Hi", "--session", text(&session)];
        let run = run_command(command(&[&generate, &saved[..], more].concat()), b"");
        assert_eq!((run.code, run.out.as_str()), (Some(2), ""), "{run:?}");
        assert!(run.error().starts_with(MESSAGE), "{run:?}");
        // A session that was only begun holds no conversation.
        let bytes = std::fs::metadata(&session).map_or(0, |metadata| metadata.len());
        assert!(bytes < 4096, "{bytes} bytes of session");
    }
    // A conversation goes on, for another question may be answered.
    let run = run_command(command(&[&generate[..], &["-i"]].concat()), b"Hi\nAnd?\n");
    let errors = run.err.lines().filter(|line| line.contains(MESSAGE)).count();
    assert_eq!((run.out.trim(), errors), ("", 2), "{run:?}");

    let logits = ["logits", "--model", text(&model), "--ids", "1,2,3"];
    for more in [&[][..], &["--json"], &["--attention", "dense"]] {
        let run = run_command(command(&[&logits, more].concat()), b"");
        assert_eq!(run.code, Some(2), "{run:?}");
        assert_eq!(run.error(), "the logit of token 40000 after 3 ids is NaN", "{run:?}");
    }
}
