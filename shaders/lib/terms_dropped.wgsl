// What scores are softmaxed by is of no further use.
const KEEPS_TERMS: bool = false;

fn keep_term(head: u32, term: vec2<f32>) {}
