//! What became of a trial.

use super::Trial;
use super::record::Worst;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What became of a trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The kernel computes what its twin does.
    Passed,
    /// It does not, or did not run.
    Failed,
    /// The adapter lacks what the case needs.
    Unsupported,
    /// It failed, and is known to.
    KnownFailure,
    /// It failed at first, but not every time that it was run again.
    Flaky,
}

/// A trial and what became of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The trial's name.
    pub name: String,
    /// The kernel.
    pub kernel: String,
    /// Which variant of it ran: its file, and those that fill its slots. None where none or several kernels ran.
    pub variant: Option<String>,
    /// The tier that the variant is of.
    pub tier: String,
    /// The mode.
    pub mode: String,
    /// What became of it.
    pub outcome: Outcome,
    /// What is wrong, what the adapter lacks, or why it is known to fail.
    pub detail: Option<String>,
    /// The element that is farthest off, where numbers were compared.
    pub worst: Option<Worst>,
    /// How often it ran.
    pub runs: u32,
    /// How often of these it failed.
    pub failures: u32,
    /// How long the first run took.
    pub seconds: f64,
}

impl Row {
    /// Of a trial that ran once.
    pub(super) fn new(trial: &Trial, outcome: Outcome, detail: Option<String>) -> Self {
        Self {
            name: trial.name(),
            kernel: trial.case.kernel.to_owned(),
            variant: None,
            tier: trial.tier.name.to_owned(),
            mode: trial.mode.name.to_owned(),
            outcome,
            detail,
            worst: None,
            runs: 1,
            failures: u32::from(outcome == Outcome::Failed),
            seconds: 0.0,
        }
    }

    /// Of a trial that failed without a result.
    pub(super) fn failed(trial: &Trial, why: String) -> Self {
        Self::new(trial, Outcome::Failed, Some(why))
    }

    /// A made-up row, for tests.
    #[cfg(test)]
    pub(super) fn of(name: &str, outcome: Outcome) -> Self {
        let (kernel, mode) = (name.split('/').next(), name.split('@').nth(1));
        Self {
            name: name.to_owned(),
            kernel: kernel.unwrap_or_default().to_owned(),
            variant: Some("stream".into()),
            tier: "portable".into(),
            mode: mode.unwrap_or_default().to_owned(),
            outcome,
            detail: None,
            worst: None,
            runs: 1,
            failures: 0,
            seconds: 0.5,
        }
    }
}

/// How many trials became what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Of them, those that passed.
    pub passed: usize,
    /// Those that failed.
    pub failed: usize,
    /// Those that the adapter cannot run.
    pub unsupported: usize,
    /// Those that failed, as is known.
    pub known_failures: usize,
    /// Those that failed sometimes.
    pub flaky: usize,
}

impl Summary {
    /// Of these rows.
    pub fn of<'r>(rows: impl IntoIterator<Item = &'r Row>) -> Self {
        let mut summary = Self::default();
        for row in rows {
            let count = match row.outcome {
                Outcome::Passed => &mut summary.passed,
                Outcome::Failed => &mut summary.failed,
                Outcome::Unsupported => &mut summary.unsupported,
                Outcome::KnownFailure => &mut summary.known_failures,
                Outcome::Flaky => &mut summary.flaky,
            };
            *count += 1;
        }
        summary
    }

    /// Whether the adapter computes right, as far as it can and is known to: what fails now and then does not.
    pub fn is_fine(&self) -> bool {
        self.failed == 0 && self.flaky == 0
    }
}

/// The rows of a variant of a kernel, counted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VariantSummary {
    /// The kernel.
    pub kernel: String,
    /// The variant; none for cases of several kernels and for those that did not run.
    pub variant: Option<String>,
    /// The tier.
    pub tier: String,
    /// Its rows.
    pub summary: Summary,
}

/// A summary of each kernel, variant and tier.
pub(super) fn by_variant(rows: &[Row]) -> Vec<VariantSummary> {
    let mut groups = BTreeMap::<_, Vec<&Row>>::new();
    for row in rows {
        groups.entry((&row.kernel, &row.variant, &row.tier)).or_default().push(row);
    }
    let of = |((kernel, variant, tier), rows): ((&String, &Option<String>, &String), Vec<&Row>)| {
        let (kernel, variant, tier) = (kernel.clone(), variant.clone(), tier.clone());
        VariantSummary { kernel, variant, tier, summary: Summary::of(rows) }
    };
    groups.into_iter().map(of).collect()
}
