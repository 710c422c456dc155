// No scoring, only the read: what the layout could reach if arithmetic were free.
alias Logit = i32;

struct Unit {
    words: vec4<u32>,
}

fn load_unit(record: u32, unit: u32) -> Unit {
    return Unit(index[record + unit]);
}

fn unit_logits(query: Query, unit: Unit) -> array<i32, 1> {
    let mixed = unit.words ^ query.words[0];
    return array(i32((mixed.x ^ mixed.y ^ mixed.z ^ mixed.w) & 0xffffu));
}
