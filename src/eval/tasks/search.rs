//! The largest amount that fits.

use crate::Result;

/// Probes that follow the mean tokens of a unit before plain bisection begins; they suffice for
/// units of similar sizes.
const GUIDED: u32 = 8;

/// The largest amount up to `most` that has at most `room` tokens by `count`, which must not fall
/// as the amount grows; an amount of 0 has `least`, and fits.
pub(super) fn largest(
    room: usize,
    most: u32,
    least: usize,
    mut count: impl FnMut(u32) -> Result<usize>,
) -> Result<u32> {
    // A unit is a token at least, so that a larger amount than this fits only if nothing is filled.
    let most = u64::from(most).min(room as u64);
    let (mut fits, mut too_many) = (0, most + 1);
    let mut guess = 64;
    for probe in 0.. {
        if too_many - fits <= 1 {
            break;
        }
        let amount = if probe < GUIDED {
            guess.clamp(fits + 1, too_many - 1)
        } else {
            fits.midpoint(too_many)
        };
        let tokens = count(amount as u32)?;
        *(if tokens <= room { &mut fits } else { &mut too_many }) = amount;
        guess = amount * (room - least) as u64 / tokens.saturating_sub(least).max(1) as u64;
    }
    Ok(fits as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The amount found, and the probes it took.
    fn search(room: usize, most: u32, count: impl Fn(u32) -> usize) -> (u32, u32) {
        let mut probes = 0;
        let found = largest(room, most, count(0), |amount| {
            probes += 1;
            assert!((1..=most).contains(&amount));
            Ok(count(amount))
        });
        (found.unwrap(), probes)
    }

    #[test]
    fn equal_units_take_few_probes() {
        for room in [10, 34, 35, 36, 1_000, 4_096, 130_000] {
            let (found, probes) = search(room, u32::MAX, |amount| 10 + 25 * amount as usize);
            assert_eq!(found as usize, (room - 10) / 25, "room {room}");
            assert!(probes <= 4, "{probes} probes for {room}");
        }
    }

    #[test]
    fn uneven_units_are_searched_to_the_last_one() {
        // One large unit and many small ones lead the guesses astray.
        let count = |amount: u32| 5 + if amount > 0 { 3_000 } else { 0 } + amount as usize;
        let (found, probes) = search(4_000, u32::MAX, count);
        assert_eq!(found, 995);
        assert!(probes <= 24, "{probes} probes");
        let stairs = |amount: u32| 7 + 40 * (amount / 10) as usize;
        assert_eq!(search(1_000, u32::MAX, stairs).0, 249);
    }

    #[test]
    fn the_search_ends_where_filling_ends() {
        assert_eq!(search(1_000, 12, |amount| amount as usize).0, 12);
        assert_eq!(search(1_000, u32::MAX, |_| 3).0, 1_000, "units without tokens");
        assert_eq!(search(3, u32::MAX, |amount| 3 + amount as usize).0, 0);
    }
}
