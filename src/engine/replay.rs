//! Replays: sessions that look as if a long prompt had been prefilled, and decode steps whose blocks somebody else lists.
//! For measuring what a cache in CPU memory costs, with contexts that would take minutes to prefill.

use super::residency::{Residency, Whole};
use super::{Engine, HostRule, Session, words};
use crate::attention::{MostMissed, RowBudget, Timing, TwoLevel};
use crate::{Error, Result};
use half::f16;
use rand_pcg::Pcg64;
use rand_pcg::rand_core::Rng;
use std::sync::Arc;

/// Random halves that every block's keys, values and codes are cut from.
struct Noise {
    bytes: Vec<u8>,
    piece: u64,
}

impl Noise {
    // More than one block's, so that few are equal; a prime number of offsets, so that none are by rule.
    fn new(piece: u64) -> Self {
        const PLACES: u64 = 4093;
        let mut random = Pcg64::new(0x5eed, 1);
        let bytes = (piece + PLACES * 256).next_multiple_of(256);
        let halves = (0..bytes / 2).map(|_| {
            let share = (random.next_u64() >> 40) as f32 / (1 << 24) as f32;
            f16::from_f32(share * 2.0 - 1.0)
        });
        Self { bytes: halves.flat_map(f16::to_le_bytes).collect(), piece }
    }

    fn place(&self, block: u32, layer: usize) -> u64 {
        let places = (self.bytes.len() as u64 - self.piece) / 256;
        (u64::from(block) * 131 + layer as u64 * 977) % places * 256
    }

    fn of(&self, block: u32, layer: usize) -> &[u8] {
        &self.bytes[self.place(block, layer) as usize..][..self.piece as usize]
    }
}

impl Engine {
    /// A session that looks as if it held so many tokens, with random keys, values and index.
    ///
    /// # Errors
    /// As [`Engine::session`] and [`Engine::prefill`], or [`Error::OutOfMemory`].
    pub async fn pretend(&self, tokens: u32) -> Result<Session> {
        let mut session = self.session()?;
        let all = vec![0; tokens as usize];
        self.check_tokens(&session, &all)?;
        let _turn = self.runner.turn().await;
        let prepared = session.table.prepare(0, tokens)?;
        session.table.commit(prepared);
        session.tokens = all;
        session.indexed = tokens / self.shape.block;
        let noise = Noise::new(self.shape.block_bytes());
        let source = self.gpu.storage_with("noise", &noise.bytes).await?;
        let blocks = session.table.blocks();
        match &self.residency {
            Residency::Whole(whole) => self.spread(whole, &noise, &source, blocks).await?,
            Residency::Hot(hot) => {
                hot.turn(self).await.pretend(blocks, |block, layer| noise.of(block, layer))?;
            }
        }
        for index in self.cache.indices() {
            let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
            for codes in index.buffers() {
                let step = source.size();
                for at in (0..codes.size()).step_by(step as usize) {
                    let bytes = step.min(codes.size() - at);
                    encoder.copy_buffer_to_buffer(&source, 0, codes, at, bytes);
                }
            }
            self.gpu.submit(encoder)?;
        }
        session.channels = Some(Arc::new(self.read_channels(session.slot.index).await?));
        Ok(session)
    }

    // The same keys and values as the host would hold.
    async fn spread(
        &self,
        whole: &Whole,
        noise: &Noise,
        source: &wgpu::Buffer,
        blocks: &[u32],
    ) -> Result<()> {
        for layer in 0..whole.layers.len() {
            let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
            for &block in blocks {
                let (from, bytes) = (noise.place(block, layer), self.shape.block_bytes());
                let (to, at) = whole.kv.blocks().place(layer, block);
                encoder.copy_buffer_to_buffer(source, from, to, at, bytes);
            }
            let index = self.gpu.submit(encoder)?;
            self.gpu.wait(index).await?;
        }
        Ok(())
    }

    /// The budget of the session's next step by this selection: how many blocks and tokens.
    pub fn next_budget(&self, session: &Session, two_level: &TwoLevel) -> RowBudget {
        two_level.effective_budget().row(session.len(), self.shape.block)
    }

    /// Lists what level 1 of the next step chooses: layer, then each session's KV heads one after the other, logical blocks
    /// ascending, as many as its budget has. For an engine that was built to be steered.
    ///
    /// # Errors
    /// [`Error::Argument`] where it was not, or for lists that are too long.
    pub fn steer(&self, lists: &[Vec<Vec<u32>>]) -> Result<()> {
        let to = match &self.residency {
            Residency::Whole(whole) => whole.kv.steered(),
            Residency::Hot(hot) => Some(hot.steered()),
        };
        let (Some(to), Some(most)) = (to, self.options.steered) else {
            return Err(Error::argument("the engine", "not steered", "it was built to choose"));
        };
        let stride = to.stride as usize / 4;
        let mut data = vec![0u32; stride * lists.len()];
        for (lists, data) in lists.iter().zip(data.chunks_mut(stride)) {
            let longest = lists.iter().map(Vec::len).max().unwrap_or(0);
            if longest > most as usize {
                return Err(Error::argument(
                    "a list of blocks",
                    longest,
                    format!("most is {most}"),
                ));
            }
            for (list, data) in lists.iter().zip(data.chunks_mut(longest.max(1))) {
                data[..list.len()].copy_from_slice(list);
            }
        }
        self.gpu.write(&to.buffer, 0, bytemuck::cast_slice(&data));
        Ok(())
    }

    /// From now on steps go by this rule, with transfers that overlap with them or not, and begin with nothing in the hot
    /// cache. None is done again for what it misses: what a replay lists says nothing of mass.
    pub async fn begin_replay(&mut self, timing: Timing, overlaps: bool) {
        self.begin_with(timing, MostMissed::ALL, overlaps).await;
    }

    async fn begin_with(&mut self, timing: Timing, most_missed: MostMissed, overlaps: bool) {
        if let Residency::Hot(hot) = &self.residency {
            hot.begin_with(&self.gpu, |rule| {
                (rule.timing, rule.most_missed, rule.overlaps) = (timing, most_missed, overlaps);
            })
            .await;
        }
    }

    /// From now on steps go by this rule, and begin with nothing on the GPU that the CPU holds: with what is stored there, as it
    /// is stored, whatever steps were before.
    ///
    /// # Errors
    /// Errors of the device.
    pub async fn begin_unloaded(&mut self, rule: &HostRule) -> Result<()> {
        self.begin_with(rule.timing, rule.most_missed, true).await;
        match &self.residency {
            Residency::Whole(_) => Ok(()),
            Residency::Hot(hot) => hot.turn(self).await.unload().await,
        }
    }

    /// Logical blocks of a session that each KV head of a layer finds in the hot cache in the next step.
    pub async fn resident_blocks(&self, session: &Session, layer: usize) -> Vec<Vec<u32>> {
        match &self.residency {
            Residency::Whole(_) => Vec::new(),
            Residency::Hot(hot) => hot.turn(self).await.resident_blocks(session, layer),
        }
    }

    /// Positions that each KV head of the last layer chose in the latest step, which had this budget.
    ///
    /// # Errors
    /// Errors of the device.
    pub async fn chosen_tokens(&self, budget: &RowBudget, kept: u32) -> Result<Vec<Vec<u32>>> {
        let kept = kept.min(budget.blocks * self.shape.block);
        let bytes = u64::from(self.shape.kv_heads * kept) * 4;
        let data = words(&self.gpu.download(&self.runner.scratch().chosen_tokens, bytes).await?);
        let of_head = |data: &[u32]| data[..budget.tokens as usize].to_vec();
        Ok(data.chunks(kept as usize).map(of_head).collect())
    }
}
