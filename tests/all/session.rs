//! Sessions that are written to a file and loaded again: they go on as those that were never away.

use crate::common::device::{gpu, own_gpu, prefill, tiny_options};
use crate::common::steps::{assert_near, assert_same_steps};
use asynctls::attention::{Attention, BlockScorer, Blocks, Budget, Timing, TwoLevel};
use asynctls::engine::{
    Engine, EngineOptions, HostOptions, Session, SessionFile, SessionFormat, Want,
};
use asynctls::gpu::{Gpu, GpuOptions};
use asynctls::model::{ModelConfig, ModelFile, RopeChange, RopeKind};
use asynctls::{Error, Result};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const CONTEXT: u32 = 640;
const MODELS: [&str; 3] = ["llama/model", "qwen3/model.gguf", "glm4-moe-lite/model"];

/// A tiny model on a device.
struct Place {
    path: PathBuf,
    engine: Engine,
}

impl Place {
    fn new(
        model: &str,
        host: Option<HostOptions>,
        change: impl FnOnce(&mut EngineOptions),
    ) -> Self {
        Self::on(gpu(), model, host, change)
    }

    /// On a device that is to be lost.
    fn to_lose(model: &str, host: Option<HostOptions>) -> Self {
        Self::on(own_gpu(GpuOptions::default()), model, host, |_| ())
    }

    fn on(
        gpu: Gpu,
        model: &str,
        host: Option<HostOptions>,
        change: impl FnOnce(&mut EngineOptions),
    ) -> Self {
        let path = Path::new("tests/goldens/tiny").join(model);
        let file = ModelFile::open(&path).expect("a model");
        let mut options = tiny_options(&gpu, CONTEXT, 3, 100);
        options.host = host;
        change(&mut options);
        let engine = pollster::block_on(Engine::load(gpu, &file, options, &mut |_| ()))
            .unwrap_or_else(|e| panic!("{model}: {e}"));
        Self { path, engine }
    }

    fn format(&self) -> SessionFormat {
        let file = ModelFile::open(&self.path).expect("a model");
        SessionFormat::new(&file, &self.engine.config, &self.engine.options)
    }

    fn open(&self, path: &Path) -> SessionFile {
        self.format().open(path).unwrap_or_else(|e| panic!("{e}"))
    }

    /// A session of a prompt.
    fn begin(&self, tokens: u32) -> Session {
        let mut session = self.engine.session().expect("a session");
        self.read(&mut session, tokens);
        session
    }

    /// More of the prompt.
    fn read(&self, session: &mut Session, tokens: u32) {
        let from = session.len();
        let tokens: Vec<u32> =
            (from..from + tokens).map(|i| (i * 7 + i * i % 11) % 90 + 3).collect();
        prefill(&self.engine, session, &tokens, Want::Nothing).unwrap_or_else(|e| panic!("{e}"));
    }

    /// The logits of decode steps, whose tokens follow from their positions.
    fn steps(&self, session: &mut Session, count: u32, attention: &Attention) -> Vec<Vec<f32>> {
        (0..count)
            .map(|_| self.step(session, attention).unwrap_or_else(|e| panic!("{e}")))
            .collect()
    }

    fn step(&self, session: &mut Session, attention: &Attention) -> Result<Vec<f32>> {
        let token = (session.len() * 13 + 5) % 90;
        let batch = &mut [(session, token)];
        let made = pollster::block_on(self.engine.decode(batch, attention, Want::Logits))?;
        Ok(made[0].logits[0].clone())
    }

    /// Writes a session, and tells how many blocks were written.
    fn save(&self, session: &mut Session, file: &mut SessionFile) -> Result<u32> {
        let mut blocks = 0;
        let state = session.len().to_le_bytes();
        pollster::block_on(self.engine.save(session, file, &state, &mut |_| blocks += 1))?;
        Ok(blocks)
    }

    fn restore(&self, file: &SessionFile) -> Result<Session> {
        let (session, damage) = pollster::block_on(self.engine.restore(file, &mut |_| ()))?;
        if let Some(damage) = damage {
            return Err(damage);
        }
        let state = SessionFormat::callers_state(file)?;
        assert_eq!(state, session.len().to_le_bytes(), "the caller's state");
        assert_eq!(session.tokens(), file.tokens());
        Ok(session)
    }

    fn is_whole(&self) -> bool {
        self.engine.options.host.is_none()
    }
}

fn host(hot_blocks: u32) -> Option<HostOptions> {
    let timing = Timing::Exact;
    Some(HostOptions { timing, ring_bytes: 32 << 10, ..HostOptions::new(hot_blocks, 0, 4096) })
}

fn two_level() -> Attention {
    let (sink_blocks, recent_blocks) = (1, 4);
    let blocks = Blocks::Count(6);
    let budget = Budget { blocks, tokens: 40, sink_blocks, recent_blocks, dense_below: 0 };
    Attention::TwoLevel(TwoLevel::new(budget))
}

fn place() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("talk.kv");
    (folder, path)
}

/// The same numbers where both sessions have the whole cache on the GPU.
fn assert_same(what: &str, got: &[Vec<f32>], want: &[Vec<f32>], is_exact: bool) {
    if is_exact {
        assert!(got == want, "{what}: not the same bits");
    }
    assert_near(what, got, want);
}

#[test]
fn a_session_goes_on_wherever_it_is_loaded() {
    let attention = two_level();
    for model in MODELS {
        let places = [Place::new(model, None, |_| ()), Place::new(model, host(9), |_| ())];
        for from in &places {
            let (_folder, path) = place();
            let mut session = from.begin(330);
            from.steps(&mut session, 10, &attention);
            let mut file = from.open(&path);
            assert_eq!(from.save(&mut session, &mut file).unwrap(), 22);
            let channels = session.channel_set();
            let want = from.steps(&mut session, 20, &attention);
            drop((session, file));
            for to in &places {
                let what = format!("{model}, {} to {}", from.is_whole(), to.is_whole());
                let mut back = to.restore(&to.open(&path)).unwrap_or_else(|e| panic!("{e}"));
                assert_eq!(back.channel_set(), channels, "{what}");
                let mut fork = pollster::block_on(to.engine.fork(&mut back)).expect("a fork");
                let is_exact = to.is_whole() && from.is_whole();
                for session in [&mut back, &mut fork] {
                    assert_same(&what, &to.steps(session, 20, &attention), &want, is_exact);
                }
            }
        }
    }
}

#[test]
fn another_hot_cache_summaries_of_blocks_and_no_index_at_all() {
    let (_folder, path) = place();
    let (few, many) =
        (Place::new(MODELS[1], host(6), |_| ()), Place::new(MODELS[1], host(40), |_| ()));
    let mut session = few.begin(200);
    few.save(&mut session, &mut few.open(&path)).unwrap();
    let mut back = many.restore(&many.open(&path)).unwrap();
    let want = few.steps(&mut session, 20, &two_level());
    assert_same("another hot cache", &many.steps(&mut back, 20, &two_level()), &want, false);

    let mut others = vec![(None, Attention::Dense)];
    for scorer in BlockScorer::all().filter(|scorer| scorer.summary().is_some()) {
        let mut attention = two_level();
        if let Attention::TwoLevel(two_level) = &mut attention {
            two_level.block_scorer = scorer;
        }
        others.push((Some(scorer), attention));
    }
    for (scorer, attention) in &others {
        let (_folder, path) = place();
        let here = Place::new(MODELS[0], None, |options| match scorer {
            None => options.index = None,
            Some(scorer) => {
                options.index.as_mut().expect("an index").block_scorers = vec![*scorer];
            }
        });
        let mut session = here.begin(200);
        here.save(&mut session, &mut here.open(&path)).unwrap();
        let mut back = here.restore(&here.open(&path)).unwrap();
        let want = here.steps(&mut session, 20, attention);
        assert_same("other indices", &here.steps(&mut back, 20, attention), &want, true);
    }
}

#[test]
fn summaries_of_blocks_tell_sessions_apart() {
    let here = Place::new(MODELS[0], None, |_| ());
    let model = ModelFile::open(&here.path).unwrap();
    let each = BlockScorer::all().filter(|scorer| scorer.summary().is_some());
    let mut sets: Vec<Vec<BlockScorer>> = each.map(|scorer| vec![scorer]).collect();
    sets.extend([Vec::new(), BlockScorer::all().collect()]);
    let mut formats: Vec<SessionFormat> = Vec::new();
    for block_scorers in sets {
        let mut options = here.engine.options.clone();
        options.index.as_mut().unwrap().block_scorers = block_scorers;
        formats.push(SessionFormat::new(&model, &here.engine.config, &options));
    }
    for format in &formats {
        let (_folder, path) = place();
        drop(format.open(&path).unwrap());
        for other in &formats {
            match other.open(&path) {
                Ok(_) => assert_eq!(other, format),
                Err(error) => {
                    let message = error.to_string();
                    assert!(message.starts_with("the index of the session"), "{message}");
                    assert_ne!(other, format);
                }
            }
        }
    }
}

#[test]
fn a_file_grows_with_its_session_and_follows_it_back() {
    for host in [None, host(9)] {
        let here = Place::new(MODELS[0], host, |_| ());
        let (_folder, path) = place();
        let mut file = here.open(&path);
        assert!(pollster::block_on(here.engine.restore(&file, &mut |_| ())).unwrap().0.is_empty());
        let same = |what: &str, file: &SessionFile, session: &mut Session, more: u32| {
            let mut back = here.restore(file).unwrap_or_else(|e| panic!("{what}: {e}"));
            for session in [&mut back, &mut *session] {
                here.read(session, more);
            }
            assert_eq!(back.channel_set(), session.channel_set(), "{what}");
            let want = here.steps(session, 9, &two_level());
            let got = here.steps(&mut back, 9, &two_level());
            assert_same(what, &got, &want, here.is_whole());
        };
        // Before index channels are chosen, the statistics that choose them are what is saved.
        let mut session = here.begin(60);
        assert_eq!(here.save(&mut session, &mut file).unwrap(), 4);
        same("before the choice", &file, &mut session, 100);
        assert_eq!(session.len(), 169);
        // All blocks anew, since the index was built meanwhile.
        assert_eq!(here.save(&mut session, &mut file).unwrap(), 11);
        same("after it", &file, &mut session, 11);
        assert_eq!(session.len(), 189);
        assert_eq!(here.save(&mut session, &mut file).unwrap(), 2, "the open block, and a new one");
        assert_eq!(here.save(&mut session, &mut file).unwrap(), 1, "the open block");
        session.rewind(150).unwrap();
        same("taken back", &file_after(&here, &mut session, &mut file, 1, &path), &mut session, 3);
        assert_eq!(session.len(), 162);
        assert_eq!(here.save(&mut session, &mut file).unwrap(), 2, "what was said instead");
        drop(file);
        let mut file = here.open(&path);
        assert_eq!(here.save(&mut session, &mut file).unwrap(), 11, "to a file it does not know");
        // What another session wrote there is not taken for this one's.
        let mut other = here.begin(170);
        here.save(&mut other, &mut file).unwrap();
        assert_eq!(here.save(&mut session, &mut file).unwrap(), 11);
        let file = file.compact().unwrap();
        same("compacted", &file, &mut session, 1);
    }
}

/// The file sealed and opened again after a save that writes so many blocks.
fn file_after(
    here: &Place,
    session: &mut Session,
    file: &mut SessionFile,
    blocks: u32,
    path: &Path,
) -> SessionFile {
    assert_eq!(here.save(session, file).unwrap(), blocks);
    let copy = path.with_extension("copy");
    std::fs::copy(path, &copy).unwrap();
    here.open(&copy)
}

#[test]
fn what_an_engine_cannot_go_on_with_is_refused() {
    let here = Place::new(MODELS[0], None, |_| ());
    let (_folder, path) = place();
    let mut session = here.begin(200);
    here.save(&mut session, &mut here.open(&path)).unwrap();
    let refused = |change: &dyn Fn(&mut EngineOptions), model: &Path, part: &str| {
        let file = ModelFile::open(model).unwrap();
        let mut options = here.engine.options.clone();
        change(&mut options);
        let config = ModelConfig::read_changed(&file, options.rope.as_ref()).unwrap();
        let format = SessionFormat::new(&file, &config, &options);
        let message = format.open(&path).unwrap_err().to_string();
        assert!(message.starts_with(part), "{message}");
    };
    let index = |change: fn(&mut asynctls::engine::IndexOptions)| {
        move |options: &mut EngineOptions| change(options.index.as_mut().unwrap())
    };
    refused(&|o| o.block = 32, &here.path, "the block size of the session");
    refused(&|o| o.index = None, &here.path, "the index of the session");
    refused(&index(|i| i.bits = Some(8)), &here.path, "the number of index bits of the session");
    refused(&index(|i| i.stats_tokens = 99), &here.path, "the choice of index channels of the");
    refused(
        &|o| o.quantise = Some(asynctls::formats::Quantise::Q8_0),
        &here.path,
        "the quantisation of the weights of the session",
    );
    let yarn = RopeChange { kind: RopeKind::Yarn, factor: 4.0, original: None };
    refused(&|o| o.rope = Some(yarn), &here.path, "the rotary embedding of the session");
    refused(&|_| (), Path::new("tests/goldens/tiny/qwen3/model"), "the model's family of the");
    // Another model of the same shapes: one byte of one tensor differs.
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(&here.path).unwrap() {
        let entry = entry.unwrap();
        let mut bytes = std::fs::read(entry.path()).unwrap();
        if entry.file_name() == "model.safetensors" {
            let last = bytes.len() - 1;
            bytes[last] ^= 1;
        }
        std::fs::write(folder.path().join(entry.file_name()), bytes).unwrap();
    }
    refused(&|_| (), folder.path(), "the checksum of the weights of the session");
    // Where it runs is no matter.
    let mut options = here.engine.options.clone();
    (options.host, options.chunk, options.context) = (host(9), 128, 64);
    let file = ModelFile::open(&here.path).unwrap();
    assert_eq!(SessionFormat::new(&file, &here.engine.config, &options), here.format());

    let short = Place::new(MODELS[0], None, |options| options.context = 64);
    let message = short.restore(&short.open(&path)).unwrap_err().to_string();
    assert!(message.ends_with("is 200 tokens, but the context holds 64"), "{message}");

    // None of that took anything from the engine.
    let sessions: Vec<_> = (0..2).map(|_| here.restore(&here.open(&path)).unwrap()).collect();
    assert_eq!(sessions.len(), 2);
}

#[test]
fn a_session_with_a_damaged_block_ends_before_it_and_is_computed_from_there() {
    let early = |options: &mut EngineOptions| {
        options.index.as_mut().expect("an index").stats_tokens = 16;
    };
    let none = |options: &mut EngineOptions| options.index = None;
    let attention = two_level();
    type Change<'a> = &'a dyn Fn(&mut EngineOptions);
    let cases: [(_, Change<'_>, _); 4] = [
        // Index channels follow from the first 100 tokens, or from the first 16, or there are none.
        (None, &|_| (), &attention),
        (host(9), &|_| (), &attention),
        (None, &early, &attention),
        (None, &none, &Attention::Dense),
    ];
    for (host, change, attention) in cases {
        let here = Place::new(MODELS[1], host, change);
        let (_folder, path) = place();
        let mut session = here.begin(200);
        here.save(&mut session, &mut here.open(&path)).unwrap();
        let mut as_before = |what: &str, back: &mut Session| {
            let pair = [(&here.engine, back), (&here.engine, &mut session)];
            assert_same_steps(what, attention, 9, pair);
            session.rewind(200).expect("taken back");
        };
        let whole = std::fs::read(&path).unwrap();
        // Blocks lie one behind the other, and are multiples of 16 bytes.
        let blocks = here.open(&path);
        let bytes = blocks.block_bytes() as usize;
        let first = blocks.block(0).unwrap()[..64].to_vec();
        drop(blocks);
        let first = whole.windows(64).position(|window| window == first).expect("a block");
        for block in [0, 6, 7, 12] {
            let kept = block as u32 * 16;
            let what = format!("{} whole, block {block}", here.is_whole());
            let mut damaged = whole.clone();
            for block in block..13 {
                damaged[first + block * bytes + bytes / 2] ^= 4;
            }
            std::fs::write(&path, &damaged).unwrap();
            let mut file = here.open(&path);
            // None of it takes anything from the engine.
            for _ in 0..4 {
                pollster::block_on(here.engine.restore(&file, &mut |_| ())).unwrap();
            }
            let restored = pollster::block_on(here.engine.restore(&file, &mut |_| ())).unwrap();
            let (mut back, Some(damage)) = restored else { panic!("{what}") };
            let part = format!("block {block} is damaged: its checksum");
            assert!(damage.to_string().contains(&part), "{damage}");
            assert_eq!(back.len(), kept, "{what}");
            assert_eq!(back.tokens(), &file.tokens()[..kept as usize]);
            let rest = file.tokens()[kept as usize..].to_vec();
            prefill(&here.engine, &mut back, &rest, Want::Nothing).unwrap();
            // What is saved is whole again, behind what was there.
            here.save(&mut back, &mut file).unwrap();
            as_before(&what, &mut back);
            drop((back, file));
            let mut back = here.restore(&here.open(&path)).unwrap();
            as_before(&what, &mut back);
            assert!(std::fs::read(&path).unwrap().starts_with(&damaged));
        }
    }
}

#[test]
fn a_lost_device_costs_what_was_not_saved() {
    for host in [None, host(9)] {
        let (_folder, path) = place();
        let before = Place::to_lose(MODELS[1], host);
        let mut session = before.begin(200);
        let mut file = before.open(&path);
        before.save(&mut session, &mut file).unwrap();
        let want = before.steps(&mut session, 3, &two_level());
        before.engine.gpu.destroy();
        let error = before.step(&mut session, &two_level()).unwrap_err();
        assert!(matches!(error, Error::DeviceLost(_)), "{error}");
        let error = before.save(&mut session, &mut file).unwrap_err();
        assert!(matches!(error, Error::DeviceLost(_)), "{error}");
        drop(file);

        let after = Place::new(MODELS[1], host, |_| ());
        let mut back = after.restore(&after.open(&path)).unwrap();
        assert_eq!(back.len(), 200);
        let got = after.steps(&mut back, 3, &two_level());
        assert_same("after the loss", &got, &want, host.is_none());
    }
}

#[test]
fn what_the_host_holds_outlives_the_device() {
    for model in MODELS {
        let (_folder, path) = place();
        let before = Place::to_lose(model, host(9));
        let mut session = before.begin(120);
        let mut file = before.open(&path);
        before.save(&mut session, &mut file).unwrap();
        before.read(&mut session, 80);
        let want = before.steps(&mut session, 30, &two_level());
        before.engine.gpu.destroy();
        let error = before.step(&mut session, &two_level()).unwrap_err();
        assert!(matches!(error, Error::DeviceLost(_)), "{error}");
        let written = before.save(&mut session, &mut file).unwrap();
        assert_eq!((written, file.tokens().len()), (14 - 7, 224), "{model}");
        assert_eq!(file.tokens(), &session.tokens()[..224]);
        drop(file);

        for host in [host(9), None] {
            let after = Place::new(model, host, |_| ());
            let file = after.open(&path);
            let restored = pollster::block_on(after.engine.restore(&file, &mut |_| ())).unwrap();
            let (mut back, None) = restored else { panic!("{restored:?}") };
            assert_eq!(back.len(), 224);
            let got = after.steps(&mut back, 6, &two_level());
            assert_same(&format!("{model}, elsewhere"), &got, &want[24..], false);
        }
    }
}
