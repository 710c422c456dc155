//! Conformance: every kernel against its CPU twin, as data. A case is kernel x shape x variant x input family; one runner
//! checks it on any adapter, in every mode. `asynctls conformance` and the tests run the same trials.

mod append;
mod attend;
mod batch;
mod bundle;
mod cache;
mod evidence;
mod experts;
mod halves;
mod hot;
mod index;
mod known;
mod latent;
mod matrix;
mod model;
#[cfg(test)]
mod mutants;
mod operator;
mod page;
mod product;
mod record;
mod report;
mod rig;
mod rope;
mod row;
mod runner;
mod script;
mod select;
mod standing;
mod stream;
#[cfg(test)]
mod tests;
mod translate;
mod trial;
mod worker;

use crate::Result;
use crate::gpu::Gpu;
pub use bundle::{BUNDLE, Exported, Exporter, Needs, TierNeeds, for_webgpu, tier_needs};
pub use evidence::{Evidence, Shader};
use futures::future::BoxFuture;
pub use known::{KNOWN, Known, judge};
pub use page::page;
pub use record::Worst;
pub use report::{About, AdapterReport, Report, Settings};
pub use row::{Outcome, Row, Summary, VariantSummary};
pub use runner::{Reply, Request, Runner};
pub use standing::{MARKERS, placed, standing};
use std::sync::Arc;
pub use translate::{Given, Language, Translated, translated};
pub use trial::{Choice, MODES, Mode, Trial, trials};
pub use worker::{Run, Worker};

/// The outcome of a case: a difference from the twin beyond the tolerance, in words.
pub type Verdict = std::result::Result<(), String>;

type Check = dyn Fn(&Gpu) -> BoxFuture<'_, Result<Verdict>> + Send + Sync;

/// One check of one kernel.
pub struct Case {
    /// The kernel's file name.
    pub kernel: &'static str,
    /// Shape, variant and input family.
    pub label: String,
    /// Whether lanes share workgroup memory, so that the case is run with its lanes reversed too.
    pub shares_memory: bool,
    run: Arc<Check>,
}

impl Case {
    /// A case of a kernel: `run` compares what a device makes with what is right.
    pub fn new(
        kernel: &'static str,
        label: impl Into<String>,
        shares_memory: bool,
        run: impl Fn(&Gpu) -> BoxFuture<'_, Result<Verdict>> + Send + Sync + 'static,
    ) -> Self {
        Self { kernel, label: label.into(), shares_memory, run: Arc::new(run) }
    }

    /// Kernel and label, of characters that no shell reads otherwise.
    pub fn name(&self) -> String {
        let label: String = self.label.replace(", ", ",").replace(['[', ']'], "");
        format!("{}/{}", self.kernel, label.split_whitespace().collect::<Vec<_>>().join("-"))
    }

    /// Whether a variant of the case's kernel uses cooperative matrices.
    pub fn uses_matrices(&self) -> bool {
        ["matmul", "prefill", "dense_split", "sparse_split"].contains(&self.kernel)
    }

    /// Runs the case.
    ///
    /// # Errors
    /// Refusals of the device; a wrong result is a [`Verdict`].
    pub async fn run(&self, gpu: &Gpu) -> Result<Verdict> {
        (self.run)(gpu).await
    }
}

/// Every case.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    matrix::cases(&mut cases);
    batch::cases(&mut cases);
    halves::cases(&mut cases);
    stream::cases(&mut cases);
    model::cases(&mut cases);
    experts::cases(&mut cases);
    rope::cases(&mut cases);
    latent::cases(&mut cases);
    append::cases(&mut cases);
    attend::cases(&mut cases);
    hot::cases(&mut cases);
    index::cases(&mut cases);
    select::cases(&mut cases);
    operator::cases(&mut cases);
    cases
}
