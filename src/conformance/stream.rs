//! Cases of `stream`.

use super::rig::{Data, Random, run, same_words};
use super::{Case, Verdict};
use crate::Result;
use crate::gpu::Gpu;
use crate::kernels::{self, STREAM_VECS};

pub(super) fn cases(cases: &mut Vec<Case>) {
    for vecs in [1, 255, 4096, 4097, 20_000] {
        let label = format!("{vecs} vec4");
        cases.push(Case::new("stream", label, false, move |gpu| Box::pin(stream(gpu, vecs))));
    }
}

async fn stream(gpu: &Gpu, vecs: usize) -> Result<Verdict> {
    let mut random = Random::new(vecs as u64);
    let words: Vec<u32> = random.floats(4 * vecs).into_iter().map(f32::to_bits).collect();
    let groups = vecs.div_ceil(STREAM_VECS as usize);
    let data = kernels::Stream { data: Data::In(&words), sums: Data::Out(groups * 256) };
    let got = run(gpu, &kernels::stream(), data, (groups as u32, 1, 1)).await?.sums;
    let mut want = vec![0u32; groups * 256];
    for (i, vec) in words.chunks_exact(4).enumerate() {
        let lane = &mut want[i / STREAM_VECS as usize * 256 + i % 256];
        *lane = vec.iter().fold(*lane, |sum, word| sum.wrapping_add(*word));
    }
    Ok(same_words("sums", &got, &want))
}
