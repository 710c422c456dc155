use super::*;
use crate::attention::Timing;
use crate::engine::{EngineOptions, HostOptions, IndexOptions, Want};
use crate::gpu::{Adapter, GpuOptions, adapters};
use crate::model::ModelFile;
use pollster::block_on;
use std::path::Path;

const BLOCK: usize = 16;
const COUNTED: u32 = 64;

fn gpu() -> Option<Gpu> {
    let adapter = Adapter::choose(&block_on(adapters()), None).ok()?;
    Some(block_on(Gpu::open(&adapter, GpuOptions::default())).unwrap())
}

fn engine(gpu: &Gpu, model: &str, change: impl FnOnce(&mut EngineOptions)) -> Engine {
    let path = Path::new("tests/goldens/tiny").join(model).join("model.gguf");
    let file = ModelFile::open(&path).unwrap();
    let index = Some(IndexOptions { stats_tokens: COUNTED, ..IndexOptions::default() });
    let mut options =
        EngineOptions { block: 16, chunk: 64, index, sessions: 3, ..EngineOptions::new(gpu, 512) };
    options.total_tokens = 1536;
    change(&mut options);
    block_on(Engine::load(gpu.share(), &file, options, &mut |_| ())).unwrap()
}

fn on_host(options: &mut EngineOptions) {
    let host = HostOptions::new(24, 0, 4096);
    options.host = Some(HostOptions { timing: Timing::Exact, ring_bytes: 32 << 10, ..host });
}

fn tokens(seed: u32, count: u32) -> Vec<u32> {
    (0..count).map(|i| (i * (seed + 7) + i * i % (11 + seed)) % 90 + 33).collect()
}

// The logits of the last token of these.
fn read(engine: &Engine, session: &mut Session, tokens: &[u32]) -> Vec<f32> {
    block_on(engine.prefill(session, tokens, Want::Logits, &mut |_| true)).unwrap().logits.remove(0)
}

fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|logit| logit.to_bits()).collect()
}

// Blocks of a session that read all of these, from another engine.
fn stored(engine: &Engine, tokens: &[u32]) -> Vec<Vec<u8>> {
    let mut session = engine.session().unwrap();
    read(engine, &mut session, tokens);
    let sealed = engine.sealed_blocks(&session) as usize;
    assert_eq!(sealed, tokens.len() / BLOCK);
    let blocks = block_on(engine.read_sealed(&session, 0..sealed)).unwrap();
    assert!(blocks.iter().all(|block| block.len() == engine.sealed_bytes()));
    blocks
}

// A beginning that is cut where steps are: products take the paths that they would, so every bit is the same.
#[test]
fn what_follows_a_stored_beginning_has_the_bits_of_a_fresh_run() {
    let Some(gpu) = gpu() else { return };
    let (first, rest) = (tokens(1, 128), tokens(2, 40));
    for model in ["llama", "qwen3", "glm4-moe-lite", "qwen3-moe"] {
        for is_on_host in [false, true] {
            let make = || {
                engine(&gpu, model, |options| {
                    if is_on_host {
                        on_host(options)
                    }
                })
            };
            let blocks = stored(&make(), &[&first[..], &rest].concat());
            let engine = make();
            let mut fresh = engine.session().unwrap();
            let expected = read(&engine, &mut fresh, &[&first[..], &rest].concat());
            let mut session = engine.session().unwrap();
            let mut arrivals = Arrivals::default();
            // In two pieces, to a session that has nothing.
            for piece in [0..3, 3..8] {
                let tokens = &first[piece.start * BLOCK..piece.end * BLOCK];
                let put = engine.append_sealed(&mut session, &mut arrivals, tokens, &blocks[piece]);
                assert_eq!(block_on(put).unwrap(), tokens.len() / BLOCK);
            }
            assert_eq!(session.tokens(), first);
            assert_eq!(session.channel_set(), fresh.channel_set());
            let made = read(&engine, &mut session, &rest);
            assert_eq!(bits(&made), bits(&expected), "{model}, host {is_on_host}");
            // And so have the blocks that are read back of it.
            let again = block_on(engine.read_sealed(&session, 0..10)).unwrap();
            let fresh = block_on(engine.read_sealed(&fresh, 0..10)).unwrap();
            assert!(again == fresh && again[..8] == blocks[..8], "{model}, host {is_on_host}");
        }
    }
}

// Of sessions that grew in turn, one leaves blocks of which some are neighbours and some are not.
#[test]
fn blocks_come_to_where_there_is_room_one_at_a_time_or_all_together() {
    let Some(gpu) = gpu() else { return };
    let first = tokens(1, 128);
    for (is_on_host, ring_bytes) in [(false, RING_BYTES), (false, 1), (true, RING_BYTES), (true, 1)]
    {
        let engine = engine(&gpu, "qwen3", |options| {
            if is_on_host {
                on_host(options)
            }
        });
        let blocks = stored(&engine, &first);
        let mut arrivals = Arrivals { ring_bytes, ..Arrivals::default() };
        let mut append = |session: &mut Session, blocks: &[Vec<u8>]| {
            let from = session.len() as usize;
            let tokens = &first[from..from + blocks.len() * BLOCK];
            let put = engine.append_sealed(session, &mut arrivals, tokens, blocks);
            assert_eq!(block_on(put).unwrap(), blocks.len());
        };
        let [mut kept, mut gone] = [(); 2].map(|()| engine.session().unwrap());
        for piece in [0..3, 3..4, 4..6, 6..7] {
            append(&mut gone, &blocks[piece.clone()]);
            append(&mut kept, &blocks[piece]);
        }
        drop(gone);
        let mut session = engine.session().unwrap();
        append(&mut session, &blocks);
        let mut places = session.table.blocks().to_vec();
        places.sort_unstable();
        let steps: Vec<u32> = places.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(steps.contains(&1) && steps.iter().any(|&step| step > 1), "{places:?}");
        for (session, count) in [(&session, 8), (&kept, 7)] {
            let again = block_on(engine.read_sealed(session, 0..count)).unwrap();
            assert!(again == blocks[..count], "host {is_on_host}, {ring_bytes} bytes");
        }
    }
}

#[test]
fn an_index_by_other_channels_is_not_taken() {
    let Some(gpu) = gpu() else { return };
    let engine = engine(&gpu, "qwen3", |_| ());
    let first = tokens(1, 128);
    let blocks = stored(&engine, &first);
    let record = engine.record().bytes() as usize;
    let mut mixed = blocks.clone();
    // Other channels, which are some too.
    mixed[5][record..]
        .rotate_left(engine.shape.channels_len() as usize * 4 / engine.shape.kv_heads as usize);
    assert_ne!(mixed[5], blocks[5]);
    let append = |session: &mut Session, blocks: &[Vec<u8>]| {
        let from = session.len() as usize;
        let tokens = &first[from..from + blocks.len() * BLOCK];
        block_on(engine.append_sealed(session, &mut Arrivals::default(), tokens, blocks))
    };
    let mut session = engine.session().unwrap();
    assert_eq!(append(&mut session, &mixed).unwrap(), 5);
    assert_eq!(append(&mut session, &mixed[5..]).unwrap(), 0);
    assert_eq!(append(&mut session, &blocks[5..]).unwrap(), 3);
    // Numbers that are no channels.
    let mut none = blocks.clone();
    none.iter_mut().for_each(|block| block[record..].fill(0xff));
    let mut session = engine.session().unwrap();
    assert_eq!(append(&mut session, &none).unwrap(), 0);
    assert!(session.is_empty() && session.channel_set().is_none());
    // Not behind an open block, nor in pieces of another size.
    read(&engine, &mut session, &first[..5]);
    assert!(append(&mut session, &blocks[..1]).is_err());
    let mut session = engine.session().unwrap();
    assert!(append(&mut session, &[blocks[0][1..].to_vec()]).is_err());
    assert!(session.is_empty());
}

#[test]
fn a_beginning_that_does_not_fit_leaves_the_session_as_it_was() {
    let Some(gpu) = gpu() else { return };
    let blocks = stored(&engine(&gpu, "llama", |_| ()), &tokens(1, 128));
    for change in [
        |options: &mut EngineOptions| options.context = 100,
        |options: &mut EngineOptions| (options.total_tokens, options.sessions) = (64, 1),
    ] {
        let small = engine(&gpu, "llama", change);
        let mut session = small.session().unwrap();
        let free = small.blocks_and_free().1;
        let mut arrivals = Arrivals::default();
        let first = tokens(1, 128);
        let put = small.append_sealed(&mut session, &mut arrivals, &first, &blocks);
        assert!(block_on(put).is_err());
        assert_eq!((session.len(), small.blocks_and_free().1), (0, free));
    }
}
