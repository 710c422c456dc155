//! Ranges of a caller's buffers, checked before they are bound.

use super::Options;
use crate::attention::{KvLayout, Shape};
use crate::gpu::{Binding, Gpu};
use crate::kernels::SegmentParams;
use crate::{Error, Result};
use std::borrow::Cow;

/// What decode attention reads and writes: ranges of a caller's buffers, of which each begins at a multiple of the device's
/// `min_storage_buffer_offset_alignment`. Ranges may be longer than what is needed. Buffers need `STORAGE` usage.
#[derive(Clone, Debug)]
pub struct Tensors<'a> {
    /// Queries, f32, turned already where the model turns them: \[row\]\[query head\]\[dimension\], a row every
    /// [`Options::query_stride`](super::Options::query_stride) floats. Query head `h` belongs to KV head `h / group`.
    pub queries: wgpu::BufferBinding<'a>,
    /// One layer's keys and values, which lie as [`Options::layout`](super::Options::layout) says. Keys are turned already.
    pub kv: Kv<'a>,
    /// What is attended, f32: \[row\]\[query head\]\[dimension of a value\]. Written, in a buffer that no other tensor is in.
    pub output: wgpu::BufferBinding<'a>,
    /// The index by codes, for selectors that read it.
    pub codes: Option<Codes<'a>>,
    /// The summary of each block, for scorers that read one ([`Selector::summary`](super::Selector::summary)):
    /// [`Summary::block_bytes`](crate::attention::Summary::block_bytes) a physical block. Written by
    /// [`Bound::index`](super::Bound::index), in a buffer that no other tensor is in; what it holds is for the kernels to know.
    pub summary: Option<wgpu::BufferBinding<'a>>,
}

/// One layer's keys and values: as many ranges as there are [segments](super::Options::segments), each of its own blocks, and of
/// [`KvLayout::bytes`] at least.
#[derive(Clone, Debug)]
pub enum Kv<'a> {
    /// Both, for [`KvLayout::Joined`].
    Joined(Vec<wgpu::BufferBinding<'a>>),
    /// Each alone, for [`KvLayout::Apart`]. They may lie in one buffer, even in turn, as long as no byte is a key's and a value's:
    /// of \[block\]\[keys, values\]\[KV head\]\[token\]\[dimension\] the values' range begins a block's keys later.
    Apart {
        /// Keys.
        keys: Vec<wgpu::BufferBinding<'a>>,
        /// Values.
        values: Vec<wgpu::BufferBinding<'a>>,
    },
}

/// The index by codes of one layer.
#[derive(Clone, Debug)]
pub struct Codes<'a> {
    /// The dimensions that the index keeps: \[KV head\]\[channel\], as many of each head as [`Shape::index`] has. The index of every
    /// block must be built with the same ([`choose_channels`](super::choose_channels)).
    pub channels: &'a [u32],
    /// The codes: [`Shape::block_code_bytes`] a physical block. Written by [`Bound::index`](super::Bound::index), in a buffer
    /// that no other tensor is in; what it holds is for the kernels to know.
    pub codes: wgpu::BufferBinding<'a>,
}

/// What prefill reads and writes, as [`Tensors`] has them.
#[derive(Clone, Debug)]
pub struct PrefillTensors<'a> {
    /// Queries.
    pub queries: wgpu::BufferBinding<'a>,
    /// Keys and values.
    pub kv: Kv<'a>,
    /// What is attended.
    pub output: wgpu::BufferBinding<'a>,
}

/// Whether a tensor is only read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
}

/// A caller's tensor: what it is called, its range, the bytes of it that are used, and whether it is written.
pub(super) struct Given<'t, 'a> {
    pub(super) what: Cow<'static, str>,
    pub(super) range: &'t wgpu::BufferBinding<'a>,
    pub(super) needed: u64,
    pub(super) access: Access,
}

impl<'a> Given<'_, 'a> {
    /// What is bound of it: the bytes that are used, and no more, so that a long buffer is not too long to bind.
    async fn bound(&self, gpu: &Gpu) -> Result<Binding<'a>> {
        let Self { what, range, needed, .. } = self;
        let wgpu::BufferBinding { buffer, offset, size } = range;
        let wrong = |part: &str, value: String, limit: String| {
            Err(Error::argument(format!("{part} of {what}"), value, limit))
        };
        if !buffer.usage().contains(wgpu::BufferUsages::STORAGE) {
            let limit = "it must have STORAGE".into();
            return wrong("the usage", format!("{:?}", buffer.usage()), limit);
        }
        let alignment = gpu.device.limits().min_storage_buffer_offset_alignment;
        if !offset.is_multiple_of(alignment.into()) {
            let limit = format!("it must be a multiple of {alignment} bytes on this device");
            return wrong("the offset", offset.to_string(), limit);
        }
        let rest = buffer.size().saturating_sub(*offset);
        let bytes = size.map_or(rest, wgpu::BufferSize::get);
        if bytes > rest {
            let limit = format!("its buffer has {rest} bytes from there on");
            return wrong("the range", format!("{bytes} bytes long"), limit);
        }
        if bytes < *needed {
            let limit = format!("{needed} bytes are needed");
            return wrong("the range", format!("{bytes} bytes long"), limit);
        }
        if *needed > most_bytes(gpu) {
            let limit =
                format!("a kernel sees at most {} bytes of one buffer here", most_bytes(gpu));
            return wrong("the size", format!("{needed} bytes"), limit);
        }
        let bound = Binding::range(buffer, *offset, *needed);
        if !gpu.binds(&bound).await {
            let value = "of another device, or destroyed".into();
            return wrong("the buffer", value, "it must be of the operator's device".into());
        }
        Ok(bound)
    }
}

/// A cache, segment by segment: keys, or keys and values in one; and values where they are apart.
pub(super) struct Cache<'t, 'a> {
    keys: Vec<Given<'t, 'a>>,
    values: Vec<Given<'t, 'a>>,
    /// Whether none is where another is: told after what is wrong with one alone.
    apart: Result<()>,
}

/// What the parts of a cache are called: both in one, keys, and values.
pub(super) type Names = [&'static str; 3];

/// Of a cache that is attended.
pub(super) const ATTENDED: Names = ["keys and values", "keys", "values"];

/// Of a cache beside which there are other keys and values.
pub(super) const CACHE: Names = ["the cache", "the cached keys", "the cached values"];

/// A cache of this shape, by the layout and the segments of the options.
pub(super) fn cache<'t, 'a>(
    (options, shape): (&Options, &Shape),
    [both, keys_alone, values_alone]: Names,
    kv: &'t Kv<'a>,
    access: Access,
) -> Result<Cache<'t, 'a>> {
    let wrong = |value, limit| Err(Error::argument(format!("the layout of {both}"), value, limit));
    let given = |what, ranges| segments((options, shape), what, ranges, access);
    let (keys, values) = match (kv, options.layout) {
        (Kv::Joined(ranges), KvLayout::Joined) => (given(both, ranges)?, Vec::new()),
        (Kv::Apart { keys, values }, KvLayout::Apart(_)) => {
            (given(keys_alone, keys)?, given(values_alone, values)?)
        }
        (Kv::Joined(_), _) => return wrong("joined", "the operator is made for two buffers"),
        (Kv::Apart { .. }, _) => return wrong("apart", "the operator is made for one buffer"),
    };
    let apart = check_apart((options, shape), &keys, &values);
    Ok(Cache { keys, values, apart })
}

/// Checks that no row of a cache is where another one is.
fn check_apart(
    (options, shape): (&Options, &Shape),
    keys: &[Given<'_, '_>],
    values: &[Given<'_, '_>],
) -> Result<()> {
    let with_blocks = |part| {
        let blocks = options.all_segments().map(|params| params.blocks);
        std::iter::zip(part, blocks)
    };
    let all: Vec<(&Given<'_, '_>, u32)> = with_blocks(keys).chain(with_blocks(values)).collect();
    for (i, (one, blocks)) in all.iter().enumerate() {
        for (other, others) in &all[..i] {
            let [here, there] = [(one, blocks), (other, others)]
                .map(|(given, blocks)| (given.range.offset, *blocks));
            if one.range.buffer == other.range.buffer && options.layout.meet(shape, here, there) {
                let value = format!("where that of {} is", other.what);
                let limit = "each must have bytes of its own";
                return Err(Error::argument(format!("the range of {}", one.what), value, limit));
            }
        }
    }
    Ok(())
}

/// A range a segment, for each as many bytes as its blocks take.
fn segments<'t, 'a>(
    (options, shape): (&Options, &Shape),
    what: &'static str,
    ranges: &'t [wgpu::BufferBinding<'a>],
    access: Access,
) -> Result<Vec<Given<'t, 'a>>> {
    let count = options.segments();
    if ranges.len() as u64 != u64::from(count) {
        let limit = format!("the cache has {count} segments of {} blocks", options.segment_blocks);
        return Err(Error::argument(
            format!("the number of ranges of {what}"),
            ranges.len(),
            limit,
        ));
    }
    let given = |(params, range): (SegmentParams, &'t wgpu::BufferBinding<'a>)| Given {
        what: match count {
            1 => what.into(),
            _ => format!("segment {} of {what}", params.index).into(),
        },
        range,
        needed: options.layout.bytes(shape, params.blocks),
        access,
    };
    Ok(options.all_segments().zip(ranges).map(given).collect())
}

/// A cache that is bound.
pub(super) struct BoundKv<'a> {
    pub(super) keys: Vec<Binding<'a>>,
    /// None where they are in the buffers of the keys.
    pub(super) values: Vec<Binding<'a>>,
}

impl<'a> BoundKv<'a> {
    /// Segment by segment, with the values where they are apart.
    pub(super) fn segments(&self) -> impl Iterator<Item = (Binding<'a>, Option<Binding<'a>>)> {
        let values = |i| self.values.get(i).cloned();
        self.keys.iter().enumerate().map(move |(i, keys)| (keys.clone(), values(i)))
    }
}

/// What was bound: a cache, and other tensors.
type AllBound<'a, const N: usize> = (BoundKv<'a>, [Option<Binding<'a>>; N]);

/// Checks tensors and binds each: a cache, and others.
pub(super) async fn bind_all<'a, const N: usize>(
    gpu: &Gpu,
    cache: Cache<'_, 'a>,
    tensors: [Option<Given<'_, 'a>>; N],
) -> Result<AllBound<'a, N>> {
    for (i, one) in tensors.iter().enumerate() {
        let segments = cache.keys.iter().chain(&cache.values);
        for other in segments.chain(tensors[..i].iter().flatten()) {
            let Some(one) = one else { continue };
            let is_written = [one.access, other.access].contains(&Access::Write);
            if is_written && one.range.buffer == other.range.buffer {
                let limit = "what is written must be in a buffer that no other tensor is in";
                let value = format!("that of {}", other.what);
                return Err(Error::argument(format!("the buffer of {}", one.what), value, limit));
            }
        }
    }
    let mut kv = BoundKv { keys: Vec::new(), values: Vec::new() };
    for (to, segments) in [(&mut kv.keys, &cache.keys), (&mut kv.values, &cache.values)] {
        for segment in segments {
            to.push(segment.bound(gpu).await?);
        }
    }
    cache.apart?;
    let mut bound = [const { None }; N];
    for (to, tensor) in bound.iter_mut().zip(&tensors) {
        if let Some(tensor) = tensor {
            *to = Some(tensor.bound(gpu).await?);
        }
    }
    Ok((kv, bound))
}

/// The most bytes that a kernel sees of one buffer: its indices are u32, of words at the least.
pub(super) fn most_bytes(gpu: &Gpu) -> u64 {
    gpu.max_binding().min(u64::from(u32::MAX) * 4)
}

/// Checks a layer's index channels.
pub(super) fn check_channels(shape: &Shape, channels: &[u32]) -> Result<()> {
    let wanted = shape.channels_len();
    if channels.len() as u64 != wanted {
        let limit = format!("{} KV heads need {} each", shape.kv_heads, shape.index.channels);
        return Err(Error::argument("the number of channels of a layer", channels.len(), limit));
    }
    for (head, channels) in channels.chunks_exact(shape.index.channels as usize).enumerate() {
        for (i, &channel) in channels.iter().enumerate() {
            let what = || format!("channel {i} of KV head {head}");
            if channel >= shape.head_dim {
                let limit = format!("a head has {} dimensions", shape.head_dim);
                return Err(Error::argument(what(), channel, limit));
            }
            if channels[..i].contains(&channel) {
                return Err(Error::argument(what(), channel, "an earlier one is the same"));
            }
        }
    }
    Ok(())
}
