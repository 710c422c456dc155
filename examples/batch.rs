//! Several texts are continued at a time: a decode step reads the weights once for all of them.
//!
//! `cargo run --release --example batch -- MODEL TEXT...`, the model a GGUF file or a folder as published.

use asynctls::Result;
use asynctls::attention::Attention;
use asynctls::engine::{Engine, EngineOptions, Want};
use asynctls::gpu::{Adapter, Gpu, GpuOptions, adapters};
use asynctls::model::ModelFile;
use std::path::Path;

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (model, texts) = arguments.split_first().ok_or("which model? batch MODEL TEXT...")?;
    let here = pollster::block_on(adapters());
    let adapter = Adapter::choose(&here, None)?;
    let gpu = pollster::block_on(Gpu::open(&adapter, GpuOptions::default()))?;
    let made = pollster::block_on(go_on(gpu, Path::new(model), texts, 64))?;
    for (text, more) in texts.iter().zip(made) {
        println!("{text}{more}\n");
    }
    Ok(())
}

/// What follows each text: at most so many tokens, the likeliest each time.
pub async fn go_on(gpu: Gpu, model: &Path, texts: &[String], most: usize) -> Result<Vec<String>> {
    let file = ModelFile::open(model)?;
    let tokenizer = file.tokenizer()?;
    let encode = |text: &String| tokenizer.encode(text, false).map(|ids| tokenizer.begin(ids));
    let prompts: Vec<Vec<u32>> = texts.iter().map(encode).collect::<Result<_>>()?;

    // Memory for every session's tokens, and a session for each text.
    let longest = prompts.iter().map(Vec::len).max().unwrap_or(0);
    let mut options = EngineOptions::new(&gpu, (longest + most) as u32);
    options.sessions = texts.len() as u32;
    options.total_tokens = u64::from(options.context) * u64::from(options.sessions);
    let engine = Engine::load(gpu, &file, options, &mut |_| ()).await?;

    let mut sessions = Vec::new();
    let mut made: Vec<Vec<u32>> = Vec::new();
    for prompt in &prompts {
        let mut session = engine.session()?;
        let output = engine.prefill(&mut session, prompt, Want::Token, &mut |_| true).await?;
        made.push(vec![output.token()?]);
        sessions.push(session);
    }
    loop {
        // Those whose last token ends them take no part any more.
        let mut batch = Vec::new();
        let mut which = Vec::new();
        for (i, (session, tokens)) in sessions.iter_mut().zip(&made).enumerate() {
            let last = tokens[tokens.len() - 1];
            if !tokenizer.is_stop(last) && tokens.len() < most {
                batch.push((session, last));
                which.push(i);
            }
        }
        if batch.is_empty() {
            break;
        }
        let outputs = engine.decode(&mut batch, &Attention::Dense, Want::Token).await?;
        for (i, output) in which.into_iter().zip(outputs) {
            made[i].push(output.token()?);
        }
    }
    Ok(made.iter().map(|tokens| tokenizer.decode(tokens)).collect())
}
