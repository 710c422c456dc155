//! Times single kernels at the shapes of a model: `cargo bench --bench kernels [-- FILTER]`.
//!
//! Each line is a kernel at a shape: microseconds a dispatch (the fastest of several batches of dispatches in one pass),
//! and the rate that follows from its arithmetic or its bytes. `ASYNCTLS_ADAPTER` chooses the adapter.

use asynctls::attention::{Blocks, Budget, Divisor, Rank, Shape, Span, Step, StepSettings};
use asynctls::contract::{Bindings, StepHeader, Words};
use asynctls::formats::WeightFormat;
use asynctls::gpu::{Adapter, Disable, Gpu, GpuOptions, Op, ShaderSpec, adapters};
use asynctls::kernels::{
    self, Batch, Input, Items, MatrixParams, MergeParams, Output, Place, RmsNormParams,
    SegmentParams, StrideParams, Tokens,
};
use std::cell::Cell;
use std::time::{Duration, Instant};

struct Bench {
    gpu: Gpu,
    filter: String,
    is_warm: Cell<bool>,
}

/// Clocks rise with work: the first kernels are run for so long before anything is timed.
const WARM: Duration = Duration::from_secs(1);

fn main() {
    let filter = std::env::args().skip(1).find(|a| !a.starts_with('-')).unwrap_or_default();
    let here = pollster::block_on(adapters());
    let adapter = Adapter::choose(&here, std::env::var("ASYNCTLS_ADAPTER").ok().as_deref())
        .expect("an adapter");
    let options = GpuOptions {
        disable: Disable::from_env().expect("ASYNCTLS_DISABLE"),
        ..GpuOptions::default()
    };
    let gpu = pollster::block_on(Gpu::open(&adapter, options)).expect("a device");
    println!("{} {} {}", gpu.label(), gpu.info().driver_info, gpu.tier().name);
    let bench = Bench { gpu, filter, is_warm: Cell::new(false) };
    for format in [WeightFormat::Q4_0, WeightFormat::Q8, WeightFormat::F16] {
        for (rows, columns) in [(960, 576), (3072, 576), (576, 1536)] {
            bench.product(format, rows, columns, 1);
            bench.product(format, rows, columns, 256);
        }
    }
    bench.product(WeightFormat::Q8, 49152, 576, 1);
    // Formats in blocks of 256 weights, and those that they compare with, where rows are such blocks.
    for format in WeightFormat::ALL {
        bench.product(format, 4096, 4096, 1);
        if !bench.gpu.is_cpu() {
            // Qwen3-8B's: queries, keys and values; gate and up; down.
            bench.product(format, 6144, 4096, 1);
            bench.product(format, 24576, 4096, 1);
            bench.product(format, 4096, 12288, 1);
            for tokens in [2, 4, 8, 16, 32, 64] {
                bench.product(format, 24576, 4096, tokens);
                bench.product(format, 4096, 12288, tokens);
                bench.product(format, 4096, 4096, tokens);
                bench.product(format, 6144, 4096, tokens);
            }
            bench.product(format, 6144, 4096, 1024);
            bench.product(format, 24576, 4096, 1024);
            bench.product(format, 4096, 12288, 1024);
            // GLM-4.7-Flash's: a query's latent to queries, an expert.
            bench.product(format, 5120, 768, 1);
            bench.product(format, 3072, 2048, 1);
        }
    }
    for width in [576, 2048, 4096] {
        bench.norm(width);
    }
    for width in [4096, 12288] {
        bench.half_rows(width, 1024);
    }
    let small = Shape::new(3, 3, 64, true);
    let large = Shape::new(8, 4, 128, false);
    bench.attention("smollm2", small, 4000, 16, 256);
    if !bench.gpu.is_cpu() {
        bench.attention("glm-4.7-flash", Shape::latent(20, 512, 64, 256), 500, 128, 1024);
        bench.attention("glm-4.7-flash", Shape::latent(20, 512, 64, 256), 32_000, 128, 1024);
        bench.attention("glm-4.7-flash", Shape::latent(20, 512, 64, 256), 96_000, 128, 1024);
        // The heads that its prompts are attended by.
        bench.attention("glm-4.7-flash heads", Shape::new(20, 1, 256, false), 32_000, 128, 1024);
        bench.attention("qwen3-8b", large, 500, 128, 1024);
        bench.attention("qwen3-8b", large, 32_000, 128, 1024);
        bench.attention("qwen3-8b", large, 96_000, 150, 1024);
    }
}

impl Bench {
    fn storage(&self, bytes: u64) -> wgpu::Buffer {
        pollster::block_on(self.gpu.storage("bench", bytes)).expect("memory")
    }

    fn uniform(&self, value: impl Words) -> wgpu::Buffer {
        pollster::block_on(self.gpu.uniform("bench", value.padded())).expect("memory")
    }

    fn op<'b, B: Bindings<Value = &'b wgpu::Buffer>>(&self, spec: &ShaderSpec, bindings: B) -> Op {
        pollster::block_on(self.gpu.op(spec, bindings)).expect("a kernel")
    }

    fn time(&self, name: &str, op: &Op, grid: [u32; 3], flops: f64, bytes: f64) {
        if !name.contains(&self.filter) {
            return;
        }
        // Enough dispatches in a pass that submitting it and waiting for it do not show.
        let began = Instant::now();
        self.gpu.run(&[(op, grid)]).expect("a run");
        let repeat = (0.02 / began.elapsed().as_secs_f64()).ceil().clamp(1.0, 50.0) as usize;
        let dispatches = vec![(op, grid); repeat];
        let began = Instant::now();
        while !self.is_warm.get() && began.elapsed() < WARM {
            self.gpu.run(&dispatches).expect("a run");
        }
        self.is_warm.set(true);
        let fastest = (0..5)
            .map(|_| {
                let began = Instant::now();
                self.gpu.run(&dispatches).expect("a run");
                began.elapsed().as_secs_f64() / repeat as f64
            })
            .fold(f64::INFINITY, f64::min);
        println!(
            "{name:48} {:10.1} us {:9.1} GFLOP/s {:9.1} GB/s",
            fastest * 1e6,
            flops / fastest / 1e9,
            bytes / fastest / 1e9
        );
    }

    fn norm(&self, width: u32) {
        let [step, x, weight, y] =
            [64, u64::from(width) * 4, u64::from(width) * 4, u64::from(width) * 4]
                .map(|bytes| self.storage(bytes));
        let params = RmsNormParams { width, x_stride: width, y_stride: width, epsilon: 1e-6 };
        let params = self.uniform(params);
        let norm = kernels::RmsNorm {
            step: &step,
            rms_norm: &params,
            x: &x,
            weight: &weight,
            y: &y,
            halves: None,
        };
        let op = self.op(&kernels::rms_norm(self.gpu.tier(), kernels::Normed::Rows), norm);
        self.time(&format!("rms_norm {width}"), &op, [1, 1, 1], 0.0, f64::from(width) * 12.0);
    }

    fn half_rows(&self, width: u32, rows: u32) {
        let bytes = u64::from((width + 32) * rows) * 4;
        let (x, halves) = (self.storage(bytes), self.storage(bytes));
        let params = self.uniform(kernels::half_rows_params(width / 32, width + 32));
        let op = self.op(
            &kernels::half_rows(self.gpu.tier()),
            kernels::HalfRows { rows: &params, x: &x, halves: &halves },
        );
        self.time(&format!("half_rows {rows}x{width}"), &op, [rows, 1, 1], 0.0, bytes as f64 * 1.5);
    }

    fn product(&self, format: WeightFormat, rows: u32, columns: u32, tokens: u32) {
        let units = columns / 32;
        let tier = self.gpu.tier();
        let narrow = kernels::narrow_sixteens(tier, format).iter().find(|s| **s * 16 >= tokens);
        // What the engine runs.
        let (kernel, spec, grid) = if tokens <= kernels::matvec_tokens(tier, format) {
            let at_a_time = tokens.next_power_of_two().min(kernels::tokens_at_a_time(tier));
            let of = if at_a_time == 1 { Tokens::One } else { Tokens::Rows(at_a_time) };
            let (size, of) = ((rows, units), (Batch::One, of));
            (
                "matvec",
                kernels::matvec(tier, format, size, Output::Store, of),
                kernels::matvec_grid(tier, format, size, tokens.div_ceil(at_a_time)),
            )
        } else if let Some(&sixteens) = narrow {
            (
                "narrow",
                kernels::matmul_narrow(format, rows, sixteens, Output::Store),
                kernels::matmul_narrow_grid(rows, sixteens, tokens),
            )
        } else {
            (
                "matmul",
                kernels::matmul(tier, format, Output::Store, Batch::One),
                kernels::matmul_grid(tier, format, rows, tokens),
            )
        };
        let name = format!("{kernel} {format:?} {rows}x{columns} tokens {tokens}");
        // Before matrices are made that nothing reads.
        if !name.contains(&self.filter) {
            return;
        }
        let matrix_units = u64::from(rows * units);
        let weights_bytes = matrix_units * format.unit_bytes();
        let scales_bytes = format.scale_bytes(matrix_units);
        let weights = self.storage(weights_bytes);
        let scales = self.storage(scales_bytes.max(4));
        let x = self.storage(u64::from(tokens * (columns + 32)) * 4);
        let y = self.storage(u64::from(tokens * rows) * 4);
        let step = self.storage(size_of::<StepHeader>() as u64);
        let header = StepHeader { rows: tokens, ..StepHeader::default() };
        self.gpu.write(&step, 0, bytemuck::bytes_of(&header));
        let params = MatrixParams {
            units,
            rows,
            x_stride: columns + 32,
            y_stride: rows,
            batches: 1,
            ..MatrixParams::default()
        };
        let params = self.uniform(params.of_matvec(tier, format, Input::Plain, Output::Store));
        let operands = kernels::Product {
            step: &step,
            matrix: &params,
            weights: &weights,
            scales: &scales,
            x: &x,
            y: &y,
            slots: None,
            lists: None,
            norm_weight: (kernel == "matvec" && kernels::matvec_norms(tier)).then_some(&x),
        };
        let op = self.op(&spec, operands);
        let work = f64::from(rows) * f64::from(columns);
        self.time(
            &name,
            &op,
            [grid.0, grid.1, 1],
            2.0 * work * f64::from(tokens),
            (weights_bytes + scales_bytes) as f64,
        );
    }

    fn attention(&self, model: &str, shape: Shape, depth: u32, blocks: u32, tokens: u32) {
        let count = depth.div_ceil(shape.block) + 1;
        let table: Vec<u32> = (0..count).collect();
        let budget = Budget {
            blocks: Blocks::Count(blocks),
            tokens,
            sink_blocks: 1,
            recent_blocks: 4,
            dense_below: 0,
        };
        let target = if self.gpu.is_cpu() { 16 } else { 512 };
        let plan = |ids: &[u32], position: u32, budget: Option<&Budget>| {
            let span = Span { position, tokens: ids, table: &table, ..Default::default() };
            let settings = StepSettings { budget, target_workgroups: target, ..Default::default() };
            Step::new(&shape, &[span], &settings, |_, out| {
                out.extend(vec![[0.6, 0.8]; shape.head_dim as usize / 2])
            })
        };
        let rows = if self.gpu.is_cpu() { 256 } else { 1024.min(depth) };
        let stride = count * shape.block;
        let step = self.storage(1 << 22);
        let segment = self.uniform(SegmentParams::paged(0, count, 0, 1));
        let qkv = self.storage(u64::from(rows * shape.row_width()) * 4);
        let kv = self.storage(u64::from(count) * shape.block_bytes());
        let codes = self.storage(u64::from(count) * shape.block_code_bytes());
        let out = self.storage(u64::from(rows * shape.q_heads() * shape.head_dim) * 4);
        let row_states = self.storage(u64::from(rows * shape.q_heads()) * 8);
        let partials = u64::from(target / 2 + 64) * u64::from(shape.q_heads());
        let partial_o = self.storage(partials * u64::from(shape.head_dim) * 4);
        let partial_ml = self.storage(partials * 8);
        let channels = self.storage(shape.channels_len() * 4);
        let scores = self.storage(u64::from(shape.q_heads() * stride) * 4);
        let keys = self.storage(u64::from(shape.kv_heads * stride) * 4);
        let chosen_blocks = self.storage(u64::from(shape.kv_heads * count) * 4);
        let chosen_tokens = self.storage(u64::from(shape.kv_heads * stride) * 4);
        let score_rows = self.uniform(StrideParams { stride });
        let one = self.uniform(MergeParams { segments: 1, count: 1 });
        // Scores that differ, so that selection has work to do, and blocks that exist.
        let noise: Vec<u32> = (0..shape.q_heads() * stride)
            .map(|i| ((i.wrapping_mul(2_654_435_761) >> 8) as f32 / 1e6).to_bits())
            .collect();
        self.gpu.write(&scores, 0, bytemuck::cast_slice(&noise));
        let name = |kernel: &str| format!("{kernel} {model} {depth}");
        let write = |step_of: &Step| self.gpu.write(&step, 0, bytemuck::cast_slice(&step_of.words));
        let (q, kv_heads, d) = (shape.q_heads(), shape.kv_heads, f64::from(shape.head_dim));
        let workgroups = kernels::split_workgroups(self.gpu.tier(), &shape);

        let dense = plan(&[1], depth, None);
        write(&dense);
        let split = |chosen_tokens| kernels::Split {
            step: &step,
            segment: &segment,
            qkv: &qkv,
            kv: &kv,
            values_in: None,
            partial_o: &partial_o,
            partial_ml: &partial_ml,
            chosen_tokens,
            hot_slots: None,
        };
        let states = kernels::Merge {
            step: &step,
            merge: &one,
            partial_o: &partial_o,
            partial_ml: &partial_ml,
            out: &out,
        };
        let kv_bytes = f64::from(depth) / f64::from(shape.block) * shape.block_bytes() as f64;
        let flops = |tokens: f64| 4.0 * tokens * f64::from(q) * d;
        let op = self.op(&kernels::dense_split(self.gpu.tier(), &shape, Place::Paged), split(None));
        self.time(
            &name("dense_split"),
            &op,
            [dense.splits, workgroups, 1],
            flops(f64::from(depth)),
            kv_bytes,
        );
        let op = self.op(&kernels::merge(self.gpu.tier(), &shape), states.clone());
        self.time(&name("merge dense"), &op, [q, 1, kernels::merge_parts(&shape)], 0.0, 0.0);

        let sparse = plan(&[1], depth, Some(&budget));
        write(&sparse);
        let scored = kernels::Scored::codes(&shape);
        // The scored noise must survive, so scoring writes elsewhere.
        let sink = self.storage(u64::from(q * stride) * 4);
        let score = kernels::BlockScore {
            step: &step,
            segment: &segment,
            qkv: &qkv,
            channels: &channels,
            codes: &codes,
            scores: &sink,
            score_rows: &score_rows,
        };
        let op = self.op(&kernels::block_score(self.gpu.tier(), &shape), score);
        let code_bytes = f64::from(sparse.sealed) * shape.block_code_bytes() as f64;
        self.time(
            &name("block_score"),
            &op,
            [scored.workgroups(sparse.sealed), kv_heads, 1],
            0.0,
            code_bytes,
        );
        let head_terms = self.storage(u64::from(q) * 8);
        let by = (Rank::Softmax, Divisor::Blocks);
        let is_apart = kernels::ranks_apart(&shape, Rank::Softmax);
        let sum = |items: Items| {
            let sums = kernels::HeadSums {
                step: &step,
                score_rows: &score_rows,
                scores: &scores,
                head_terms: &head_terms,
            };
            let op = self.op(&kernels::head_sums(self.gpu.tier(), &shape, items), sums);
            self.time(&name(&format!("head_sums {items:?}")), &op, [q, 1, 1], 0.0, 0.0);
        };
        let rank = |items: Items| {
            let ranks = kernels::HeadRanks {
                step: &step,
                score_rows: &score_rows,
                scores: &scores,
                head_terms: &head_terms,
                keys: &keys,
            };
            let op = self.op(&kernels::head_ranks(self.gpu.tier(), &shape, items), ranks);
            let grid = [kernels::HEAD_RANKS_WORKGROUPS, kv_heads, 1];
            self.time(&name(&format!("head_ranks {items:?}")), &op, grid, 0.0, 0.0);
        };
        let top_k = |chosen, chosen_blocks, head_terms| kernels::TopK {
            step: &step,
            score_rows: &score_rows,
            scores: &scores,
            keys: &keys,
            chosen,
            chosen_blocks,
            hot_slots: None,
            head_terms,
        };
        if is_apart {
            sum(Items::Blocks);
            rank(Items::Blocks);
        }
        let op = self.op(
            &kernels::top_k_blocks(self.gpu.tier(), &shape, by, None),
            top_k(&chosen_blocks, None, (!is_apart).then_some(&head_terms)),
        );
        self.time(&name("top_k blocks"), &op, [kv_heads, 1, 1], 0.0, 0.0);
        let makes_ranks = kernels::makes_token_ranks(&shape, Divisor::Blocks);
        let score = kernels::TokenScore {
            step: &step,
            segment: &segment,
            qkv: &qkv,
            channels: &channels,
            codes: &codes,
            chosen_blocks: &chosen_blocks,
            scores: &sink,
            score_rows: &score_rows,
            head_terms: makes_ranks.then_some(&head_terms),
        };
        let op = self.op(&kernels::token_score(self.gpu.tier(), &shape, Divisor::Blocks), score);
        self.time(
            &name("token_score"),
            &op,
            [scored.workgroups(sparse.blocks_kept), kv_heads, 1],
            0.0,
            0.0,
        );
        if !makes_ranks {
            rank(Items::Tokens);
        }
        let op = self.op(
            &kernels::top_k_tokens(self.gpu.tier(), &shape, Divisor::Blocks),
            top_k(&chosen_tokens, Some(&chosen_blocks), None),
        );
        self.time(&name("top_k tokens"), &op, [kv_heads, 1, 1], 0.0, 0.0);
        let op = self.op(
            &kernels::sparse_split(self.gpu.tier(), &shape, Place::Paged),
            split(Some(&chosen_tokens)),
        );
        let attended = f64::from(budget.row(depth, shape.block).attended);
        let sparse_bytes = attended * f64::from(kv_heads) * d * 4.0;
        self.time(
            &name("sparse_split"),
            &op,
            [sparse.splits, workgroups, 1],
            flops(attended),
            sparse_bytes,
        );
        let op = self.op(&kernels::merge(self.gpu.tier(), &shape), states);
        self.time(&name("merge sparse"), &op, [q, 1, kernels::merge_parts(&shape)], 0.0, 0.0);

        // Prefill of latent attention is that of the heads' keys and values.
        if shape.shares_values() {
            return;
        }
        let ids: Vec<u32> = vec![1; rows as usize];
        let prefill = plan(&ids, depth - rows, None);
        write(&prefill);
        let op = self.op(
            &kernels::prefill(self.gpu.tier(), &shape, shape.row_width()),
            kernels::Prefill {
                step: &step,
                segment: &segment,
                qkv: &qkv,
                kv: &kv,
                values_in: None,
                out: &out,
                states: &row_states,
            },
        );
        let work = flops(f64::from(depth) - f64::from(rows) / 2.0) * f64::from(rows);
        self.time(
            &format!("{} rows {rows}", name("prefill")),
            &op,
            [q, prefill.tiles, 1],
            work,
            0.0,
        );
    }
}
