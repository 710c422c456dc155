//! The library in a browser: a model from memory, prompts and tokens in, logits out, on the browser's WebGPU.
#![cfg(target_arch = "wasm32")]
#![warn(missing_docs)]

use asynctls::attention::{Attention, Blocks, Budget};
use asynctls::engine::{Engine, EngineOptions, Session, Want};
use asynctls::gpu::{Adapter, Gpu, GpuOptions, adapters};
use asynctls::model::ModelFile;
use js_sys::Error;
use wasm_bindgen::prelude::wasm_bindgen;

/// A model on the GPU, with one session.
#[wasm_bindgen]
pub struct Model {
    engine: Engine,
    session: Session,
}

fn thrown(error: asynctls::Error) -> Error {
    Error::new(&error.to_string())
}

/// Panics say on the console what happened, and where.
#[wasm_bindgen(start)]
pub fn start() {
    console_error_panic_hook::set_once();
}

#[wasm_bindgen]
impl Model {
    /// Loads a GGUF file, for so many tokens.
    ///
    /// # Errors
    /// What opening the device, reading the file and loading the model answer.
    pub async fn load(file: Vec<u8>, context: u32) -> Result<Model, Error> {
        let load = async {
            let adapter = Adapter::choose(&adapters().await, None)?;
            let gpu = Gpu::open(&adapter, GpuOptions::default()).await?;
            let file = ModelFile::from_bytes("the model", file)?;
            let options =
                EngineOptions { logit_rows: context, ..EngineOptions::new(&gpu, context) };
            let engine = Engine::load(gpu, &file, options, &mut |_| ()).await?;
            let session = engine.session()?;
            Ok(Self { engine, session })
        };
        load.await.map_err(thrown)
    }

    /// Backend and name of the adapter.
    pub fn adapter(&self) -> String {
        self.engine.gpu.label().into()
    }

    /// Begins anew with a prompt: the logits after each of its tokens, row after row.
    ///
    /// # Errors
    /// As `Engine::prefill`.
    pub async fn prefill(&mut self, ids: Vec<u32>) -> Result<Vec<f32>, Error> {
        self.session.rewind(0).map_err(thrown)?;
        let go_on = &mut |_| true;
        let made = self.engine.prefill(&mut self.session, &ids, Want::EveryLogits, go_on).await;
        Ok(made.map_err(thrown)?.logits.concat())
    }

    /// Appends a token: the logits after it. All is attended, or what two levels of selection leave of so many tokens in all blocks.
    ///
    /// # Errors
    /// As `Engine::decode`.
    pub async fn decode(&mut self, id: u32, tokens: Option<u32>) -> Result<Vec<f32>, Error> {
        let attention = tokens.map_or(Attention::Dense, |tokens| {
            let blocks = Blocks::Percent(100.0);
            Budget { blocks, tokens, sink_blocks: 1, recent_blocks: 1, dense_below: 0 }.into()
        });
        let batch = &mut [(&mut self.session, id)];
        let made = self.engine.decode(batch, &attention, Want::Logits).await.map_err(thrown)?;
        Ok(made.into_iter().flat_map(|output| output.logits).flatten().collect())
    }
}
