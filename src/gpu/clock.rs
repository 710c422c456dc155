//! When things happened, on one time line for CPU and GPU: for measuring. Off unless a device was opened with it, and then
//! until it is started.

use super::device::{Gpu, lock};
use crate::Result;
use std::sync::Mutex;
use web_time::Instant;

/// Something that took its time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TimeSpan {
    /// What.
    pub what: &'static str,
    /// The first layer that it was for.
    pub layer: usize,
    /// Whether the GPU did it.
    pub is_gpu: bool,
    /// When it began, in seconds from the start of the clock.
    pub begin: f64,
    /// When it ended.
    pub end: f64,
}

/// Time stamps of a device.
pub struct Clock {
    stamps: wgpu::QuerySet,
    resolved: wgpu::Buffer,
    running: Mutex<Option<Running>>,
}

struct Running {
    began: Instant,
    /// The label and layer of each of the GPU's pairs of stamps.
    marked: Vec<(&'static str, usize)>,
    on_cpu: Vec<TimeSpan>,
}

/// Stamps that a set can have in WebGPU.
const STAMPS: u32 = 4096;

/// Pairs of stamps that tell when the GPU's clock shows what, on the CPU's.
const ANCHORS: usize = 8;

impl Clock {
    /// The features that a device must offer.
    pub(super) const FEATURES: wgpu::Features =
        wgpu::Features::TIMESTAMP_QUERY.union(wgpu::Features::TIMESTAMP_QUERY_INSIDE_ENCODERS);

    pub(super) fn new(device: &wgpu::Device) -> Self {
        let usage = wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC;
        Self {
            stamps: device.create_query_set(&wgpu::QuerySetDescriptor {
                label: Some("the clock"),
                ty: wgpu::QueryType::Timestamp,
                count: STAMPS,
            }),
            resolved: device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("the clock's stamps"),
                size: u64::from(STAMPS) * 8,
                usage,
                mapped_at_creation: false,
            }),
            running: Mutex::new(None),
        }
    }

    // The first of a pair of stamps for this, while the clock runs and has some left.
    fn mark(&self, what: &'static str, layer: usize) -> Option<u32> {
        let mut running = lock(&self.running);
        let running = running.as_mut()?;
        if running.marked.len() + ANCHORS >= STAMPS as usize / 2 {
            return None;
        }
        running.marked.push((what, layer));
        Some(running.marked.len() as u32 * 2 - 2)
    }

    /// Notes what the CPU did since `began`.
    pub fn note(&self, what: &'static str, layer: usize, began: Instant) {
        if let Some(running) = lock(&self.running).as_mut() {
            let begin = began.saturating_duration_since(running.began).as_secs_f64();
            let end = running.began.elapsed().as_secs_f64();
            running.on_cpu.push(TimeSpan { what, layer, is_gpu: false, begin, end });
        }
    }
}

impl Gpu {
    /// Begins a compute pass, which the clock notes while it runs.
    pub(crate) fn pass<'e>(
        &self,
        encoder: &'e mut wgpu::CommandEncoder,
        what: &'static str,
        layer: usize,
    ) -> wgpu::ComputePass<'e> {
        let clock = self.clock.as_deref();
        let marked = clock.and_then(|clock| Some((clock, clock.mark(what, layer)?)));
        encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
            label: Some(what),
            timestamp_writes: marked.map(|(clock, first)| wgpu::ComputePassTimestampWrites {
                query_set: &clock.stamps,
                beginning_of_pass_write_index: Some(first),
                end_of_pass_write_index: Some(first + 1),
            }),
        })
    }

    /// Records commands outside of passes, which the clock notes while it runs.
    pub(crate) fn timed(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        what: &'static str,
        layer: usize,
        record: impl FnOnce(&mut wgpu::CommandEncoder),
    ) {
        let clock = self.clock.as_deref();
        let marked = clock.and_then(|clock| Some((clock, clock.mark(what, layer)?)));
        if let Some((clock, first)) = marked {
            encoder.write_timestamp(&clock.stamps, first);
        }
        record(encoder);
        if let Some((clock, first)) = marked {
            encoder.write_timestamp(&clock.stamps, first + 1);
        }
    }

    /// Notes on the clock, while it runs, what the CPU did since `began`.
    #[cfg_attr(feature = "measure", visibility::make(pub))]
    pub(crate) fn note_time(&self, what: &'static str, began: Instant) {
        if let Some(clock) = &self.clock {
            clock.note(what, 0, began);
        }
    }

    /// Whether there is a clock.
    #[cfg_attr(feature = "measure", visibility::make(pub))]
    pub(crate) fn has_clock(&self) -> bool {
        self.clock.is_some()
    }

    /// Starts the clock, where there is one.
    #[cfg_attr(feature = "measure", visibility::make(pub))]
    pub(crate) fn start_clock(&self) {
        if let Some(clock) = &self.clock {
            *lock(&clock.running) =
                Some(Running { began: Instant::now(), marked: Vec::new(), on_cpu: Vec::new() });
        }
    }

    /// Stops the clock once the GPU has done what it was given, and says what happened since it was started.
    ///
    /// # Errors
    /// Errors of the device.
    #[cfg_attr(feature = "measure", visibility::make(pub))]
    pub(crate) async fn stop_clock(&self) -> Result<Vec<TimeSpan>> {
        let Some(clock) = &self.clock else { return Ok(Vec::new()) };
        // When the CPU saw each anchor done: never before the GPU passed it.
        let mut seen = Vec::new();
        for _ in 0..ANCHORS {
            let mut encoder = self.device.create_command_encoder(&Default::default());
            self.timed(&mut encoder, "anchor", 0, |_| ());
            let index = self.submit(encoder)?;
            self.wait(index).await?;
            seen.push(Instant::now());
        }
        let Some(running) = lock(&clock.running).take() else { return Ok(Vec::new()) };
        let stamps = running.marked.len() as u32 * 2;
        let mut encoder = self.device.create_command_encoder(&Default::default());
        encoder.resolve_query_set(&clock.stamps, 0..stamps, &clock.resolved, 0);
        self.submit(encoder)?;
        let data = self.download(&clock.resolved, u64::from(stamps) * 8).await?;
        let ticks: Vec<u64> =
            data.as_chunks().0.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect();
        let first = ticks.iter().copied().min().unwrap_or(0);
        let period = f64::from(self.queue.get_timestamp_period()) * 1e-9;
        let seconds: Vec<f64> = ticks.iter().map(|tick| (tick - first) as f64 * period).collect();
        let of_gpu = seconds.as_chunks::<2>().0.iter().zip(&running.marked);
        let anchors = of_gpu.clone().filter(|(_, (what, _))| *what == "anchor");
        let ahead = anchors.zip(&seen).map(|(([_, end], _), seen)| {
            seen.saturating_duration_since(running.began).as_secs_f64() - end
        });
        let ahead = ahead.fold(f64::INFINITY, f64::min);
        let mut spans = running.on_cpu;
        spans.extend(of_gpu.filter(|(_, (what, _))| *what != "anchor").map(
            |([begin, end], &(what, layer))| TimeSpan {
                what,
                layer,
                is_gpu: true,
                begin: begin + ahead,
                end: end + ahead,
            },
        ));
        Ok(spans)
    }
}
