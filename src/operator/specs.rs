//! The kernels of decode attention.

use super::{Options, Selector};
use crate::attention::{BlockScorer, Reads, Summary, TokenScorer};
use crate::gpu::{Gpu, ShaderSpec};
use crate::kernels::{self, Place, with_layout, with_row_width};

/// The kernels, for queries that lie as the options say.
pub(super) struct Specs<'s> {
    gpu: &'s Gpu,
    options: &'s Options,
}

impl<'s> Specs<'s> {
    pub(super) fn new(gpu: &'s Gpu, options: &'s Options) -> Self {
        Self { gpu, options }
    }

    fn strided(&self, spec: ShaderSpec) -> ShaderSpec {
        with_row_width(spec, self.options.query_stride)
    }

    // Of a kernel that reads keys.
    fn laid_out(&self, spec: ShaderSpec) -> ShaderSpec {
        with_layout(spec, self.options.layout)
    }

    pub(super) fn dense(&self) -> ShaderSpec {
        let (tier, shape) = (self.gpu.tier, &self.options.shape);
        self.laid_out(self.strided(kernels::dense_split(tier, shape, Place::Paged)))
    }

    pub(super) fn sparse(&self) -> ShaderSpec {
        let (tier, shape) = (self.gpu.tier, &self.options.shape);
        self.laid_out(self.strided(kernels::sparse_split(tier, shape, Place::Paged)))
    }

    pub(super) fn merge(&self) -> ShaderSpec {
        kernels::merge(self.gpu.tier, &self.options.shape)
    }

    pub(super) fn block_score(&self, scorer: BlockScorer) -> Option<ShaderSpec> {
        let shape = &self.options.shape;
        let spec = match scorer.reads() {
            Reads::Codes => kernels::block_score(shape),
            Reads::Summary(summary) => kernels::summary_score(shape, summary),
            Reads::Keys => self.laid_out(kernels::exact_block_score(shape)),
            Reads::Nothing => return None,
        };
        Some(self.strided(spec))
    }

    // Blocks that a workgroup scores at level 1.
    pub(super) fn scored_blocks(&self, scorer: BlockScorer) -> u32 {
        match scorer.reads() {
            Reads::Codes => kernels::scored_blocks(&self.options.shape),
            Reads::Summary(_) => kernels::SCORED_SUMMARIES,
            Reads::Nothing | Reads::Keys => 1,
        }
    }

    // Blocks of candidates that a workgroup scores at level 2.
    pub(super) fn scored_candidates(&self, scorer: TokenScorer) -> u32 {
        match scorer {
            TokenScorer::Codes => kernels::scored_blocks(&self.options.shape),
            TokenScorer::None | TokenScorer::Oracle => 1,
        }
    }

    pub(super) fn token_score(&self, scorer: TokenScorer) -> Option<ShaderSpec> {
        let shape = &self.options.shape;
        let spec = match scorer {
            TokenScorer::Codes => kernels::token_score(shape),
            TokenScorer::Oracle => self.laid_out(kernels::exact_token_score(shape)),
            TokenScorer::None => return None,
        };
        Some(self.strided(spec))
    }

    pub(super) fn top_k_blocks(&self, scorer: BlockScorer) -> ShaderSpec {
        kernels::top_k_blocks(self.gpu.tier, &self.options.shape, scorer.row().rank, None)
    }

    pub(super) fn top_k_tokens(&self) -> ShaderSpec {
        kernels::top_k_tokens(self.gpu.tier, &self.options.shape)
    }

    pub(super) fn token_codes(&self) -> ShaderSpec {
        self.laid_out(kernels::token_codes(&self.options.shape))
    }

    pub(super) fn block_summary(&self, kept: &Summary) -> ShaderSpec {
        self.laid_out(kernels::block_summary(&self.options.shape, kept))
    }
}

/// Every kernel that a selector needs.
pub(super) fn specs(gpu: &Gpu, options: &Options, selector: Selector) -> Vec<ShaderSpec> {
    let specs = Specs::new(gpu, options);
    let mut all = vec![specs.dense(), specs.merge()];
    if selector != Selector::Dense {
        all.push(specs.sparse());
    }
    if let Selector::TwoLevel { blocks, tokens } = selector {
        all.extend([specs.top_k_blocks(blocks), specs.top_k_tokens()]);
        all.extend(specs.block_score(blocks));
        all.extend(specs.token_score(tokens));
    }
    if selector.reads_codes() {
        all.push(specs.token_codes());
    }
    if let Some(summary) = selector.summary() {
        all.push(specs.block_summary(summary));
    }
    all
}
