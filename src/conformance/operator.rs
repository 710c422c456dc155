//! Cases of the operator library: whole batches through a caller's buffers, attended tokens and all.

use super::attend::{Tokens, check_attention, random_qkv};
use super::cache::{Cache, Family, latent_shapes, shape_label};
use super::index::random_channels;
use super::rig::{POISON, Random, bits, untouched};
use super::{Case, Verdict};
use crate::Result;
use crate::attention::{
    BlockScorer, Blocks, Budget, IndexFormat, RowBudget, Shape, Summary, TokenScorer, TwoLevel,
};
use crate::attention::{softmax_mean, top_k};
use crate::gpu::Gpu;
use crate::kernels;
use crate::operator::{
    Batch, Codes, Decode, Limits, Options, Prefill, PrefillTensors, Select, Selector, Sequence,
    Tensors,
};
use crate::reference::model::dot;
use crate::reference::select::log_sum_exp;
use crate::reference::summary::SummaryTwin;

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
    let mut add = |shape: Shape, selector: Selector, rows: u32| {
        let what = match selector {
            Selector::TwoLevel { blocks, tokens } => format!("{blocks} {tokens}"),
            Selector::Dense => "dense".into(),
            Selector::Caller => "caller".into(),
        };
        let label = format!("{} {what} rows {rows}", shape_label(&shape));
        cases.push(Case::new("operator", label, false, move |gpu| {
            Box::pin(decode(gpu, shape, selector, rows))
        }));
    };
    let two_level = |(blocks, tokens)| Selector::TwoLevel { blocks, tokens };
    // All that is kept of each key is nearly all there is of it, so that what codes choose is known.
    let exact = |channels| IndexFormat { channels, bits: 8 };
    let small = Shape { index: exact(32), block: 16, ..Shape::new(2, 5, 32, true) };
    let large = Shape::new(1, 4, 128, false);
    // Several rows of a sequence, as drafts are verified, and one.
    add(small, Selector::Dense, 3);
    add(small, Selector::Caller, 3);
    for (i, scorers) in TWO_LEVELS.into_iter().enumerate() {
        add(small, two_level(scorers), if i == 0 { 3 } else { 1 });
    }
    let latent = Shape { index: exact(96), ..latent_shapes()[1] };
    add(latent, Selector::Dense, 1);
    add(latent, two_level(TWO_LEVELS[0]), 1);
    add(large, two_level(ORACLES), 1);
    for shape in [small, large] {
        let label = format!("{} prefill", shape_label(&shape));
        cases.push(Case::new("operator", label, false, move |gpu| Box::pin(prefill(gpu, shape))));
    }
}

/// A caller's buffers: each tensor begins somewhere, and is longer than it must be.
struct Buffers {
    queries: wgpu::Buffer,
    kv: wgpu::Buffer,
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
        Ok(Self {
            queries: buffer("queries", &queries).await?,
            kv: buffer("keys and values", &cache.segment_words(0)).await?,
            output: buffer("the output", &outputs).await?,
            codes: buffer("codes", &codes).await?,
            summary: buffer("summary", &summary).await?,
        })
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
        cache_blocks: cache.blocks_a_segment,
    };
    let stride = shape.q_heads() * shape.head_dim + 12;
    Options { query_stride: stride, workgroups: 5, ..Options::new(gpu, shape, limits) }
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

fn budget() -> Budget {
    let blocks = Blocks::Count(3);
    Budget { blocks, tokens: 21, sink_blocks: 1, recent_blocks: 1, dense_below: 0 }
}

async fn decode(gpu: &Gpu, shape: Shape, selector: Selector, rows: u32) -> Result<Verdict> {
    let block = shape.block;
    // Many blocks, one sealed block and nothing more, a few, and a lone token.
    let lengths = [9 * block + 5, block, 2 * block + 3, 1];
    let counts = lengths.map(|length| rows.min(length));
    let cache = Cache::new(shape, &lengths, 1, Family::Random);
    let options = setting(gpu, &cache, &lengths, counts.iter().sum());
    let places = cache.rows(&counts);
    let qkv = random_qkv(&shape, places.len());
    let buffers = Buffers::new(gpu, &options, selector.summary(), &cache, &qkv).await?;
    let mut random = Random::new(3);
    let channels = random_channels(&shape, 1, &mut random).concat();
    let lists = lists(&places, &shape, &mut random);
    let decode = Decode::new(gpu, options, selector).await?;
    let bound = decode
        .bind(&Tensors {
            queries: after(&buffers.queries),
            kv: after(&buffers.kv),
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
            Some(TwoLevel { budget: budget(), block_scorer: blocks, token_scorer: tokens })
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
    Ok(check_attention(&cache, &places, &qkv, &out, &tokens, (0, false)))
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
    fn chosen(&self, blocks: &[u32], scorer: TokenScorer) -> Vec<u32> {
        let candidates: Vec<u32> = blocks.iter().flat_map(|&block| self.tokens(block)).collect();
        if scorer == TokenScorer::None || candidates.is_empty() {
            return candidates;
        }
        let of_head = |query: &&[f32]| -> Vec<f32> {
            candidates.iter().map(|&t| self.logit(query, t) as f32).collect()
        };
        let scores = mean_of(&self.queries().iter().map(of_head).collect::<Vec<_>>());
        let best = top_k(&scores, self.budget.tokens as usize);
        best.into_iter().map(|i| candidates[i]).collect()
    }

    /// Whether a row attends sink, recent tokens, and what the twins choose; codes may choose otherwise now and then.
    fn check_choice(&self, attended: &[u32], position: u32, two_level: &TwoLevel) -> Verdict {
        let RowBudget { sink, recent_first, .. } = self.budget;
        let block = self.cache.shape.block;
        let chosen = self.chosen(&self.blocks(two_level.block_scorer), two_level.token_scorer);
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

async fn prefill(gpu: &Gpu, shape: Shape) -> Result<Verdict> {
    let block = shape.block;
    let lengths = [5 * block + 13, block, 2 * block + 2, 1];
    let counts = lengths.map(|length| length.min(70));
    let cache = Cache::new(shape, &lengths, 1, Family::Random);
    let options = setting(gpu, &cache, &lengths, counts.iter().sum());
    let places = cache.rows(&counts);
    let qkv = random_qkv(&shape, places.len());
    let buffers = Buffers::new(gpu, &options, None, &cache, &qkv).await?;
    let prefill = Prefill::new(gpu, options).await?;
    let bound = prefill
        .bind(&PrefillTensors {
            queries: after(&buffers.queries),
            kv: after(&buffers.kv),
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
