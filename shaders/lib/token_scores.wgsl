// Of a token the logit of each query head is kept: [row][query head][stride].

fn head_weight(head: u32) -> vec2<f32> {
    return vec2(0.0);
}

fn keep_logit(head: u32, t: u32, at: u32, weight: vec2<f32>, logit: f32) {
    scores[head * score_rows.stride + at] = logit;
}

fn store_rank(row: u32, kv_head: u32, t: u32, at: u32) {}
