struct Segment {
    // Physical blocks first .. first + blocks live in this segment.
    first: u32,
    blocks: u32,
    // Which segment of how many.
    index: u32,
    count: u32,
    // Only logical blocks from .. to may live in it.
    first_logical: u32,
    end_logical: u32,
}
