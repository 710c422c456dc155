// Values are a part of the keys: nobody asks for one.
fn value_number(i: u32) -> f32 {
    return 0.0;
}
