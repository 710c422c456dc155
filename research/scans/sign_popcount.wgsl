// 128 sign bits of a token's key after a Hadamard transform against those of the query: the sum of the signs' products.
alias Logit = i32;

struct Unit {
    bits: vec4<u32>,
}

fn load_unit(record: u32, unit: u32) -> Unit {
    return Unit(index[record + unit]);
}

fn unit_logits(query: Query, unit: Unit) -> array<i32, 1> {
    let differ = countOneBits(unit.bits ^ query.words[0]);
    return array(128 - 2 * i32(differ.x + differ.y + differ.z + differ.w));
}
