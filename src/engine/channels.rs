//! Index channels of sessions: chosen from a session's first tokens, or stored.

use super::residency::Residency;
use super::session::Recounted;
use super::{Engine, Session, Want};
use crate::attention::ChannelStats;
use crate::attention::{ChannelSet, Span};
use crate::{Error, Result};
use std::sync::Arc;

impl Engine {
    /// The index channels of a session, which are chosen now if they are not yet.
    ///
    /// # Errors
    /// [`Error::Argument`] when the engine keeps no index or the session holds no token to choose by, else what the
    /// device answers.
    pub async fn channels(&self, session: &mut Session) -> Result<ChannelSet> {
        self.check_owner(session)?;
        if self.options.index.is_none() {
            return Err(Error::argument("the index", "none", "this engine was built without one"));
        }
        if session.is_empty() && session.channels.is_none() {
            return Err(Error::argument(
                "the session",
                "empty",
                "index channels are chosen by the tokens it holds",
            ));
        }
        self.recount(session).await?;
        self.freeze(session).await?;
        let _turn = self.runner.turn().await;
        self.read_channels(session.slot.index).await
    }

    /// The running extremes that a session's index channels are chosen by: layer, KV head.
    ///
    /// # Errors
    /// As [`Engine::channels`].
    #[cfg_attr(feature = "measure", visibility::make(pub))]
    pub(crate) async fn statistics(&self, session: &mut Session) -> Result<Vec<Vec<ChannelStats>>> {
        self.check_owner(session)?;
        self.recount(session).await?;
        let _turn = self.runner.turn().await;
        let (group, d) = (self.shape.group as usize, self.shape.head_dim as usize);
        let head = |rows: &[f32]| {
            let mut rows = rows.chunks_exact(d).map(<[f32]>::to_vec);
            let queries = rows.by_ref().take(group).collect();
            ChannelStats { queries, keys: rows.next().unwrap_or_default() }
        };
        let words = self.read_statistics(session.slot.index).await?;
        let floats: Vec<f32> = words.into_iter().map(f32::from_bits).collect();
        let heads: Vec<ChannelStats> = floats.chunks_exact((group + 1) * d).map(head).collect();
        Ok(heads.chunks(self.shape.kv_heads as usize).map(<[ChannelStats]>::to_vec).collect())
    }

    /// The words of the running extremes, layer by layer. Under the turn of the caller.
    pub(super) async fn read_statistics(&self, slot: u32) -> Result<Vec<u32>> {
        let bytes = self.shape.stats_len() * 4;
        let mut all = Vec::new();
        for index in self.cache.indices() {
            let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
            let (from, staging) = (u64::from(slot) * bytes, &self.runner.scratch().moving);
            encoder.copy_buffer_to_buffer(&index.state.stats, from, staging, 0, bytes);
            self.gpu.submit(encoder)?;
            all.extend(super::words(&self.gpu.download(staging, bytes).await?));
        }
        Ok(all)
    }

    /// Gives a new session the stored channels, if there are any.
    pub(super) fn store_channels(&self, session: &mut Session) {
        let Some(set) = self.options.index.as_ref().and_then(|index| index.stored.as_ref()) else {
            return;
        };
        let at = u64::from(session.slot.index) * self.shape.channels_len() * 4;
        for (layer, index) in self.cache.indices().iter().enumerate() {
            self.gpu.write(&index.state.channels, at, bytemuck::cast_slice(&set.words(layer)));
        }
        session.channels = Some(set.clone());
    }

    /// Computes what is left of a rewound session a second time, where its index channels would else follow from tokens
    /// that it no longer has.
    pub(super) async fn recount(&self, session: &mut Session) -> Result<()> {
        let Recounted { session, left } = &mut session.recounted();
        self.extend(session, left, Want::Nothing, &mut |_| true).await.map(drop)
    }

    /// Chooses a session's index channels from what was gathered so far, and builds the index of its sealed blocks. Done
    /// once: when enough tokens are gathered, at the first two-level step, or at the first fork.
    pub(super) async fn freeze(&self, session: &mut Session) -> Result<()> {
        if session.channels.is_some() {
            return Ok(());
        }
        let _turn = self.runner.turn().await;
        let mut maker = self.op_maker();
        let mut choices = Vec::new();
        for index in self.cache.indices() {
            choices.push(maker.choose_channels(index, session.slot.index).await?);
        }
        let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
        {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            for choose in &choices {
                choose.record(&mut pass, self.shape.kv_heads, 1, 1);
            }
        }
        self.gpu.submit(encoder)?;
        self.build_index(session).await?;
        session.channels = Some(Arc::new(self.read_channels(session.slot.index).await?));
        session.indexed = session.len() / self.shape.block;
        Ok(())
    }

    /// Builds the index of a session's sealed blocks by the channels in its slot. Under the turn of the caller.
    pub(super) async fn build_index(&self, session: &Session) -> Result<()> {
        let table = session.table.blocks();
        let sealed = &table[..(session.len() / self.shape.block) as usize];
        // The step that builds the index of blocks, which are at these places.
        let step_of = |sealing: &[[u32; 2]]| {
            let span = Span {
                slot: session.slot.index,
                position: session.len(),
                tokens: &[],
                table,
                sealing,
                ..Default::default()
            };
            self.step_of(&[span], None, 0)
        };
        let whole = match &self.residency {
            Residency::Whole(whole) => whole,
            Residency::Hot(hot) => {
                let words = |first: usize, piece: &[u32]| {
                    let places = (first as u32..).zip(piece).map(|(place, &block)| [block, place]);
                    step_of(&places.collect::<Vec<_>>()).words
                };
                return hot.turn(self).await.build_index(sealed, words).await;
            }
        };
        let step = step_of(&sealed.iter().map(|&block| [block, block]).collect::<Vec<_>>());
        self.gpu.write(&self.runner.scratch().step, 0, bytemuck::cast_slice(&step.words));
        let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
        {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            for layer in &whole.layers {
                layer.seal(&mut pass, layer.kv.index_of_blocks(), step.sealing);
            }
        }
        self.gpu.submit(encoder).map(drop)
    }

    /// The index channels in a slot. Under the turn of the caller.
    pub(super) async fn read_channels(&self, slot: u32) -> Result<ChannelSet> {
        let bytes = self.shape.channels_len() * 4;
        let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
        let mut to = 0;
        for index in self.cache.indices() {
            let from = u64::from(slot) * bytes;
            encoder.copy_buffer_to_buffer(
                &index.state.channels,
                from,
                &self.runner.scratch().staging,
                to,
                bytes,
            );
            to += bytes;
        }
        self.gpu.submit(encoder)?;
        let data = self.gpu.read(&self.runner.scratch().staging, to).await?;
        let words = super::words(&data);
        Ok(ChannelSet::from_words(&self.shape, words.chunks_exact(bytes as usize / 4)))
    }
}
