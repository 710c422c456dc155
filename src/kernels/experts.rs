//! A mixture of experts in `shaders/model`: routing, and what products of many tokens go through.

use crate::gpu::ShaderSpec;
use crate::model::config::{Experts, Gate};

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
