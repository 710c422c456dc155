//! Mutants: shaders with one fault each, which some case must see. A sample runs with the tests; every barrier and every operation are
//! tried on demand.

mod barriers;
mod operations;
mod sample;

use super::record::{Record, mutated, recorded};
use super::tests::adapter;
use super::{Trial, trials};
use crate::gpu::{Adapter, Disable, Gpu, GpuOptions, adapters, assemble, completed};
use crate::{Error, Result};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

fn text(file: &str) -> String {
    let shaders = Path::new(env!("CARGO_MANIFEST_DIR")).join("shaders");
    std::fs::read_to_string(shaders.join(file)).unwrap()
}

// The devices of an adapter, by mode.
struct Bench {
    adapter: Adapter,
    /// Whether bounds are checked in every mode, as mutants need it that would read or write anywhere.
    checks: bool,
    devices: HashMap<&'static str, Gpu>,
}

/// A file's text that stands in for the shader.
type Sources = &'static [(&'static str, &'static str)];

fn sources(file: &str, mutant: String) -> Sources {
    let file: &'static str = file.to_owned().leak();
    vec![(file, &*mutant.leak())].leak()
}

impl Bench {
    fn new(adapter: &Adapter) -> Self {
        Self { adapter: adapter.clone(), checks: false, devices: HashMap::new() }
    }

    fn gpu(&mut self, trial: &Trial) -> &Gpu {
        self.devices.entry(trial.mode.name).or_insert_with(|| {
            let options = trial.mode.options(Disable::default());
            let options = GpuOptions { checked: options.checked || self.checks, ..options };
            pollster::block_on(Gpu::open(&self.adapter, options)).unwrap()
        })
    }

    /// Whether an adapter has what a trial needs.
    fn runs(&mut self, trial: &Trial) -> bool {
        pollster::block_on(trial.case.run(self.gpu(trial))).is_ok()
    }

    /// Whether a trial sees a mutant; an error where it cannot run.
    fn sees(&mut self, trial: &Trial, mutant: Sources) -> Result<bool> {
        let gpu = self.gpu(trial);
        let (result, _) = pollster::block_on(mutated(mutant, trial.case.run(gpu)));
        match result {
            Ok(verdict) => Ok(verdict.is_err()),
            Err(Error::Unsupported { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The trial that sees a mutant of a file, if one does.
    fn killer<'t>(
        &mut self,
        file: &str,
        mutant: String,
        trials: &[&'t Trial],
    ) -> Option<&'t Trial> {
        let mutant = sources(file, mutant);
        let mut sees =
            |trial: &Trial| self.sees(trial, mutant).unwrap_or_else(|e| panic!("{file}: {e}"));
        trials.iter().copied().find(|trial| sees(trial))
    }

    /// The trials by the files of the kernels that they run, included files too.
    fn by_file<'t>(
        &mut self,
        trials: impl Iterator<Item = &'t Trial>,
    ) -> BTreeMap<String, Vec<&'t Trial>> {
        let mut by_file = BTreeMap::<String, Vec<&Trial>>::new();
        for trial in trials {
            let gpu = self.gpu(trial);
            let (result, record) = pollster::block_on(recorded(trial.case.run(gpu)));
            // What fails in any case would see every mutant.
            match result {
                Ok(verdict) => verdict.unwrap_or_else(|e| panic!("{}: {e}", trial.name())),
                Err(Error::Unsupported { .. }) => continue,
                Err(error) => panic!("{}: {error}", trial.name()),
            }
            for file in files(trial, &record) {
                by_file.entry(file).or_default().push(trial);
            }
        }
        by_file
    }
}

/// The adapters that are here, the best first.
fn all_adapters() -> Vec<Adapter> {
    let best = adapter("mutants").expect("an adapter");
    let mut here = pollster::block_on(adapters());
    here.retain(|adapter| adapter.label() != best.label());
    here.insert(0, best);
    here
}

/// The same, Mesa's rasteriser before them: the fastest here, which leaves few mutants to the others.
fn fastest_first() -> Vec<Adapter> {
    let mut here = all_adapters();
    here.sort_by_key(|adapter| !adapter.label().contains("llvmpipe"));
    here
}

/// The trials of an adapter that mutants are shown to.
fn asked(adapter: &Adapter) -> Vec<Trial> {
    let mut all = trials(adapter, Disable::default());
    // Checks hide nothing here, and only cost time.
    all.retain(|trial| trial.mode.name != "checked");
    all
}

/// The files of each kernel that a trial ran, included ones too.
fn files(trial: &Trial, record: &Record) -> BTreeSet<String> {
    let reversed = trial.mode.options(Disable::default()).lanes_reversed;
    let mut files = BTreeSet::new();
    for spec in &record.specs {
        let assembled = assemble(&completed(spec, trial.tier, reversed)).unwrap();
        let lines = 1..=assembled.text.lines().count() as u32;
        let origins = lines.filter_map(|line| assembled.origin(line));
        // Constants have lines too, of no file.
        files.extend(origins.map(|(file, _)| file.to_owned()).filter(|f| f.ends_with(".wgsl")));
    }
    files
}
