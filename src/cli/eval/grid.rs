//! Retrieval prompts: tasks x lengths x depths x samples. Tasks without a needle have no depth.

use super::super::interrupt;
use super::super::model::Model;
use super::super::progress::bar;
use super::super::prompt;
use asynctls::eval::store::Store;
use asynctls::eval::tasks::{Haystack, Maker, Sample, Spec, Task};
use asynctls::{Error, Result};
use clap::{Args, ValueEnum};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::PathBuf;

/// Which prompts.
#[derive(Args, Debug)]
#[command(next_help_heading = "Prompts")]
pub struct GridOptions {
    /// Tasks: niah-single, niah-multikey, niah-multivalue, niah-multiquery, variable-tracking, common-words,
    /// frequent-words
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_values = ["niah-single"])]
    tasks: Vec<String>,
    /// Lengths in tokens, the answer included
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_values = ["4096"],
        allow_negative_numbers = true)]
    lengths: Vec<u32>,
    /// How many depths, from the beginning of the haystack to its end; common-words and frequent-words have none
    #[arg(long, value_name = "N", default_value_t = 5, allow_negative_numbers = true,
        value_parser = clap::value_parser!(u32).range(1..=1000))]
    depths: u32,
    /// Prompts for each task, length and depth
    #[arg(long, value_name = "N", default_value_t = 2, allow_negative_numbers = true,
        value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    samples: u32,
    /// What needles are hidden in: essay needs --text [default: essay with --text, else noise]
    #[arg(long, value_enum)]
    haystack: Option<Kind>,
    /// The text of the essay
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    Noise,
    Essay,
}

/// One prompt of the grid.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    pub task: Task,
    pub length: u32,
    /// None where the task has no needle.
    pub depth: Option<f64>,
    pub sample: u32,
}

/// Told what is done and of how much; whether to go on.
pub type Progress<'a> = dyn FnMut(u64, u64) -> bool + Send + 'a;

/// The grid, and what makes its prompts.
pub struct Grid<'a> {
    pub places: Vec<Place>,
    pub lengths: Vec<u32>,
    pub depths: Vec<f64>,
    pub tasks: Vec<Task>,
    maker: Maker<'a>,
    seed: u64,
}

/// The settings that the results depend on.
#[derive(Debug, Serialize)]
pub struct GridSettings {
    tasks: Vec<String>,
    lengths: Vec<u32>,
    depths: u32,
    samples: u32,
    haystack: &'static str,
    text: Option<String>,
    text_bytes: Option<usize>,
}

impl GridOptions {
    /// The grid for a model.
    pub fn grid<'a>(&self, model: &'a Model, seed: u64) -> Result<(Grid<'a>, GridSettings)> {
        let mut tasks: Vec<Task> = Vec::new();
        for name in &self.tasks {
            let task = name.parse()?;
            if tasks.contains(&task) {
                return Err(Error::argument("--tasks", name, "it is named twice"));
            }
            tasks.push(task);
        }
        for &length in &self.lengths {
            model.check_length("--lengths", length)?;
        }
        let text =
            self.text.as_deref().map(|path| prompt::read_text("--text", path)).transpose()?;
        let haystack = match (self.haystack, &text) {
            (Some(Kind::Noise), Some(_)) => {
                let limit = "noise takes no --text";
                return Err(Error::argument("--haystack", "noise", limit));
            }
            (Some(Kind::Essay), None) => {
                return Err(Error::argument("--haystack", "essay", "it needs --text FILE"));
            }
            (_, Some(text)) => Haystack::Essay(text.as_str().into()),
            (_, None) => Haystack::Noise,
        };
        let template = model.file.chat_template()?;
        let maker = Maker::new(&model.tokenizer, template, &haystack)?;
        let depths: Vec<f64> = match self.depths {
            1 => vec![0.5],
            n => (0..n).map(|i| f64::from(i) / f64::from(n - 1)).collect(),
        };
        let mut places = Vec::new();
        for &task in &tasks {
            for &length in &self.lengths {
                for sample in 0..self.samples {
                    places.extend(depths_of(task, &depths).into_iter().map(|depth| Place {
                        task,
                        length,
                        depth,
                        sample,
                    }));
                }
            }
        }
        let settings = GridSettings {
            tasks: self.tasks.clone(),
            lengths: self.lengths.clone(),
            depths: self.depths,
            samples: self.samples,
            haystack: if text.is_some() { "essay" } else { "noise" },
            text: self.text.as_ref().map(|path| path.display().to_string()),
            text_bytes: text.as_ref().map(String::len),
        };
        let grid = Grid { places, lengths: self.lengths.clone(), depths, tasks, maker, seed };
        Ok((grid, settings))
    }
}

/// The depths at which a task's prompts differ: one that has no needle is asked once a sample.
fn depths_of(task: Task, depths: &[f64]) -> Vec<Option<f64>> {
    if task.has_needle() { depths.iter().copied().map(Some).collect() } else { vec![None] }
}

impl Place {
    /// Its name among the finished parts.
    pub fn key(&self) -> String {
        let Self { task, length, depth, sample } = self;
        let depth = depth.map_or_else(String::new, |depth| format!(" depth {depth}"));
        format!("{task} length {length}{depth} sample {sample}")
    }
}

impl Grid<'_> {
    /// The longest prompt with its answer, in tokens.
    pub fn longest(&self) -> u32 {
        self.lengths.iter().copied().max().unwrap_or(0)
    }

    /// The depths of a task's prompts.
    pub fn depths_of(&self, task: Task) -> Vec<Option<f64>> {
        depths_of(task, &self.depths)
    }

    /// Longest answer.
    pub fn answer_tokens(&self) -> u32 {
        self.tasks.iter().map(|task| task.answer_tokens()).max().unwrap_or(0)
    }

    /// The prompt of a place: the same numbers and words at every depth, others for every sample.
    pub fn sample(&self, place: &Place) -> Result<Sample> {
        let Place { task, length, depth, sample } = *place;
        let seed = self.seed.wrapping_mul(1_000_003).wrapping_add(u64::from(sample));
        self.maker.make(&Spec { task, length, depth: depth.unwrap_or(0.0), seed })
    }

    /// Works on every prompt whose result is not in the store; how many prompts are done, which is fewer than all where the
    /// user asked to end. `work` is given a progress that takes what is done and of how much, and tells whether to go on.
    pub fn each<T>(
        &self,
        what: &'static str,
        store: &mut Store,
        mut work: impl FnMut(Sample, &mut Progress<'_>) -> Result<Option<T>>,
    ) -> Result<usize>
    where
        T: Serialize + DeserializeOwned + PartialEq,
    {
        let _keeping = interrupt::Keeping::new();
        // Every prompt of a length takes about the same.
        let total = self.places.iter().map(|place| u64::from(place.length)).sum();
        let bar = bar(what, total, false);
        let mut finished = 0;
        for place in &self.places {
            let key = place.key();
            let from = bar.position();
            if store.get::<T>(&key)?.is_none() {
                let mut progress = |done: u64, of: u64| {
                    let share = done as f64 / of.max(1) as f64;
                    bar.set_position(from + (f64::from(place.length) * share) as u64);
                    !interrupt::asked()
                };
                let Some(made) = work(self.sample(place)?, &mut progress)? else { break };
                store.put(&key, &made)?;
            }
            bar.set_position(from + u64::from(place.length));
            finished += 1;
        }
        drop(bar);
        Ok(finished)
    }
}
