//! A conversation with a model: one session, of which each question computes only what is new.
//!
//! `cargo run --release --example chat -- MODEL`, a GGUF file or a folder as published; then a question a line.

use asynctls::Result;
use asynctls::attention::{Attention, Budget};
use asynctls::engine::{Engine, EngineOptions, Session, Want};
use asynctls::gpu::{Adapter, Gpu, GpuOptions, adapters};
use asynctls::model::ModelFile;
use asynctls::model::chat::{ChatTemplate, Message};
use asynctls::model::sampler::{Past, Sampler, SamplerSettings};
use asynctls::model::tokenizer::Tokenizer;
use std::io::Write;
use std::path::Path;

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let model = std::env::args().nth(1).ok_or("which model? chat MODEL")?;
    let here = pollster::block_on(adapters());
    let adapter = Adapter::choose(&here, None)?;
    let gpu = pollster::block_on(Gpu::open(&adapter, GpuOptions::default()))?;
    let settings = SamplerSettings { temperature: 0.7, top_p: 0.95, ..Default::default() };
    let mut chat = pollster::block_on(Chat::open(gpu, Path::new(&model), 4096, settings))?;
    for question in std::io::stdin().lines() {
        let show = &mut |text: &str| {
            print!("{text}");
            let _ = std::io::stdout().flush();
        };
        pollster::block_on(chat.ask(&question?, 512, show))?;
        println!();
    }
    Ok(())
}

/// A conversation so far.
pub struct Chat {
    engine: Engine,
    tokenizer: Tokenizer,
    template: ChatTemplate,
    sampler: Sampler,
    attention: Attention,
    messages: Vec<Message>,
    session: Session,
}

impl Chat {
    /// Loads a model, with room for a conversation of `context` tokens.
    pub async fn open(
        gpu: Gpu,
        model: &Path,
        context: u32,
        settings: SamplerSettings,
    ) -> Result<Self> {
        let file = ModelFile::open(model)?;
        let tokenizer = file.tokenizer()?;
        let no_template = || asynctls::Error::Model("this model has no chat template".into());
        let template = file.chat_template()?.ok_or_else(no_template)?;
        let options = EngineOptions::new(&gpu, context);
        let engine = Engine::load(gpu, &file, options, &mut |_| ()).await?;
        Ok(Self {
            session: engine.session()?,
            attention: Budget::for_context(context).into(),
            sampler: Sampler::new(settings)?,
            messages: Vec::new(),
            engine,
            tokenizer,
            template,
        })
    }

    /// Answers with at most so many tokens; `show` gets the text as it is made.
    pub async fn ask(
        &mut self,
        question: &str,
        most: usize,
        show: &mut dyn FnMut(&str),
    ) -> Result<()> {
        self.messages.push(Message { role: "user".into(), content: question.into() });
        let prompt = self.template.encode(&self.tokenizer, &self.messages, "")?;

        // The session holds the conversation before this question; where the template now writes it otherwise, it is
        // taken back to where the two part. The last token is computed again, since the answer follows from it.
        let there = self.session.tokens().iter().zip(&prompt).take_while(|(a, b)| a == b).count();
        let kept = there.min(prompt.len() - 1);
        self.session.rewind(kept as u32)?;
        let rest = &prompt[kept..];
        let mut made =
            self.engine.prefill(&mut self.session, rest, Want::Logits, &mut |_| true).await?;

        let mut tokens = prompt.clone();
        // A character may take several tokens: the decoder keeps what is not whole yet.
        let mut decoder = self.tokenizer.decoder(true);
        let mut answer = String::new();
        while tokens.len() < prompt.len() + most {
            let past = Past { tokens: &tokens, prompt: prompt.len() };
            let token = self.sampler.sample(&made.logits[0], past)?;
            if self.tokenizer.is_stop(token) {
                break;
            }
            tokens.push(token);
            let text = decoder.push(token);
            show(&text);
            answer.push_str(&text);
            let batch = &mut [(&mut self.session, token)];
            made = self.engine.decode(batch, &self.attention, Want::Logits).await?.remove(0);
        }
        let rest = decoder.finish();
        show(&rest);
        answer.push_str(&rest);
        self.messages.push(Message { role: "assistant".into(), content: answer });
        Ok(())
    }

    /// Everything that was said, the latest answer last.
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }
}
