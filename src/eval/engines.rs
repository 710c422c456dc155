//! The engines that methods run on: one for each way of keeping keys and values, all over the same weights.

use super::Method;
use crate::attention::TwoLevel;
use crate::engine::{Engine, EngineOptions};
use crate::formats::KvType;
use crate::model::ModelConfig;
use crate::{Error, Result, subject};

/// An engine to be made.
#[derive(Clone, Debug)]
pub struct EnginePlan {
    /// Its options.
    pub options: EngineOptions,
    /// The numbers of the methods that run on it.
    pub methods: Vec<usize>,
}

/// How keys and values are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Home {
    /// All on the GPU.
    Gpu,
    /// In CPU memory, with a hot cache for what is chosen.
    Hot(KvType),
    /// In CPU memory, with a hot cache that holds every block: dense attention over what is stored so.
    Filled(KvType),
}

impl Home {
    fn of(method: &Method) -> Self {
        match (method.host, method.selection()) {
            (None, _) => Self::Gpu,
            (Some(rule), Some(_)) => Self::Hot(rule.kv_type),
            (Some(rule), None) => Self::Filled(rule.kv_type),
        }
    }
}

/// The engines that these methods need, in the order of the methods; `options` are of one with the whole cache on the GPU. A
/// hot cache gets `hot_blocks` slots a KV head, or half as many again as the largest budget keeps blocks.
///
/// # Errors
/// [`Error::Argument`] where a method needs more slots than that.
pub fn plan(
    methods: &[Method],
    options: &EngineOptions,
    config: &ModelConfig,
    hot_blocks: Option<u32>,
) -> Result<Vec<EnginePlan>> {
    let mut homes: Vec<(Home, Vec<usize>)> = Vec::new();
    for (number, method) in methods.iter().enumerate() {
        let home = Home::of(method);
        match homes.iter_mut().find(|(other, _)| *other == home) {
            Some((_, numbers)) => numbers.push(number),
            None => homes.push((home, vec![number])),
        }
    }
    let all = options.context.div_ceil(options.block);
    let mut plans = Vec::with_capacity(homes.len());
    for (home, numbers) in homes {
        let mut options = options.clone();
        options.host = match home {
            Home::Gpu => None,
            Home::Filled(kv_type) => Some(options.host_options(config, all, kv_type)),
            Home::Hot(kv_type) => {
                let kept = |two_level: &TwoLevel| two_level.effective_budget().blocks_kept(all);
                let kept = numbers.iter().filter_map(|&n| methods[n].selection()).map(kept);
                let most = kept.max().unwrap_or(1);
                let hot_blocks = hot_blocks.unwrap_or((most + most / 2).min(all.max(most)));
                if hot_blocks < most {
                    let limit = format!("level 1 keeps {most} blocks, all of which must be there");
                    let value = format!("{hot_blocks} blocks");
                    return Err(Error::argument(subject::HOT_BLOCKS, value, limit));
                }
                Some(options.host_options(config, hot_blocks, kv_type))
            }
        };
        plans.push(EnginePlan { options, methods: numbers });
    }
    Ok(plans)
}

/// Engines, and the numbers of the methods that run on each.
pub struct Engines(Vec<(Engine, Vec<usize>)>);

impl Engines {
    /// The engines of `plans` (at least one), of which `first` is made already.
    ///
    /// # Errors
    /// As [`Engine::new`].
    pub async fn new(first: Engine, plans: &[EnginePlan]) -> Result<Self> {
        let mut engines: Vec<(Engine, Vec<usize>)> = Vec::with_capacity(plans.len());
        engines.push((first, plans[0].methods.clone()));
        for plan in &plans[1..] {
            let first = engines[0].0.gpu.share();
            let model = engines[0].0.model().clone();
            let engine = Engine::new(first, model, plan.options.clone()).await?;
            engines.push((engine, plan.methods.clone()));
        }
        Ok(Self(engines))
    }

    /// The first, on which the first method runs.
    pub fn first(&self) -> &Engine {
        &self.0[0].0
    }

    /// How many there are: so many times a prompt is prefilled.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Slots of the hot cache over which selections run, where there is one.
    pub fn hot_blocks(&self, methods: &[Method]) -> Option<u32> {
        let mut hot = self.0.iter().filter(|(_, own)| methods[own[0]].selection().is_some());
        hot.find_map(|(engine, _)| engine.options.host.as_ref()).map(|host| host.hot_blocks)
    }

    /// Each with its methods.
    pub(super) fn each(&mut self) -> impl Iterator<Item = (&mut Engine, &[usize])> {
        self.0.iter_mut().map(|(engine, own)| (engine, own.as_slice()))
    }
}
