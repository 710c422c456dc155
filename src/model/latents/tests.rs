//! Tests of latents on other axes.

use super::*;
use crate::model::ModelFile;
use std::path::Path;

fn tiny(file: &str) -> ModelFile {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/tiny").join(file);
    ModelFile::open(&path).unwrap()
}

fn floats(file: &ModelFile, tensor: &TensorInfo) -> Vec<f32> {
    dequantise(tensor.kind, file.bytes(tensor)).unwrap()
}

// What `down` and `norm` make of a normed hidden state: the latent as it is cached.
fn latent_of(down: &[f32], norm: &[f32], state: &[f32]) -> Vec<f32> {
    let rows = down.chunks_exact(state.len()).take(norm.len());
    let made = rows.map(|row| row.iter().zip(state).map(|(a, b)| a * b).sum::<f32>());
    let made: Vec<f32> = made.collect();
    let square = made.iter().map(|v| v * v).sum::<f32>() / norm.len() as f32;
    made.iter().zip(norm).map(|(v, w)| v / (square + 1e-6).sqrt() * w).collect()
}

// In both formats, and both ways in which GGUF files have what reads latents.
#[test]
fn what_reads_latents_reads_the_same_on_other_axes() {
    let mut read = Vec::new();
    for (file, names) in [("glm4-moe-lite/model", &FOLDER), ("glm4-moe-lite/model.gguf", &GGUF)] {
        let file = tiny(file);
        for i in 0..2 {
            // As the file has it, and as it is loaded.
            let both = |name: &str| {
                let name = format!("{}.{i}.{name}.weight", names.layer);
                let there = file.source.tensor(&name)?;
                let loaded = file.tensor(&name).unwrap();
                assert_eq!((&loaded.name, &loaded.shape), (&there.name, &there.shape));
                assert_eq!(loaded.offset, NOWHERE, "{name}");
                assert_eq!(file.bytes(loaded).len() as u64, loaded.bytes);
                Some([floats(&file, there), floats(&file, loaded)])
            };
            let (down, norm) = (both(names.down).unwrap(), both(names.norm).unwrap());
            let latent = norm[0].len();
            let hidden = file.source.tensor(&format!("{}.{i}.{}.weight", names.layer, names.down));
            let hidden = hidden.unwrap().shape[0] as usize;
            assert_eq!(down[0][latent * hidden..], down[1][latent * hidden..], "rotary keys");
            let state: Vec<f32> =
                (0..hidden).map(|i| ((i * 37 % 101) as f32 - 50.0) / 25.0).collect();
            let [old, new] = [0, 1].map(|at| latent_of(&down[at], &norm[at], &state));
            assert!(old.iter().zip(&new).any(|(a, b)| (a - b).abs() > 0.1), "the same axes");
            let close = |name: &str, a: f32, b: f32| {
                assert!((a - b).abs() < 2e-3 * (1.0 + a.abs()), "{name} of layer {i}: {a}, {b}");
            };
            for name in names.readers {
                let Some([before, after]) = both(name) else { continue };
                read.push(*name);
                let rows = before.chunks_exact(latent).zip(after.chunks_exact(latent));
                for (a, b) in rows {
                    close(name, axes::dots(a, &old, latent)[0], axes::dots(b, &new, latent)[0]);
                }
            }
            for name in names.column_readers {
                let Some([before, after]) = both(name) else { continue };
                read.push(*name);
                let info = file.tensor(&format!("{}.{i}.{name}.weight", names.layer)).unwrap();
                let (nope, heads) = (info.shape[0] as usize, info.shape[2] as usize);
                for at in
                    (0..heads).flat_map(|head| (0..nope).map(move |n| head * latent * nope + n))
                {
                    let column = |all: &[f32]| -> Vec<f32> {
                        (0..latent).map(|d| all[at + d * nope]).collect()
                    };
                    let [a, b] = [(&before, &old), (&after, &new)]
                        .map(|(all, latents)| axes::dots(&column(all), latents, latent)[0]);
                    close(name, a, b);
                }
            }
        }
    }
    read.dedup();
    assert!(read.contains(&"self_attn.kv_b_proj"), "{read:?}");
    assert!(read.iter().any(|name| name.starts_with("attn_")), "{read:?}");
}

#[test]
fn the_first_numbers_of_a_trained_model_s_latents_vary_most() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("research/models/glm-long");
    let file = ModelFile::open(&path).unwrap();
    let share = |tensor: &TensorInfo| {
        let rows = floats(&file, tensor);
        let norm = file.tensor("model.layers.3.input_layernorm.weight").unwrap();
        let weights = floats(&file, norm);
        let energy =
            |row: &[f32]| row.iter().zip(&weights).map(|(a, w)| (a * w).powi(2)).sum::<f32>();
        let all: Vec<f32> = rows.chunks_exact(weights.len()).take(512).map(energy).collect();
        all[..64].iter().sum::<f32>() / all.iter().sum::<f32>()
    };
    let name = "model.layers.3.self_attn.kv_a_proj_with_mqa.weight";
    let [before, after] = [file.source.tensor(name), file.tensor(name)].map(|t| share(t.unwrap()));
    assert!(before < 0.2 && after > 0.6, "{before} of the file's, {after} of what is loaded");
}

#[test]
fn other_models_are_loaded_as_they_are() {
    for name in ["qwen3/model", "llama/model.gguf"] {
        let file = tiny(name);
        assert!(file.latents.layers.is_empty());
        assert!(file.tensors().iter().all(|one| file.tensor(&one.name) == Some(one)), "{name}");
    }
}

// A layer that the model does not run may be anything.
#[test]
fn a_layer_whose_tensors_are_empty_is_none() {
    let info = |name: &str, shape: &[u64]| TensorInfo {
        name: name.into(),
        shape: shape.into(),
        kind: TensorType::F16,
        offset: 0,
        bytes: 0,
    };
    for empty in ["", FOLDER.down, FOLDER.norm, FOLDER.readers[0]] {
        let of = |name: &str, shape: [u64; 2]| match name == empty {
            true => info(name, &[shape[0], 0]),
            false => info(name, &shape),
        };
        let norm = match empty == FOLDER.norm {
            true => info(FOLDER.norm, &[0]),
            false => info(FOLDER.norm, &[512]),
        };
        let (down, readers) = (of(FOLDER.down, [64, 576]), of(FOLDER.readers[0], [512, 8]));
        let hidden_norm = info(FOLDER.hidden_norm, &[64]);
        let layer = LayerLatents::of(&hidden_norm, &FOLDER, |name| match name {
            name if name == FOLDER.down => Some(&down),
            name if name == FOLDER.norm => Some(&norm),
            name if name == FOLDER.readers[0] => Some(&readers),
            _ => None,
        });
        assert_eq!(layer.is_some(), empty.is_empty(), "{empty:?} is empty");
    }
}
