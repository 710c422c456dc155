//! Trials: a case in a mode, by one name.

use super::record::{Record, recorded};
use super::{Case, Verdict, cases};
use crate::gpu::{Adapter, Disable, Gpu, GpuOptions, ShaderSpec, Tier, completed};
use crate::{Result, kernels};
use std::collections::HashSet;
use std::sync::Arc;

/// How the device is opened: a case runs in each mode that could change its result.
#[derive(Debug)]
pub struct Mode {
    /// Its name, with which those of its trials end.
    pub name: &'static str,
    options: GpuOptions,
    applies: fn(&Case, &Adapter, &Tier) -> bool,
}

const BASE: GpuOptions = GpuOptions {
    disable: Disable { subgroups: false, cooperative: false },
    checked: false,
    lanes_reversed: false,
    max_binding: None,
    clock: false,
};

/// Every mode.
pub const MODES: &[Mode] = &[
    // As the engine runs.
    Mode { name: "trusted", options: BASE, applies: |_, _, _| true },
    // With naga's checks of bounds, and bounded loops, which are the same for every backend. GL's compilers take up to half a minute
    // for a kernel that has them.
    Mode {
        name: "checked",
        options: GpuOptions { checked: true, ..BASE },
        applies: |_, adapter, _| adapter.info.backend != wgpu::Backend::Gl,
    },
    // What does not wait where it should is seen where others come first.
    Mode {
        name: "reversed",
        options: GpuOptions { lanes_reversed: true, ..BASE },
        applies: |case, _, _| case.shares_memory,
    },
    // What an adapter without subgroups runs.
    Mode {
        name: "portable",
        options: GpuOptions { disable: Disable { subgroups: true, ..BASE.disable }, ..BASE },
        applies: |_, _, tier| tier.name != "portable",
    },
    Mode {
        name: "no-matrices",
        options: GpuOptions { disable: Disable { cooperative: true, ..BASE.disable }, ..BASE },
        applies: |case, _, tier| kernels::has_matrix_units(tier) && case.uses_matrices(),
    },
];

impl Mode {
    /// How the device is opened, which does without these features besides.
    pub fn options(&self, disable: Disable) -> GpuOptions {
        let own = self.options.disable;
        let both = Disable {
            subgroups: own.subgroups || disable.subgroups,
            cooperative: own.cooperative || disable.cooperative,
        };
        GpuOptions { disable: both, ..self.options }
    }
}

/// A case in a mode.
#[derive(Clone)]
pub struct Trial {
    /// The case.
    pub case: Arc<Case>,
    /// The mode.
    pub mode: &'static Mode,
    /// The tier of kernels that runs then.
    pub tier: &'static Tier,
}

impl Trial {
    /// The name, which no other trial of an adapter has, of characters that no shell reads otherwise.
    pub fn name(&self) -> String {
        format!("{}@{}", self.case.name(), self.mode.name)
    }

    /// Names the variant of the kernel that it is of, among those that run for it: the kernel's file, and those that fill its slots.
    pub(super) fn variant(&self, specs: &[ShaderSpec]) -> Option<String> {
        let stem = |file: &str| {
            let name = file.rsplit('/').next().unwrap_or(file);
            name.trim_end_matches(".wgsl").to_owned()
        };
        let is_its = |spec: &&ShaderSpec| stem(spec.file).starts_with(self.case.kernel);
        let spec = specs.iter().find(is_its).or(specs.first())?;
        let slots = completed(spec, self.tier, false).slots;
        let files = slots.iter().map(|(_, file)| stem(file));
        Some([stem(spec.file)].into_iter().chain(files).collect::<Vec<_>>().join("+"))
    }

    /// Runs the case.
    pub(super) async fn run(&self, gpu: &Gpu) -> (Result<Verdict>, Record) {
        recorded(self.case.run(gpu)).await
    }
}

/// Every trial of an adapter that does without these features, case by case.
pub fn trials(adapter: &Adapter, disable: Disable) -> Vec<Trial> {
    let tier = Tier::of(adapter, disable);
    let of = |case: Case| {
        let case = Arc::new(case);
        let modes =
            MODES.iter().filter(|mode| (mode.applies)(&case, adapter, tier)).collect::<Vec<_>>();
        modes.into_iter().map(move |mode| {
            let tier = Tier::of(adapter, mode.options(disable).disable);
            Trial { case: case.clone(), mode, tier }
        })
    };
    cases().into_iter().flat_map(of).collect()
}

/// Which trials run.
#[derive(Clone, Debug, Default)]
pub struct Choice {
    /// The one of this name.
    pub name: Option<String>,
    /// Those whose name has this part; `*` stands for any characters.
    pub filter: Option<String>,
    /// A sample.
    pub quick: bool,
}

impl Choice {
    /// The trials that it leaves.
    pub fn of(&self, mut trials: Vec<Trial>) -> Vec<Trial> {
        if self.quick {
            let mut sample = Sample::default();
            // Trials of a case are neighbours.
            let mut last = None;
            trials.retain(|trial| {
                let case = Arc::as_ptr(&trial.case);
                let is_taken = match last {
                    Some((former, is_taken)) if former == case => is_taken,
                    _ => sample.takes(&trial.case),
                };
                last = Some((case, is_taken));
                is_taken
            });
        }
        trials.retain(|trial| {
            let name = trial.name();
            self.name.as_ref().is_none_or(|wanted| *wanted == name)
                && self.filter.as_ref().is_none_or(|part| fits(&format!("*{part}*"), &name))
        });
        trials
    }
}

/// A few cases of each kernel, among which every word of a label is at least once, and every choice of those that are no sizes: what
/// chooses variants are types and kinds, which are words such as Q4_1 and Add.
#[derive(Default)]
struct Sample {
    seen: HashSet<(&'static str, String)>,
}

impl Sample {
    fn takes(&mut self, case: &Case) -> bool {
        let is_size = |word: &&str| {
            let is_name = word.starts_with(|c: char| c.is_ascii_uppercase());
            !is_name && word.contains(|c: char| c.is_ascii_digit())
        };
        let words = case.label.split_whitespace();
        let kinds: Vec<&str> = words.clone().filter(|word| !is_size(word)).collect();
        let all = words.map(str::to_owned).chain([kinds.join(" ")]);
        let new = all.filter(|word| self.seen.insert((case.kernel, word.clone())));
        // Each counts, the first that is new and those after it.
        new.count() > 0
    }
}

/// Whether a text is as a pattern has it, in which `*` stands for any characters.
pub(super) fn fits(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = text.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(cases: Vec<Case>) -> Vec<Trial> {
        let of = |case: Case| {
            let case = Arc::new(case);
            let tier = Tier::named("portable").unwrap();
            MODES[..2].iter().map(move |mode| Trial { case: case.clone(), mode, tier })
        };
        cases.into_iter().flat_map(of).collect()
    }

    #[test]
    fn each_trial_has_a_name_of_its_own_that_every_shell_takes() {
        let names: Vec<String> = all(cases()).iter().map(Trial::name).collect();
        let plain = |c: char| c.is_ascii_alphanumeric() || "/@-_.,%".contains(c);
        for name in &names {
            assert!(name.chars().all(plain), "{name}");
        }
        let different: HashSet<&String> = names.iter().collect();
        assert_eq!(different.len(), names.len());
    }

    #[test]
    fn a_sample_has_every_kernel_and_every_word_of_a_label() {
        let choice = |quick| Choice { quick, ..Choice::default() };
        let words = |trials: &[Trial]| -> HashSet<(&str, String)> {
            let of = |trial: &Trial| {
                let kernel = trial.case.kernel;
                let words = trial.case.label.split_whitespace().map(str::to_owned);
                words.map(move |word| (kernel, word)).collect::<Vec<_>>()
            };
            trials.iter().flat_map(of).collect()
        };
        let (every, some) = (choice(false).of(all(cases())), choice(true).of(all(cases())));
        assert_eq!(words(&every), words(&some));
        assert!(some.len() * 2 < every.len(), "{} of {}", some.len(), every.len());
        // In the modes that it runs in.
        assert!(some.chunks(2).all(|two| Arc::ptr_eq(&two[0].case, &two[1].case)));
    }

    #[test]
    fn trials_are_chosen_by_a_name_or_a_part_of_it() {
        let named = |choice: Choice| -> Vec<String> {
            choice.of(all(cases())).iter().map(Trial::name).collect()
        };
        let name = "stream/255-vec4@checked".to_string();
        let one = named(Choice { name: Some(name.clone()), ..Choice::default() });
        assert_eq!(one, [name]);
        let part = named(Choice { filter: Some("stream/*7*@t".into()), ..Choice::default() });
        assert_eq!(part, ["stream/4097-vec4@trusted"]);
        assert!(named(Choice { name: Some("stream".into()), ..Choice::default() }).is_empty());
    }

    #[test]
    fn stars_stand_for_any_characters() {
        for (pattern, text, does) in [
            ("", "", true),
            ("a", "a", true),
            ("a", "ab", false),
            ("*", "", true),
            ("a*", "ab", true),
            ("*b", "ab", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("ab*b", "ab", false),
        ] {
            assert_eq!(fits(pattern, text), does, "{pattern} {text}");
        }
    }

    #[test]
    fn a_mode_does_without_what_the_caller_does_without() {
        let portable = MODES.iter().find(|mode| mode.name == "portable").unwrap();
        let without = Disable { cooperative: true, ..Disable::default() };
        assert_eq!(
            portable.options(without).disable,
            Disable { subgroups: true, cooperative: true }
        );
    }
}
