// Of a token its rank is kept: the share of attention that its logits have among the tokens of all sealed blocks, averaged over
// the group. [row][KV head][stride]

// [row][query head]: the largest score of a block, and what exponentials relative to it are multiplied by
@group(0) @binding(8) var<storage, read> head_terms: array<vec2<f32>>;

// Of the lane's tokens.
var<private> ranks: array<f32, TOKENS>;

fn head_weight(head: u32) -> vec2<f32> {
    return head_terms[head];
}

fn keep_logit(head: u32, t: u32, at: u32, weight: vec2<f32>, logit: f32) {
    ranks[t] += exp(logit - weight.x) * weight.y;
}

fn store_rank(row: u32, kv_head: u32, t: u32, at: u32) {
    scores[(row * KV_HEADS + kv_head) * score_rows.stride + at] = ranks[t];
}
