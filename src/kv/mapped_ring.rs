//! A bounded ring of buffers that are mapped by the submission that uses them: the way between the CPU and the GPU that
//! never blocks the queue. A slot goes round: the CPU fills (or reads) its mapped memory, a submission copies from (or to)
//! it, and when that has finished the slot is mapped again.

use super::gatherers::Gatherers;
use crate::gpu::{Gpu, Waits};
use crate::memory::{Row, Usage};
use crate::{Error, Result};
use std::sync::{Arc, Mutex, PoisonError};

// Bytes below which a thread more costs more than it saves.
const LEAST_SHARE: usize = 128 << 10;

/// Which way a ring carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// From the CPU to the GPU. The memory may be write-combined: written once, in order, never read.
    Up,
    /// From the GPU to the CPU.
    Down,
}

#[derive(Clone, Debug)]
enum State {
    /// Nobody's: mapped in a ring that goes up, unmapped in one that goes down.
    Free,
    /// Handed out, and not recorded yet.
    Taken,
    /// Recorded, as the how-manieth; the submission once it is known.
    InFlight(u64, Option<wgpu::SubmissionIndex>),
    /// Of a ring that goes up: about to be mapped without a submission.
    Returning,
    /// Of a ring that goes down: mapped, and not yet read.
    Complete,
}

struct Slot {
    buffer: wgpu::Buffer,
    state: State,
    /// Bytes in use.
    bytes: u64,
}

/// A message of a submission about a slot.
enum News {
    Mapped(usize),
    /// The encoder was never submitted.
    Dropped(usize),
    Failed(usize, String),
}

/// News that nobody has read yet, and who waits for some.
struct Mail {
    news: Mutex<Vec<News>>,
    waits: Arc<Waits>,
}

impl Mail {
    fn send(&self, news: News) {
        self.news.lock().unwrap_or_else(PoisonError::into_inner).push(news);
        self.waits.wake();
    }

    fn take(&self) -> Vec<News> {
        std::mem::take(&mut self.news.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Sends news of its slot once, whatever happens to the encoder that holds it.
struct Return {
    slot: usize,
    mail: Arc<Mail>,
    is_told: bool,
}

impl Return {
    fn tell(mut self, mapped: std::result::Result<(), wgpu::BufferAsyncError>) {
        self.is_told = true;
        let news = match mapped {
            Ok(()) => News::Mapped(self.slot),
            Err(error) => News::Failed(self.slot, error.to_string()),
        };
        self.mail.send(news);
    }
}

impl Drop for Return {
    fn drop(&mut self) {
        if !self.is_told {
            self.mail.send(News::Dropped(self.slot));
        }
    }
}

/// A ring of mapped buffers.
pub struct MappedRing {
    way: Way,
    slots: Vec<Slot>,
    bytes: u64,
    mail: Arc<Mail>,
    sent: u64,
    /// How often a slot was waited for.
    pub stalls: u64,
}

impl MappedRing {
    /// A ring of this row of a plan.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub(crate) async fn new(gpu: &Gpu, row: &Row) -> Result<Self> {
        let way = if row.usage == Usage::Upload { Way::Up } else { Way::Down };
        let mail = Arc::new(Mail { news: Mutex::default(), waits: gpu.waits().clone() });
        let mut ring = Self { way, slots: Vec::new(), bytes: row.bytes, mail, sent: 0, stalls: 0 };
        for _ in 0..row.count {
            let buffer = gpu.allocate(row).await?;
            ring.slots.push(Slot { buffer, state: State::Free, bytes: 0 });
        }
        Ok(ring)
    }

    /// Bytes of a slot.
    pub fn slot_bytes(&self) -> u64 {
        self.bytes
    }

    /// A slot to fill or to record copies into. Waits for the oldest submission where all are in flight; none where some
    /// wait for a submission that the caller has still to make.
    ///
    /// # Errors
    /// Errors of the device.
    pub async fn take(&mut self, gpu: &Gpu) -> Result<Option<usize>> {
        loop {
            self.poll(gpu)?;
            if let Some(slot) = self.take_free() {
                return Ok(Some(slot));
            }
            let oldest = self.oldest();
            if self.has_completed() || (oldest.is_none() && !self.has_returning()) {
                return Ok(None);
            }
            self.stalls += 1;
            gpu.until(oldest, || {
                self.poll(gpu)?;
                Ok((self.has_free() || self.has_completed()).then_some(()))
            })
            .await?;
        }
    }

    /// A slot that is free now.
    pub fn take_free(&mut self) -> Option<usize> {
        let slot = self.slots.iter().position(|slot| matches!(slot.state, State::Free))?;
        self.slots[slot].state = State::Taken;
        Some(slot)
    }

    /// Writes pieces, whole vec4s, one after the other into a slot of a ring that goes up, several threads side by side, each
    /// in order, while the caller does something `beside`. What was written can be copied by a submission from then on.
    ///
    /// # Errors
    /// [`Error::Gpu`] when the device has gone.
    pub fn fill<T>(
        &self,
        slot: usize,
        pieces: &[&[u8]],
        gatherers: &Gatherers,
        beside: impl FnOnce() -> T,
    ) -> Result<T> {
        let buffer = &self.slots[slot].buffer;
        let bytes: usize = pieces.iter().map(|piece| piece.len()).sum();
        let share = bytes.div_ceil(2 * gatherers.threads()).max(LEAST_SHARE);
        let mut runs: Vec<(u64, &[&[u8]])> = Vec::new();
        let (mut at, mut rest) = (0u64, pieces);
        while !rest.is_empty() {
            let mut length = 0;
            let whole = |piece: &&&[u8]| {
                let is_first = length < share;
                length += piece.len();
                is_first
            };
            let count = rest.iter().take_while(whole).count();
            let (run, after) = rest.split_at(count);
            runs.push((at, run));
            at += run.iter().map(|piece| piece.len() as u64).sum::<u64>();
            rest = after;
        }
        let write = |&(at, run): &(u64, &[&[u8]])| {
            let length: u64 = run.iter().map(|piece| piece.len() as u64).sum();
            let mut view = buffer
                .get_mapped_range_mut(at..at + length)
                .map_err(|e| Error::Gpu(format!("mapping for an upload: {e}")))?;
            let mut memory = view.slice(..);
            for piece in run {
                let (mut to, after) = memory.split_at(piece.len());
                to.copy_from_slice(piece);
                memory = after;
            }
            Ok(())
        };
        let written = gatherers.run(&runs, write, beside);
        buffer.unmap();
        written
    }

    /// The buffer of a taken slot, to copy from or to.
    pub fn buffer(&self, slot: usize) -> &wgpu::Buffer {
        &self.slots[slot].buffer
    }

    /// Says that `encoder` uses the first `bytes` bytes of a taken slot: they are mapped when its submission has finished.
    pub fn send(&mut self, slot: usize, bytes: u64, encoder: &wgpu::CommandEncoder) {
        let back = self.back(slot);
        let (mode, mapped) = match self.way {
            Way::Up => (wgpu::MapMode::Write, self.bytes),
            Way::Down => (wgpu::MapMode::Read, bytes),
        };
        let entry = &mut self.slots[slot];
        encoder.map_buffer_on_submit(&entry.buffer, mode, 0..mapped, |result| back.tell(result));
        self.sent += 1;
        entry.state = State::InFlight(self.sent, None);
        entry.bytes = bytes;
    }

    /// Takes back a slot of a ring that goes up, which was filled and will not be recorded.
    pub fn give_back(&mut self, slot: usize) {
        self.map_again(slot);
    }

    /// Says which submission what was recorded went with.
    pub fn submitted(&mut self, index: &wgpu::SubmissionIndex) {
        for slot in &mut self.slots {
            if let State::InFlight(_, at @ None) = &mut slot.state {
                *at = Some(index.clone());
            }
        }
    }

    /// Takes note of what came back.
    ///
    /// # Errors
    /// Errors of the device.
    pub fn poll(&mut self, gpu: &Gpu) -> Result<()> {
        gpu.poll()?;
        let all = self.mail.take().into_iter();
        all.map(|news| self.note(gpu, news)).fold(Ok(()), Result::and)
    }

    fn note(&mut self, gpu: &Gpu, news: News) -> Result<()> {
        match (news, self.way) {
            (News::Mapped(slot), Way::Up) => self.slots[slot].state = State::Free,
            (News::Mapped(slot), Way::Down) => self.slots[slot].state = State::Complete,
            (News::Dropped(slot), Way::Down) => self.slots[slot].state = State::Free,
            (News::Dropped(slot), Way::Up) => self.map_again(slot),
            (News::Failed(slot, why), way) => {
                // What cannot be filled is out of use.
                self.slots[slot].state = if way == Way::Up { State::Taken } else { State::Free };
                gpu.check()?;
                return Err(Error::Gpu(format!("mapping slot {slot} of a ring: {why}")));
            }
        }
        Ok(())
    }

    // Maps a slot whose encoder was never submitted, which would have done so.
    fn map_again(&mut self, slot: usize) {
        let back = self.back(slot);
        let entry = &mut self.slots[slot];
        entry.state = State::Returning;
        let (mode, all) = (wgpu::MapMode::Write, 0..self.bytes);
        entry.buffer.map_async(mode, all, |result| back.tell(result));
    }

    fn back(&self, slot: usize) -> Return {
        Return { slot, mail: self.mail.clone(), is_told: false }
    }

    fn has_returning(&self) -> bool {
        self.slots.iter().any(|slot| matches!(slot.state, State::Returning))
    }

    fn has_free(&self) -> bool {
        self.slots.iter().any(|slot| matches!(slot.state, State::Free))
    }

    fn has_completed(&self) -> bool {
        self.slots.iter().any(|slot| matches!(slot.state, State::Complete))
    }

    /// Slots that have completed and are still to be read.
    pub fn completed(&self) -> Vec<usize> {
        let completed = |slot: &usize| matches!(self.slots[*slot].state, State::Complete);
        (0..self.slots.len()).filter(completed).collect()
    }

    /// Reads a completed slot, which is free then.
    ///
    /// # Errors
    /// [`Error::Gpu`] when the device has gone, else what `read` says.
    pub fn read<T>(&mut self, slot: usize, read: impl FnOnce(&[u8]) -> Result<T>) -> Result<T> {
        let entry = &mut self.slots[slot];
        let view = entry
            .buffer
            .get_mapped_range(0..entry.bytes)
            .map_err(|e| Error::Gpu(format!("mapping for read-back: {e}")))?;
        let value = read(&view);
        drop(view);
        entry.buffer.unmap();
        entry.state = State::Free;
        value
    }

    /// Waits until a slot in flight has completed.
    ///
    /// # Errors
    /// Errors of the device; [`Error::Gpu`] for a slot that was never submitted.
    pub async fn wait(&mut self, gpu: &Gpu, slot: usize) -> Result<()> {
        let index = match &self.slots[slot].state {
            State::InFlight(_, None) => {
                return Err(Error::Gpu("a slot is waited for that nobody submitted".into()));
            }
            State::InFlight(_, index) => index.clone(),
            _ => return Ok(()),
        };
        gpu.until(index, || {
            self.poll(gpu)?;
            let is_in_flight = matches!(self.slots[slot].state, State::InFlight(..));
            Ok((!is_in_flight).then_some(()))
        })
        .await
    }

    /// Frees every slot of a ring that goes down, whatever it carries. What was recorded has been submitted or dropped.
    ///
    /// # Errors
    /// Errors of the device.
    pub async fn clear(&mut self, gpu: &Gpu) -> Result<()> {
        self.poll(gpu)?;
        for slot in 0..self.slots.len() {
            if matches!(self.slots[slot].state, State::Taken) {
                self.slots[slot].state = State::Free;
            }
            self.wait(gpu, slot).await?;
            if matches!(self.slots[slot].state, State::Complete) {
                self.read(slot, |_| Ok(()))?;
            }
        }
        Ok(())
    }

    /// Waits until a slot has completed, unless none is in flight.
    ///
    /// # Errors
    /// Errors of the device.
    pub async fn settle(&mut self, gpu: &Gpu) -> Result<()> {
        gpu.until(self.oldest(), || {
            self.poll(gpu)?;
            Ok((self.has_completed() || !self.is_busy()).then_some(()))
        })
        .await
    }

    // Whether anything is in flight or waits to be read.
    fn is_busy(&self) -> bool {
        self.slots.iter().any(|slot| matches!(slot.state, State::InFlight(..) | State::Complete))
    }

    // The oldest submission in flight.
    fn oldest(&self) -> Option<wgpu::SubmissionIndex> {
        let in_flight = self.slots.iter().filter_map(|slot| match &slot.state {
            State::InFlight(flight, Some(index)) => Some((*flight, index)),
            _ => None,
        });
        in_flight.min_by_key(|(flight, _)| *flight).map(|(_, index)| index.clone())
    }
}
