//! Twins of the mixture of experts in `shaders/model`.

use crate::attention::{Experts, Gate};

/// The numbers by which a row's experts are weighed and chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct Scores {
    /// The score that makes an expert's weight.
    pub scores: Vec<f64>,
    /// The score that it is chosen by.
    pub choices: Vec<f64>,
}

impl Scores {
    /// Of a row's logits; `bias` counts with [`Gate::Sigmoid`] alone.
    pub fn new(gate: Gate, logits: &[f32], bias: &[f32]) -> Self {
        // A logit that is not a number is left out, unless nothing else is there.
        let largest = f64::from(logits.iter().copied().fold(f32::NAN, f32::max));
        let score = |&logit: &f32| match gate {
            // An infinite one takes all.
            Gate::Softmax if f64::from(logit) == largest => 1.0,
            Gate::Softmax => (f64::from(logit) - largest).exp(),
            Gate::Sigmoid => 1.0 / (1.0 + (-f64::from(logit)).exp()),
        };
        let scores: Vec<f64> = logits.iter().map(score).collect();
        let choices = match gate {
            Gate::Softmax => scores.clone(),
            Gate::Sigmoid => scores.iter().zip(bias).map(|(s, &b)| s + f64::from(b)).collect(),
        };
        Self { scores, choices }
    }

    /// Experts in descending order of choice, ties to the lowest number, NaN last.
    pub fn order(&self) -> Vec<u32> {
        let rank = |i: u32| {
            let choice = self.choices[i as usize];
            if choice.is_nan() { f64::NEG_INFINITY } else { choice }
        };
        let mut order: Vec<u32> = (0..self.choices.len() as u32).collect();
        order.sort_by(|&a, &b| rank(b).total_cmp(&rank(a)).then(a.cmp(&b)));
        order
    }

    /// Expert and weight of each of a row's slots.
    pub fn route(&self, experts: &Experts) -> Vec<(u32, f64)> {
        let mut chosen = self.order();
        chosen.truncate(experts.used as usize);
        let score = |expert: u32| self.scores[expert as usize];
        let whole = match (experts.normalised, experts.gate) {
            // Keeps scores of zero from being divided by zero.
            (true, _) => 1e-20 + chosen.iter().map(|&e| score(e)).sum::<f64>(),
            (false, Gate::Softmax) => self.scores.iter().sum(),
            (false, Gate::Sigmoid) => 1.0,
        };
        let weight = |expert| (expert, score(expert) / whole * f64::from(experts.factor));
        let shared = (experts.count..experts.total()).map(|expert| (expert, 1.0));
        chosen.into_iter().map(weight).chain(shared).collect()
    }
}

/// The entries (places in `chosen`, the experts of every row's slots) that use each of `total` experts.
pub fn lists(chosen: &[u32], total: u32) -> Vec<Vec<u32>> {
    (0..total)
        .map(|expert| {
            (0..chosen.len() as u32).filter(|&entry| chosen[entry as usize] == expert).collect()
        })
        .collect()
}
