//! Writes a GGUF file with the shapes of a published model and random weights, to measure speed without a download:
//! `cargo run --release --example random_model -- MODEL TYPE FILE [LAYERS]`.
//!
//! Models: qwen3-0.6b, qwen3-8b, qwen3-30b-a3b, glm-4.7-flash, smollm2, tiny. Types: F16, BF16, Q8_0, Q4_0, Q4_K. There is
//! no tokenizer in it.

use asynctls::model::RandomModel;
use std::fs::File;
use std::io::BufWriter;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let usage = "random_model MODEL TYPE FILE [LAYERS]";
    let [name, kind, path, rest @ ..] = &arguments[..] else { panic!("{usage}") };
    let mut model = RandomModel::named(name).unwrap_or_else(|| panic!("no model {name}: {usage}"));
    if let [layers] = rest {
        model = model.with_layers(layers.parse().expect("a number of layers"));
    }
    let kind = RandomModel::TYPES
        .into_iter()
        .find(|known| known.to_string() == *kind)
        .unwrap_or_else(|| panic!("no type {kind}: {usage}"));
    let file = File::create(path).expect("a file that can be written");
    let mut out = BufWriter::with_capacity(1 << 20, file);
    model.write(kind, &mut out).expect("a file that can be written");
}
