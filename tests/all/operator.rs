//! The operator library as a stranger uses it: the examples on every adapter, and what is refused.

#[path = "../../examples/custom_selector.rs"]
#[allow(dead_code, reason = "it is a program of its own")]
mod custom_selector;

use crate::common::device::{adapter, gpu};
use crate::common::own_process::is_alone;
use asynctls::attention::{
    BlockScorer, Blocks, Budget, KvLayout, Latent, Shape, Strides, TokenScorer, TwoLevel,
};
use asynctls::gpu::{Adapter, Gpu, GpuOptions, adapters};
use asynctls::operator::{
    AppendTensors, Batch, Bound, Codes, Decode, Kv, LatentOptions, LatentPrefill, LatentTensors,
    Limits, Number, Options, Prefill, PrefillTensors, Select, Selector, Sequence, Tensors,
};
use asynctls::{Result, wgpu};
use custom_selector::embed_operator;
use pollster::block_on;

/// Those of the gate; one that is not here is the conformance suite's to miss.
const ADAPTERS: [&str; 3] = ["vulkan:llvmpipe", "gl:llvmpipe", "vulkan:swiftshader"];

#[test]
fn the_examples_run_on_every_adapter() {
    // A caller's device goes when it goes, and NVIDIA's driver (580.159) never returns from that where others compile meanwhile.
    if !is_alone("operator::the_examples_run_on_every_adapter") {
        return;
    }
    let here = block_on(adapters());
    let asked = std::env::var("ASYNCTLS_ADAPTER").ok();
    let asked: Vec<&str> = match &asked {
        Some(one) => vec![one],
        None => ADAPTERS.to_vec(),
    };
    let labels: Vec<String> = asked
        .into_iter()
        .filter_map(|name| Adapter::choose(&here, Some(name)).ok())
        .map(|adapter| adapter.label())
        .collect();
    assert!(!labels.is_empty(), "no adapter of {ADAPTERS:?} is here");
    for label in &labels {
        for made in [
            block_on(embed_operator::run(Some(label), embed_operator::LAYOUTS[0])),
            block_on(embed_operator::run(Some(label), embed_operator::LAYOUTS[1])),
            block_on(custom_selector::run(Some(label))),
        ] {
            let line = made.unwrap_or_else(|error| panic!("{label}: {error}"));
            assert!(line.starts_with(label), "{line}");
            println!("{line}");
        }
    }
}

const SHAPE: Shape = Shape {
    kv_heads: 2,
    group: 2,
    head_dim: 32,
    values: asynctls::attention::Values::Own,
    scaled_by: 32,
    softcap: None,
    rope_interleaved: true,
    block: 16,
    index: asynctls::attention::IndexFormat { channels: 8, bits: 4 },
};
const LIMITS: Limits = Limits { rows: 2, sequences: 2, tokens: 100, cache_blocks: 7 };
const CODES: Selector =
    Selector::TwoLevel { blocks: BlockScorer::Codes, tokens: TokenScorer::Codes };
const BOUNDS: Selector =
    Selector::TwoLevel { blocks: BlockScorer::MinMax, tokens: TokenScorer::None };
const CHANNELS: [u32; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 31];
const TABLE: [u32; 7] = [6, 0, 5, 1, 4, 2, 3];

fn decode_on(gpu: &Gpu, selector: Selector) -> Decode {
    block_on(Decode::new(gpu, Options::new(gpu, SHAPE, LIMITS), selector)).expect("an operator")
}

/// Buffers with exactly the bytes that the layouts say.
struct Buffers {
    queries: wgpu::Buffer,
    kv: wgpu::Buffer,
    output: wgpu::Buffer,
    codes: wgpu::Buffer,
    summary: wgpu::Buffer,
}

impl Buffers {
    fn new(gpu: &Gpu) -> Self {
        let blocks = u64::from(LIMITS.cache_blocks);
        let storage = |what, bytes| block_on(gpu.storage(what, bytes)).expect("a buffer");
        let summary = BOUNDS.summary().map_or(0, |summary| summary.block_bytes(&SHAPE));
        Self {
            queries: storage("queries", 2 * 4 * 32 * 4),
            kv: storage("keys and values", blocks * SHAPE.block_bytes()),
            output: storage("output", 2 * 4 * 32 * 4),
            codes: storage("codes", blocks * SHAPE.block_code_bytes()),
            summary: storage("summary", blocks * summary),
        }
    }

    fn tensors(&self, selector: Selector) -> Tensors<'_> {
        Tensors {
            queries: self.queries.as_entire_buffer_binding(),
            kv: Kv::Joined(vec![self.kv.as_entire_buffer_binding()]),
            output: self.output.as_entire_buffer_binding(),
            codes: selector.reads_codes().then(|| self.index(&CHANNELS)),
            summary: selector.summary().map(|_| self.summary.as_entire_buffer_binding()),
        }
    }

    fn index<'a>(&'a self, channels: &'a [u32]) -> Codes<'a> {
        Codes { channels, codes: self.codes.as_entire_buffer_binding() }
    }
}

fn refused<T>(made: Result<T>) -> String {
    made.err().expect("it must be refused").to_string()
}

#[test]
fn tensors_are_refused_by_what_is_wrong_with_them() {
    let gpu = gpu();
    let buffers = Buffers::new(&gpu);
    let bind = |selector, tensors: &Tensors<'_>| block_on(decode_on(&gpu, selector).bind(tensors));
    for selector in [Selector::Dense, Selector::Caller, CODES, BOUNDS] {
        bind(selector, &buffers.tensors(selector)).expect("sound tensors");
    }
    let mut wrong: Vec<(Selector, Tensors<'_>, &str)> = Vec::new();
    let sound = |selector| buffers.tensors(selector);
    fn short<'a>(of: &wgpu::BufferBinding<'a>) -> wgpu::BufferBinding<'a> {
        let size = wgpu::BufferSize::new(of.buffer.size() - 4);
        wgpu::BufferBinding { size, ..of.clone() }
    }
    let base = sound(CODES);
    let queries = short(&base.queries);
    wrong.push((
        CODES,
        Tensors { queries, ..sound(CODES) },
        "the range of queries is 1020 bytes long, but 1024 bytes are needed",
    ));
    let kv = Kv::Joined(vec![short(&buffers.kv.as_entire_buffer_binding())]);
    wrong.push((CODES, Tensors { kv, ..sound(CODES) }, "the range of keys and values is 28668"));
    let output = short(&base.output);
    wrong.push((CODES, Tensors { output, ..sound(CODES) }, "the range of the output is 1020"));
    let codes = short(&buffers.index(&CHANNELS).codes);
    let codes = Some(Codes { codes, channels: &CHANNELS });
    wrong.push((CODES, Tensors { codes, ..sound(CODES) }, "the range of the codes is 1340"));
    let summary = sound(BOUNDS).summary.as_ref().map(short);
    wrong.push((BOUNDS, Tensors { summary, ..sound(BOUNDS) }, "the range of the summary is 1788"));
    let queries = wgpu::BufferBinding { offset: 4, ..base.queries.clone() };
    wrong.push((CODES, Tensors { queries, ..sound(CODES) }, "the offset of queries is 4, but"));
    let queries = wgpu::BufferBinding { offset: 1 << 20, ..base.queries.clone() };
    wrong.push((CODES, Tensors { queries, ..sound(CODES) }, "is 0 bytes long, but 1024"));
    let size = wgpu::BufferSize::new(1 << 20);
    let queries = wgpu::BufferBinding { size, ..base.queries.clone() };
    wrong.push((CODES, Tensors { queries, ..sound(CODES) }, "but its buffer has 1024 bytes"));
    let usage = wgpu::BufferUsages::COPY_SRC;
    let plain = block_on(gpu.buffer("plain", 1024, usage)).expect("a buffer");
    let queries = plain.as_entire_buffer_binding();
    wrong.push((CODES, Tensors { queries, ..sound(CODES) }, "the usage of queries is"));
    let output = base.queries.clone();
    wrong.push((
        CODES,
        Tensors { output, ..sound(CODES) },
        "the buffer of the output is that of queries, but",
    ));
    let codes = None;
    wrong.push((CODES, Tensors { codes, ..sound(CODES) }, "the codes of the index is missing"));
    let codes = base.codes.clone();
    wrong.push((
        BOUNDS,
        Tensors { codes, ..sound(BOUNDS) },
        "the codes of the index is given, but",
    ));
    let summary = None;
    wrong.push((BOUNDS, Tensors { summary, ..sound(BOUNDS) }, "the summary of blocks is missing"));
    let (mut outside, mut twice) = (CHANNELS, CHANNELS);
    outside[3] = 32;
    twice[9] = 8;
    for (channels, message) in [
        (&CHANNELS[1..], "the number of channels of a layer is 15, but"),
        (&outside[..], "channel 3 of KV head 0 is 32, but a head has 32 dimensions"),
        (&twice[..], "channel 1 of KV head 1 is 8, but an earlier one is the same"),
    ] {
        let codes = Some(buffers.index(channels));
        wrong.push((CODES, Tensors { codes, ..sound(CODES) }, message));
    }
    for (selector, tensors, message) in wrong {
        let error = refused(bind(selector, &tensors));
        assert!(error.contains(message), "{error} instead of {message}");
    }
    // Prefill checks its own alike.
    let options = Options::new(&gpu, SHAPE, LIMITS);
    let prefill = block_on(Prefill::new(&gpu, options)).expect("an operator");
    let Tensors { queries, kv, output, .. } = sound(Selector::Dense);
    let given = PrefillTensors { queries: short(&queries), kv: kv.clone(), output: output.clone() };
    assert!(refused(block_on(prefill.bind(&given))).contains("the range of queries is 1020"));
    block_on(prefill.bind(&PrefillTensors { queries, kv, output })).expect("sound tensors");
}

#[test]
fn a_buffer_of_another_device_is_refused_by_its_name() {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let here = block_on(instance.enumerate_adapters(wgpu::Backends::all()));
    let is_it = |raw: &wgpu::Adapter| Adapter::from(raw.clone()).label() == adapter().label();
    let raw = here.into_iter().find(is_it).expect("the test adapter");
    let [here, there] = [(); 2].map(|()| {
        let (adapter, options) = (Adapter::from(raw.clone()), GpuOptions::default());
        let descriptor = Gpu::descriptor(&adapter, options).expect("it can run");
        let (device, queue) = block_on(raw.request_device(&descriptor)).expect("a device");
        Gpu::from_device(&adapter, device, queue, options).expect("it has what is needed")
    });
    let (own, foreign) = (Buffers::new(&here), Buffers::new(&there));
    let decode = decode_on(&here, Selector::Dense);
    let kv = Kv::Joined(vec![foreign.kv.as_entire_buffer_binding()]);
    let output = foreign.output.as_entire_buffer_binding();
    for (what, tensors) in [
        ("keys and values", Tensors { kv, ..own.tensors(Selector::Dense) }),
        ("the output", Tensors { output, ..own.tensors(Selector::Dense) }),
    ] {
        let error = refused(block_on(decode.bind(&tensors)));
        let problem = "of another device, or destroyed, but it must be of the operator's device";
        assert_eq!(error, format!("the buffer of {what} is {problem}"));
    }
    own.output.destroy();
    let error = refused(block_on(decode.bind(&own.tensors(Selector::Dense))));
    assert!(error.starts_with("the buffer of the output is of another device, or"), "{error}");
    let own = Buffers::new(&here);
    block_on(decode.bind(&own.tensors(Selector::Dense))).expect("its own");
}

#[test]
fn two_buffers_are_refused_by_what_is_wrong_with_one() {
    let gpu = gpu();
    let layout = KvLayout::apart(&SHAPE);
    let options = Options::with_layout(&gpu, SHAPE, layout, LIMITS);
    let decode = block_on(Decode::new(&gpu, options, CODES)).expect("an operator");
    let prefill = block_on(Prefill::new(&gpu, options)).expect("an operator");
    let buffers = Buffers::new(&gpu);
    // Seven blocks of two KV heads of 1,024 bytes each; room for as much before and behind.
    let bytes = layout.bytes(&SHAPE, LIMITS.cache_blocks);
    assert_eq!(bytes, 7 * 2048);
    let storage = |bytes| block_on(gpu.storage("a tensor", bytes)).expect("a buffer");
    let [keys, values] = [(); 2].map(|()| storage(3 * bytes));
    let plain = block_on(gpu.buffer("plain", bytes, wgpu::BufferUsages::COPY_SRC)).expect("one");
    fn range(buffer: &wgpu::Buffer, offset: u64, size: u64) -> wgpu::BufferBinding<'_> {
        wgpu::BufferBinding { buffer, offset, size: wgpu::BufferSize::new(size) }
    }
    let apart = |keys, values| -> Kv<'_> { Kv::Apart { keys: vec![keys], values: vec![values] } };
    let sound = range(&keys, 256, bytes);
    let bind = |kv: Kv<'_>| {
        let tensors = Tensors { kv: kv.clone(), ..buffers.tensors(CODES) };
        let Tensors { queries, output, .. } = tensors.clone();
        let prompt = PrefillTensors { queries, output, kv };
        let made = block_on(decode.bind(&tensors)).map(|_| ());
        let of_prompt = block_on(prefill.bind(&prompt)).map(|_| ());
        assert_eq!(
            made.as_ref().err().map(ToString::to_string),
            of_prompt.err().map(|e| e.to_string())
        );
        made
    };
    bind(apart(sound.clone(), range(&values, 0, bytes))).expect("two buffers");
    bind(apart(sound.clone(), range(&keys, 256 + bytes, bytes))).expect("ranges of one");
    for (kv, message) in [
        (
            Kv::Joined(vec![buffers.kv.as_entire_buffer_binding()]),
            "the layout of keys and values is joined, but the operator is made for two buffers",
        ),
        (
            Kv::Apart { keys: vec![sound.clone()], values: vec![] },
            "the number of ranges of values is 0, but the cache has 1 segments of 7 blocks",
        ),
        (
            apart(range(&keys, 0, bytes - 4), range(&values, 0, bytes)),
            "the range of keys is 14332 bytes long, but 14336 bytes are needed",
        ),
        (
            apart(sound.clone(), range(&values, 0, bytes - 4)),
            "the range of values is 14332 bytes long, but 14336 bytes are needed",
        ),
        (
            apart(sound.clone(), range(&values, 4, bytes)),
            "the offset of values is 4, but it must be a multiple of",
        ),
        (
            apart(sound.clone(), plain.as_entire_buffer_binding()),
            "the usage of values is BufferUsages(COPY_SRC), but it must have STORAGE",
        ),
        (
            apart(sound.clone(), sound.clone()),
            "the range of values is where that of keys is, but each must have bytes of its own",
        ),
        (
            apart(sound.clone(), range(&keys, bytes, bytes)),
            "the range of values is where that of keys is",
        ),
        (
            apart(range(&buffers.output, 0, bytes), range(&values, 0, bytes)),
            "the buffer of the output is that of keys, but",
        ),
    ] {
        let error = refused(bind(kv));
        assert!(error.starts_with(message), "{error} instead of {message}");
    }
    // The other way round.
    let one = decode_on(&gpu, Selector::Dense);
    let kv = apart(sound.clone(), range(&values, 0, bytes));
    let error = refused(block_on(one.bind(&Tensors { kv, ..buffers.tensors(Selector::Dense) })));
    assert!(error.contains("is apart, but the operator is made for one buffer"), "{error}");
    // What is appended is named apart from what it is appended to.
    let rows = |values| AppendTensors {
        keys: range(&buffers.kv, 0, 512),
        values: Some(range(&buffers.kv, 0, 512)),
        number: Number::F32,
        key_stride: 64,
        value_stride: 64,
        turns: false,
        kv: apart(sound.clone(), values),
    };
    block_on(decode.bind_append(&rows(range(&keys, 256 + bytes, bytes)))).expect("one buffer");
    for (values, message) in [
        (range(&values, 0, 4), "the range of the cached values is 4 bytes long, but 14336 bytes"),
        (sound.clone(), "the range of the cached values is where that of the cached keys is, but"),
        (
            range(&buffers.kv, 0, bytes),
            "the buffer of keys is that of the cached values, but what is written",
        ),
    ] {
        let error = refused(block_on(decode.bind_append(&rows(values))));
        assert!(error.starts_with(message), "{error} instead of {message}");
    }
    let latent = Shape::latent(4, 64, 32, 64);
    let options =
        Options { layout: KvLayout::apart(&latent), ..Options::new(&gpu, latent, LIMITS) };
    let error = refused(block_on(Decode::new(&gpu, options, Selector::Dense)));
    assert!(error.contains("values that are a part of the keys are in their buffer"), "{error}");
}

/// Where keys and values lie, segment by segment.
struct Lying {
    layout: KvLayout,
    /// Bytes from the beginning of a segment's keys to that of its values, where both are in one buffer.
    behind: Option<u64>,
}

/// All that kernels make of the same numbers where keys and values lie so: what is attended by each selector and of a prompt, and
/// the index. Last the cache, where it is one buffer.
fn made_where(gpu: &Gpu, shape: Shape, lying: &Lying) -> Vec<(String, Vec<u8>)> {
    let tokens = LIMITS.tokens;
    let limits = Limits { rows: tokens, ..LIMITS };
    let (layout, rows) = (lying.layout, u64::from(tokens));
    let options = Options { segment_blocks: 3, ..Options::with_layout(gpu, shape, layout, limits) };
    let mut random = rand_pcg::Pcg32::new(5, 6);
    let mut numbers = |heads: u32| {
        let count = tokens * heads * shape.head_dim;
        let floats = embed_operator::floats(count as usize, &mut random);
        block_on(gpu.storage_with("rows", bytemuck::cast_slice(&floats))).expect("a buffer")
    };
    let [queries, keys, values] =
        [shape.q_heads(), shape.kv_heads, shape.kv_heads].map(&mut numbers);
    let storage = |bytes| block_on(gpu.storage("a tensor", bytes)).expect("a buffer");
    let bytes = |blocks| layout.bytes(&shape, blocks);
    let segments = [3, 3, 1].map(|blocks| {
        let values = if let KvLayout::Joined = layout { 4 } else { bytes(blocks) };
        (storage(bytes(blocks) + lying.behind.unwrap_or(0)), storage(values))
    });
    fn from(buffer: &wgpu::Buffer, offset: u64) -> wgpu::BufferBinding<'_> {
        wgpu::BufferBinding { buffer, offset, size: None }
    }
    let kv = || {
        let all = segments.iter();
        match (layout, lying.behind) {
            (KvLayout::Joined, _) => Kv::Joined(all.map(|(both, _)| from(both, 0)).collect()),
            (_, None) => Kv::Apart {
                keys: all.clone().map(|(keys, _)| from(keys, 0)).collect(),
                values: all.map(|(_, values)| from(values, 0)).collect(),
            },
            (_, Some(behind)) => Kv::Apart {
                keys: all.clone().map(|(both, _)| from(both, 0)).collect(),
                values: all.map(|(both, _)| from(both, behind)).collect(),
            },
        }
    };
    let submit = |record: &mut dyn FnMut(&mut wgpu::CommandEncoder) -> Result<()>| {
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        record(&mut encoder).expect("a recording");
        gpu.submit(encoder).expect("a submission");
    };
    let download = |buffer: &wgpu::Buffer| {
        block_on(gpu.download(buffer, buffer.size())).expect("what was made")
    };
    let width = u64::from(shape.q_heads() * shape.head_dim);
    let mut made = Vec::new();
    let whole = Sequence { length: tokens, rows: tokens, blocks: &TABLE, index: 0..0 };

    // The cache is filled by the kernel, and the prompt attended.
    let prefill = block_on(Prefill::new(gpu, options)).expect("an operator");
    let output = storage(rows * width * 4);
    let new = AppendTensors {
        keys: keys.as_entire_buffer_binding(),
        values: Some(values.as_entire_buffer_binding()),
        number: Number::F32,
        key_stride: shape.kv_heads * shape.head_dim,
        value_stride: shape.kv_heads * shape.head_dim,
        turns: true,
        kv: kv(),
    };
    let append = block_on(prefill.bind_append(&new)).expect("rows");
    let tensors = PrefillTensors {
        queries: queries.as_entire_buffer_binding(),
        kv: kv(),
        output: output.as_entire_buffer_binding(),
    };
    let bound = block_on(prefill.bind(&tensors)).expect("tensors");
    let sequences = [whole.clone()];
    let plan = prefill.plan(&Batch { sequences: &sequences, select: Select::Dense });
    let turn = |position: u32| {
        let angles = (0..shape.head_dim / 2).map(|pair| position as f32 / (pair + 1) as f32);
        angles.map(|angle| [angle.cos(), angle.sin()]).collect()
    };
    let plan = plan.and_then(|plan| plan.turning(turn)).expect("a plan");
    submit(&mut |encoder| {
        let mut recording = prefill.begin(encoder, &plan)?;
        let mut pass = recording.pass()?;
        append.append(&mut pass)?;
        bound.attend(&mut pass)
    });
    made.push(("a prompt".into(), download(&output)));

    let oracles = Selector::TwoLevel { blocks: BlockScorer::Oracle, tokens: TokenScorer::Oracle };
    let lists: Vec<Vec<u32>> = (0..2 * shape.kv_heads).map(|i| vec![i, 40 + i, 77]).collect();
    let decoding = Sequence { rows: 2, ..whole.clone() };
    let indexing = Sequence { rows: 0, index: 0..tokens / shape.block, ..whole };
    for selector in [Selector::Dense, Selector::Caller, CODES, BOUNDS, oracles] {
        let decode = block_on(Decode::new(gpu, options, selector)).expect("an operator");
        let blocks = u64::from(limits.cache_blocks);
        let [output, codes] = [rows * width * 4, blocks * shape.block_code_bytes()].map(storage);
        let summary = selector.summary().map(|kept| storage(blocks * kept.block_bytes(&shape)));
        let channels: Vec<u32> =
            (0..shape.kv_heads).flat_map(|head| head..head + shape.index.channels).collect();
        let index = Codes { channels: &channels, codes: codes.as_entire_buffer_binding() };
        let tensors = Tensors {
            queries: queries.as_entire_buffer_binding(),
            kv: kv(),
            output: output.as_entire_buffer_binding(),
            codes: selector.reads_codes().then_some(index),
            summary: summary.as_ref().map(wgpu::Buffer::as_entire_buffer_binding),
        };
        let bound = block_on(decode.bind(&tensors)).expect("tensors");
        let has_index = selector.reads_codes() || selector.summary().is_some();
        let select = match selector {
            Selector::Caller => Select::Tokens(&lists),
            _ => two_level(selector),
        };
        if has_index {
            let sequences = [indexing.clone()];
            let plan = decode.plan(&Batch { sequences: &sequences, select: Select::Dense });
            let plan = plan.expect("a plan");
            submit(&mut |encoder| bound.index(&mut decode.begin(encoder, &plan)?.pass()?));
        }
        let sequences = [decoding.clone()];
        let plan = decode.plan(&Batch { sequences: &sequences, select }).expect("a plan");
        submit(&mut |encoder| bound.attend(&mut decode.begin(encoder, &plan)?.pass()?));
        made.push((format!("{selector:?}"), download(&output)));
        made.push((format!("codes of {selector:?}"), download(&codes)));
        made.extend(summary.map(|buffer| (format!("summary of {selector:?}"), download(&buffer))));
    }
    let cache = segments.iter().flat_map(|(both, _)| download(both)).collect();
    made.push(("the cache".into(), cache));
    made
}

#[test]
fn two_buffers_give_the_bits_of_one_whatever_their_strides() {
    let gpu = gpu();
    // Of odd sizes, one layout: strides are the same words for every shape.
    let odd = Shape { group: 3, head_dim: 80, scaled_by: 80, ..SHAPE };
    for (shape, only) in [(SHAPE, None), (odd, Some("with room"))] {
        let one = made_where(&gpu, shape, &Lying { layout: KvLayout::Joined, behind: None });
        let written = one.iter().filter(|(_, bytes)| bytes.iter().any(|&byte| byte != 0));
        // All but the codes of the four selectors that read none.
        assert_eq!(written.count(), one.len() - 4);
        let rows = shape.block * shape.head_dim;
        let strides = |block, head| KvLayout::Apart(Strides { block, head });
        let bytes = |numbers: u32| Some(u64::from(numbers) * 2);
        for (what, layout, behind) in [
            ("without room", KvLayout::apart(&shape), None),
            ("with room", strides(2 * rows + 120, rows + 24), None),
            ("KV heads first", strides(rows, 3 * rows), None),
            ("a block's keys before its values", strides(4 * rows, rows), bytes(2 * rows)),
            ("as one buffer has them", strides(4 * rows, 2 * rows), bytes(rows)),
        ] {
            if only.is_some_and(|only| only != what) {
                continue;
            }
            let two = made_where(&gpu, shape, &Lying { layout, behind });
            assert_eq!(one.len(), two.len());
            for ((name, one), (_, two)) in one.iter().zip(&two) {
                if name != "the cache" || what == "as one buffer has them" {
                    assert!(one == two, "{name}, {what}, {} dimensions", shape.head_dim);
                }
            }
        }
    }
}

fn sequence(length: u32) -> Sequence<'static> {
    Sequence { length, rows: 1, blocks: &TABLE, index: 0..0 }
}

fn two_level(selector: Selector) -> Select<'static> {
    let Selector::TwoLevel { blocks, tokens } = selector else { return Select::Dense };
    let kept = Blocks::Count(1);
    let budget =
        Budget { blocks: kept, tokens: 5, sink_blocks: 1, recent_blocks: 1, dense_below: 0 };
    Select::TwoLevel(TwoLevel { budget, block_scorer: blocks, token_scorer: tokens })
}

#[test]
fn operators_are_refused_for_what_no_kernel_has() {
    let gpu = gpu();
    let made = |shape, limits, selector| {
        block_on(Decode::new(&gpu, Options::new(&gpu, shape, limits), selector))
    };
    let none = Limits { rows: 0, ..LIMITS };
    assert!(refused(made(SHAPE, none, CODES)).contains("the most rows of a batch is 0, but"));
    let long = Limits { tokens: 16 * 65_535, rows: 2000, ..LIMITS };
    let error = refused(made(SHAPE, long, CODES));
    assert!(error.contains("the size of") && error.contains("lower limits need less"), "{error}");
    let odd = Shape { head_dim: 48, ..SHAPE };
    assert!(refused(made(odd, LIMITS, CODES)).contains("the head dimension is 48, but"));
    let latent = Shape::latent(4, 64, 32, 64);
    let prefill = block_on(Prefill::new(&gpu, Options::new(&gpu, latent, LIMITS)));
    assert!(refused(prefill).contains("the values is a part of the keys, but"));
}

#[test]
fn a_plan_is_recorded_by_its_operator_alone_while_it_is_the_last() {
    let wanted = adapter().label();
    let (device, _, gpu) = block_on(embed_operator::open(Some(&wanted))).expect("a device");
    let buffers = Buffers::new(&gpu);
    let (codes, dense) = (decode_on(&gpu, CODES), decode_on(&gpu, Selector::Dense));
    let batch = |select| Batch { sequences: &[], select };
    for (operator, selector) in [(&codes, BOUNDS), (&dense, CODES)] {
        let error = refused(operator.plan(&batch(two_level(selector))));
        assert!(error.starts_with("the selection of the batch is"), "{error}");
    }
    let error = refused(codes.plan(&batch(Select::Tokens(&[]))));
    assert!(error.contains("but the operator was made for TwoLevel"), "{error}");

    let mut encoder = device.create_command_encoder(&Default::default());
    let long = [sequence(100), sequence(64)];
    let plan = codes.plan(&Batch { sequences: &long, select: two_level(CODES) }).expect("a plan");
    // Of other limits, and of another selector.
    let options = Options::new(&gpu, SHAPE, Limits { rows: 3, ..LIMITS });
    let other = block_on(Decode::new(&gpu, options, CODES)).expect("an operator");
    assert!(
        refused(other.begin(&mut encoder, &plan)).contains("the plan is made for other options")
    );
    assert!(refused(dense.begin(&mut encoder, &plan)).contains("the selection of the batch is"));

    let bound: Bound = block_on(codes.bind(&buffers.tensors(CODES))).expect("tensors");
    let elsewhere = block_on(dense.bind(&buffers.tensors(Selector::Dense))).expect("tensors");
    let mut recording = codes.begin(&mut encoder, &plan).expect("a recording");
    let mut pass = recording.pass().expect("a pass");
    bound.attend(&mut pass).expect("its own");
    let error = refused(elsewhere.attend(&mut pass));
    assert!(error.contains("the recording is of another operator, but"), "{error}");
    // Nor is the pass of another encoder.
    let mut stranger = device.create_command_encoder(&Default::default());
    let mut other = stranger.begin_compute_pass(&Default::default()).forget_lifetime();
    std::mem::swap(pass.compute(), &mut other);
    assert!(refused(bound.attend(&mut pass)).contains("the pass is another, but"));
    std::mem::swap(pass.compute(), &mut other);
    bound.attend(&mut pass).expect("its own again");
    drop((pass, other));
    // Another plan's words are where this one's were.
    let short = codes
        .plan(&Batch { sequences: &[sequence(1)], select: Select::Dense })
        .expect("a dense plan for any operator");
    let mut inner = codes.begin(recording.encoder(), &short).expect("a recording");
    bound.attend(&mut inner.pass().expect("a pass")).expect("the last");
    assert!(refused(recording.pass()).contains("the recording is no longer the last"));
    assert!(refused(recording.pass()).contains("begin again"));

    // Nor are they in another encoder.
    let mut recording = codes.begin(&mut encoder, &plan).expect("a recording");
    let mut stranger = device.create_command_encoder(&Default::default());
    std::mem::swap(recording.encoder(), &mut stranger);
    assert!(refused(recording.pass()).contains("the encoder is another, but"));

    // What has no index cannot build one.
    let indexing = [Sequence { index: 0..2, ..sequence(40) }];
    let plan = dense.plan(&Batch { sequences: &indexing, select: Select::Dense }).expect("a plan");
    let mut recording = dense.begin(&mut encoder, &plan).expect("a recording");
    let error = refused(elsewhere.index(&mut recording.pass().expect("a pass")));
    assert!(
        error.contains("the number of blocks to index is 2, but Dense has no index"),
        "{error}"
    );
    assert!(
        refused(
            block_on(Prefill::new(&gpu, *codes.options()))
                .expect("one")
                .plan(&Batch { sequences: &long, select: two_level(CODES) })
        )
        .contains("prefill is dense")
    );
}

#[test]
fn what_is_appended_is_refused_by_what_is_wrong_with_it() {
    let wanted = adapter().label();
    let (device, _, gpu) = block_on(embed_operator::open(Some(&wanted))).expect("a device");
    let buffers = Buffers::new(&gpu);
    let storage = |bytes: u64| block_on(gpu.storage("rows", bytes)).expect("a buffer");
    // Two rows of two KV heads of 32 dimensions, as halves.
    let (keys, values) = (storage(256), storage(256));
    let sound = AppendTensors {
        keys: keys.as_entire_buffer_binding(),
        values: Some(values.as_entire_buffer_binding()),
        number: Number::F16,
        key_stride: 64,
        value_stride: 64,
        turns: true,
        kv: Kv::Joined(vec![buffers.kv.as_entire_buffer_binding()]),
    };
    let decode = decode_on(&gpu, Selector::Dense);
    let bound = block_on(decode.bind_append(&sound)).expect("sound tensors");
    let wrong = [
        (
            AppendTensors { key_stride: 63, ..sound.clone() },
            "the stride of keys is 63, but a row has 64 numbers",
        ),
        (
            AppendTensors { value_stride: 0, ..sound.clone() },
            "the stride of values is 0, but a row has 64 numbers",
        ),
        (
            AppendTensors { number: Number::F32, ..sound.clone() },
            "the range of keys is 256 bytes long, but 512 bytes are needed",
        ),
        (
            AppendTensors { value_stride: 66, ..sound.clone() },
            "the range of values is 256 bytes long, but 260 bytes are needed",
        ),
        (AppendTensors { values: None, ..sound.clone() }, "the values is missing, but"),
        (
            AppendTensors { kv: Kv::Joined(vec![sound.keys.clone()]), ..sound.clone() },
            "the buffer of keys is that of the cache, but",
        ),
    ];
    for (tensors, message) in wrong {
        let error = refused(block_on(decode.bind_append(&tensors)));
        assert!(error.contains(message), "{error} instead of {message}");
    }
    let sequences = [sequence(20), sequence(7)];
    let plan = || {
        let batch = Batch { sequences: &sequences, select: Select::Dense };
        decode.plan(&batch).expect("a plan")
    };
    let what = "the number of pairs that are turned is";
    for (made, message) in [
        (plan().turning(|_| Vec::new()), format!("{what} 0, but a head has 1 to 16")),
        (plan().turning(|_| vec![[1.0, 0.0]; 17]), format!("{what} 17, but a head has 1 to 16")),
        (
            plan().turning(|position| vec![[1.0, 0.0]; if position == 6 { 9 } else { 16 }]),
            format!("{what} 9, but the first row's are 16"),
        ),
    ] {
        assert_eq!(refused(made), message);
    }
    for (turned, message) in [
        (plan(), "the number of pairs that the plan has angles of is 0, but keys are turned by 16"),
        (
            plan().turning(|_| vec![[1.0, 0.0]; 8]).expect("fewer pairs"),
            "the number of pairs that the plan has angles of is 8, but keys are turned by 16",
        ),
    ] {
        let mut encoder = device.create_command_encoder(&Default::default());
        let mut recording = decode.begin(&mut encoder, &turned).expect("a recording");
        assert_eq!(refused(bound.append(&mut recording.pass().expect("a pass"))), message);
    }
}

const LATENT: LatentOptions = LatentOptions {
    latent: Latent {
        heads: 3,
        q_rank: 32,
        kv_rank: 64,
        nope: 32,
        rope: 32,
        value: 64,
        epsilon: 1e-5,
    },
    block: 16,
    rows: 4,
    tokens: 100,
    cache_blocks: 7,
    segment_blocks: 7,
    slab_tokens: 32,
};

#[test]
fn slabs_of_latents_are_gathered_and_attended_in_turn() {
    let wanted = adapter().label();
    let (device, _, gpu) = block_on(embed_operator::open(Some(&wanted))).expect("a device");
    let made = |options| block_on(LatentPrefill::new(&gpu, options));
    for (slab_tokens, message) in [
        (0, "the number of tokens of a slab is 0, but it must be a multiple of 16"),
        (40, "the number of tokens of a slab is 40, but"),
        (65_536, "from there to 65520"),
    ] {
        let error = refused(made(LatentOptions { slab_tokens, ..LATENT }));
        assert!(error.contains(message), "{error}");
    }
    let error = refused(made(LatentOptions { tokens: 0, ..LATENT }));
    assert!(error.contains("the most tokens of a sequence is 0, but"), "{error}");
    let narrow = Latent { value: 32, ..LATENT.latent };
    let error = refused(made(LatentOptions { latent: narrow, ..LATENT }));
    assert!(error.contains("only equal ones are supported"), "{error}");

    let prefill = made(LATENT).expect("an operator");
    let storage = |words: u64| block_on(gpu.storage("a tensor", words * 4)).expect("a buffer");
    let [queries, kv, latents, product, output] =
        [4 * 3 * 64, 7 * 16 * 96 / 2, 32 * 64, 32 * 3 * 96, 4 * 3 * 64].map(storage);
    let sound = LatentTensors {
        queries: queries.as_entire_buffer_binding(),
        kv: vec![kv.as_entire_buffer_binding()],
        latents: latents.as_entire_buffer_binding(),
        made: product.as_entire_buffer_binding(),
        output: output.as_entire_buffer_binding(),
    };
    let bound = block_on(prefill.bind(&sound)).expect("sound tensors");
    let short =
        block_on(prefill.bind(&LatentTensors { made: sound.latents.clone(), ..sound.clone() }));
    assert!(refused(short).contains("the buffer of what is made of latents is that of latents"));

    let tokens = |length, rows| Sequence { length, rows, blocks: &TABLE, index: 0..0 };
    let plan = prefill.plan(&tokens(70, 4)).expect("a plan");
    let mut encoder = device.create_command_encoder(&Default::default());
    let mut recording = prefill.begin(&mut encoder, &plan).expect("a recording");
    let mut slabs = bound.slabs(&mut recording).expect("slabs");
    assert!(refused(slabs.attend()).contains("the slab is not gathered, but"));
    for positions in [0..32, 32..64, 64..70] {
        assert_eq!(slabs.gather().expect("a slab"), Some(positions));
        assert!(refused(slabs.gather()).contains("it must be attended before the next"));
        slabs.attend().expect("it is gathered");
    }
    assert_eq!(slabs.gather().expect("the end"), None);
    assert!(refused(slabs.attend()).contains("the slab is not gathered, but"));
    // No rows attend no slabs.
    let plan = prefill.plan(&tokens(70, 0)).expect("a plan");
    let mut recording = prefill.begin(&mut encoder, &plan).expect("a recording");
    let mut slabs = bound.slabs(&mut recording).expect("slabs");
    assert_eq!(slabs.gather().expect("the end"), None);
    // Plans are the operator's own.
    let shape = LATENT.latent.prefill_shape(16);
    let limits = Limits { rows: 4, sequences: 1, tokens: 100, cache_blocks: 7 };
    let options = Options { workgroups: 1, ..Options::new(&gpu, shape, limits) };
    let whole = block_on(Prefill::new(&gpu, options)).expect("an operator");
    assert!(refused(whole.begin(&mut encoder, &plan)).contains("the selection of the batch is"));
    let sequences = [tokens(70, 4)];
    let batch = Batch { sequences: &sequences, select: Select::Dense };
    let dense = whole.plan(&batch).expect("a plan");
    let error = refused(prefill.begin(&mut encoder, &dense));
    assert!(error.contains("the selection of the batch is"), "{error}");
}

#[test]
fn a_cache_of_several_segments_has_as_many_ranges() {
    let gpu = gpu();
    let buffers = Buffers::new(&gpu);
    let whole = Options::new(&gpu, SHAPE, LIMITS);
    assert_eq!((whole.segment_blocks, whole.segments()), (7, 1));
    // Seven blocks by threes.
    let options = Options { segment_blocks: 3, ..whole };
    assert_eq!(options.segments(), 3);
    let decode = block_on(Decode::new(&gpu, options, Selector::Dense)).expect("an operator");
    let sound = buffers.tensors(Selector::Dense);
    let segment = |first: u64, blocks: u64| wgpu::BufferBinding {
        buffer: &buffers.kv,
        offset: first * SHAPE.block_bytes(),
        size: wgpu::BufferSize::new(blocks * SHAPE.block_bytes()),
    };
    let bind = |kv| block_on(decode.bind(&Tensors { kv: Kv::Joined(kv), ..sound.clone() }));
    bind(vec![segment(0, 3), segment(3, 3), segment(6, 1)]).expect("a segment each");
    for (kv, message) in [
        (
            vec![segment(0, 7)],
            "the number of ranges of keys and values is 1, but the cache has 3 segments of 3 blocks",
        ),
        (
            vec![segment(0, 3), segment(3, 2), segment(6, 1)],
            "the range of segment 1 of keys and values is 8192 bytes long, but 12288 bytes are needed",
        ),
        (
            vec![segment(0, 3), segment(2, 3), segment(6, 1)],
            "the range of segment 1 of keys and values is where that of segment 0 of keys and values is, but each must have bytes of its own",
        ),
    ] {
        assert_eq!(refused(bind(kv)), message);
    }
    // Segments are as long as a kernel sees.
    let few = GpuOptions { max_binding: Some(3 * SHAPE.block_bytes() + 100), ..Default::default() };
    let options = Options::new(&crate::common::device::own_gpu(few), SHAPE, LIMITS);
    assert_eq!((options.segment_blocks, options.segments()), (3, 3));
}
