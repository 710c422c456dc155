// A scan whose block score folds the logits of the block's tokens. A unit is what one lane loads at a time: the codes of
// TOKENS_A_UNIT tokens. Every unit of a lane is loaded before the first is used, and once for all heads of the group.
// Grid: (ceil(blocks / BLOCKS_A_WORKGROUP), KV heads, rows).
@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let kv_head = group.y;
    let row = group.z;
    let first_head = (row * KV_HEADS + kv_head) * GROUP;
    let first_block = group.x * BLOCKS_A_WORKGROUP;
    let place = lane / LANES;
    let within = lane % LANES;
//!repeat b BLOCKS_A_LANE
    let record_$b = record_of(row, kv_head, first_block + $b * PLACES + place);
//!repeat u UNITS
    let unit_$b_$u = load_unit(record_$b, within + $u * LANES);
//!end
//!end
    prepare_query(lane, first_head, record_0);
    for (var h = 0u; h < GROUP; h++) {
        let query = query_of(first_head, h, place);
        let factor = factor_of(first_head, h, place);
//!repeat b BLOCKS_A_LANE
        var fold_$b = fold_none();
//!repeat u UNITS
        let logits_$b_$u = unit_logits(query, unit_$b_$u);
//!repeat t TOKENS_A_UNIT
        fold_$b = combine(fold_$b, fold_of(logits_$b_$u[$t]), factor);
//!end
//!end
        keep(lane, h, $bu, fold_$b);
//!end
    }
    finish(lane, first_head, first_block);
}
