//! Two-level attention in a program of one's own: on its device, over its buffers, checked against the CPU twin. Keys and values
//! lie in one buffer first, and then in two.
//! `cargo run --release --example embed_operator`; `ASYNCTLS_ADAPTER` names the adapter by a part of its label.

use asynctls::attention::{BlockScorer, Blocks, Budget, KvLayout, Shape, TokenScorer, TwoLevel};
use asynctls::gpu::{Adapter, Gpu, GpuOptions};
use asynctls::operator::{
    Batch, Codes, Decode, Kv, Limits, Options, Select, Selector, Sequence, Tensors, choose_channels,
};
use asynctls::reference::attend::attention;
use asynctls::wgpu::{self, util::DeviceExt};
use half::f16;
use rand_pcg::{Pcg32, rand_core::Rng};
use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let wanted = std::env::var("ASYNCTLS_ADAPTER").ok();
    for layout in LAYOUTS {
        println!("{}", pollster::block_on(run(wanted.as_deref(), layout))?);
    }
    Ok(())
}

/// How keys and values may lie: in one buffer, or in two tensors \[block\]\[KV head\]\[token\]\[dimension\].
pub const LAYOUTS: [fn(&Shape) -> KvLayout; 2] = [|_| KvLayout::Joined, KvLayout::apart];

/// A device that the program opens as it likes, here with the features and limits of the best kernels, and the library's
/// handle on it.
pub async fn open(
    wanted: Option<&str>,
) -> Result<(wgpu::Device, wgpu::Queue, Gpu), Box<dyn Error>> {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let label = |raw: &wgpu::Adapter| Adapter::from(raw.clone()).label().to_lowercase();
    let raw = match wanted {
        None => instance.request_adapter(&Default::default()).await?,
        Some(wanted) => {
            let all = instance.enumerate_adapters(wgpu::Backends::all()).await;
            let is_it = |raw: &wgpu::Adapter| label(raw).contains(&wanted.to_lowercase());
            all.into_iter().find(is_it).ok_or_else(|| format!("no adapter {wanted}"))?
        }
    };
    let adapter = Adapter::from(raw.clone());
    let options = GpuOptions::default();
    let (device, queue) = raw.request_device(&Gpu::descriptor(&adapter, options)?).await?;
    let gpu = Gpu::from_device(&adapter, device.clone(), queue.clone(), options)?;
    Ok((device, queue, gpu))
}

/// Random floats from -1 to 1, as f16 has them.
pub fn floats(count: usize, random: &mut Pcg32) -> Vec<f32> {
    let float = |word: u32| f16::from_f32(word as f32 / (1u32 << 31) as f32 - 1.0).to_f32();
    (0..count).map(|_| float(random.next_u32())).collect()
}

/// What was read back, as words.
pub fn words(bytes: &[u8]) -> Vec<u32> {
    bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

/// A layer's keys and values as an operator reads them, in blocks that follow one another, in one buffer or two; given as
/// \[token\]\[KV head\]\[dimension\].
pub fn paged(shape: &Shape, layout: KvLayout, keys: &[f32], values: &[f32]) -> Vec<Vec<f16>> {
    let (heads, dim) = (shape.kv_heads, shape.head_dim as usize);
    let tokens = (keys.len() / dim) as u32 / heads;
    let halves = layout.bytes(shape, tokens.div_ceil(shape.block)) as usize / 2;
    let buffers = if layout == KvLayout::Joined { 1 } else { 2 };
    let mut cache = vec![vec![f16::ZERO; halves]; buffers];
    let mut put = |buffer: usize, offset: u64, row: &[f32]| {
        let to = cache[buffer][offset as usize / 2..].iter_mut();
        to.zip(row).for_each(|(to, &x)| *to = f16::from_f32(x));
    };
    for (i, (key, value)) in keys.chunks_exact(dim).zip(values.chunks_exact(dim)).enumerate() {
        let (token, head) = (i as u32 / heads, i as u32 % heads);
        let (block, token) = (token / shape.block, token % shape.block);
        put(0, layout.key_offset(shape, block, head, token), key);
        put(buffers - 1, layout.value_offset(shape, block, head, token), value);
    }
    cache
}

/// The whole of it; says what it did.
pub async fn run(
    wanted: Option<&str>,
    layout: fn(&Shape) -> KvLayout,
) -> Result<String, Box<dyn Error>> {
    let (device, queue, gpu) = open(wanted).await?;
    // Two KV heads, four query heads each, and one sequence of 3,000 tokens.
    let (shape, length, random) = (Shape::new(2, 4, 64, false), 3000, &mut Pcg32::new(1, 2));
    let [heads, group, dim] = [shape.kv_heads, shape.group, shape.head_dim].map(|n| n as usize);
    let [queries, keys, values] =
        [heads * group, length * heads, length * heads].map(|rows| floats(rows * dim, random));
    let blocks = (length as u32).div_ceil(shape.block);
    let table: Vec<u32> = (0..blocks).collect();

    // The operator, for batches of one row.
    let limits = Limits { rows: 1, sequences: 1, tokens: length as u32, cache_blocks: blocks };
    let layout = layout(&shape);
    let options = Options::with_layout(&gpu, shape, layout, limits);
    let (scorer, token_scorer) = (BlockScorer::Codes, TokenScorer::Codes);
    let selector = Selector::TwoLevel { blocks: scorer, tokens: token_scorer };
    let decode = Decode::new(&gpu, options, selector).await?;

    // Buffers of the caller's own, bound once.
    let storage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC;
    let filled = |label, contents: &[u8]| {
        let label = Some(label);
        device.create_buffer_init(&wgpu::util::BufferInitDescriptor {
            label,
            contents,
            usage: storage,
        })
    };
    let empty = |label, size| {
        let label = Some(label);
        let (usage, mapped_at_creation) = (storage, false);
        device.create_buffer(&wgpu::BufferDescriptor { label, size, usage, mapped_at_creation })
    };
    let q = filled("queries", bytemuck::cast_slice(&queries));
    let kv = paged(&shape, layout, &keys, &values);
    let kv = kv.iter().map(|halves| filled("keys and values", bytemuck::cast_slice(halves)));
    let kv: Vec<wgpu::Buffer> = kv.collect();
    let codes = empty("codes", u64::from(blocks) * shape.block_code_bytes());
    let output = empty("output", (heads * group * dim * 4) as u64);
    // Channels are chosen by some tokens' queries and keys; here by the only queries there are.
    let channels = choose_channels(&shape, &queries, &keys[..heads * dim])?;
    let index = Codes { channels: &channels, codes: codes.as_entire_buffer_binding() };
    let tensors = Tensors {
        queries: q.as_entire_buffer_binding(),
        kv: match &kv[..] {
            [keys, values] => Kv::Apart {
                keys: vec![keys.as_entire_buffer_binding()],
                values: vec![values.as_entire_buffer_binding()],
            },
            both => Kv::Joined(both.iter().map(wgpu::Buffer::as_entire_buffer_binding).collect()),
        },
        output: output.as_entire_buffer_binding(),
        codes: Some(index),
        summary: None,
    };
    let layer = decode.bind(&tensors).await?;

    // One step: the index of what is sealed, and attention of the last token over a fifth of the others.
    let budget = Budget { blocks: Blocks::Count(16), tokens: 256, ..Budget::for_context(4096) };
    let (length, rows) = (length as u32, 1);
    let sequence = Sequence { length, rows, blocks: &table, index: 0..length / shape.block };
    let select = Select::TwoLevel(TwoLevel { budget, block_scorer: scorer, token_scorer });
    let plan = decode.plan(&Batch { sequences: &[sequence], select })?;
    let mut encoder = device.create_command_encoder(&Default::default());
    let mut recording = decode.begin(&mut encoder, &plan)?;
    let mut pass = recording.pass()?;
    layer.index(&mut pass)?;
    layer.attend(&mut pass)?;
    drop(pass);
    queue.submit([encoder.finish()]);
    let made = gpu.download(&output, output.size()).await?;
    let made: Vec<f32> = words(&made).into_iter().map(f32::from_bits).collect();

    // The twin attends what was chosen.
    let chosen = decode.chosen_tokens().ok_or("a selector chooses")?;
    let chosen = gpu.download(chosen, u64::from(plan.tokens_kept()) * heads as u64 * 4).await?;
    let chosen = words(&chosen);
    let mut difference = 0f64;
    for head in 0..heads * group {
        let tokens = plan.attended(0, head / group, &chosen);
        let at = |t: u32| (t as usize * heads + head / group) * dim;
        let (key, value) = (|t| &keys[at(t)..][..dim], |t| &values[at(t)..][..dim]);
        let logit = (shape.scale(), shape.softcap);
        let want = attention(&queries[head * dim..][..dim], logit, &tokens, key, value);
        for (made, want) in made[head * dim..].iter().zip(want) {
            difference = difference.max((f64::from(*made) - want).abs());
        }
    }
    let attended = plan.budgets()[0].attended;
    if difference > 1e-4 {
        return Err(format!("off by {difference:.1e} from the twin").into());
    }
    let scratch = Decode::scratch_bytes(&options, selector)?;
    Ok(format!(
        "{}: attended {attended} of {length} tokens a KV head, in {} of keys and values, within {difference:.1e} of the twin; {scratch} bytes of scratch",
        gpu.label(),
        if kv.len() == 1 { "one buffer" } else { "two buffers" },
    ))
}
