// What makes ranks before top_k has of a row; <items> says what they are of.
struct Scores {
    // Scores from one query head to the next, and keys from one KV head to the next.
    stride: u32,
}

@group(0) @binding(1) var<uniform> score_rows: Scores;
// [row][query head][stride]
@group(0) @binding(2) var<storage, read> scores: array<f32>;

// Where everything is kept, or nothing, nothing was scored.
fn is_ranked(row: u32) -> bool {
    let range = eligible_items(row);
    let k = items_chosen(row);
    return k > 0u && k < range.y - range.x;
}
