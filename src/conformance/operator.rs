//! Cases of the operator library: whole batches through a caller's buffers, attended tokens and all.

use super::append::{Rows, check_appended};
use super::attend::{Tokens, check_attention, random_qkv};
use super::cache::{Cache, Family, Lie, latent_shapes, shape_label};
use super::index::random_channels;
use super::rig::{POISON, Random, bits, untouched};
use super::{Case, Verdict};
use crate::Result;
use crate::attention::{
    BlockScorer, Blocks, Budget, IndexFormat, Latent, RowBudget, Shape, Summary, TokenScorer,
    TwoLevel,
};
use crate::attention::{Divisor, share_mean, softmax_mean, top_k};
use crate::gpu::Gpu;
use crate::kernels;
use crate::operator::{
    AppendTensors, Batch, Codes, Decode, Kv, LatentOptions, LatentPrefill, LatentTensors, Limits,
    Number, Options, Prefill, PrefillTensors, Select, Selector, Sequence, Tensors,
};
use crate::reference::model::dot;
use crate::reference::select::log_sum_exp;
use crate::reference::summary::SummaryTwin;
use half::f16;

const ORACLES: (BlockScorer, TokenScorer) = (BlockScorer::Oracle, TokenScorer::Oracle);

const TWO_LEVELS: [(BlockScorer, TokenScorer); 7] = [
    (BlockScorer::Codes, TokenScorer::Codes),
    (BlockScorer::Codes, TokenScorer::None),
    (BlockScorer::MinMax, TokenScorer::None),
    (BlockScorer::MinMax, TokenScorer::Codes),
    (BlockScorer::MeanStd, TokenScorer::Codes),
    (BlockScorer::None, TokenScorer::Codes),
    ORACLES,
];

pub(super) fn cases(cases: &mut Vec<Case>) {
    // Kernels have cases of their own: that lanes are reversed is nothing to what stands around them.
    let mut add_lying = |shape: Shape, selector: Selector, rows: u32, segments: u32, lie: Lie| {
        let what = match selector {
            Selector::TwoLevel { blocks, tokens } => format!("{blocks} {tokens}"),
            Selector::Dense => "dense".into(),
            Selector::Caller => "caller".into(),
        };
        let lies = if lie == Lie::Joined { String::new() } else { format!(" {lie:?}") };
        let label = format!("{} {what} rows {rows} segments {segments}{lies}", shape_label(&shape));
        cases.push(Case::new("operator", label, false, move |gpu| {
            Box::pin(decode(gpu, shape, selector, (rows, segments, lie), FEW))
        }));
    };
    let two_level = |(blocks, tokens)| Selector::TwoLevel { blocks, tokens };
    // All that is kept of each key is nearly all there is of it, so that what codes choose is known.
    let exact = |channels| IndexFormat { channels, bits: 8 };
    let small = Shape { index: exact(32), block: 16, ..Shape::new(2, 5, 32, true) };
    let large = Shape::new(1, 4, 128, false);
    // All that reads keys or values reads them from two buffers.
    let uneven = Shape { index: exact(80), block: 16, ..Shape::new(2, 3, 80, false) };
    let by_codes = two_level(TWO_LEVELS[0]);
    for (shape, lie, selectors) in [
        (small, Lie::Roomy, [Selector::Dense, by_codes]),
        (uneven, Lie::HeadsFirst, [Selector::Caller, by_codes]),
        (large, Lie::Apart, [Selector::Dense, two_level(ORACLES)]),
    ] {
        for selector in selectors {
            add_lying(shape, selector, 2, 2, lie);
        }
    }
    for scorers in [TWO_LEVELS[3], TWO_LEVELS[4]] {
        add_lying(small, two_level(scorers), 1, 1, Lie::Apart);
    }
    let mut add = |shape, selector, rows, segments| {
        add_lying(shape, selector, rows, segments, Lie::Joined);
    };
    // Several rows of a sequence, as drafts are verified, and one.
    add(small, Selector::Dense, 3, 1);
    add(small, Selector::Caller, 3, 3);
    for (i, scorers) in TWO_LEVELS.into_iter().enumerate() {
        add(small, two_level(scorers), if i == 0 { 3 } else { 1 }, 1 + i as u32 % 2);
    }
    let latent = Shape { index: exact(96), ..latent_shapes()[1] };
    add(latent, Selector::Dense, 1, 2);
    add(latent, two_level(TWO_LEVELS[0]), 1, 2);
    add(large, two_level(ORACLES), 1, 2);
    // What divides token scores: of groups whose ranks other kernels make, wholly or of blocks alone; of rows that keep all blocks; and
    // where it matters most.
    let of_group = |group| Shape { index: exact(32), block: 16, ..Shape::new(1, group, 32, true) };
    for (shape, asked) in [
        (of_group(10), FEW),
        (of_group(12), FEW),
        (small, Asked { blocks: 1000, ..FEW }),
        (of_group(10), Asked { blocks: 1000, ..FEW }),
        (of_group(12), Asked { blocks: 1000, ..FEW }),
        (small, Asked { at_sink: true, ..FEW }),
        (of_group(10), Asked { at_sink: true, ..FEW }),
        (of_group(12), Asked { at_sink: true, ..FEW }),
    ] {
        let Asked { blocks, at_sink } = asked;
        let sink = if at_sink { " at the sink" } else { "" };
        let label = format!("{} codes codes blocks {blocks}{sink}", shape_label(&shape));
        cases.push(Case::new("operator", label, false, move |gpu| {
            Box::pin(decode(gpu, shape, by_codes, (2, 1, Lie::Joined), asked))
        }));
    }
    for (shape, segments, lie) in [
        (small, 3, Lie::Joined),
        (large, 1, Lie::Joined),
        (small, 1, Lie::Apart),
        (large, 2, Lie::Roomy),
        (uneven, 2, Lie::HeadsFirst),
    ] {
        let lies = if lie == Lie::Joined { String::new() } else { format!(" {lie:?}") };
        let of = (segments, lie);
        let label = format!("{} prefill segments {segments}{lies}", shape_label(&shape));
        cases.push(Case::new("operator", label, false, move |gpu| {
            Box::pin(prefill(gpu, shape, of))
        }));
        for number in [Number::F32, Number::F16] {
            let what = format!("append {number:?} segments {segments}{lies}");
            let label = format!("{} {what}", shape_label(&shape));
            cases.push(Case::new("operator", label, false, move |gpu| {
                Box::pin(append(gpu, shape, number, of))
            }));
        }
    }
    for (heads, slab_blocks, segments) in [(5, 2, 1), (3, 1, 2)] {
        let latent =
            Latent { heads, q_rank: 48, kv_rank: 64, nope: 32, rope: 32, value: 64, epsilon: 1e-5 };
        let label = format!("latent prefill heads {heads} segments {segments}");
        cases.push(Case::new("operator", label, false, move |gpu| {
            Box::pin(latent_prefill(gpu, latent, slab_blocks * 16, segments))
        }));
    }
}

/// A caller's buffers: each tensor begins somewhere, and is longer than it must be.
struct Buffers {
    queries: wgpu::Buffer,
    /// Segment by segment.
    kv: Vec<wgpu::Buffer>,
    /// Likewise, where they are apart.
    values: Vec<wgpu::Buffer>,
    output: wgpu::Buffer,
    codes: wgpu::Buffer,
    summary: wgpu::Buffer,
}

/// Bytes before each tensor.
const BEFORE: u64 = 256;

fn after(buffer: &wgpu::Buffer) -> wgpu::BufferBinding<'_> {
    wgpu::BufferBinding { buffer, offset: BEFORE, size: None }
}

impl Buffers {
    async fn new(
        gpu: &Gpu,
        options: &Options,
        summary: Option<&Summary>,
        cache: &Cache,
        qkv: &[f32],
    ) -> Result<Self> {
        let shape = &options.shape;
        let poison = |words: u64| vec![POISON; words as usize];
        let filled =
            |words: &[u32]| -> Vec<u32> { [&poison(BEFORE / 4), words, &poison(7)].concat() };
        let width = (shape.q_heads() * shape.head_dim) as usize;
        let mut queries = Vec::new();
        for row in qkv.chunks_exact(shape.row_width() as usize) {
            queries.extend(bits(&row[..width]));
            queries.resize(queries.len() + options.query_stride as usize - width, POISON);
        }
        queries.resize((options.limits.rows * options.query_stride) as usize, POISON);
        let blocks = u64::from(options.limits.cache_blocks);
        let heads = u64::from(options.limits.rows * shape.q_heads());
        let outputs = poison(heads * u64::from(shape.value_dim()));
        let codes = poison(blocks * shape.block_code_bytes() / 4);
        let summary_bytes = summary.map_or(0, |kept| kept.block_bytes(shape));
        let summary = poison(blocks * summary_bytes / 4);
        let buffer = async |what: &str, words: &[u32]| {
            gpu.storage_with(what, bytemuck::cast_slice(&filled(words))).await
        };
        let (mut kv, mut values) = (Vec::new(), Vec::new());
        for segment in 0..cache.segments {
            let (words, apart) = cache.buffers(segment);
            kv.push(buffer("keys and values", &words).await?);
            if let Some(words) = apart {
                values.push(buffer("values", &words).await?);
            }
        }
        Ok(Self {
            queries: buffer("queries", &queries).await?,
            kv,
            values,
            output: buffer("the output", &outputs).await?,
            codes: buffer("codes", &codes).await?,
            summary: buffer("summary", &summary).await?,
        })
    }

    fn kv(&self) -> Kv<'_> {
        ranges(&self.kv, &self.values)
    }

    /// The output; what lies around it must be as it was.
    async fn output(
        &self,
        gpu: &Gpu,
        used: usize,
    ) -> Result<std::result::Result<Vec<u32>, String>> {
        let words = words(&gpu.download(&self.output, self.output.size()).await?);
        let (before, rest) = words.split_at(BEFORE as usize / 4);
        // A buffer is a whole number of 16 bytes.
        let around = untouched("what is before the output", before)
            .and_then(|()| untouched("what follows the output", &rest[used..used + 7]));
        Ok(around.map(|()| rest[..used].to_vec()))
    }
}

/// Keys, or keys and values, and values where they are apart.
fn ranges<'b>(keys: &'b [wgpu::Buffer], values: &'b [wgpu::Buffer]) -> Kv<'b> {
    let [keys, values]: [Vec<_>; 2] =
        [keys, values].map(|buffers| buffers.iter().map(after).collect());
    if values.is_empty() { Kv::Joined(keys) } else { Kv::Apart { keys, values } }
}

fn words(bytes: &[u8]) -> Vec<u32> {
    bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

fn setting(gpu: &Gpu, cache: &Cache, lengths: &[u32], rows: u32) -> Options {
    let shape = cache.shape;
    let sequences = lengths.len() as u32;
    let limits = Limits {
        rows: rows + 2,
        sequences: sequences + 1,
        tokens: lengths.iter().max().expect("a sequence") + 7,
        cache_blocks: cache.blocks_a_segment * cache.segments,
    };
    let segment_blocks = cache.blocks_a_segment;
    let stride = shape.q_heads() * shape.head_dim + 12;
    Options {
        query_stride: stride,
        segment_blocks,
        workgroups: 5,
        ..Options::with_layout(gpu, shape, cache.layout, limits)
    }
}

fn sequences<'c>(
    cache: &'c Cache,
    lengths: &[u32],
    rows: &[u32],
    indexes: bool,
) -> Vec<Sequence<'c>> {
    let all = lengths.iter().zip(&cache.tables).zip(rows);
    all.map(|((&length, blocks), &rows)| {
        let index = if indexes { 0..length / cache.shape.block } else { 0..0 };
        Sequence { length, rows, blocks, index }
    })
    .collect()
}

// What is asked of two levels.
#[derive(Clone, Copy)]
struct Asked {
    blocks: u32,
    /// Whether all query heads of a group but the last turn to the first token, so that little of their attention is at candidates.
    at_sink: bool,
}

const FEW: Asked = Asked { blocks: 3, at_sink: false };

// Turns all query heads of each group but the last to their row's first token.
fn turn_to_sink(cache: &Cache, places: &[(usize, u32)], qkv: &mut [f32]) {
    let shape = &cache.shape;
    let (d, group) = (shape.head_dim as usize, shape.group as usize);
    for (row, &(sequence, _)) in qkv.chunks_exact_mut(shape.row_width() as usize).zip(places) {
        for head in (0..shape.q_heads() as usize).filter(|head| head % group + 1 < group) {
            let key = cache.key(sequence, head / group, 0);
            for (query, key) in row[head * d..][..d].iter_mut().zip(key) {
                *query = 6.0 * key;
            }
        }
    }
}

fn budget(blocks: u32) -> Budget {
    let blocks = Blocks::Count(blocks);
    Budget { blocks, tokens: 21, sink_blocks: 1, recent_blocks: 1, dense_below: 0 }
}

async fn decode(
    gpu: &Gpu,
    shape: Shape,
    selector: Selector,
    (rows, segments, lie): (u32, u32, Lie),
    asked: Asked,
) -> Result<Verdict> {
    let block = shape.block;
    // Many blocks, one sealed block and nothing more, a few, and a lone token.
    let lengths = [9 * block + 5, block, 2 * block + 3, 1];
    let counts = lengths.map(|length| rows.min(length));
    let cache = Cache::new(shape, &lengths, segments, Family::Random).lying(lie);
    let options = setting(gpu, &cache, &lengths, counts.iter().sum());
    let places = cache.rows(&counts);
    let mut qkv = random_qkv(&shape, places.len());
    if asked.at_sink {
        turn_to_sink(&cache, &places, &mut qkv);
    }
    let buffers = Buffers::new(gpu, &options, selector.summary(), &cache, &qkv).await?;
    let mut random = Random::new(3);
    let channels = random_channels(&shape, 1, &mut random).concat();
    let lists = lists(&places, &shape, &mut random);
    let decode = Decode::new(gpu, options, selector).await?;
    let bound = decode
        .bind(&Tensors {
            queries: after(&buffers.queries),
            kv: buffers.kv(),
            output: after(&buffers.output),
            codes: selector
                .reads_codes()
                .then(|| Codes { channels: &channels, codes: after(&buffers.codes) }),
            summary: selector.summary().map(|_| after(&buffers.summary)),
        })
        .await?;
    let has_index = selector.reads_codes() || selector.summary().is_some();
    let two_level = match selector {
        Selector::TwoLevel { blocks, tokens } => {
            let budget = budget(asked.blocks);
            Some(TwoLevel { budget, block_scorer: blocks, token_scorer: tokens })
        }
        _ => None,
    };
    let select = match (selector, two_level) {
        (Selector::Caller, _) => Select::Tokens(&lists),
        (_, Some(two_level)) => Select::TwoLevel(two_level),
        _ => Select::Dense,
    };
    let indexing = sequences(&cache, &lengths, &[0; 4], has_index);
    let attending = sequences(&cache, &lengths, &counts, false);
    let build = decode.plan(&Batch { sequences: &indexing, select: Select::Dense })?;
    let plan = decode.plan(&Batch { sequences: &attending, select })?;
    // Two plans in one encoder: each finds its own words.
    let mut encoder = gpu.device.create_command_encoder(&Default::default());
    bound.index(&mut decode.begin(&mut encoder, &build)?.pass()?)?;
    bound.attend(&mut decode.begin(&mut encoder, &plan)?.pass()?)?;
    gpu.submit(encoder)?;
    let used = places.len() * (shape.q_heads() * shape.value_dim()) as usize;
    let out = match buffers.output(gpu, used).await? {
        Ok(out) => out,
        Err(message) => return Ok(Err(message)),
    };
    let chosen = match decode.chosen_tokens() {
        Some(buffer) => words(&gpu.download(buffer, buffer.size()).await?),
        None => Vec::new(),
    };
    let heads = shape.kv_heads as usize;
    let mut tokens: Tokens = Vec::new();
    for (row, &(sequence, position)) in places.iter().enumerate() {
        let mut by_head = Vec::new();
        for head in 0..heads {
            let own = position / block * block;
            let attended: Vec<u32> = match (select, two_level) {
                (Select::Tokens(lists), _) => {
                    lists[row * heads + head].iter().copied().chain(own..=position).collect()
                }
                (_, Some(two_level)) => {
                    let attended = plan.attended(row, head, &chosen);
                    let of_row = Row {
                        cache: &cache,
                        sequence,
                        head,
                        queries: &qkv[row * shape.row_width() as usize..],
                        budget: plan.budgets()[row],
                    };
                    let verdict = of_row.check_choice(&attended, position, &two_level);
                    if let Err(message) = verdict {
                        return Ok(Err(format!("row {row} head {head}: {message}")));
                    }
                    attended
                }
                _ => (0..=position).collect(),
            };
            by_head.push(attended);
        }
        tokens.push(by_head);
    }
    Ok(check_attention(
        &cache,
        &places,
        &qkv,
        &out,
        &tokens,
        (0, kernels::split_rounds(gpu.tier(), &shape)),
    ))
}

/// Ascending lists of any length, empty ones among them.
fn lists(places: &[(usize, u32)], shape: &Shape, random: &mut Random) -> Vec<Vec<u32>> {
    let mut lists = Vec::new();
    for &(_, position) in places {
        for head in 0..shape.kv_heads {
            let before = 0..position / shape.block * shape.block;
            let one_of = 1 + random.below(9);
            let skips = head == 1 && random.below(2) == 0;
            lists.push(before.filter(|_| !skips && random.below(one_of) == 0).collect());
        }
    }
    lists
}

/// A row and a KV head of it.
struct Row<'a> {
    cache: &'a Cache,
    sequence: usize,
    head: usize,
    queries: &'a [f32],
    budget: RowBudget,
}

impl Row<'_> {
    fn queries(&self) -> Vec<&[f32]> {
        let (group, dim) = (self.cache.shape.group as usize, self.cache.shape.head_dim as usize);
        (0..group).map(|g| &self.queries[(self.head * group + g) * dim..][..dim]).collect()
    }

    fn logit(&self, query: &[f32], token: u32) -> f64 {
        dot(query, self.cache.key(self.sequence, self.head, token))
            * f64::from(self.cache.shape.scale())
    }

    fn tokens(&self, block: u32) -> std::ops::Range<u32> {
        block * self.cache.shape.block..(block + 1) * self.cache.shape.block
    }

    /// What level 1 should keep of the sealed blocks, sink and recent ones left out.
    fn blocks(&self, scorer: BlockScorer) -> Vec<u32> {
        let RowBudget { sealed, sink, recent_first, blocks, .. } = self.budget;
        let scores: Vec<f64> = match scorer {
            BlockScorer::None => return (sink..recent_first).collect(),
            BlockScorer::MinMax | BlockScorer::MeanStd => (0..sealed)
                .map(|block| {
                    let keys: Vec<&[f32]> = self
                        .tokens(block)
                        .map(|t| self.cache.key(self.sequence, self.head, t))
                        .collect();
                    let twin = SummaryTwin::of(scorer).expect("it reads a summary");
                    twin.score(&self.queries(), &twin.rows(&keys))
                })
                .collect(),
            BlockScorer::Codes | BlockScorer::Oracle => {
                let of_head = |query: &&[f32]| -> Vec<f32> {
                    let logits = |block| -> Vec<f64> {
                        self.tokens(block).map(|t| self.logit(query, t)).collect()
                    };
                    (0..sealed).map(|block| log_sum_exp(&logits(block)) as f32).collect()
                };
                mean_of(&self.queries().iter().map(of_head).collect::<Vec<_>>())
            }
        };
        let eligible = &scores[sink as usize..recent_first as usize];
        top_k(eligible, blocks as usize).into_iter().map(|i| sink + i as u32).collect()
    }

    /// What level 2 should keep of these blocks.
    fn chosen(&self, blocks: &[u32], (scorer, divisor): (TokenScorer, Divisor)) -> Vec<u32> {
        let candidates: Vec<u32> = blocks.iter().flat_map(|&block| self.tokens(block)).collect();
        if scorer == TokenScorer::None || candidates.is_empty() {
            return candidates;
        }
        let logits = |tokens: &[u32]| -> Vec<Vec<f32>> {
            let of_head = |query: &&[f32]| -> Vec<f32> {
                tokens.iter().map(|&t| self.logit(query, t) as f32).collect()
            };
            self.queries().iter().map(of_head).collect()
        };
        let scores = match divisor {
            Divisor::Candidates => mean_of(&logits(&candidates)),
            Divisor::Blocks => {
                let sealed: Vec<u32> = (0..self.budget.sealed * self.cache.shape.block).collect();
                let (own, all) = (logits(&candidates), logits(&sealed));
                let [own, all] =
                    [&own, &all].map(|heads| heads.iter().map(Vec::as_slice).collect::<Vec<_>>());
                share_mean(&own, &all)
            }
        };
        let best = top_k(&scores, self.budget.tokens as usize);
        best.into_iter().map(|i| candidates[i]).collect()
    }

    /// Whether a row attends sink, recent tokens, and what the twins choose; codes may choose otherwise now and then.
    fn check_choice(&self, attended: &[u32], position: u32, two_level: &TwoLevel) -> Verdict {
        let RowBudget { sink, recent_first, .. } = self.budget;
        let block = self.cache.shape.block;
        let chosen = self.chosen(
            &self.blocks(two_level.block_scorer),
            (two_level.token_scorer, two_level.divisor()),
        );
        let mut want: Vec<u32> = (0..sink * block).collect();
        want.extend(&chosen);
        want.extend(recent_first * block..=position);
        if attended.len() != want.len() || !attended.is_sorted_by(|a, b| a < b) {
            return Err(format!("{attended:?} instead of {want:?}"));
        }
        let common = want.iter().filter(|token| attended.binary_search(token).is_ok()).count();
        let by_codes = two_level.block_scorer == BlockScorer::Codes
            || two_level.token_scorer == TokenScorer::Codes;
        let enough = if by_codes { chosen.len() - chosen.len() / 10 } else { chosen.len() };
        let least = want.len() - chosen.len() + enough;
        match common < least {
            true => Err(format!("{attended:?} instead of {want:?}")),
            false => Ok(()),
        }
    }
}

fn mean_of(heads: &[Vec<f32>]) -> Vec<f64> {
    if heads[0].is_empty() {
        return Vec::new();
    }
    softmax_mean(&heads.iter().map(Vec::as_slice).collect::<Vec<_>>())
}

async fn prefill(gpu: &Gpu, shape: Shape, (segments, lie): (u32, Lie)) -> Result<Verdict> {
    let block = shape.block;
    let lengths = [5 * block + 13, block, 2 * block + 2, 1];
    let counts = lengths.map(|length| length.min(70));
    let cache = Cache::new(shape, &lengths, segments, Family::Random).lying(lie);
    let options = setting(gpu, &cache, &lengths, counts.iter().sum());
    let places = cache.rows(&counts);
    let qkv = random_qkv(&shape, places.len());
    let buffers = Buffers::new(gpu, &options, None, &cache, &qkv).await?;
    let prefill = Prefill::new(gpu, options).await?;
    let bound = prefill
        .bind(&PrefillTensors {
            queries: after(&buffers.queries),
            kv: buffers.kv(),
            output: after(&buffers.output),
        })
        .await?;
    let sequences = sequences(&cache, &lengths, &counts, false);
    let plan = prefill.plan(&Batch { sequences: &sequences, select: Select::Dense })?;
    let mut encoder = gpu.device.create_command_encoder(&Default::default());
    bound.attend(&mut prefill.begin(&mut encoder, &plan)?.pass()?)?;
    gpu.submit(encoder)?;
    let used = places.len() * (shape.q_heads() * shape.head_dim) as usize;
    let out = match buffers.output(gpu, used).await? {
        Ok(out) => out,
        Err(message) => return Ok(Err(message)),
    };
    let tokens: Tokens = places
        .iter()
        .map(|&(_, position)| vec![(0..=position).collect(); shape.kv_heads as usize])
        .collect();
    let rounds = kernels::prefill_rounds(gpu.tier, &shape);
    Ok(check_attention(&cache, &places, &qkv, &out, &tokens, (0, rounds)))
}

/// Rows of a ragged batch are appended, turned on the way, to a cache in which nothing was; what the kernel read is checked
/// with what it wrote.
async fn append(
    gpu: &Gpu,
    shape: Shape,
    number: Number,
    (segments, lie): (u32, Lie),
) -> Result<Verdict> {
    let block = shape.block;
    let lengths = [2 * block + 5, 1, block];
    let counts = [block + 9, 1, 3];
    let cache = Cache::new(shape, &lengths, segments, Family::Random).lying(lie);
    let options = setting(gpu, &cache, &lengths, counts.iter().sum());
    let mut random = Random::new(23);
    let (rows, width) = (options.limits.rows as usize, shape.kv_heads * shape.head_dim);
    let keys = Rows::new(&mut random, rows, width + 9, number);
    let values = Rows::new(&mut random, rows, width, number);
    let with_room = |words: &[u32]| [&[POISON; BEFORE as usize / 4], words].concat();
    let buffer = async |what: &str, words: &[u32]| {
        gpu.storage_with(what, bytemuck::cast_slice(&with_room(words))).await
    };
    let (of_keys, of_values) = cache.buffers(0);
    let blank = vec![POISON; of_keys.len()];
    let key_buffer = buffer("keys", &keys.words).await?;
    let value_buffer = buffer("values", &values.words).await?;
    // All of keys, then those of values where they are apart.
    let mut kv = Vec::new();
    for _ in 0..if of_values.is_some() { 2 * segments } else { segments } {
        kv.push(buffer("the cache", &blank).await?);
    }
    let (cached_keys, cached_values) = kv.split_at(segments as usize);
    let decode = Decode::new(gpu, options, Selector::Dense).await?;
    let bound = decode
        .bind_append(&AppendTensors {
            keys: after(&key_buffer),
            values: Some(after(&value_buffer)),
            number,
            key_stride: keys.stride,
            value_stride: values.stride,
            turns: true,
            kv: ranges(cached_keys, cached_values),
        })
        .await?;
    let sequences = sequences(&cache, &lengths, &counts, false);
    let turn = |position| {
        let of_pair = |angle: f64| [angle.cos() as f32, angle.sin() as f32];
        cache.angles(position).into_iter().map(of_pair).collect()
    };
    let batch = Batch { sequences: &sequences, select: Select::Dense };
    let plan = decode.plan(&batch)?.turning(turn)?;
    let mut encoder = gpu.device.create_command_encoder(&Default::default());
    bound.append(&mut decode.begin(&mut encoder, &plan)?.pass()?)?;
    gpu.submit(encoder)?;
    let mut made = Vec::new();
    for segment in &kv {
        let words = words(&gpu.download(segment, segment.size()).await?);
        let (before, words) = words.split_at(BEFORE as usize / 4);
        let verdict = untouched("what is before the cache", before);
        if verdict.is_err() {
            return Ok(verdict);
        }
        made.push(words[..blank.len()].to_vec());
    }
    Ok(check_appended(&cache, &counts, [&keys, &values], true, &made))
}

/// A chunk of a prompt over cached latents: what a caller makes of them, slab by slab, is what the twin attends.
async fn latent_prefill(
    gpu: &Gpu,
    latent: Latent,
    slab_tokens: u32,
    segments: u32,
) -> Result<Verdict> {
    let (block, rows) = (16, 70);
    // The other sequence's blocks lie between those of the first.
    let lengths = [5 * block + 13, 3 * block];
    let options = LatentOptions {
        latent,
        block,
        rows: rows + 2,
        tokens: lengths[0] + 40,
        cache_blocks: 0,
        segment_blocks: 0,
        slab_tokens,
    };
    let cache = Cache::new(options.absorbed(), &lengths, segments, Family::Random);
    let segment_blocks = cache.blocks_a_segment;
    let cache_blocks = segment_blocks * segments;
    let options = LatentOptions { cache_blocks, segment_blocks, ..options };
    // Keys and values of all heads, of random weights, f16 as prefill reads them.
    let (heads, rank) = (latent.heads as usize, latent.kv_rank as usize);
    let (nope, value) = (latent.nope as usize, latent.value as usize);
    let up = Random::new(41).floats(heads * (nope + value) * rank);
    let made = |sequence: usize, token: u32| -> Vec<f32> {
        let latent = &cache.key(sequence, 0, token)[..rank];
        let of_row = |weights: &[f32]| dot(weights, latent) as f32 / rank as f32;
        up.chunks_exact(rank).map(of_row).collect()
    };
    let shape = latent.prefill_shape(block);
    let expanded = cache.of(shape, |sequence, head, token| {
        let (made, head) = (made(sequence, token), head as usize);
        let shared = &cache.key(sequence, 0, token)[rank..];
        let key = [&made[head * nope..][..nope], shared].concat();
        [key, made[heads * nope + head * value..][..value].to_vec()]
            .map(|row| row.iter().map(|&v| f16::from_f32(v).to_f32()).collect())
    });
    let places: Vec<_> = cache.rows(&[rows, 0]);
    let qkv = random_qkv(&shape, places.len());
    let limits = Limits {
        rows: options.rows,
        sequences: 1,
        tokens: options.tokens,
        cache_blocks: options.cache_blocks,
    };
    let query_stride = shape.q_heads() * shape.head_dim;
    let as_attended = Options { query_stride, ..Options::new(gpu, shape, limits) };
    let buffers = Buffers::new(gpu, &as_attended, None, &cache, &qkv).await?;
    let count = |per_token: usize| slab_tokens as usize * per_token;
    let storage = async |what: &str, words: usize| {
        gpu.storage_with(what, bytemuck::cast_slice(&vec![POISON; words])).await
    };
    let made_words = heads * (nope + value);
    let latents = storage("latents", count(rank)).await?;
    let product = storage("keys and values", count(made_words)).await?;
    let slabs = lengths[0].div_ceil(slab_tokens) as usize;
    let seen = storage("latents of all slabs", slabs * count(rank)).await?;
    // What the caller's product gives, of each slab; past the last token whatever there is.
    let mut results = vec![POISON; slabs * count(made_words)];
    for token in 0..lengths[0] {
        let to = token as usize * made_words;
        results[to..to + made_words].copy_from_slice(&bits(&made(0, token)));
    }
    let results = gpu.storage_with("products", bytemuck::cast_slice(&results)).await?;
    let prefill = LatentPrefill::new(gpu, options).await?;
    let bound = prefill
        .bind(&LatentTensors {
            queries: after(&buffers.queries),
            kv: buffers.kv.iter().map(after).collect(),
            latents: latents.as_entire_buffer_binding(),
            made: product.as_entire_buffer_binding(),
            output: after(&buffers.output),
        })
        .await?;
    let sequence = Sequence { length: lengths[0], rows, blocks: &cache.tables[0], index: 0..0 };
    let plan = prefill.plan(&sequence)?;
    let mut encoder = gpu.device.create_command_encoder(&Default::default());
    let mut recording = prefill.begin(&mut encoder, &plan)?;
    let mut all = bound.slabs(&mut recording)?;
    while let Some(positions) = all.gather()? {
        let at = u64::from(positions.start);
        let (rank, made) = (4 * rank as u64, 4 * made_words as u64);
        let tokens = u64::from(slab_tokens);
        let encoder = all.encoder();
        encoder.copy_buffer_to_buffer(&latents, 0, &seen, at * rank, tokens * rank);
        encoder.copy_buffer_to_buffer(&results, at * made, &product, 0, tokens * made);
        all.attend()?;
    }
    gpu.submit(encoder)?;
    let seen = words(&gpu.download(&seen, seen.size()).await?);
    for token in 0..lengths[0] {
        let want = &cache.key(0, 0, token)[..rank];
        // Subnormals may be zero.
        let is_same = |(got, want): (&u32, &f32)| {
            (f32::from_bits(*got) - want).abs() <= f16::MIN_POSITIVE.to_f32()
        };
        if !seen[token as usize * rank..].iter().zip(want).all(is_same) {
            return Ok(Err(format!("the latent of token {token}")));
        }
    }
    let used = places.len() * (shape.q_heads() * shape.value_dim()) as usize;
    let out = match buffers.output(gpu, used).await? {
        Ok(out) => out,
        Err(message) => return Ok(Err(message)),
    };
    let of_row = |&(_, position): &(usize, u32)| vec![(0..=position).collect(); heads];
    let tokens: Tokens = places.iter().map(of_row).collect();
    let rounds = kernels::prefill_rounds(gpu.tier, &shape);
    Ok(check_attention(&expanded, &places, &qkv, &out, &tokens, (0, rounds)))
}
