//! Binding a layer's tensors to each kernel.

use super::bound::Level;
use super::decode::Decode;
use super::scratch::LevelScratch;
use super::specs::Specs;
use super::tensors::BoundKv;
use crate::Result;
use crate::attention::{BlockScorer, Divisor, Reads, TokenScorer};
use crate::gpu::{Binding, Gpu, Op, ShaderSpec};
use crate::kernels::{self, Choice, Scoring, Segment};

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

    fn channels(&self) -> Option<Binding<'_>> {
        self.codes.as_ref().map(|(channels, _)| channels.into())
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

    // What kernels that score bind.
    fn scoring<'s>(&'s self, scratch: &'s LevelScratch) -> Scoring<'s> {
        let [scores, keys, head_terms] =
            [&scratch.scores, &scratch.keys, &scratch.head_terms].map(Binding::from);
        let (step, qkv, score_rows) = (self.step(), self.qkv.clone(), self.stride());
        Scoring { step, qkv, scores, score_rows, keys, head_terms }
    }

    // The segments of what is read so.
    fn read(&self, reads: Reads) -> Vec<Segment<'_>> {
        match reads {
            Reads::Nothing => Vec::new(),
            Reads::Codes => {
                let codes = self.codes.iter().map(|(_, codes)| codes);
                codes.map(|codes| (self.whole(), codes.clone())).collect()
            }
            Reads::Summary(_) => {
                self.summary.iter().map(|summary| (self.whole(), summary.clone())).collect()
            }
            Reads::Keys => self.segments().collect(),
        }
    }

    pub(super) async fn level_1(
        &self,
        (scorer, divisor): (BlockScorer, Divisor),
        scratch: &LevelScratch,
    ) -> Result<Level> {
        let (gpu, scoring) = (self.gpu(), self.scoring(scratch));
        let specs = Specs::new(gpu, &self.decode.options);
        let (channels, read) = (self.channels(), self.read(scorer.reads()));
        let scores = specs.selection();
        let score = scores.block_scores(gpu, scorer, &scoring, channels.as_ref(), &read).await?;
        let choice = Choice::Blocks(scorer.row().rank, divisor);
        let chosen = &scratch.chosen_blocks;
        let choice = scores.choose(gpu, &scoring, (choice, None), chosen.into()).await?;
        Ok(Level { score, choice })
    }

    pub(super) async fn level_2(
        &self,
        (scorer, divisor): (TokenScorer, Divisor),
        scratch: &LevelScratch,
    ) -> Result<Level> {
        let (gpu, scoring) = (self.gpu(), self.scoring(scratch));
        let specs = Specs::new(gpu, &self.decode.options);
        let (channels, read) = (self.channels(), self.read(scorer.reads()));
        let blocks = Binding::from(&scratch.chosen_blocks);
        let (scores, with) = (specs.selection(), (&scoring, &blocks));
        let score =
            scores.token_scores(gpu, (scorer, divisor), with, channels.as_ref(), &read).await?;
        let Some(chosen) = &self.decode.scratch.chosen_tokens else {
            unreachable!("two levels have a list of tokens");
        };
        let of = (Choice::Tokens(divisor), Some(blocks.clone()));
        Ok(Level { score, choice: scores.choose(gpu, &scoring, of, chosen.into()).await? })
    }

    pub(super) async fn index(&self) -> Result<Vec<Op>> {
        let gpu = self.gpu();
        let selection = Specs::new(gpu, &self.decode.options).selection();
        let mut ops = Vec::new();
        for keys in self.segments() {
            if let Some((channels, codes)) = &self.codes {
                let (channels, codes) = (channels.into(), (self.whole(), codes.clone()));
                let keys = keys.clone();
                ops.push(selection.build_codes(gpu, self.step(), keys, channels, codes).await?);
            }
            if let (Some(kept), Some(summary)) = (self.decode.selector.summary(), &self.summary) {
                let summary = (self.whole(), summary.clone());
                ops.push(selection.build_summary(gpu, self.step(), keys, kept, summary).await?);
            }
        }
        Ok(ops)
    }
}
