//! Into how many splits decode attention divides the tokens of a step's rows.
//!
//! A dispatch has workgroups for each split of each row, and the device runs so many of them at a time: what is left over after whole
//! waves of them leaves a part of it idle. Where the cache is several segments each has a dispatch of its own, in
//! which the splits have something to do that have tokens there.

/// How many times the workgroups that run at a time there may be of splits, at most: room for partial states is made for as many.
pub(crate) const MOST_WAVES: u32 = 4;

/// What a split takes besides its tiles, as tiles; and of a wave's time what a part of one takes that has next to no workgroups. Both
/// from `bench attention` on an H200 (`benches/NOTES.md`).
const A_SPLIT: f64 = 1.3;
const A_WAVE: f64 = 0.37;

/// The tiles of a split, where rows have `tiles` at most, dispatches have `loads` workgroups with something to do for each split, of
/// `all` workgroups for each, and the device runs `at_a_time`.
pub(super) fn split_tiles(tiles: u32, loads: &[f64], all: u32, at_a_time: u32) -> u32 {
    let most = (u64::from(MOST_WAVES) * u64::from(at_a_time) / u64::from(all.max(1))).max(1);
    // A dispatch has no more workgroups of one dimension.
    let most = most.min(u64::from(tiles)).clamp(1, 65_535) as u32;
    let time = |split_tiles: u32| {
        let splits = f64::from(tiles.div_ceil(split_tiles));
        let waves: f64 = loads.iter().map(|load| waves(load * splits, at_a_time)).sum();
        waves * (f64::from(split_tiles) + A_SPLIT)
    };
    let timed = |splits: u32| {
        let split_tiles = tiles.div_ceil(splits).max(1);
        (time(split_tiles), split_tiles)
    };
    // The fewest of what takes the same time, since each leaves a state to be merged.
    (1..=most).map(timed).min_by(|a, b| a.0.total_cmp(&b.0)).map_or(1, |(_, tiles)| tiles)
}

// How long so many workgroups of the same work take, in the time of a wave that is full.
fn waves(workgroups: f64, at_a_time: u32) -> f64 {
    // Sums of shares are whole numbers but for their rounding.
    let waves = workgroups / f64::from(at_a_time.max(1));
    let (whole, part) = ((waves + 1e-9).floor(), (waves + 1e-9).fract());
    whole + if part > 2e-9 { A_WAVE + (1.0 - A_WAVE) * part } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Of rows that have all of their tokens in one segment.
    fn splits(tiles: u32, rows: u32) -> u32 {
        let load = rows * 8;
        tiles.div_ceil(split_tiles(tiles, &[f64::from(load)], load, 512))
    }

    #[test]
    fn whole_waves_are_preferred() {
        // One wave, as far as rows divide it.
        assert_eq!([1, 2, 4, 8, 16, 64].map(|rows| splits(1536, rows)), [64, 32, 16, 8, 4, 1]);
        // Others fill several better than one. Of many rows no more splits fit.
        for (rows, least) in [(5, 0.9), (17, 0.9), (24, 0.95), (33, 0.9), (48, 0.95), (65, 0.75)] {
            let workgroups = f64::from(rows * 8 * splits(1536, rows));
            let used = workgroups / ((workgroups / 512.0).ceil() * 512.0);
            assert!(used >= least, "{rows} rows: {used}");
        }
    }

    #[test]
    fn few_tiles_are_not_divided_further_than_they_pay() {
        assert_eq!([1, 8, 64].map(|rows| splits(22, rows)), [22, 8, 1]);
        assert_eq!([0, 1].map(|tiles| split_tiles(tiles, &[8.0], 8, 512)), [1, 1]);
        // As many as there is room for.
        for rows in 1..300 {
            assert!(splits(100_000, rows) * rows * 8 <= (MOST_WAVES * 512).max(rows * 8), "{rows}");
        }
    }

    // Eight sequences of 98,304 tokens in two segments of 2.15 GB, on an H200: 1,177 us with 16 splits, 934 with 24, 1,028 with 32.
    #[test]
    fn segments_are_filled_each() {
        let loads = [64.0 * 2.0 / 3.0, 64.0 / 3.0];
        let splits = 1537u32.div_ceil(split_tiles(1537, &loads, 64, 512));
        assert_eq!(splits, 24);
    }
}
