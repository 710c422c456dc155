//! A prefix cache: conversations that go on after a restart, and what may happen to their files.

use super::*;
use crate::common::model::model_path;
use asynctls::engine::SessionFormat;
use asynctls::serve::{PrefixCache, PrefixStats};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use tempfile::TempDir;

/// Another option of an engine.
type Change<'a> = &'a dyn Fn(&mut EngineOptions);

/// What is done to a file.
type Harm<'a> = &'a dyn Fn(PathBuf);

const BLOCK: usize = 16;

type Started = (Model, SessionFormat);

// An engine of its own, as after a restart, and the format of its blocks.
fn load(path: &Path, options: EngineOptions) -> Started {
    let file = ModelFile::open(path).expect("the model: run tools/setup model");
    let config = asynctls::model::ModelConfig::read(&file).expect("its shapes");
    let format = SessionFormat::new(&file, &config, &options);
    let engine = block_on(Engine::load(gpu(), &file, options, &mut |_| ())).expect("an engine");
    let framing = Arc::new(Framing::read(&file).expect("framing"));
    (Model { _folder: None, engine: Arc::new(engine), framing }, format)
}

fn started(model: &str, change: &dyn Fn(&mut EngineOptions)) -> Started {
    let folder = Tiny::of(model, &json!({}));
    let mut options = tiny_options(&gpu(), CONTEXT, 6, COUNTED);
    change(&mut options);
    let (model, format) = load(folder.path(), options);
    (Model { _folder: Some(folder), ..model }, format)
}

// What requests are answered, one after the other, by an engine of its own over a directory; and what was done.
fn run(
    (model, format): &Started,
    directory: &Path,
    requests: &[Request],
    change: impl FnOnce(&mut BatchOptions),
) -> (Vec<Answer>, Stats) {
    let cache = PrefixCache { warn: panic_at, ..PrefixCache::new(directory, format.clone()) };
    let (batcher, steps) = model.batcher(requests[0].options.attention, |options| {
        options.prefix_cache = Some(cache);
        change(options);
    });
    let read = async {
        let mut answers = Vec::new();
        for request in requests {
            let events = batcher.submit(request.clone()).expect("a place");
            answers.push(answer(events).await.expect("an answer"));
        }
        let stats = batcher.stats();
        drop(batcher);
        (answers, stats)
    };
    block_on(join(steps, read)).1
}

fn panic_at(line: &str) {
    panic!("{line}");
}

fn reused(answers: &[Answer]) -> Vec<usize> {
    answers.iter().map(|answer| answer.ended.reused_tokens as usize).collect()
}

// All files of blocks.
fn files(directory: &Path) -> Vec<PathBuf> {
    let folders = fs::read_dir(directory).unwrap().map(|folder| folder.unwrap().path());
    let folders = folders.filter(|folder| folder.file_name().unwrap().len() == 2);
    let files = folders.flat_map(|folder| fs::read_dir(folder).unwrap());
    files.map(|file| file.unwrap().path()).collect()
}

fn whole(tokens: usize) -> usize {
    tokens / BLOCK * BLOCK
}

#[test]
fn conversations_go_on_after_a_restart_as_if_they_had_been_read() {
    let on_host = |options: &mut EngineOptions| options.host = Some(host());
    let on_gpu = |_: &mut EngineOptions| ();
    let no_index = |options: &mut EngineOptions| options.index = None;
    let places: [(&str, Change<'_>, Attention); 6] = [
        ("qwen3", &on_gpu, Attention::Dense),
        ("llama", &no_index, Attention::Dense),
        ("qwen3", &on_gpu, two_level()),
        ("qwen3", &on_host, two_level()),
        ("glm4-moe-lite", &on_gpu, two_level()),
        ("glm4-moe-lite", &on_host, two_level()),
    ];
    for (model, change, attention) in places {
        let folder = tempfile::tempdir().unwrap();
        let document = prompt(5, 150);
        let ask = |tail: u32, length: u32| {
            request([&document[..], &prompt(tail, length)].concat(), 12, attention)
        };
        let first = started(model, change);
        let (made, stats) = run(&first, folder.path(), &[ask(3, 30)], |_| ());
        assert_eq!((reused(&made)[0], stats.prefix.hits), (0, 0));
        drop(first);

        // The same again, another last turn, a longer one, and another document.
        let requests = [ask(3, 30), ask(4, 25), ask(8, 60), request(prompt(9, 100), 5, attention)];
        for asked in &requests {
            let again = started(model, change);
            let (made, stats) = run(&again, folder.path(), std::slice::from_ref(asked), |_| ());
            let held = &[&document[..], &prompt(3, 30)].concat();
            let alike = held.iter().zip(&asked.prompt[..asked.prompt.len() - 1]);
            let alike = alike.take_while(|(a, b)| a == b).count();
            let found = if alike < BLOCK { 0 } else { whole(alike) };
            assert_eq!(reused(&made), [found], "{model} {attention:?}");
            assert_eq!(stats.prefix.tokens as usize, found);
            assert_eq!(stats.prefix.hits, u64::from(found > 0));
            assert_eq!(stats.prompt_tokens as usize, asked.prompt.len() - found);
            if !rounds_products() {
                assert_eq!(made[0].tokens, again.0.alone(asked), "{model} {attention:?}");
            }
        }
    }
}

#[test]
fn a_real_model_goes_on_after_a_restart() {
    let started = |host| {
        let mut options = EngineOptions { host, sessions: 2, ..EngineOptions::new(&gpu(), 512) };
        options.total_tokens = 1024;
        options.index.as_mut().expect("an index").stats_tokens = 128;
        load(&model_path(), options)
    };
    let on_host = HostOptions { timing: Timing::Exact, ..HostOptions::new(12, 1 << 20, 4096) };
    for (attention, host) in
        [(Attention::Dense, None), (two_level(), None), (two_level(), Some(on_host))]
    {
        let folder = tempfile::tempdir().unwrap();
        let asked = |tail: u32| {
            let first = (0..270u32).map(|i| (i * 37 + i * i % 101) % 40_000 + 20);
            [request(first.chain(prompt(tail, 30)).collect(), 8, attention)]
        };
        run(&started(host), folder.path(), &asked(1), |_| ());
        let again = started(host);
        let (made, _) = run(&again, folder.path(), &asked(2), |_| ());
        assert_eq!(reused(&made), [256]);
        assert!(rounds_products() || made[0].tokens == again.0.alone(&asked(2)[0]));
    }
}

#[test]
fn a_conversation_that_is_here_and_one_that_is_stored_go_together() {
    let folder = tempfile::tempdir().unwrap();
    let (shared, document) = (prompt(5, 80), prompt(6, 120));
    let long = |tail| [&shared[..], &document, &prompt(tail, 9)].concat();
    let dense = |tokens| request(tokens, 6, Attention::Dense);
    run(&started("qwen3", &|_| ()), folder.path(), &[dense(long(1))], |_| ());
    let again = started("qwen3", &|_| ());
    let short = dense([&shared[..], &prompt(7, 20)].concat());
    let requests = [short, dense(long(2)), dense(long(3))];
    let (made, stats) = run(&again, folder.path(), &requests, |_| ());
    // The second begins with the blocks of the first, and has only the others read; the third takes them as they are.
    let alike = long(2).iter().zip(&long(3)).take_while(|(a, b)| a == b).count();
    assert_eq!(reused(&made), [80, whole(200), alike]);
    assert_eq!(stats.prefix.tokens as usize, 80 + whole(200) - 80);
    assert_eq!((stats.hits, stats.prefix.hits), (3, 2));
    for (made, asked) in made.iter().zip(&requests) {
        assert!(rounds_products() || made.tokens == again.0.alone(asked));
    }
}

#[test]
fn two_level_prompts_are_stored_and_their_answers_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let first = request(prompt(3, 100), 60, two_level());
    let started = || started("qwen3", &|_| ());
    let (made, _) = run(&started(), folder.path(), std::slice::from_ref(&first), |_| ());
    assert_eq!(files(folder.path()).len(), 100 / BLOCK);
    let next = [&first.prompt[..], &made[0].tokens, &prompt(4, 9)].concat();
    let (made, _) =
        run(&started(), folder.path(), &[request(next.clone(), 8, two_level())], |_| ());
    assert_eq!(reused(&made), [whole(100)]);
    let (again, _) =
        run(&started(), folder.path(), &[request(next.clone(), 8, two_level())], |_| ());
    assert_eq!(reused(&again), [whole(next.len() - 1)]);
    assert!(rounds_products() || again[0].tokens == made[0].tokens);
    // Shorter than what index channels are chosen by: nothing is found, and nothing is stored.
    let before = files(folder.path()).len();
    let short = request(prompt(3, COUNTED - 1), 4, two_level());
    let (made, _) = run(&started(), folder.path(), &[short], |_| ());
    assert_eq!((reused(&made)[0], files(folder.path()).len()), (0, before));
}

#[test]
fn nothing_is_shared_between_models_and_settings() {
    let folder = tempfile::tempdir().unwrap();
    let asked = [request(prompt(3, 150), 4, Attention::Dense)];
    let others: [(&str, Change<'_>); 6] = [
        ("qwen3", &|_| ()),
        ("llama", &|_| ()),
        ("qwen3", &|options| options.block = 32),
        ("qwen3", &|options| options.index = None),
        ("qwen3", &|options| options.index.as_mut().unwrap().stats_tokens = 80),
        ("qwen3", &|options| options.index.as_mut().unwrap().bits = Some(8)),
    ];
    for (model, change) in others {
        let (made, stats) = run(&started(model, change), folder.path(), &asked, |_| ());
        assert_eq!((reused(&made)[0], stats.prefix.hits), (0, 0), "{model}");
    }
    // What is kept as q8_0 is not what was computed.
    let hosts = |kv_type| {
        move |options: &mut EngineOptions| options.host = Some(HostOptions { kv_type, ..host() })
    };
    let asked = [request(prompt(3, 150), 4, two_level())];
    let packed = hosts(asynctls::formats::KvType::Q8_0);
    for (change, found) in [(&packed, 0), (&packed, 144)] {
        let (made, _) = run(&started("qwen3", change), folder.path(), &asked, |_| ());
        assert_eq!(reused(&made), [found]);
    }
    // Where the KV cache lives is no difference.
    let (made, _) = run(&started("qwen3", &|_| ()), folder.path(), &asked, |_| ());
    let (again, _) = run(
        &started("qwen3", &hosts(asynctls::formats::KvType::F16)),
        folder.path(),
        &asked,
        |_| (),
    );
    assert_eq!((reused(&made)[0], reused(&again)[0]), (144, 144));
    // A format of another engine is refused.
    let (one, (_, other)) = (started("qwen3", &|_| ()), started("llama", &|_| ()));
    let mut options = BatchOptions::new(&one.0.engine, Attention::Dense);
    options.prefix_cache = Some(PrefixCache::new(folder.path(), other));
    let made = Batcher::new(one.0.engine.clone(), one.0.framing.clone(), options);
    assert!(made.err().expect("refused").to_string().contains("the format of the prefix cache"));
}

#[test]
fn damaged_blocks_are_computed_again_and_stored_anew() {
    let folder = tempfile::tempdir().unwrap();
    let asked = [request(prompt(3, 150), 8, Attention::Dense)];
    let started = || started("qwen3", &|_| ());
    let (expected, _) = run(&started(), folder.path(), &asked, |_| ());
    let place = |block: usize| {
        let ends = |path: &PathBuf| {
            path.extension().is_some_and(|ending| ending == block.to_string().as_str())
        };
        files(folder.path()).into_iter().find(ends).expect("a block")
    };
    let flip = |path: PathBuf| {
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 4;
        fs::write(path, bytes).unwrap();
    };
    let cut = |path: PathBuf| fs::write(&path, &fs::read(&path).unwrap()[..1000]).unwrap();
    let exchange = |path: PathBuf| fs::write(path, fs::read(place(7)).unwrap()).unwrap();
    let remove = |path: PathBuf| fs::remove_file(path).unwrap();
    let harms: [(Harm<'_>, usize, u64); 6] = [
        (&flip, 5, 1),
        (&cut, 4, 1),
        (&exchange, 3, 1),
        (&remove, 2, 0),
        (&flip, 0, 1),
        (&remove, 0, 0),
    ];
    for (harm, block, damaged) in harms {
        harm(place(block));
        let (made, stats) = run(&started(), folder.path(), &asked, |_| ());
        assert_eq!((reused(&made)[0], stats.prefix.damaged), (block * BLOCK, damaged));
        assert!(rounds_products() || made[0].tokens == expected[0].tokens);
        let (made, stats) = run(&started(), folder.path(), &asked, |_| ());
        assert_eq!((reused(&made)[0], stats.prefix.damaged), (144, 0));
    }
}

#[test]
fn two_servers_share_a_directory() {
    let folder = tempfile::tempdir().unwrap();
    let ask =
        |tail: u32| request([&prompt(5, 150)[..], &prompt(tail, 20)].concat(), 8, Attention::Dense);
    std::thread::scope(|scope| {
        for process in 0..2 {
            let (folder, ask) = (&folder, &ask);
            scope.spawn(move || {
                let model = started("qwen3", &|_| ());
                let asked: Vec<Request> = (0..4).map(|i| ask(2 * i + process)).collect();
                let (made, stats) = run(&model, folder.path(), &asked, |_| ());
                assert_eq!(stats.prefix.damaged, 0);
                for (made, asked) in made.iter().zip(&asked) {
                    assert!(rounds_products() || made.tokens == model.0.alone(asked));
                }
            });
        }
    });
    // Each finds what the other had computed.
    let asked: Vec<Request> = (0..8).map(ask).collect();
    let (made, stats) = run(&started("qwen3", &|_| ()), folder.path(), &asked, |_| ());
    assert!(reused(&made).iter().all(|reused| *reused >= 160), "{:?}", reused(&made));
    assert_eq!(stats.prefix.damaged, 0);
}

#[test]
fn a_directory_stays_within_its_limit() {
    let folder = tempfile::tempdir().unwrap();
    let model = started("qwen3", &|_| ());
    let one = request(prompt(1, 160), 2, Attention::Dense);
    run(&model, folder.path(), &[one], |_| ());
    let bytes = fs::metadata(&files(folder.path())[0]).unwrap().len();
    let asked: Vec<Request> =
        (1..9).map(|seed| request(prompt(seed, 160), 2, Attention::Dense)).collect();
    let limit = |options: &mut BatchOptions| {
        options.prefix_cache.as_mut().expect("one").bytes = 25 * bytes;
    };
    let (_, stats) = run(&model, folder.path(), &asked, limit);
    assert!(stats.prefix.failed == 0 && files(folder.path()).len() <= 25, "{stats:?}");
    // The last conversations are there, each as far as it is: no block without those before it.
    let (made, _) = run(&started("qwen3", &|_| ()), folder.path(), &asked[7..], limit);
    assert_eq!(reused(&made), [144]);
}

static WARNED: Mutex<Vec<String>> = Mutex::new(Vec::new());

#[test]
fn what_cannot_be_stored_is_said_once_and_answered_all_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cache");
    let model = started("qwen3", &|_| ());
    let asked: Vec<Request> =
        (1..4).map(|seed| request(prompt(seed, 100), 5, Attention::Dense)).collect();
    run(&model, &path, &asked[..1], |_| ());
    // Nothing can be written from now on, but what is there is read.
    fs::remove_dir(path.join("unfinished")).unwrap();
    fs::write(path.join("unfinished"), "").unwrap();
    let warn = |line: &str| WARNED.lock().unwrap().push(line.into());
    let (made, _) = run(&model, &path, &asked, |options| {
        options.prefix_cache.as_mut().expect("one").warn = warn;
    });
    assert_eq!(reused(&made), [96, 0, 0]);
    for (made, asked) in made.iter().zip(&asked) {
        assert!(rounds_products() || made.tokens == model.0.alone(asked));
    }
    let warned = WARNED.lock().unwrap();
    assert!(warned.len() == 1 && warned[0].contains("stores nothing for now"), "{warned:?}");
    // A directory that cannot be made is an error at once.
    let (model, format) = &model;
    let mut options = BatchOptions::new(&model.engine, Attention::Dense);
    options.prefix_cache =
        Some(PrefixCache::new(path.join("unfinished").join("x"), format.clone()));
    let made = Batcher::new(model.engine.clone(), model.framing.clone(), options);
    assert!(matches!(made.err().expect("refused"), Error::Write { .. }));
}

// What comes from the directory takes its turn with the steps of others, and may be cancelled on its way.
#[test]
fn beginnings_arrive_beside_others() {
    let folder: TempDir = tempfile::tempdir().unwrap();
    let document = |seed| prompt(seed, 200);
    let ask = |seed: u32, tail: u32| {
        request([&document(seed)[..], &prompt(tail, 9)].concat(), 10, two_level())
    };
    let first: Vec<Request> = (1..4).map(|seed| ask(seed, 1)).collect();
    run(&started("qwen3", &|_| ()), folder.path(), &first, |_| ());
    let (model, format) = started("qwen3", &|_| ());
    let (batcher, steps) = model.batcher(two_level(), |options| {
        options.prefix_cache = Some(PrefixCache::new(folder.path(), format));
    });
    let asked: Vec<Request> = (0..12).map(|i| ask(i % 4 + 1, 20 + i)).collect();
    let read = async {
        let mut events: Vec<(Request, Events)> = asked
            .iter()
            .map(|one| (one.clone(), batcher.submit(one.clone()).expect("a place")))
            .collect();
        for at in [7, 2, 0] {
            drop(events.remove(at));
        }
        let answers =
            join_all(events.into_iter().map(async |(asked, events)| (asked, answer(events).await)));
        let answers = answers.await;
        let stats = batcher.stats();
        drop(batcher);
        (answers, stats)
    };
    let (answers, stats) = block_on(join(steps, read)).1;
    for (asked, made) in answers {
        let made = made.expect("an answer");
        assert!(rounds_products() || made.tokens == model.alone(&asked));
    }
    let PrefixStats { hits, damaged, .. } = stats.prefix;
    assert!((1..=9).contains(&hits) && damaged == 0, "{stats:?}");
    assert_eq!((stats.failed, stats.running), (0, 0), "{stats:?}");
}

// Who has to go while its beginning arrives is counted as if it had not: once, with all that it found.
#[test]
fn what_arrived_is_counted_of_who_was_preempted() {
    let folder: TempDir = tempfile::tempdir().unwrap();
    let low = request(prompt(1, 150), 6, Attention::Dense);
    run(&started("qwen3", &|_| ()), folder.path(), std::slice::from_ref(&low), |_| ());
    let (model, format) = started("qwen3", &|_| ());
    let (batcher, steps) = model.batcher(Attention::Dense, |options| {
        options.prefix_cache = Some(PrefixCache::new(folder.path(), format));
        options.running = 1;
    });
    let read = async {
        let mut first = batcher.submit(low.clone()).expect("a place");
        // Admitted, and nothing has arrived.
        let Some(Event::Prefill { computed: 0, .. }) = first.next().await else { panic!() };
        let urgent = Request { priority: 9, ..request(prompt(2, 50), 6, Attention::Dense) };
        let second = batcher.submit(urgent).expect("a place");
        answer(second).await.expect("an answer");
        let made = answer(first).await.expect("an answer");
        let stats = batcher.stats();
        drop(batcher);
        (made, stats)
    };
    let (made, stats) = block_on(join(steps, read)).1;
    assert_eq!((made.ended.preempted, reused(&[made])), (1, vec![144]));
    let PrefixStats { hits, tokens, .. } = stats.prefix;
    assert_eq!((hits, tokens, stats.hits, stats.reused_tokens), (1, 144, 1, 144), "{stats:?}");
}
