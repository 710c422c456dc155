// The lane a kernel works as. Tests run every kernel that shares workgroup memory a second time with its lanes
// reversed, so that a missing barrier shows on rasterisers that run lanes in order.
fn lane_of(index: u32, workgroup: u32) -> u32 {
    return select(index, workgroup - 1u - index, LANES_REVERSED);
}
