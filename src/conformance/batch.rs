//! Cases of `matvec` and `matmul` with several matrices: one a head, and experts.

use super::product::{
    Eights, Expected, Scales, eights, eights_label, inputs, matrix, weight_shift, whole_units,
};
use super::rig::{Data, POISON, Random, bits, needs_lanes, of_32, run, same_words};
use super::{Case, Verdict};
use crate::Result;
use crate::attention::{Activation, Experts, Gate};
use crate::contract::{StepHeader, Words};
use crate::formats::TensorType;
use crate::formats::{Packed, WeightFormat};
use crate::gpu::{Gpu, Tier};
use crate::kernels::{self, Batch, Input, MatrixParams, Output, Tokens};
use crate::reference::experts::lists;
use std::ops::Range;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Of {
    Heads,
    ExpertsOut,
    ExpertsIn,
}

#[derive(Clone, Copy, Debug)]
struct Batched {
    of: Of,
    /// Whether `matmul` makes it rather than `matvec`.
    many: bool,
    kind: TensorType,
    rows: usize,
    units: usize,
    tokens: usize,
    /// One input of one matrix is NaN and one of another infinite: other outputs must not notice.
    not_finite: bool,
    /// Whether inputs are normed: where lanes are real.
    normed: bool,
    /// Whether experts' outputs are what is there, as gates, with the products.
    gated: bool,
    /// Whether `matvec_quants` in subgroups of 8 makes it, and how.
    eights: Option<Eights>,
}

const SLOTS: usize = 3;
const MATRICES: usize = 6;

/// Matrices of the two parts. The first token uses no expert of the first.
const PARTS: [Range<usize>; 2] = [0..2, 2..MATRICES];

fn experts() -> Experts {
    Experts {
        count: 5,
        used: 2,
        shared: 1,
        ffn: 0,
        gate: Gate::Softmax,
        normalised: true,
        factor: 1.0,
        layers: Vec::new(),
    }
}

pub(super) fn cases(cases: &mut Vec<Case>) {
    let mut add = |b: Batched| {
        let label = format!(
            "{:?} {} {}x{} tokens {}{}{}{}{}",
            b.of,
            b.kind,
            b.rows,
            b.units * 32,
            b.tokens,
            if b.not_finite { " NotFinite" } else { "" },
            if b.normed { " normed" } else { "" },
            if b.gated { " gated" } else { "" },
            b.eights.map_or_else(String::new, eights_label)
        );
        let kernel = match b.eights {
            Some(_) => "matvec_quants",
            None if b.many => "matmul",
            None => "matvec",
        };
        cases.push(Case::new(kernel, label, true, move |gpu| Box::pin(batched(gpu, b))));
    };
    for (of, many) in [
        (Of::Heads, false),
        (Of::ExpertsOut, false),
        (Of::ExpertsIn, false),
        (Of::ExpertsOut, true),
        (Of::ExpertsIn, true),
    ] {
        let base = Batched {
            of,
            many,
            kind: TensorType::Q4_1,
            // More than a workgroup's, and no multiple of a lane's; gate and up rows come in pairs.
            rows: if of == Of::ExpertsOut { 70 } else { 67 },
            units: 9,
            tokens: if many { 67 } else { 3 },
            not_finite: false,
            normed: false,
            gated: false,
            eights: None,
        };
        if of == Of::ExpertsOut {
            add(Batched { gated: true, ..base });
        }
        if of == Of::ExpertsOut && !many {
            add(Batched { normed: true, ..base });
            add(Batched { normed: true, not_finite: true, ..base });
        }
        let kinds = [TensorType::Q4_0, TensorType::Q4K, TensorType::BF16, TensorType::F32];
        // Compiling `matmul` takes long, and where its inputs lie does not depend on the weights' type.
        for kind in kinds.into_iter().take(if many && of == Of::ExpertsIn { 2 } else { 4 }) {
            add(Batched { kind, units: whole_units(kind, base.units), ..base });
        }
        add(Batched { not_finite: true, ..base });
        // In one turn and in several, of which the last is not full, of inputs that fit in workgroup memory and that do not.
        for eights in [(1, 1), (1, 3), (2, 2)].into_iter().filter(|_| !many) {
            let base = Batched { eights: Some(eights), ..base };
            add(base);
            add(Batched { kind: TensorType::Q4_0, units: 35, ..base });
        }
        add(Batched {
            rows: if of == Of::ExpertsOut { 2 } else { 1 },
            units: 1,
            tokens: 1,
            ..base
        });
    }
}

/// The sum of some matrices' products, which is written to one place.
struct Entry {
    y: usize,
    terms: Vec<Term>,
}

struct Term {
    matrix: usize,
    /// Where its input begins.
    x: usize,
    factor: f32,
}

/// Where inputs and outputs lie, with room between them.
struct Layout {
    x_stride: usize,
    x_batch: usize,
    y_stride: usize,
    y_batch: usize,
}

impl Batched {
    fn tier(&self, gpu: &Gpu) -> &'static Tier {
        if self.eights.is_some() { of_32() } else { gpu.tier }
    }

    fn output(&self) -> Output {
        match (self.of, self.many) {
            (Of::ExpertsOut, _) if self.gated => Output::Gated(Activation::Silu),
            (Of::ExpertsOut, _) => Output::Glu(Activation::Silu),
            (Of::ExpertsIn, false) => Output::Add,
            _ => Output::Store,
        }
    }

    /// Floats of an entry's output.
    fn width(&self) -> usize {
        self.rows / self.output().rows() as usize
    }

    fn layout(&self) -> Layout {
        let (x, y) = (self.units * 32 + 32, self.width() + 3);
        let (xs, ys) = match (self.of, self.many) {
            (Of::Heads, _) => (MATRICES, MATRICES),
            (Of::ExpertsOut, false) => (1, SLOTS),
            (Of::ExpertsIn, false) => (SLOTS, 1),
            (_, true) => (1, 1),
        };
        Layout { x_stride: xs * x + 32, x_batch: x, y_stride: ys * y + 8, y_batch: y }
    }

    fn entries(&self, slots: &[(u32, f32)]) -> Vec<Entry> {
        let Layout { x_stride, x_batch, y_stride, y_batch } = self.layout();
        let term = |(expert, factor): (u32, f32), x| Term { matrix: expert as usize, x, factor };
        let slot = |entry: usize| (slots[entry].0, 1.0);
        let by_slot = (0..self.tokens * SLOTS).map(|entry| (entry, entry / SLOTS, entry % SLOTS));
        match (self.of, self.many) {
            (Of::Heads, _) => (0..self.tokens * MATRICES)
                .map(|i| {
                    let (token, head) = (i / MATRICES, i % MATRICES);
                    let x = token * x_stride + head * x_batch;
                    Entry {
                        y: token * y_stride + head * y_batch,
                        terms: vec![term((head as u32, 1.0), x)],
                    }
                })
                .collect(),
            (Of::ExpertsOut, many) => by_slot
                .map(|(entry, token, place)| Entry {
                    y: if many { entry * y_stride } else { token * y_stride + place * y_batch },
                    terms: vec![term(slot(entry), token * x_stride)],
                })
                .collect(),
            (Of::ExpertsIn, true) => by_slot
                .map(|(entry, ..)| Entry {
                    y: entry * y_stride,
                    terms: vec![term(slot(entry), entry * x_stride)],
                })
                .collect(),
            (Of::ExpertsIn, false) => (0..self.tokens)
                .map(|token| Entry {
                    y: token * y_stride,
                    terms: (0..SLOTS)
                        .map(|place| {
                            let x = token * x_stride + place * x_batch;
                            term(slots[token * SLOTS + place], x)
                        })
                        .collect(),
                })
                .collect(),
        }
    }
}

/// Expert and weight of every token's slots: nobody uses expert 3, everybody the shared one.
fn choose(random: &mut Random, tokens: usize) -> Vec<(u32, f32)> {
    let mut slots = Vec::new();
    for token in 0..tokens {
        let mut left = vec![0, 1, 2, 4];
        let routed: [u32; 2] = match token {
            0 => [4, 2],
            _ => [(); 2].map(|()| left.remove(random.below(left.len() as u32) as usize)),
        };
        slots.extend(routed.map(|expert| (expert, random.float())));
        slots.push((5, 1.0));
    }
    slots
}

/// The choice among matrices, as the kernel reads it: lists of entries by expert, or every token's slots.
fn choosers(b: &Batched, slots: &[(u32, f32)]) -> Vec<u32> {
    if !b.many {
        return slots.iter().flat_map(|&(expert, weight)| [expert, weight.to_bits()]).collect();
    }
    let chosen: Vec<u32> = slots.iter().map(|slot| slot.0).collect();
    let lists = lists(&chosen, MATRICES as u32);
    let mut words: Vec<u32> = lists.iter().map(|list| list.len() as u32).collect();
    for mut list in lists {
        list.resize(b.tokens, 0);
        words.extend(list);
    }
    words
}

async fn batched(gpu: &Gpu, b: Batched) -> Result<Verdict> {
    if b.normed {
        needs_lanes(gpu)?;
    }
    let mut random = Random::new(b.rows as u64 * 100 + b.units as u64);
    let slots = choose(&mut random, b.tokens);
    let entries = b.entries(&slots);
    let layout = b.layout();
    let columns = b.units * 32;
    let mut x = random.floats(b.tokens * SLOTS.max(MATRICES) * layout.x_stride);
    if b.not_finite {
        x[entries[1].terms[0].x + columns / 2] = f32::NAN;
        x[entries[entries.len() - 1].terms[0].x] = f32::INFINITY;
    }
    let y_len = entries[entries.len() - 1].y + layout.y_stride;
    let before = match b.output() {
        Output::Add | Output::Gated(_) => random.floats(y_len),
        _ => vec![f32::from_bits(POISON); y_len],
    };
    let choosers = choosers(&b, &slots);
    let (x_bits, mut y) = (bits(&x), bits(&before));
    let mut weights = Vec::new();
    for part in PARTS {
        let (packed, own) =
            matrix(&mut random, b.kind, Scales::Plausible, b.rows * part.len(), b.units)?;
        let shift = weight_shift(&own);
        weights.extend(own);
        let part_of = (part.clone(), &packed, shift);
        y = product_of_part(gpu, &b, part_of, &x_bits, &y, &choosers).await?;
        let verdict = check(gpu, &b, &entries, part.end, (&weights, &x), &before, &y);
        if verdict.is_err() {
            return Ok(verdict.map_err(|e| format!("after part {part:?}: {e}")));
        }
    }
    Ok(Ok(()))
}

async fn product_of_part(
    gpu: &Gpu,
    b: &Batched,
    (part, packed, weight_shift): (Range<usize>, &Packed, i32),
    x: &[u32],
    y: &[u32],
    choosers: &[u32],
) -> Result<Vec<u32>> {
    let layout = b.layout();
    let params = MatrixParams {
        units: b.units as u32,
        rows: b.rows as u32,
        first_row: 0,
        x_stride: layout.x_stride as u32,
        y_stride: layout.y_stride as u32,
        first_batch: part.start as u32,
        batches: part.len() as u32,
        x_batch: layout.x_batch as u32,
        y_batch: layout.y_batch as u32,
        weight_shift,
        ..MatrixParams::default()
    };
    let experts = experts();
    let (batch, places) = match (b.of, b.many) {
        (Of::Heads, _) => (Batch::Heads, part.len()),
        (Of::ExpertsOut, false) => (Batch::ExpertsOut(&experts), SLOTS),
        (Of::ExpertsIn, false) => (Batch::ExpertsIn(&experts), 1),
        (Of::ExpertsOut, true) => (Batch::ExpertsOut(&experts), part.len()),
        (Of::ExpertsIn, true) => (Batch::ExpertsIn(&experts), part.len()),
    };
    let format = WeightFormat::of(b.kind)?;
    let input = if b.normed {
        Input::Normed { width: b.units as u32 * 32, epsilon: EPSILON }
    } else {
        Input::Plain
    };
    let (rows, tokens) = (b.rows as u32, b.tokens as u32);
    let (tier, size) = (b.tier(gpu), (rows, b.units as u32));
    let (spec, grid, params) = if b.many {
        (
            kernels::matmul(tier, format, b.output(), batch),
            kernels::matmul_grid(tier, format, rows, tokens),
            params.of_output(b.output()),
        )
    } else {
        let spec = kernels::matvec(tier, format, size, b.output(), (batch, Tokens::One));
        let params = params.of_matvec(tier, format, input, b.output());
        match b.eights {
            None => (spec, kernels::matvec_grid(tier, format, size, tokens), params),
            Some(by) => {
                let (spec, workgroups, params) = eights(gpu, (spec, params), by)?;
                (spec, (workgroups, tokens), params)
            }
        }
    };
    let norms = !b.many && kernels::matvec_norms(tier);
    let step = StepHeader { rows: tokens, ..StepHeader::default() };
    let norm_bits = bits(&norm_weight(b));
    let x =
        &if b.many { inputs(gpu, format, b.units, layout.x_stride, x).await? } else { x.to_vec() };
    let data = kernels::Product {
        step: Data::In(step.words()),
        matrix: Data::uniform(params),
        weights: Data::In(&packed.weights),
        scales: Data::In(&packed.scales),
        x: Data::In(x),
        y: Data::InOut(y),
        slots: (b.of != Of::Heads && !b.many).then_some(Data::In(choosers)),
        lists: b.many.then_some(Data::In(choosers)),
        norm_weight: norms.then_some(Data::In(&norm_bits)),
    };
    Ok(run(gpu, &spec, data, (grid.0, grid.1, places as u32)).await?.y)
}

/// Weights of the norm of inputs.
fn norm_weight(b: &Batched) -> Vec<f32> {
    Random::new(b.rows as u64).floats(b.units * 32)
}

const EPSILON: f32 = 1e-5;

/// Checks outputs after the parts that hold the first `done` matrices: what other matrices make is as before.
fn check(
    gpu: &Gpu,
    b: &Batched,
    entries: &[Entry],
    done: usize,
    (weights, x): (&[f32], &[f32]),
    before: &[f32],
    y: &[u32],
) -> Verdict {
    let columns = b.units * 32;
    let norm = norm_weight(b);
    let format = WeightFormat::of(b.kind).expect("a supported type");
    let mut is_made = vec![false; y.len()];
    for (i, entry) in entries.iter().enumerate() {
        let terms: Vec<_> = entry
            .terms
            .iter()
            .filter(|term| term.matrix < done)
            .map(|term| {
                let weights = &weights[term.matrix * b.rows * columns..][..b.rows * columns];
                let x = &x[term.x..][..columns];
                let product = if b.normed {
                    Expected::of_normed(b.tier(gpu), format, weights, x, (&norm, EPSILON))
                } else if b.many {
                    Expected::many(gpu, format, weights, x)
                } else {
                    Expected::few(b.tier(gpu), format, weights, x)
                };
                (term.factor, product)
            })
            .collect();
        if terms.is_empty() {
            continue;
        }
        let start = &before[entry.y..][..b.width()];
        let want = match b.output() {
            Output::Store => terms[0].1.clone(),
            Output::Capped(cap) => terms[0].1.capped(cap),
            Output::Add => Expected::weighed_sum(start, &terms),
            Output::Glu(activation) => terms[0].1.glu(activation),
            Output::Gated(activation) => terms[0].1.gated(activation, start),
        };
        want.check(&format!("entry {i}"), &y[entry.y..])?;
        is_made[entry.y..][..b.width()].fill(true);
    }
    let beside = |words: &[u32]| -> Vec<u32> {
        words
            .iter()
            .zip(&is_made)
            .filter(|(_, is_made)| !**is_made)
            .map(|(&word, _)| word)
            .collect()
    };
    same_words("beside the outputs", &beside(y), &beside(&bits(before)))
}
