//! A mixture of experts in `shaders/model`: routing, and what products of many tokens go through.

use super::{RowsParams, StrideParams};
use crate::attention::{Experts, Gate};
use crate::gpu::ShaderSpec;

crate::bindings! {
    /// Of [`route`].
    pub struct Route {
        /// \[row\]\[stride\], f32: of each expert, and what follows.
        logits: read,
        /// \[row\]\[slot\]: expert and weight.
        slots: write,
        /// Floats from one row's logits to the next.
        route: uniform StrideParams,
        /// \[expert\], f32: what is added to scores to choose by them.
        bias: optional read,
    }

    /// Of [`expert_lists`].
    pub struct ExpertLists {
        /// The step.
        step: read,
        /// As in [`Route`].
        slots: read,
        /// How many entries each expert has, and then \[expert\]\[row\]: its entries, in [`expert_list_words`] words.
        lists: write,
    }

    /// Of [`expert_sum`].
    pub struct ExpertSum {
        /// Rows of `made` and `x`.
        expert_sum: uniform RowsParams,
        /// As in [`Route`].
        slots: read,
        /// \[row\]\[slot\]\[stride\], f32: what each entry made.
        made: read,
        /// \[row\]\[stride\], f32: the residual stream, which it is added to.
        x: write,
    }
}

/// Grid: (rows).
pub fn route(experts: &Experts) -> ShaderSpec {
    let gate = match experts.gate {
        Gate::Softmax => "lib/gate_softmax.wgsl",
        Gate::Sigmoid => "lib/gate_sigmoid.wgsl",
    };
    ShaderSpec::new("model/route.wgsl")
        .slot("gate", gate)
        .constant("EXPERTS", experts.count)
        .constant("USED", experts.used)
        .constant("SLOTS", experts.slots())
        .constant("NORMALISED", experts.normalised)
        .constant("FACTOR", experts.factor)
}

/// Grid: (experts in all).
pub fn expert_lists(experts: &Experts) -> ShaderSpec {
    ShaderSpec::new("model/expert_lists.wgsl")
        .constant("EXPERTS", experts.total())
        .constant("SLOTS", experts.slots())
}

/// Words of the lists for so many rows.
pub fn expert_list_words(experts: &Experts, rows: u64) -> u64 {
    u64::from(experts.total()) * (rows + 1)
}

/// Grid: (ceil(width / 256), rows).
pub fn expert_sum(experts: &Experts) -> ShaderSpec {
    ShaderSpec::new("model/expert_sum.wgsl").constant("SLOTS", experts.slots())
}
