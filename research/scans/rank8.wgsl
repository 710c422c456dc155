// Eight vectors that summarise a block: 128 dimensions in int8 and one f16 scale each. A unit is a vector; the record
// holds the first 16 dimensions of all eight, then the next 16, and ends with the scales.
alias Logit = f32;

struct Unit {
    words: array<vec4<u32>, 8>,
    scale: f32,
}

fn load_unit(record: u32, unit: u32) -> Unit {
    var loaded: Unit;
//!repeat 8 v
    loaded.words[{v}] = index[record + {v} * 8u + unit];
//!end
    let scales = index[record + 64u];
    loaded.scale = unpack2x16float(scales[unit / 2u])[unit % 2u];
    return loaded;
}

fn unit_logits(query: Query, unit: Unit) -> array<f32, 1> {
    var sum = 0;
//!repeat 8 v
//!repeat 4 c
    sum += dot4I8Packed(query.words[{v}][{c}], unit.words[{v}][{c}]);
//!end
//!end
    return array(unit.scale * f32(sum));
}
