// What choices are made by.
struct Scores {
    // Scores from one query head to the next, and keys from one KV head to the next.
    stride: u32,
}

@group(0) @binding(1) var<uniform> score_rows: Scores;
// [row][query head][stride]
@group(0) @binding(2) var<storage, read> scores: array<f32>;
