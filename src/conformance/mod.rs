//! Conformance: every kernel against its CPU twin, as data. A case is kernel x shape x variant x input family; one runner
//! checks it on any adapter. The tests run the same cases.

mod append;
mod attend;
mod batch;
mod cache;
mod experts;
mod halves;
mod hot;
mod index;
mod latent;
mod matrix;
mod model;
mod operator;
mod product;
mod rig;
mod rope;
mod select;
mod stream;

use crate::Result;
use crate::gpu::Gpu;
use futures::future::BoxFuture;
use std::sync::Arc;

/// The outcome of a case: a difference from the twin beyond the tolerance, in words.
pub type Verdict = std::result::Result<(), String>;

type Run = dyn Fn(&Gpu) -> BoxFuture<'_, Result<Verdict>> + Send + Sync;

/// One check of one kernel.
pub struct Case {
    /// The kernel's file name.
    pub kernel: &'static str,
    /// Shape, variant and input family.
    pub label: String,
    /// Whether lanes share workgroup memory, so that the case is run with its lanes reversed too.
    pub shares_memory: bool,
    run: Arc<Run>,
}

impl Case {
    fn new(
        kernel: &'static str,
        label: impl Into<String>,
        shares_memory: bool,
        run: impl Fn(&Gpu) -> BoxFuture<'_, Result<Verdict>> + Send + Sync + 'static,
    ) -> Self {
        Self { kernel, label: label.into(), shares_memory, run: Arc::new(run) }
    }

    /// Kernel and label.
    pub fn name(&self) -> String {
        format!("{} {}", self.kernel, self.label)
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
