//! The kernels of decode attention.

use super::{Options, Selector};
use crate::attention::Divisor;
use crate::gpu::{Gpu, ShaderSpec};
use crate::kernels::{self, Choice, Place, Selection, with_layout, with_row_width};

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

    /// Of what chooses.
    pub(super) fn selection(&self) -> Selection<'s> {
        let Options { shape, query_stride, layout, .. } = self.options;
        Selection { shape, row_width: *query_stride, layout: *layout }
    }
}

/// Every kernel that a selector needs.
pub(super) fn specs(gpu: &Gpu, options: &Options, selector: Selector) -> Vec<ShaderSpec> {
    let specs = Specs::new(gpu, options);
    let selection = specs.selection();
    let mut all = vec![specs.dense(), specs.merge()];
    if selector != Selector::Dense {
        all.push(specs.sparse());
    }
    if let Selector::TwoLevel { blocks, tokens } = selector {
        let divisor = Divisor::of(blocks, tokens);
        for choice in [Choice::Blocks(blocks.row().rank, divisor), Choice::Tokens(divisor)] {
            all.extend(selection.choice(gpu.tier, choice).all());
        }
        all.extend(selection.block_score(gpu.tier, blocks).map(|(spec, _)| spec));
        all.extend(selection.token_score(gpu.tier, tokens, divisor).map(|(spec, _)| spec));
    }
    if selector.reads_codes() {
        all.push(selection.token_codes());
    }
    if let Some(summary) = selector.summary() {
        all.push(selection.block_summary(summary));
    }
    all
}
