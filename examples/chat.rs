//! A conversation with a model: one session, of which each question computes only what is new.
//!
//! `cargo run --release --example chat -- MODEL`, a GGUF file or a folder as published; then a question a line.

use asynctls::Result;
use asynctls::attention::Budget;
use asynctls::engine::{Engine, EngineOptions};
use asynctls::generate::{AnswerOptions, Chat, Framing, Generator};
use asynctls::gpu::{Adapter, Gpu, GpuOptions, adapters};
use asynctls::model::{ModelFile, random_seed};
use std::io::Write;
use std::path::Path;

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let model = std::env::args().nth(1).ok_or("which model? chat MODEL")?;
    let here = pollster::block_on(adapters());
    let adapter = Adapter::choose(&here, None)?;
    let gpu = pollster::block_on(Gpu::open(&adapter, GpuOptions::default()))?;
    let (mut generator, options) = pollster::block_on(open(gpu, Path::new(&model), 4096))?;
    let mut chat = Chat::default();
    for question in std::io::stdin().lines() {
        chat.ask(&question?);
        let show = &mut |text: &str| {
            print!("{text}");
            let _ = std::io::stdout().flush();
        };
        pollster::block_on(answer(&mut generator, &mut chat, &options, show))?;
        println!();
    }
    Ok(())
}

/// Loads a model, with room for a conversation of `context` tokens. Tokens are chosen as its makers say.
pub async fn open(gpu: Gpu, model: &Path, context: u32) -> Result<(Generator, AnswerOptions)> {
    let file = ModelFile::open(model)?;
    let engine_options = EngineOptions::new(&gpu, context);
    let engine = Engine::load(gpu, &file, engine_options, &mut |_| ()).await?;
    let mut sampling = file.suggested_sampling()?.settings();
    sampling.seed = random_seed();
    let options = AnswerOptions::new(sampling, Budget::for_context(context));
    Ok((Generator::new(engine, Framing::read(&file)?)?, options))
}

/// Answers the latest question; `show` gets the text as it is made. Once the context is full, the oldest is forgotten.
pub async fn answer(
    generator: &mut Generator,
    chat: &mut Chat,
    options: &AnswerOptions,
    show: &mut dyn FnMut(&str),
) -> Result<()> {
    generator.make_room(chat, options.max_tokens)?;
    let mut answer = generator.answer(chat, options, &mut |_, _| true).await?;
    while let Some(piece) = answer.next().await? {
        show(&piece.text);
    }
    answer.finish();
    Ok(())
}
