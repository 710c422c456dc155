//! Decode steps of two sessions that must say the same, side by side.

use super::device::{decode, tier};
use asynctls::attention::{Attention, Budget, TwoLevel};
use asynctls::engine::{Engine, Session};

/// The token of a step.
pub fn token(step: u32) -> u32 {
    (step * 13 + 5) % 90
}

/// How far logits may be apart, as a part of the largest, where the same numbers are summed in another order: the order
/// follows from where a block is, since a state more is merged, of a few ulp of f32. Matrix units take probabilities as f16,
/// relative to the largest of a segment: a prompt that comes in other pieces rounds them otherwise, by 2^-11 of a value,
/// layer after layer.
pub fn tolerance() -> f32 {
    if rounds_products() { 2e-3 } else { 2e-4 }
}

/// Whether products of many tokens, on matrix units, round to f16 what products of a few do not.
pub fn rounds_products() -> bool {
    tier().name == "cooperative"
}

/// The same where products went by another path. Each operand is rounded to f16, by 2^-11 of it at most and 2^-11 over the root of
/// 3 in the mean: a product is off by as much, and one after the other, seven a layer of three and the logits', by the root of 22
/// times that, 0.13%. Of so many logits some are off by four times the mean. 0.30% was seen of tiles whose operands were
/// rounded on a CPU.
pub fn tolerance_across_paths() -> f32 {
    if rounds_products() { 6e-3 } else { tolerance() }
}

/// How many tokens steps keep that are compared where states are merged, or a prompt is cut, otherwise: so many, or all of the chosen
/// blocks where matrix units round. There nearly equal tokens change places, which nothing shows as [`assert_same_steps`] sees it of
/// blocks.
pub fn tokens_kept(tokens: u32) -> u32 {
    if rounds_products() { u32::MAX } else { tokens }
}

pub fn assert_near(what: &str, got: &[Vec<f32>], want: &[Vec<f32>]) {
    assert_within(tolerance(), what, got, want);
}

// Whether logits are no farther apart than the tolerance.
fn are_near(got: &[f32], want: &[f32]) -> bool {
    let most = tolerance() * want.iter().fold(0f32, |most, v| most.max(v.abs()));
    got.iter().zip(want).all(|(a, b)| (a - b).abs() <= most)
}

// Takes the last step back on both sides.
fn take_back(pair: &mut [(&Engine, &mut Session); 2]) {
    for (_, session) in pair {
        session.rewind(session.len() - 1).expect("taken back");
    }
}

/// Logits that are no farther apart than this part of the largest.
pub fn assert_within(most: f32, what: &str, got: &[Vec<f32>], want: &[Vec<f32>]) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (step, (got, want)) in got.iter().zip(want).enumerate() {
        let scale = want.iter().fold(0f32, |most, v| most.max(v.abs()));
        for (a, b) in got.iter().zip(want) {
            assert!((a - b).abs() <= most * scale, "{what}, step {step}: {a} instead of {b}");
        }
    }
}

/// The same steps on both sides have the same logits. Of two blocks of nearly equal rank either may be kept where last bits
/// differ, and of two tokens, where a step leaves some out. From there on the two attend other tokens, which no tolerance covers. Such a
/// step is taken back on both sides. Of blocks it is seen by these, must begin with one for another, and may be one of ten. Of tokens it
/// is seen by its logits, may be one of fifty, and must have the same logits once more where it keeps all tokens of these blocks. On an H200 with matrix units the tiny GLM swaps blocks
/// 2 and 3 in layer 1 of its eighth step.
pub fn assert_same_steps(
    what: &str,
    attention: &Attention,
    steps: u32,
    mut pair: [(&Engine, &mut Session); 2],
) {
    let with_all_tokens = match attention {
        Attention::TwoLevel(two_level) if two_level.budget.tokens < u32::MAX => {
            let budget = Budget { tokens: u32::MAX, ..two_level.budget };
            Some(Attention::TwoLevel(TwoLevel { budget, ..*two_level }))
        }
        _ => None,
    };
    let (mut swaps, mut token_swaps) = (0, 0);
    for step in 0..steps {
        let [got, want] = pair.each_mut().map(|(engine, session)| {
            let logits = decode(engine, session, token(step), attention);
            (logits, pollster::block_on(engine.fetched_blocks()))
        });
        // Where the whole cache is on the GPU, nobody tells.
        let (here, there) = (got.1.unwrap_or_default(), want.1.unwrap_or_default());
        let Some(layer) = (0..here.len().min(there.len())).find(|&l| here[l] != there[l]) else {
            let what = format!("{what}, step {step}");
            let Some(all) = with_all_tokens.as_ref().filter(|_| !are_near(&got.0, &want.0)) else {
                assert_near(&what, &[got.0], &[want.0]);
                continue;
            };
            token_swaps += 1;
            let most = 1 + steps / 50;
            assert!(token_swaps <= most, "{what}: other logits for the {token_swaps}th time");
            take_back(&mut pair);
            let again =
                pair.each_mut().map(|(engine, session)| decode(engine, session, token(step), all));
            assert_near(&format!("{what}, with all tokens"), &again[..1], &again[1..]);
            continue;
        };
        for (here, there) in here[layer].iter().zip(&there[layer]) {
            let others = here.iter().filter(|block| !there.contains(block)).count();
            assert!(others <= 1, "{what}, step {step}, layer {layer}: {here:?} not {there:?}");
        }
        swaps += 1;
        take_back(&mut pair);
    }
    assert!(swaps <= (steps / 10).max(1), "{what}: {swaps} of {steps} steps chose other blocks");
}
