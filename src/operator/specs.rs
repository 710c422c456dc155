//! The kernels of decode attention.

use super::{Options, Selector};
use crate::attention::{BlockScorer, Reads, TokenScorer};
use crate::gpu::{Gpu, ShaderSpec};
use crate::kernels::{self, Place, Scored, with_row_width};

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

    pub(super) fn dense(&self) -> ShaderSpec {
        self.strided(kernels::dense_split(self.gpu.tier, &self.options.shape, Place::Paged))
    }

    pub(super) fn sparse(&self) -> ShaderSpec {
        self.strided(kernels::sparse_split(self.gpu.tier, &self.options.shape, Place::Paged))
    }

    pub(super) fn merge(&self) -> ShaderSpec {
        kernels::merge(self.gpu.tier, &self.options.shape)
    }

    pub(super) fn block_score(&self, scorer: BlockScorer) -> Option<ShaderSpec> {
        let shape = &self.options.shape;
        let spec = match scorer.reads() {
            Reads::Codes => kernels::block_score(shape),
            Reads::Summary(summary) => kernels::summary_score(shape, summary),
            Reads::Keys => kernels::exact_block_score(shape),
            Reads::Nothing => return None,
        };
        Some(self.strided(spec))
    }

    // What a workgroup scores at level 1.
    pub(super) fn scored_blocks(&self, scorer: BlockScorer) -> Scored {
        match scorer.reads() {
            Reads::Codes => Scored::codes(&self.options.shape),
            Reads::Summary(_) => Scored::SUMMARIES,
            Reads::Nothing | Reads::Keys => Scored::BLOCK,
        }
    }

    // What of the candidates a workgroup scores at level 2.
    pub(super) fn scored_candidates(&self, scorer: TokenScorer) -> Scored {
        match scorer {
            TokenScorer::Codes => Scored::codes(&self.options.shape),
            TokenScorer::None | TokenScorer::Oracle => Scored::BLOCK,
        }
    }

    pub(super) fn token_score(&self, scorer: TokenScorer) -> Option<ShaderSpec> {
        let kernel = match scorer {
            TokenScorer::Codes => kernels::token_score,
            TokenScorer::Oracle => kernels::exact_token_score,
            TokenScorer::None => return None,
        };
        Some(self.strided(kernel(&self.options.shape)))
    }

    pub(super) fn top_k_blocks(&self, scorer: BlockScorer) -> ShaderSpec {
        kernels::top_k_blocks(self.gpu.tier, &self.options.shape, scorer.row().rank, None)
    }

    pub(super) fn top_k_tokens(&self) -> ShaderSpec {
        kernels::top_k_tokens(self.gpu.tier, &self.options.shape)
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
        all.push(kernels::token_codes(&options.shape));
    }
    if let Some(summary) = selector.summary() {
        all.push(kernels::block_summary(&options.shape, summary));
    }
    all
}
