// A scan whose block score folds the logits of the block's tokens. A unit is what one lane loads at a time: the codes of
// TOKENS_A_UNIT tokens. Every unit of a lane is loaded before the first is used, and once for all heads of the group.
// Grid: (ceil(blocks / BLOCKS_A_WORKGROUP), KV heads, rows).
//!include scans/lib.wgsl
//!include <format>
//!include <query>
//!include <fold>
//!include <finish>

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let kv_head = group.y;
    let row = group.z;
    let first_head = (row * KV_HEADS + kv_head) * GROUP;
    let first_block = group.x * BLOCKS_A_WORKGROUP;
    let place = lane / LANES;
    let within = lane % LANES;
//!repeat BLOCKS_A_LANE b
    let record_{b} = record_of(row, kv_head, first_block + {b} * PLACES + place);
//!repeat UNITS u
    let unit_{b}_{u} = load_unit(record_{b}, within + {u} * LANES);
//!end
//!end
    prepare_query(lane, first_head, record_0);
    for (var h = 0u; h < GROUP; h++) {
        let query = query_of(first_head, h, place);
        let factor = factor_of(first_head, h, place);
//!repeat BLOCKS_A_LANE b
        var fold_{b} = fold_none();
//!repeat UNITS u
        let logits_{b}_{u} = unit_logits(query, unit_{b}_{u});
//!repeat TOKENS_A_UNIT t
        fold_{b} = combine(fold_{b}, fold_of(logits_{b}_{u}[{t}]), factor);
//!end
//!end
        keep(lane, h, {b}u, fold_{b});
//!end
    }
    finish(lane, first_head, first_block);
}
