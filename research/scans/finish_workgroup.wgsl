// Folds a block's lanes through workgroup memory.
var<workgroup> partial: array<Fold, WORKGROUP * GROUP * BLOCKS_A_LANE>;

fn keep(lane: u32, h: u32, b: u32, fold: Fold) {
    partial[(h * BLOCKS_A_LANE + b) * WORKGROUP + lane] = fold;
}

fn finish(lane: u32, first_head: u32, first_block: u32) {
    workgroupBarrier();
    // One lane a score, neighbouring lanes neighbouring blocks.
    for (var item = lane; item < GROUP * BLOCKS_A_WORKGROUP; item += WORKGROUP) {
        let h = item / BLOCKS_A_WORKGROUP;
        let block = item % BLOCKS_A_WORKGROUP;
        let place = block % PLACES;
        let factor = factor_of(first_head, h, place);
        // Item i has its lanes at i * LANES. They are taken in an order that differs by item, so that lanes meet
        // different banks.
        var fold = partial[item * LANES + item % LANES];
        for (var i = 1u; i < LANES; i++) {
            fold = combine(fold, partial[item * LANES + (item + i) % LANES], factor);
        }
        if first_block + block < scan.blocks {
            scores[(first_head + h) * scan.blocks + first_block + block] =
                offset_of(first_head, h, place) + fold_score(fold, factor);
        }
    }
}
