//! Running trials on one adapter: devices by mode, opened when they are first needed.

use super::evidence::Evidence;
use super::record::Record;
use super::row::{Outcome, Row};
use super::{Trial, Verdict};
use crate::gpu::{Adapter, Disable, Gpu};
use crate::{Error, Result};
use futures::lock::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

/// An adapter on which trials run.
pub struct Runner {
    adapter: Adapter,
    disable: Disable,
    devices: Mutex<HashMap<&'static str, Arc<Gpu>>>,
}

/// A trial to run, as one process asks another.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Request {
    /// The trial's name.
    pub trial: String,
    /// Whether what a wrong result came from is wanted too, on a device of its own.
    pub explain: bool,
}

/// The answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Reply {
    /// What became of the trial.
    pub row: Row,
    /// What it came from, where that was asked for and the result is wrong.
    pub evidence: Option<Evidence>,
    /// Whether a device is lost or out of memory, so that nothing else can run beside it.
    pub is_last: bool,
}

impl Runner {
    /// On this adapter, without these features.
    pub fn new(adapter: Adapter, disable: Disable) -> Self {
        Self { adapter, disable, devices: Mutex::default() }
    }

    /// Runs a trial.
    pub async fn run(&self, trial: &Trial, explain: bool) -> Reply {
        let began = Instant::now();
        let device =
            if explain { self.open(trial).await.map(Arc::new) } else { self.device(trial).await };
        let gpu = match device {
            Ok(gpu) => gpu,
            Err(error) => {
                let row = Self::row(trial, &Err(error), &Record::default(), began);
                return Reply { row, evidence: None, is_last: false };
            }
        };
        let (result, record) = trial.run(&gpu).await;
        let row = Self::row(trial, &result, &record, began);
        let is_wrong = row.outcome == Outcome::Failed;
        let evidence = match explain && is_wrong {
            true => Some(Evidence::new(&gpu, trial).await),
            false => None,
        };
        Reply { row, evidence, is_last: gpu.check().is_err() }
    }

    async fn open(&self, trial: &Trial) -> Result<Gpu> {
        Gpu::open(&self.adapter, trial.mode.options(self.disable)).await
    }

    // The device that all trials of the mode share, so that each kernel is compiled once.
    async fn device(&self, trial: &Trial) -> Result<Arc<Gpu>> {
        let mut devices = self.devices.lock().await;
        if let Some(gpu) = devices.get(trial.mode.name) {
            return Ok(gpu.clone());
        }
        let gpu = Arc::new(self.open(trial).await?);
        devices.insert(trial.mode.name, gpu.clone());
        Ok(gpu)
    }

    fn row(trial: &Trial, result: &Result<Verdict>, record: &Record, began: Instant) -> Row {
        let (outcome, detail) = match result {
            Ok(Ok(())) => (Outcome::Passed, None),
            Ok(Err(problem)) => (Outcome::Failed, Some(problem.clone())),
            Err(Error::Unsupported { what, value, limit, .. }) => {
                (Outcome::Unsupported, Some(format!("{what} is {value}, but {limit}")))
            }
            Err(error) => (Outcome::Failed, Some(error.to_string())),
        };
        let worst = record.worst.clone().filter(|_| outcome == Outcome::Failed);
        Row {
            variant: trial.variant(&record.specs),
            worst,
            seconds: began.elapsed().as_secs_f64(),
            ..Row::new(trial, outcome, detail)
        }
    }
}
