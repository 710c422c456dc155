//! Cases of `route`, `expert_lists` and `expert_sum`.

use super::rig::{Data, POISON, Random, bits, compare, run, same_words};
use super::{Case, Verdict};
use crate::Result;
use crate::attention::{Experts, Gate};
use crate::contract::{StepHeader, Words};
use crate::gpu::Gpu;
use crate::kernels::{self, RowsParams, StrideParams};
use crate::reference::experts::{Scores, lists};

pub(super) fn cases(cases: &mut Vec<Case>) {
    let experts = |gate, count, used, shared| Experts {
        count,
        used,
        shared,
        ffn: 0,
        gate,
        normalised: true,
        factor: 1.0,
        layers: Vec::new(),
    };
    let weighed = |normalised, factor, experts| Experts { normalised, factor, ..experts };
    for experts in [
        experts(Gate::Softmax, 128, 8, 0),
        weighed(false, 2.5, experts(Gate::Softmax, 257, 9, 1)),
        weighed(false, 1.0, experts(Gate::Softmax, 7, 7, 0)),
        experts(Gate::Softmax, 1, 1, 1),
        weighed(true, 1.8, experts(Gate::Sigmoid, 64, 4, 1)),
        weighed(false, 1.0, experts(Gate::Sigmoid, 257, 64, 1)),
        experts(Gate::Sigmoid, 5, 5, 0),
        weighed(false, 1.0, experts(Gate::Sigmoid, 1, 1, 0)),
    ] {
        let Experts { count, used, shared, gate, normalised, factor, .. } = experts;
        let label = format!(
            "{gate:?} {used} of {count} and {shared}{} times {factor}",
            if normalised { " normalised" } else { "" }
        );
        cases.push(Case::new("route", label, true, move |gpu| {
            let experts = experts.clone();
            Box::pin(async move { route(gpu, &experts).await })
        }));
    }
    for (count, used, shared) in [(5, 2, 1), (128, 8, 0)] {
        for rows in [1, 3, 67, 300] {
            let experts = experts(Gate::Softmax, count, used, shared);
            let label = format!("{used} of {count} and {shared} rows {rows}");
            cases.push(Case::new("expert_lists", label, true, move |gpu| {
                let experts = experts.clone();
                Box::pin(async move { expert_lists(gpu, &experts, rows).await })
            }));
        }
    }
    for width in [1, 300, 512] {
        let experts = experts(Gate::Softmax, 5, 2, 1);
        cases.push(Case::new("expert_sum", format!("width {width}"), false, move |gpu| {
            let experts = experts.clone();
            Box::pin(async move { expert_sum(gpu, &experts, width).await })
        }));
    }
}

/// Kinds of a row's logits. Eighths are exact in f32, so that equal ones tie and others are well apart.
const FAMILIES: [&str; 11] = [
    "random",
    "random",
    "equal",
    "large",
    "very negative",
    "last",
    "nan",
    "all nan",
    "minus infinite",
    "all minus infinite",
    "infinite",
];

fn logits(random: &mut Random, family: &str, count: usize) -> Vec<f32> {
    let mut logits: Vec<f32> = (0..count).map(|_| random.below(65) as f32 / 8.0 - 4.0).collect();
    // The first, the last and one in between, if there are as many.
    let some = [0, count / 2, count - 1];
    match family {
        "equal" => logits.fill(0.5),
        "large" => logits.iter_mut().for_each(|v| *v += 1000.0),
        "very negative" => logits.iter_mut().for_each(|v| *v -= 1000.0),
        // Exponentials of differences from any other one would overflow.
        "last" => logits[count - 1] += 1000.0,
        "nan" => some.into_iter().for_each(|i| logits[i] = f32::NAN),
        "all nan" => logits.fill(f32::NAN),
        "minus infinite" => some.into_iter().for_each(|i| logits[i] = f32::NEG_INFINITY),
        "all minus infinite" => logits.fill(f32::NEG_INFINITY),
        "infinite" => logits[count / 2] = f32::INFINITY,
        _ => {}
    }
    logits
}

async fn route(gpu: &Gpu, experts: &Experts) -> Result<Verdict> {
    let mut random = Random::new(u64::from(experts.count * 100 + experts.used));
    let (count, slots) = (experts.count as usize, experts.slots() as usize);
    let stride = count + 5;
    let bias: Vec<f32> = (0..count).map(|_| random.below(5) as f32 / 4.0 - 0.5).collect();
    let mut all = Vec::new();
    for family in FAMILIES {
        all.extend(logits(&mut random, family, count));
        // Numbers beyond the last expert, which would win.
        all.resize(all.len().next_multiple_of(stride), 2000.0);
    }
    let (logit_bits, bias_bits) = (bits(&all), bits(&bias));
    let data = kernels::Route {
        logits: Data::In(&logit_bits),
        slots: Data::Out(FAMILIES.len() * slots * 2),
        route: Data::uniform(StrideParams { stride: stride as u32 }),
        bias: (experts.gate == Gate::Sigmoid).then_some(Data::In(&bias_bits)),
    };
    let grid = (FAMILIES.len() as u32, 1, 1);
    let got = run(gpu, &kernels::route(experts), data, grid).await?.slots;
    for (row, family) in FAMILIES.into_iter().enumerate() {
        let scores = Scores::new(experts.gate, &all[row * stride..][..count], &bias);
        let verdict = separated(&scores)
            .and_then(|()| check_route(experts, &scores, &got[row * slots * 2..][..slots * 2]));
        if verdict.is_err() {
            return Ok(verdict.map_err(|e| format!("{family}: {e}")));
        }
    }
    Ok(Ok(()))
}

fn check_route(experts: &Experts, scores: &Scores, got: &[u32]) -> Verdict {
    let want = scores.route(experts);
    let chosen: Vec<u32> = got.iter().copied().step_by(2).collect();
    let right: Vec<u32> = want.iter().map(|slot| slot.0).collect();
    same_words("experts", &chosen, &right)?;
    let weights: Vec<u32> = got.iter().copied().skip(1).step_by(2).collect();
    let want: Vec<f64> = want.iter().map(|slot| slot.1).collect();
    const WHY: &str = "exp of x is within 3 + 2 |x| ulp, where |x| is at most 8 but in extremes, whose scores are 0 or 1; once \
        more in the sum, which rounds once an expert; two quotients and a product.";
    let relative = (2.0 * (3.0 + 2.0 * 8.0) + f64::from(experts.count) + 8.0) * 2f64.powi(-23);
    compare("weight", &weights, &want, WHY, |i| want[i].abs() * relative + 1e-30)
}

/// Whether choices are equal or further apart than rounding can bring them: then there is one right order.
fn separated(scores: &Scores) -> Verdict {
    let order = scores.order();
    // Scores are within 2e-6 of themselves (as above); a sum with a bias rounds.
    let doubt = |i: usize| 4e-6 * scores.scores[i].abs() + 2f64.powi(-23) * scores.choices[i].abs();
    for pair in order.windows(2) {
        let (a, b) = (pair[0] as usize, pair[1] as usize);
        let difference = scores.choices[a] - scores.choices[b];
        if difference > 0.0 && difference <= doubt(a) + doubt(b) {
            return Err(format!("the case is at fault: experts {a} and {b} nearly tie"));
        }
    }
    Ok(())
}

/// Random experts of every row's slots: different ones, never the second, and the shared one last.
fn choose(random: &mut Random, experts: &Experts, rows: usize) -> Vec<u32> {
    let mut chosen = Vec::new();
    for _ in 0..rows {
        let mut left: Vec<u32> = (0..experts.count).filter(|&expert| expert != 1).collect();
        for _ in 0..experts.used {
            chosen.push(left.remove(random.below(left.len() as u32) as usize));
        }
        chosen.extend(experts.count..experts.total());
    }
    chosen
}

fn slot_words(random: &mut Random, chosen: &[u32]) -> Vec<u32> {
    chosen.iter().flat_map(|&expert| [expert, random.float().to_bits()]).collect()
}

async fn expert_lists(gpu: &Gpu, experts: &Experts, rows: usize) -> Result<Verdict> {
    let mut random = Random::new(rows as u64);
    let chosen = choose(&mut random, experts, rows);
    let slots = slot_words(&mut random, &chosen);
    let words = kernels::expert_list_words(experts, rows as u64) as usize;
    let step = StepHeader { rows: rows as u32, ..StepHeader::default() };
    let data = kernels::ExpertLists {
        step: Data::In(step.words()),
        slots: Data::In(&slots),
        lists: Data::Out(words),
    };
    let grid = (experts.total(), 1, 1);
    let got = run(gpu, &kernels::expert_lists(experts), data, grid).await?.lists;
    let lists = lists(&chosen, experts.total());
    let mut want: Vec<u32> = lists.iter().map(|list| list.len() as u32).collect();
    for mut list in lists {
        list.resize(rows, POISON);
        want.extend(list);
    }
    Ok(same_words("lists", &got, &want))
}

async fn expert_sum(gpu: &Gpu, experts: &Experts, width: usize) -> Result<Verdict> {
    let mut random = Random::new(width as u64);
    let (rows, slots, stride) = (3, experts.slots() as usize, width + 7);
    let weights = random.floats(rows * slots);
    let mut made = random.floats(rows * slots * stride);
    // Other rows must not notice.
    made[2 * slots * stride] = f32::NAN;
    let before = random.floats(rows * stride);
    let words: Vec<u32> = weights.iter().flat_map(|weight| [0, weight.to_bits()]).collect();
    let (made_bits, before_bits) = (bits(&made), bits(&before));
    let data = kernels::ExpertSum {
        expert_sum: Data::uniform(RowsParams { width: width as u32, stride: stride as u32 }),
        slots: Data::In(&words),
        made: Data::In(&made_bits),
        x: Data::InOut(&before_bits),
    };
    let grid = ((width as u32).div_ceil(256), rows as u32, 1);
    let got = run(gpu, &kernels::expert_sum(experts), data, grid).await?.x;
    for row in 0..rows {
        let terms = |i: usize| {
            let (weights, made) = (&weights, &made);
            (row * slots..(row + 1) * slots)
                .map(move |entry| f64::from(weights[entry]) * f64::from(made[entry * stride + i]))
        };
        let start = |i: usize| f64::from(before[row * stride + i]);
        let want: Vec<f64> = (0..width).map(|i| start(i) + terms(i).sum::<f64>()).collect();
        const WHY: &str = "Every product and every sum rounds.";
        let verdict = compare(&format!("row {row}"), &got[row * stride..], &want, WHY, |i| {
            let size = start(i).abs() + terms(i).map(f64::abs).sum::<f64>();
            size * (slots as f64 + 2.0) * 2f64.powi(-24)
        });
        if verdict.is_err() {
            return Ok(verdict);
        }
        let beside = row * stride + width..(row + 1) * stride;
        let verdict = same_words(
            &format!("row {row}: the padding"),
            &got[beside.clone()],
            &before_bits[beside],
        );
        if verdict.is_err() {
            return Ok(verdict);
        }
    }
    Ok(Ok(()))
}
