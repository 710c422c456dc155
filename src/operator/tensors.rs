//! Ranges of a caller's buffers, checked before they are bound.

use super::Options;
use crate::attention::Shape;
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
    /// One layer's keys and values, [`Shape::block_bytes`] a physical block:
    /// \[block\]\[KV head\]\[keys, values\]\[token of the block\]\[dimension\], f16, little-endian; without values where those are
    /// the first numbers of the keys ([`key_offset`], [`value_offset`]). One buffer holds both. Keys are turned already. As many
    /// ranges as there are [segments](super::Options::segments), each of its own blocks.
    pub kv: Vec<wgpu::BufferBinding<'a>>,
    /// What is attended, f32: \[row\]\[query head\]\[dimension of a value\]. Written, in a buffer that no other tensor is in.
    pub output: wgpu::BufferBinding<'a>,
    /// The index by codes, for selectors that read it.
    pub codes: Option<Codes<'a>>,
    /// The summary of each block, for scorers that read one ([`Selector::summary`](super::Selector::summary)):
    /// [`Summary::block_bytes`](crate::attention::Summary::block_bytes) a physical block. Written by
    /// [`Bound::index`](super::Bound::index), in a buffer that no other tensor is in; what it holds is for the kernels to know.
    pub summary: Option<wgpu::BufferBinding<'a>>,
}

/// Bytes from the beginning of a range of [`Tensors::kv`] to the key of a token: the `token`-th of this block of it.
pub fn key_offset(shape: &Shape, block: u32, kv_head: u32, token: u32) -> u64 {
    let row = u64::from(shape.head_dim) * 2;
    let heads = u64::from(block) * u64::from(shape.kv_heads) + u64::from(kv_head);
    (heads * u64::from(shape.cached_rows() * shape.block) + u64::from(token)) * row
}

/// Bytes from there to the token's value: of values that are the first numbers of the keys the key itself.
pub fn value_offset(shape: &Shape, block: u32, kv_head: u32, token: u32) -> u64 {
    let values = u64::from((shape.cached_rows() - 1) * shape.block * shape.head_dim) * 2;
    key_offset(shape, block, kv_head, token) + values
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
    pub kv: Vec<wgpu::BufferBinding<'a>>,
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
    fn bound(&self, gpu: &Gpu) -> Result<Binding<'a>> {
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
        Ok(Binding::range(buffer, *offset, *needed))
    }
}

/// A cache's segments, for each as many of a block's bytes as it has blocks.
pub(super) fn segments<'t, 'a>(
    options: &Options,
    what: &'static str,
    block_bytes: u64,
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
        needed: u64::from(params.blocks) * block_bytes,
        access,
    };
    Ok(options.all_segments().zip(ranges).map(given).collect())
}

/// What was bound: segments, and other tensors.
type AllBound<'a, const N: usize> = (Vec<Binding<'a>>, [Option<Binding<'a>>; N]);

/// Checks tensors and binds each: the segments of a cache, and others.
pub(super) fn bind_all<'a, const N: usize>(
    gpu: &Gpu,
    segments: &[Given<'_, 'a>],
    tensors: [Option<Given<'_, 'a>>; N],
) -> Result<AllBound<'a, N>> {
    for (i, one) in tensors.iter().enumerate() {
        for other in segments.iter().chain(tensors[..i].iter().flatten()) {
            let Some(one) = one else { continue };
            let is_written = [one.access, other.access].contains(&Access::Write);
            if is_written && one.range.buffer == other.range.buffer {
                let limit = "what is written must be in a buffer that no other tensor is in";
                let value = format!("that of {}", other.what);
                return Err(Error::argument(format!("the buffer of {}", one.what), value, limit));
            }
        }
    }
    let kv = segments.iter().map(|segment| segment.bound(gpu)).collect::<Result<_>>()?;
    let mut bound = [const { None }; N];
    for (to, tensor) in bound.iter_mut().zip(&tensors) {
        *to = tensor.as_ref().map(|tensor| tensor.bound(gpu)).transpose()?;
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
