// As codes.wgsl, but unpacked at every use: fewer registers, more instructions.
alias Logit = i32;

struct Unit {
    words: array<vec4<u32>, UNIT_VECS>,
}

fn load_unit(record: u32, unit: u32) -> Unit {
    var loaded: Unit;
//!repeat UNIT_VECS v
    loaded.words[{v}] = index[record + {v} * UNITS_A_BLOCK + unit];
//!end
    return loaded;
}

fn unit_logits(query: Query, unit: Unit) -> array<i32, TOKENS_A_UNIT> {
    var logits: array<i32, TOKENS_A_UNIT>;
//!repeat TOKENS_A_UNIT t
    var sum_{t} = 0;
//!repeat WORDS w
//!repeat PLANES p
    sum_{t} += dot4I8Packed(
        query.words[({w} * PLANES + {p}) / 4][({w} * PLANES + {p}) % 4],
        (unit.words[({t} * WORDS + {w}) / 4][({t} * WORDS + {w}) % 4] >> ({p} * BITS)) & MASK,
    );
//!end
//!end
    logits[{t}] = sum_{t};
//!end
    return logits;
}
