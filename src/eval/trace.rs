//! Traces: what a run selected, step by step, in a file that benchmarks and cache simulations replay.
//!
//! A trace is a safetensors file. `S` steps, `L` layers, `H` KV heads, `G` query heads a KV head; lists that are shorter
//! than the longest are filled up with [`FILL`].
//!
//! | tensor | type and shape | what |
//! |---|---|---|
//! | `input` | u32 `[S]` | token that the step was given |
//! | `position` | u32 `[S]` | its position |
//! | `blocks` | u32 `[S, L, H, k_b]` | blocks that level 1 chose, ascending |
//! | `tokens` | u32 `[S, L, H, k_t]` | positions that level 2 chose, ascending |
//! | `scores` | f32 `[S, L, H * G, sealed blocks]` | level 1's scores; NaN where there is none |
//! | `queries` | f16 `[S, L, H * G, d]` | rotated queries |
//! | `keys` | f16 `[S, L, H, d]` | the steps' own rotated keys |
//! | `prompt_keys` | f16 `[L, H, prompt tokens, d]` | keys of what came before |

use crate::engine::{LayerCacheView, LayerView};
use crate::{Error, Result};
use half::f16;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use std::collections::HashMap;
use std::path::Path;

/// Fills up lists of numbers.
pub const FILL: u32 = u32::MAX;

/// The parts of a trace besides the selections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recorded {
    /// Level 1's scores.
    pub scores: bool,
    /// Queries.
    pub queries: bool,
    /// Keys, those of the prompt too.
    pub keys: bool,
}

/// A recorded run.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    /// Token and position of each step.
    pub inputs: Vec<(u32, u32)>,
    /// Step, layer.
    pub steps: Vec<Vec<LayerView>>,
    /// Keys of what came before, a layer each; empty where they are not wanted.
    pub prompt: Vec<LayerCacheView>,
}

impl Trace {
    /// Writes the trace; a file that is there is replaced once the new one is whole. `about` goes into its metadata.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn write(
        &self,
        path: &Path,
        recorded: Recorded,
        about: HashMap<String, String>,
    ) -> Result<()> {
        let steps = self.steps.len();
        let layers = self.steps.first().map_or(0, Vec::len);
        let views = || self.steps.iter().flatten();
        let kv_heads = views().next().map_or(0, |view| view.blocks.len());
        let shape_of = |lists: usize, longest: usize| vec![steps, layers, lists, longest];
        let mut tensors: Vec<(&str, Dtype, Vec<usize>, Vec<u8>)> = Vec::new();
        let numbers = |pick: fn(&(u32, u32)) -> u32| {
            self.inputs.iter().flat_map(|input| pick(input).to_le_bytes()).collect::<Vec<u8>>()
        };
        tensors.push(("input", Dtype::U32, vec![steps], numbers(|input| input.0)));
        tensors.push(("position", Dtype::U32, vec![steps], numbers(|input| input.1)));
        for (name, pick) in [
            ("blocks", (|v| &v.blocks) as fn(&LayerView) -> &Vec<Vec<u32>>),
            ("tokens", |v| &v.tokens),
        ] {
            let longest = views().flat_map(pick).map(Vec::len).max().unwrap_or(0);
            let filled = |list: &Vec<u32>| {
                let mut list = list.clone();
                list.resize(longest, FILL);
                list
            };
            let words = views().flat_map(pick).flat_map(filled);
            let bytes = words.flat_map(u32::to_le_bytes).collect();
            tensors.push((name, Dtype::U32, shape_of(kv_heads, longest), bytes));
        }
        if recorded.scores {
            let lists = || views().flat_map(|view| &view.block_scores);
            let longest = lists().map(Vec::len).max().unwrap_or(0);
            let q_heads = views().next().map_or(0, |view| view.block_scores.len());
            let filled = |list: &Vec<f32>| {
                let mut list = list.clone();
                list.resize(longest, f32::NAN);
                list
            };
            let bytes = lists().flat_map(filled).flat_map(f32::to_le_bytes).collect();
            tensors.push(("scores", Dtype::F32, shape_of(q_heads, longest), bytes));
        }
        let halves = |values: &mut dyn Iterator<Item = &f32>| -> Vec<u8> {
            values.flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect()
        };
        // Length of a head, from the step's own key.
        let d = views().next().map_or(0, |view| view.key.len()).checked_div(kv_heads).unwrap_or(0);
        if recorded.queries {
            let bytes = halves(&mut views().flat_map(|view| &view.queries));
            let q_heads = views().next().map_or(0, |view| view.queries.len() / d.max(1));
            tensors.push(("queries", Dtype::F16, shape_of(q_heads, d), bytes));
        }
        if recorded.keys {
            let bytes = halves(&mut views().flat_map(|view| &view.key));
            tensors.push(("keys", Dtype::F16, shape_of(kv_heads, d), bytes));
            let keys = || self.prompt.iter().flat_map(|layer| &layer.keys);
            let tokens = keys().next().map_or(0, Vec::len).checked_div(d).unwrap_or(0);
            let bytes = halves(&mut keys().flatten());
            let shape = vec![self.prompt.len(), kv_heads, tokens, d];
            tensors.push(("prompt_keys", Dtype::F16, shape, bytes));
        }
        let problem = |e: safetensors::SafeTensorError| Error::Write {
            path: path.to_owned(),
            source: std::io::Error::other(e),
        };
        let mut named = Vec::new();
        for (name, kind, shape, bytes) in &tensors {
            named.push((*name, TensorView::new(*kind, shape.clone(), bytes).map_err(problem)?));
        }
        let bytes = safetensors::serialize(named, Some(about)).map_err(problem)?;
        crate::file::replace(path, &bytes)
    }
}

/// The selections of a trace file: the part that replays need.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selections {
    /// Position of each step's token.
    pub positions: Vec<u32>,
    /// Step, layer, KV head: blocks, ascending.
    pub blocks: Vec<Vec<Vec<Vec<u32>>>>,
}

impl Selections {
    /// Reads a trace file.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::File`] for what is no trace.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes =
            std::fs::read(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
        Self::parse(&bytes).map_err(|problem| Error::File {
            path: path.to_owned(),
            offset: 0,
            problem: format!("this is no trace: {problem}"),
        })
    }

    fn parse(bytes: &[u8]) -> std::result::Result<Self, String> {
        let file = SafeTensors::deserialize(bytes).map_err(|e| e.to_string())?;
        let tensor = |name: &str| {
            let tensor = file.tensor(name).map_err(|e| e.to_string())?;
            if tensor.dtype() != Dtype::U32 {
                return Err(format!("tensor {name} is {:?} instead of u32", tensor.dtype()));
            }
            let words = tensor.data().chunks_exact(4);
            let words = words.map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
            Ok((tensor.shape().to_vec(), words.collect::<Vec<u32>>()))
        };
        let (_, positions) = tensor("position")?;
        let (shape, words) = tensor("blocks")?;
        let &[steps, layers, kv_heads, longest] = &shape[..] else {
            return Err(format!("tensor blocks has shape {shape:?} instead of four dimensions"));
        };
        if steps != positions.len() {
            return Err(format!("{} positions and {steps} steps", positions.len()));
        }
        let list = |words: &[u32]| words.iter().copied().filter(|&w| w != FILL).collect();
        let mut lists = words.chunks_exact(longest.max(1)).map(list);
        let mut next = || if longest == 0 { Vec::new() } else { lists.next().unwrap_or_default() };
        let blocks = (0..steps)
            .map(|_| (0..layers).map(|_| (0..kv_heads).map(|_| next()).collect()).collect())
            .collect();
        Ok(Self { positions, blocks })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_comes_back_as_it_was_selected() {
        let view = |blocks: [&[u32]; 2]| LayerView {
            queries: vec![0.5; 4 * 8],
            key: vec![1.0; 2 * 8],
            value: vec![2.0; 2 * 8],
            attended: vec![0.0; 4 * 8],
            block_scores: vec![vec![1.0, 2.0, 3.0]; 4],
            blocks: blocks.map(<[u32]>::to_vec).to_vec(),
            tokens: vec![vec![64, 70], vec![65]],
        };
        let steps = vec![
            vec![view([&[1, 2], &[3]]), view([&[2], &[]])],
            vec![view([&[1], &[3, 4, 5]]), view([&[0], &[1]])],
        ];
        let prompt = vec![LayerCacheView { keys: vec![vec![0.0; 5 * 8]; 2], values: vec![] }; 2];
        let trace = Trace { inputs: vec![(7, 300), (9, 301)], steps: steps.clone(), prompt };
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("trace.safetensors");
        let recorded = Recorded { scores: true, queries: true, keys: true };
        let about = HashMap::from([("model".to_owned(), "m".to_owned())]);
        trace.write(&path, recorded, about).unwrap();

        let read = Selections::read(&path).unwrap();
        assert_eq!(read.positions, [300, 301]);
        for (step, layers) in steps.iter().enumerate() {
            for (layer, view) in layers.iter().enumerate() {
                assert_eq!(read.blocks[step][layer], view.blocks);
            }
        }
        let bytes = std::fs::read(&path).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(file.tensor("tokens").unwrap().shape(), [2, 2, 2, 2]);
        assert_eq!(file.tensor("scores").unwrap().shape(), [2, 2, 4, 3]);
        assert_eq!(file.tensor("queries").unwrap().shape(), [2, 2, 4, 8]);
        assert_eq!(file.tensor("prompt_keys").unwrap().shape(), [2, 2, 5, 8]);
    }

    #[test]
    fn an_empty_run_and_what_is_no_trace() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let recorded = Recorded { scores: true, queries: true, keys: true };
        Trace::default().write(&path, recorded, HashMap::new()).unwrap();
        assert_eq!(Selections::read(&path).unwrap(), Selections::default());
        std::fs::write(&path, "hello, this is text").unwrap();
        let message = Selections::read(&path).unwrap_err().to_string();
        assert!(message.contains("this is no trace"), "{message}");
        assert!(Selections::read(&dir.path().join("absent")).is_err());
    }
}
