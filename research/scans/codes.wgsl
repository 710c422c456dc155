// Codes of BITS bits, WORDS words a token. A word holds 32 / BITS channels in planes of four, one channel a byte: plane p
// is the word shifted right by p * BITS and masked with MASK. Tokens of up to four words lie one after the other; of longer
// ones, the first vec4 of every token comes first, then the second ones. 8-bit codes are signed. Unpacked once for all
// heads of the group.
alias Logit = i32;

struct Unit {
    planes: array<vec4<u32>, UNIT_VECS * PLANES>,
}

fn load_unit(record: u32, unit: u32) -> Unit {
    var loaded: Unit;
//!repeat UNIT_VECS v
    let words_{v} = index[record + {v} * UNITS_A_BLOCK + unit];
//!repeat PLANES p
    loaded.planes[{v} * PLANES + {p}] = (words_{v} >> vec4({p}u * BITS)) & vec4(MASK);
//!end
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
        unit.planes[({t} * WORDS + {w}) / 4 * PLANES + {p}][({t} * WORDS + {w}) % 4],
    );
//!end
//!end
    logits[{t}] = sum_{t};
//!end
    return logits;
}
