// Folds a block's lanes by subgroupMax, where a subgroup is one block's lanes.
var<private> mine: Logit;

fn keep(lane: u32, h: u32, b: u32, fold: Fold) {
    let best = subgroupMax(fold);
    if lane % LANES == h * BLOCKS_A_LANE + b {
        mine = best;
    }
}

fn finish(lane: u32, first_head: u32, first_block: u32) {
    let h = lane % LANES / BLOCKS_A_LANE;
    let place = lane / LANES;
    let block = first_block + lane % BLOCKS_A_LANE * PLACES + place;
    if h < GROUP && block < scan.blocks {
        let factor = factor_of(first_head, h, place);
        scores[(first_head + h) * scan.blocks + block] = offset_of(first_head, h, place) + fold_score(mine, factor);
    }
}
