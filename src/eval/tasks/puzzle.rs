//! A question with its context and answer, without the model's framing.

use super::context::Context;
use super::draws::Draws;
use super::filling::Filling;
use super::{Spec, Task, common_words, frequent_words, needles, variables};

pub(super) struct Puzzle<'a> {
    /// The text before the context.
    pub before: String,
    pub context: Box<dyn Context + 'a>,
    /// The question, after the context.
    pub question: String,
    /// The answer's beginning, which the model continues.
    pub prefix: String,
    /// The texts that the answer should contain.
    pub references: Vec<String>,
}

impl<'a> Puzzle<'a> {
    pub fn new(spec: &Spec, filling: &'a Filling) -> Self {
        let draws = Draws::new(spec.seed);
        match spec.task {
            Task::NiahSingle => needles::single(draws, filling),
            Task::NiahMultikey => needles::multikey(draws, filling),
            Task::NiahMultivalue => needles::multivalue(draws, filling),
            Task::NiahMultiquery => needles::multiquery(draws, filling),
            Task::VariableTracking => variables::puzzle(draws, filling),
            Task::CommonWords => common_words::puzzle(draws, spec.length),
            Task::FrequentWords => frequent_words::puzzle(draws, spec.length),
        }
    }

    /// The user's words.
    pub fn text(&self, amount: u32, depth: f64) -> String {
        format!("{}\n{}\n{}", self.before, self.context.text(amount, depth), self.question)
    }
}
