//! A selector of one's own: the program chooses each row's tokens, the operator attends them.
//! `cargo run --release --example custom_selector`; `ASYNCTLS_ADAPTER` names the adapter by a part of its label.

// The device, the random numbers and the layout of the cache are those of the other example.
#[path = "embed_operator.rs"]
#[allow(dead_code, reason = "it is a program of its own")]
pub mod embed_operator;

use asynctls::attention::{KvLayout, Shape};
use asynctls::operator::{Batch, Decode, Kv, Limits, Options, Select, Selector, Sequence, Tensors};
use asynctls::reference::attend::attention;
use embed_operator::{floats, open, paged, words};
use rand_pcg::Pcg32;
use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("{}", pollster::block_on(run(std::env::var("ASYNCTLS_ADAPTER").ok().as_deref()))?);
    Ok(())
}

/// The selector: of the tokens before a row's own block, the first four, as sinks, and the `most` whose keys have the largest
/// product with the sum of the group's queries. Positions ascend.
fn choose(queries: &[f32], key: impl Fn(u32) -> Vec<f32>, before: u32, most: usize) -> Vec<u32> {
    let dim = key(0).len();
    let sum: Vec<f32> = (0..dim).map(|d| queries.iter().skip(d).step_by(dim).sum()).collect();
    let score = |t: &u32| sum.iter().zip(key(*t)).map(|(q, k)| q * k).sum::<f32>();
    let mut scored: Vec<(f32, u32)> = (4..before).map(|t| (score(&t), t)).collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut chosen: Vec<u32> = (0..before.min(4)).collect();
    chosen.extend(scored.into_iter().take(most).map(|(_, token)| token));
    chosen.sort_unstable();
    chosen
}

/// The whole of it; says what it did.
pub async fn run(wanted: Option<&str>) -> Result<String, Box<dyn Error>> {
    let (device, queue, gpu) = open(wanted).await?;
    let (shape, length, random) = (Shape::new(2, 4, 64, false), 1000u32, &mut Pcg32::new(3, 4));
    let [heads, group, dim] = [shape.kv_heads, shape.group, shape.head_dim].map(|n| n as usize);
    let tokens = length as usize;
    let [queries, keys, values] =
        [heads * group, tokens * heads, tokens * heads].map(|rows| floats(rows * dim, random));
    let blocks = length.div_ceil(shape.block);
    let table: Vec<u32> = (0..blocks).collect();

    let limits = Limits { rows: 1, sequences: 1, tokens: length, cache_blocks: blocks };
    let decode = Decode::new(&gpu, Options::new(&gpu, shape, limits), Selector::Caller).await?;
    let cache = paged(&shape, KvLayout::Joined, &keys, &values).concat();
    let q = gpu.storage_with("queries", bytemuck::cast_slice(&queries)).await?;
    let kv = gpu.storage_with("keys and values", bytemuck::cast_slice(&cache)).await?;
    let output = gpu.storage("output", (queries.len() * 4) as u64).await?;
    let tensors = Tensors {
        queries: q.as_entire_buffer_binding(),
        kv: Kv::Joined(vec![kv.as_entire_buffer_binding()]),
        output: output.as_entire_buffer_binding(),
        codes: None,
        summary: None,
    };
    let layer = decode.bind(&tensors).await?;

    // A list for each KV head of the only row; its own block is attended anyway.
    let before = (length - 1) / shape.block * shape.block;
    let row = |rows: &[f32], head: usize, t: u32| {
        rows[(t as usize * heads + head) * dim..][..dim].to_vec()
    };
    let lists: Vec<Vec<u32>> = (0..heads)
        .map(|head| {
            let queries = &queries[head * group * dim..][..group * dim];
            choose(queries, |t| row(&keys, head, t), before, 96)
        })
        .collect();
    let sequence = Sequence { length, rows: 1, blocks: &table, index: 0..0 };
    let plan = decode.plan(&Batch { sequences: &[sequence], select: Select::Tokens(&lists) })?;
    let mut encoder = device.create_command_encoder(&Default::default());
    layer.attend(&mut decode.begin(&mut encoder, &plan)?.pass()?)?;
    queue.submit([encoder.finish()]);
    let made = gpu.download(&output, output.size()).await?;
    let made: Vec<f32> = words(&made).into_iter().map(f32::from_bits).collect();

    let mut difference = 0f64;
    for head in 0..heads * group {
        let kv_head = head / group;
        let attended: Vec<u32> = lists[kv_head].iter().copied().chain(before..length).collect();
        let at = |t: u32| (t as usize * heads + kv_head) * dim;
        let (key, value) = (|t| &keys[at(t)..][..dim], |t| &values[at(t)..][..dim]);
        let logit = (shape.scale(), shape.softcap);
        let want = attention(&queries[head * dim..][..dim], logit, &attended, key, value);
        for (made, want) in made[head * dim..].iter().zip(want) {
            difference = difference.max((f64::from(*made) - want).abs());
        }
    }
    if difference > 1e-4 {
        return Err(format!("off by {difference:.1e} from the twin").into());
    }
    let attended = lists[0].len() + (length - before) as usize;
    Ok(format!(
        "{}: attended {attended} tokens of the program's choice of {length}, within {difference:.1e} of the twin",
        gpu.label()
    ))
}
