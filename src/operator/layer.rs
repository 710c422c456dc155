//! Binding a layer's tensors to each kernel.

use super::bound::Level;
use super::decode::Decode;
use super::scratch::LevelScratch;
use super::specs::Specs;
use super::tensors::BoundKv;
use crate::attention::{BlockScorer, Reads, TokenScorer};
use crate::gpu::{Binding, Gpu, Op, ShaderSpec};
use crate::{Error, Result, kernels};

/// What is bound of a layer, while its operations are made.
pub(super) struct Layer<'l> {
    pub(super) decode: &'l Decode,
    pub(super) qkv: Binding<'l>,
    pub(super) kv: BoundKv<'l>,
    pub(super) codes: Option<(wgpu::Buffer, Binding<'l>)>,
    pub(super) summary: Option<Binding<'l>>,
}

impl Layer<'_> {
    fn gpu(&self) -> &Gpu {
        &self.decode.words.gpu
    }

    fn step(&self) -> Binding<'_> {
        (&self.decode.words.step).into()
    }

    // All blocks, as the index has them.
    fn whole(&self) -> Binding<'_> {
        (&self.decode.scratch.uniforms.whole).into()
    }

    // Each segment of the cache: what says which blocks it holds, and their keys.
    fn segments(&self) -> impl Iterator<Item = (Binding<'_>, Binding<'_>)> {
        let segments = self.decode.scratch.uniforms.segments.iter().map(Binding::from);
        segments.zip(self.kv.keys.iter().cloned())
    }

    fn stride(&self) -> Binding<'_> {
        (&self.decode.scratch.uniforms.stride).into()
    }

    fn codes(&self) -> Result<(Binding<'_>, Binding<'_>)> {
        let missing = || Error::Gpu("a selector that reads codes has none".into());
        self.codes
            .as_ref()
            .map(|(channels, codes)| (channels.into(), codes.clone()))
            .ok_or_else(missing)
    }

    pub(super) async fn split(
        &self,
        spec: &ShaderSpec,
        chosen_tokens: Option<&wgpu::Buffer>,
    ) -> Result<Vec<Op>> {
        let scratch = &self.decode.scratch;
        let mut splits = Vec::new();
        let segments = scratch.uniforms.segments.iter().map(Binding::from);
        for (segment, (kv, values_in)) in segments.zip(self.kv.segments()) {
            let split = kernels::Split {
                step: self.step(),
                segment,
                qkv: self.qkv.clone(),
                kv,
                values_in,
                partial_o: (&scratch.partials.partial_o).into(),
                partial_ml: (&scratch.partials.partial_ml).into(),
                chosen_tokens: chosen_tokens.map(Binding::from),
                hot_slots: None,
            };
            splits.push(self.gpu().op(spec, split).await?);
        }
        Ok(splits)
    }

    pub(super) async fn level_1(
        &self,
        scorer: BlockScorer,
        scratch: &LevelScratch,
    ) -> Result<Level> {
        let specs = Specs::new(self.gpu(), &self.decode.options);
        let (step, segment, score_rows) = (self.step(), self.whole(), self.stride());
        let (qkv, scores) = (self.qkv.clone(), Binding::from(&scratch.scores));
        let gpu = self.gpu();
        let score = match (specs.block_score(scorer), scorer.reads()) {
            (Some(spec), Reads::Codes) => {
                let (channels, codes) = self.codes()?;
                let score =
                    kernels::BlockScore { step, segment, qkv, channels, codes, scores, score_rows };
                vec![gpu.op(&spec, score).await?]
            }
            (Some(spec), Reads::Summary(_)) => {
                let missing = || Error::Gpu("a selector that reads a summary has none".into());
                let summary = self.summary.clone().ok_or_else(missing)?;
                let score =
                    kernels::SummaryScore { step, segment, qkv, summary, scores, score_rows };
                vec![gpu.op(&spec, score).await?]
            }
            (Some(spec), _) => {
                let mut ops = Vec::new();
                for (segment, kv) in self.segments() {
                    let (step, qkv, scores) = (step.clone(), qkv.clone(), scores.clone());
                    let score_rows = score_rows.clone();
                    let score =
                        kernels::ExactBlockScore { step, segment, qkv, kv, scores, score_rows };
                    ops.push(gpu.op(&spec, score).await?);
                }
                ops
            }
            (None, _) => Vec::new(),
        };
        let chosen = &scratch.chosen_blocks;
        let top_k = self.top_k(&specs.top_k_blocks(scorer), scratch, chosen, None).await?;
        Ok(Level { score, scored: specs.scored_blocks(scorer), top_k })
    }

    pub(super) async fn level_2(
        &self,
        scorer: TokenScorer,
        scratch: &LevelScratch,
    ) -> Result<Level> {
        let specs = Specs::new(self.gpu(), &self.decode.options);
        let (step, segment, score_rows) = (self.step(), self.whole(), self.stride());
        let (qkv, scores) = (self.qkv.clone(), Binding::from(&scratch.scores));
        let chosen_blocks = Binding::from(&scratch.chosen_blocks);
        let gpu = self.gpu();
        let score = match (specs.token_score(scorer), scorer) {
            (Some(spec), TokenScorer::Codes) => {
                let (channels, codes) = self.codes()?;
                let score = kernels::TokenScore {
                    step,
                    segment,
                    qkv,
                    channels,
                    codes,
                    chosen_blocks,
                    scores,
                    score_rows,
                };
                vec![gpu.op(&spec, score).await?]
            }
            (Some(spec), _) => {
                let mut ops = Vec::new();
                for (segment, kv) in self.segments() {
                    let score = kernels::ExactTokenScore {
                        step: step.clone(),
                        segment,
                        qkv: qkv.clone(),
                        kv,
                        chosen_blocks: chosen_blocks.clone(),
                        scores: scores.clone(),
                        score_rows: score_rows.clone(),
                    };
                    ops.push(gpu.op(&spec, score).await?);
                }
                ops
            }
            (None, _) => Vec::new(),
        };
        let Some(chosen) = &self.decode.scratch.chosen_tokens else {
            unreachable!("two levels have a list of tokens");
        };
        let blocks = Some(&scratch.chosen_blocks);
        let top_k = self.top_k(&specs.top_k_tokens(), scratch, chosen, blocks).await?;
        Ok(Level { score, scored: specs.scored_candidates(scorer), top_k })
    }

    async fn top_k(
        &self,
        spec: &ShaderSpec,
        scratch: &LevelScratch,
        chosen: &wgpu::Buffer,
        chosen_blocks: Option<&wgpu::Buffer>,
    ) -> Result<Op> {
        let top_k = kernels::TopK {
            step: self.step(),
            score_rows: self.stride(),
            scores: (&scratch.scores).into(),
            keys: (&scratch.keys).into(),
            chosen: chosen.into(),
            chosen_blocks: chosen_blocks.map(Binding::from),
            hot_slots: None,
        };
        self.gpu().op(spec, top_k).await
    }

    pub(super) async fn index(&self) -> Result<Vec<Op>> {
        let specs = Specs::new(self.gpu(), &self.decode.options);
        let mut ops = Vec::new();
        for (segment, kv) in self.segments() {
            if self.codes.is_some() {
                let (channels, codes) = self.codes()?;
                let build = kernels::TokenCodes {
                    step: self.step(),
                    segment: segment.clone(),
                    kv: kv.clone(),
                    channels,
                    codes,
                    index_segment: self.whole(),
                };
                ops.push(self.gpu().op(&specs.token_codes(), build).await?);
            }
            if let (Some(kept), Some(summary)) = (self.decode.selector.summary(), &self.summary) {
                let build = kernels::BlockSummary {
                    step: self.step(),
                    segment,
                    kv,
                    summary: summary.clone(),
                    index_segment: self.whole(),
                };
                ops.push(self.gpu().op(&specs.block_summary(kept), build).await?);
            }
        }
        Ok(ops)
    }
}
