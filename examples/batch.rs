//! Several texts are continued at a time: a step reads the weights once for all of them, and for a piece of a text that is still
//! to be read beside them.
//!
//! `cargo run --release --example batch -- MODEL TEXT...`, the model a GGUF file or a folder as published.

use asynctls::Result;
use asynctls::attention::Attention;
use asynctls::engine::{Engine, EngineOptions, Session, Want, Work};
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

    let mut all = Vec::new();
    for prompt in prompts {
        all.push(Text { session: engine.session()?, ahead: prompt, made: Vec::new() });
    }
    loop {
        let mut works = Vec::new();
        let mut which = Vec::new();
        // Of prompts one at a time, so many tokens that all others' next ones find room beside them.
        let mut reads = false;
        for (i, text) in all.iter_mut().enumerate() {
            // Those whose last token ends them take no part any more.
            let is_last = |last: &u32| tokenizer.is_stop(*last) || text.made.len() >= most;
            let is_prompt = text.made.is_empty();
            if text.made.last().is_some_and(is_last) || (is_prompt && reads) {
                continue;
            }
            let room = engine.chunk_tokens(&text.session).saturating_sub(texts.len()).max(1);
            let tokens = &text.ahead[..text.ahead.len().min(room)];
            let want = if tokens.len() == text.ahead.len() { Want::Token } else { Want::Nothing };
            works.push(Work { session: &mut text.session, tokens, is_prompt, want });
            which.push(i);
            reads |= is_prompt;
        }
        if works.is_empty() {
            break;
        }
        let outputs = engine.step(&mut works, &Attention::Dense).await?;
        let read: Vec<usize> = works.iter().map(|work| work.tokens.len()).collect();
        for ((i, output), read) in which.into_iter().zip(outputs).zip(read) {
            let text = &mut all[i];
            text.ahead.drain(..read);
            if text.ahead.is_empty() {
                let token = output.token()?;
                text.made.push(token);
                text.ahead.push(token);
            }
        }
    }
    Ok(all.iter().map(|text| tokenizer.decode(&text.made)).collect())
}

/// A text and what follows it.
struct Text {
    session: Session,
    /// Tokens that the session does not hold yet: of the prompt, or the last one made.
    ahead: Vec<u32>,
    made: Vec<u32>,
}
