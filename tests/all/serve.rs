//! Many requests at a time over one engine: what each is answered alone, whatever the others do.

mod prefix;

use crate::cli::tiny::Tiny;
use crate::common::device::{gpu, own_gpu, prefill, tiny_options};
use crate::common::steps::rounds_products;
use asynctls::Error;
use asynctls::attention::{Attention, Blocks, Budget, Timing, TwoLevel};
use asynctls::engine::{Engine, EngineOptions, HostOptions, Want};
use asynctls::generate::{AnswerOptions, End, Framing, Generator};
use asynctls::gpu::GpuOptions;
use asynctls::model::{ModelFile, SamplerSettings};
use asynctls::serve::{BatchOptions, Batcher, Ended, Event, Events, Request, Reuse, Stats};
use futures::future::{join, join_all};
use pollster::block_on;
use serde_json::json;
use std::sync::Arc;

const CONTEXT: u32 = 320;
const COUNTED: u32 = 64;

struct Model {
    // The tokenizer of a tiny model is read from there.
    _folder: Option<Tiny>,
    engine: Arc<Engine>,
    framing: Arc<Framing>,
}

fn model(change: impl FnOnce(&mut EngineOptions)) -> Model {
    model_on(gpu(), change)
}

fn model_on(gpu: asynctls::gpu::Gpu, change: impl FnOnce(&mut EngineOptions)) -> Model {
    let folder = Tiny::new(&json!({}));
    let file = ModelFile::open(folder.path()).expect("the model");
    let mut options = tiny_options(&gpu, CONTEXT, 6, COUNTED);
    change(&mut options);
    let engine = block_on(Engine::load(gpu, &file, options, &mut |_| ())).expect("an engine");
    let framing = Arc::new(Framing::read(&file).expect("framing"));
    Model { _folder: Some(folder), engine: Arc::new(engine), framing }
}

fn host() -> HostOptions {
    HostOptions { timing: Timing::Exact, ring_bytes: 32 << 10, ..HostOptions::new(24, 0, 4096) }
}

fn two_level() -> Attention {
    let budget = Budget {
        blocks: Blocks::Count(3),
        tokens: 30,
        sink_blocks: 1,
        recent_blocks: 1,
        dense_below: 48,
    };
    Attention::TwoLevel(TwoLevel::new(budget))
}

fn prompt(seed: u32, tokens: u32) -> Vec<u32> {
    (0..tokens).map(|i| (i * (seed + 7) + i * i % (11 + seed)) % 90 + 33).collect()
}

fn request(prompt: Vec<u32>, max_tokens: u32, attention: Attention) -> Request {
    let options = AnswerOptions::new(SamplerSettings::default(), attention);
    Request::new(prompt, AnswerOptions { max_tokens, ..options })
}

/// An answer's tokens and text, and how it ended.
struct Answer {
    tokens: Vec<u32>,
    text: String,
    ended: Ended,
}

async fn answer(mut events: Events) -> Result<Answer, Error> {
    let (mut tokens, mut text) = (Vec::new(), String::new());
    while let Some(event) = events.next().await {
        match event {
            Event::Prefill { reused, computed, all } => assert!(reused + computed <= all),
            Event::Piece(piece) => {
                tokens.extend(piece.tokens);
                text.push_str(&piece.text);
            }
            Event::End(ended) => return Ok(Answer { tokens, text, ended }),
            Event::Failed(error) => return Err(error),
        }
    }
    panic!("the events ended without an end");
}

impl Model {
    fn batcher(
        &self,
        attention: Attention,
        change: impl FnOnce(&mut BatchOptions),
    ) -> (Batcher, impl Future<Output = ()> + Send + 'static) {
        let mut options = BatchOptions::new(&self.engine, attention);
        change(&mut options);
        Batcher::new(self.engine.clone(), self.framing.clone(), options).expect("a batcher")
    }

    // Each alone.
    fn alone(&self, request: &Request) -> Vec<u32> {
        let generator = Generator::new(self.engine.clone(), self.framing.clone());
        let mut generator = generator.expect("a generator");
        let prompt = request.prompt.clone();
        let mut read = |_, _| true;
        let made = block_on(async {
            let mut answer =
                generator.complete(prompt, &request.options, &mut read).await.expect("an answer");
            while answer.next().await.expect("a piece").is_some() {}
            answer.finish()
        });
        made.tokens
    }

    // All at a time, and what was done.
    fn together(
        &self,
        requests: Vec<Request>,
        change: impl FnOnce(&mut BatchOptions),
    ) -> (Vec<Answer>, Stats) {
        let (batcher, steps) = self.batcher(requests[0].options.attention, change);
        let events: Vec<Events> =
            requests.into_iter().map(|one| batcher.submit(one).expect("a place")).collect();
        let read = async {
            let answers = join_all(events.into_iter().map(answer)).await;
            batcher.drain().await;
            let stats = batcher.stats();
            drop(batcher);
            (answers.into_iter().map(|one| one.expect("an answer")).collect(), stats)
        };
        block_on(join(steps, read)).1
    }
}

// All that a test asks: prompts of all lengths, some with the same beginning.
fn requests(attention: Attention) -> Vec<Request> {
    let shared = prompt(5, 100);
    let begins = |tail: u32, length: u32| [&shared[..], &prompt(tail, length)].concat();
    vec![
        request(prompt(1, 3), 20, attention),
        request(prompt(2, 150), 12, attention),
        request(begins(3, 20), 12, attention),
        request(begins(4, 33), 9, attention),
        request(prompt(6, 47), 30, attention),
        request(begins(8, 1), 14, attention),
        request(prompt(9, 200), 5, attention),
        request(prompt(1, 3), 1, attention),
    ]
}

fn check_alike(
    model: &Model,
    attention: Attention,
    change: impl FnOnce(&mut BatchOptions),
) -> Stats {
    let requests = requests(attention);
    let expected: Vec<Vec<u32>> = requests.iter().map(|one| model.alone(one)).collect();
    let (made, stats) = model.together(requests, change);
    for (i, (made, expected)) in made.iter().zip(&expected).enumerate() {
        assert_eq!(made.ended.answer_tokens as usize, made.tokens.len());
        // Where products of many tokens round what those of a few do not, a nearly equal token may be the likeliest beside others.
        if rounds_products() {
            assert!(made.tokens.first() == expected.first(), "request {i}: {:?}", made.text);
            continue;
        }
        assert_eq!(&made.tokens, expected, "request {i}: {:?}", made.text);
    }
    assert_eq!((stats.ended, stats.failed, stats.running, stats.queued), (8, 0, 0, 0));
    stats
}

#[test]
fn batched_answers_are_those_of_one_request_at_a_time() {
    let whole = model(|_| ());
    for attention in [Attention::Dense, two_level()] {
        let stats = check_alike(&whole, attention, |_| ());
        // Two of the three that begin alike take what the first computed.
        assert!(stats.hits >= 2 && stats.reused_tokens >= 200, "{stats:?}");
    }
    let hot = model(|options| options.host = Some(host()));
    check_alike(&hot, two_level(), |_| ());
    // A hot cache that two tokens fill, of those that select as of those that do not.
    let narrow = |options: &mut EngineOptions| {
        options.host = Some(HostOptions { hot_blocks: 7, ..host() });
    };
    check_alike(&model(narrow), two_level(), |_| ());
}

#[test]
fn requests_that_begin_anew_are_answered_alike() {
    // Room for two of the prompts, and for none of an answer beyond what is there.
    let small = model(|options| options.total_tokens = 400);
    for attention in [Attention::Dense, two_level()] {
        let stats = check_alike(&small, attention, |options| {
            (options.reserve, options.reuse) = (0, Reuse::Nothing);
        });
        assert!(stats.hits == 0 && stats.preempted > 0, "{stats:?}");
    }
}

#[test]
fn blocks_of_a_shared_beginning_are_held_once() {
    let model = model(|_| ());
    let shared = prompt(5, 200);
    let many = |tail: u32| request([&shared[..], &prompt(tail, 3)].concat(), 4, Attention::Dense);
    let (_, stats) = model.together((0..6).map(many).collect(), |_| ());
    // 12 blocks of 16 tokens are whole; each request has two of its own.
    assert!(stats.used_blocks <= 12 + 6 * 2, "{stats:?}");
    assert_eq!((stats.hits, stats.kept), (5, 6), "{stats:?}");
}

#[test]
fn a_conversation_goes_on_where_it_ended() {
    let model = model(|_| ());
    let first = request(prompt(3, 90), 10, Attention::Dense);
    let (batcher, steps) = model.batcher(Attention::Dense, |_| ());
    let read = async {
        let ask = |request: Request| answer(batcher.submit(request).expect("a place"));
        let one = ask(first.clone()).await.expect("an answer");
        // The answer's last token was not computed.
        let next = [&first.prompt[..], &one.tokens, &prompt(4, 9)].concat();
        let two = ask(request(next.clone(), 8, Attention::Dense)).await.expect("an answer");
        assert_eq!(two.ended.reused_tokens, 90 + 10 - 1);
        // The same again: all but its last token is there.
        let three = ask(request(next.clone(), 8, Attention::Dense)).await.expect("an answer");
        assert_eq!(three.ended.reused_tokens as usize, next.len() - 1);
        assert_eq!(two.tokens, three.tokens);
        let alone = model.alone(&request(next, 8, Attention::Dense));
        assert_eq!(two.tokens, alone);
        drop(batcher);
    };
    block_on(join(steps, read));
}

#[test]
fn what_is_not_wanted_any_more_leaves_no_block() {
    let model = model(|_| ());
    let (batcher, steps) = model.batcher(Attention::Dense, |options| options.running = 2);
    let read = async {
        let ask = |seed: u32| batcher.submit(request(prompt(seed, 60), 40, Attention::Dense));
        let mut events: Vec<Events> = (0..5).map(|seed| ask(seed).expect("a place")).collect();
        // The first is dropped in its answer, the last while it waits.
        let _ = events[0].next().await;
        drop(events.remove(0));
        drop(events.pop());
        for events in events {
            assert_eq!(answer(events).await.expect("an answer").ended.end, End::Length);
        }
        batcher.drain().await;
        let stats = batcher.stats();
        drop(batcher);
        stats
    };
    let stats = block_on(join(steps, read)).1;
    assert_eq!((stats.cancelled, stats.ended), (2, 3), "{stats:?}");
    // The driver is gone, and so are its sessions: all of them can be had again.
    let sessions: Vec<_> = (0..6).map(|_| model.engine.session()).collect();
    assert!(sessions.iter().all(Result::is_ok));
}

#[test]
fn what_cannot_be_answered_is_refused_at_once() {
    let model = model(|_| ());
    let (batcher, _steps) = model.batcher(Attention::Dense, |options| {
        (options.running, options.queue) = (1, 1);
    });
    let refused = |request: Request| batcher.submit(request).expect_err("refused").to_string();
    let dense = |prompt| request(prompt, 4, Attention::Dense);
    assert_eq!(refused(dense(vec![])), "the prompt is no token, but at least one is needed");
    assert!(refused(dense(prompt(1, 321))).contains("321 tokens, but the context holds 320"));
    assert!(refused(dense(vec![100_000])).contains("a token id is 100000"));
    assert!(refused(request(prompt(1, 3), 4, two_level())).contains("attend alike"));
    assert!(refused(request(prompt(1, 3), 0, Attention::Dense)).contains("at least one"));
    let _held: Vec<Events> =
        (0..2).map(|_| batcher.submit(dense(prompt(1, 3))).expect("a place")).collect();
    let error = batcher.submit(dense(prompt(1, 3))).expect_err("full");
    assert!(matches!(error, Error::Busy(_)), "{error}");
    assert_eq!(error.to_string(), "the queue is full: 2 requests are there; try again later");
    for (running, step_tokens) in [(0, 64), (7, 64), (2, 1), (1, 0)] {
        let mut options = BatchOptions::new(&model.engine, Attention::Dense);
        (options.running, options.step_tokens) = (running, step_tokens);
        let made = Batcher::new(model.engine.clone(), model.framing.clone(), options);
        assert!(made.is_err(), "{running} {step_tokens}");
    }
}

#[test]
fn a_lost_device_fails_all_requests_and_ends_the_steps() {
    let model = model_on(own_gpu(GpuOptions::default()), |_| ());
    let (batcher, steps) = model.batcher(Attention::Dense, |_| ());
    let read = async {
        let ask =
            || batcher.submit(request(prompt(2, 60), 100, Attention::Dense)).expect("a place");
        let mut events: Vec<Events> = (0..3).map(|_| ask()).collect();
        let _ = events[0].next().await;
        model.engine.gpu.destroy();
        for events in events {
            let error = answer(events).await.err().expect("lost");
            assert!(error.is_loss(), "{error}");
        }
    };
    // The steps end though there is a handle, and no more is taken.
    block_on(join(steps, read));
    let stats = batcher.stats();
    assert_eq!((stats.failed, stats.running, stats.queued), (3, 0, 0), "{stats:?}");
    let Err(late) = batcher.submit(request(prompt(2, 60), 100, Attention::Dense)) else {
        panic!("taken though nobody takes steps")
    };
    assert!(late.to_string().contains("nobody takes steps"), "{late}");
}

#[cfg(feature = "server")]
#[test]
fn a_server_whose_steps_end_ends_with_an_error() {
    use asynctls::server::{ServerOptions, serve};
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    let listener = || TcpListener::bind("127.0.0.1:0").expect("a port");
    let options = || ServerOptions::new("tiny", SamplerSettings::default());
    let model = model_on(own_gpu(GpuOptions::default()), |_| ());
    let (batcher, _steps) = model.batcher(Attention::Dense, |_| ());
    let error = serve(listener(), batcher, async { panic!("a defect") }, options(), || false);
    assert!(error.unwrap_err().to_string().contains("panicked"));

    let (batcher, steps) = model.batcher(Attention::Dense, |_| ());
    let listener = listener();
    let address = listener.local_addr().unwrap();
    model.engine.gpu.destroy();
    std::thread::scope(|scope| {
        let asked = scope.spawn(move || {
            let mut stream = TcpStream::connect(address).expect("it listens");
            let body = r#"{"prompt": "a"}"#;
            let head = "POST /v1/completions HTTP/1.0\r\ncontent-type: application/json";
            write!(stream, "{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).unwrap();
            let mut reply = String::new();
            stream.read_to_string(&mut reply).unwrap();
            reply
        });
        let error = serve(listener, batcher, steps, options(), || false).unwrap_err();
        assert!(error.to_string().contains("lost"), "{error}");
        let reply = asked.join().unwrap();
        assert!(reply.starts_with("HTTP/1.0 500"), "{reply}");
    });
}

// Requests that come, end and are dropped at random: none fails, nothing is left, and answers are those of each alone. How many
// were answered.
fn churn(all: u64, seed: u64) -> u64 {
    let model = model(|options| options.total_tokens = 700);
    let (batcher, steps) = model.batcher(two_level(), |options| options.reserve = 4);
    let mut state = seed;
    let mut draw = move |below: u64| {
        // A step of a linear congruential generator is as random as this needs.
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) % below
    };
    let read = async {
        let mut held: Vec<(Request, Vec<u32>, Events)> = Vec::new();
        let (mut asked, mut some) = (0, Vec::new());
        while asked < all || !held.is_empty() {
            while asked < all && held.len() < 12 {
                let shared = prompt(draw(3) as u32, [0, 64, 90][draw(3) as usize]);
                let tokens = [shared, prompt(draw(50) as u32, 1 + draw(20) as u32)].concat();
                let mut request = request(tokens, 1 + draw(8) as u32, two_level());
                request.priority = draw(3) as i32;
                let events = batcher.submit(request.clone()).expect("a place");
                held.push((request, Vec::new(), events));
                asked += 1;
            }
            let at = draw(held.len() as u64) as usize;
            if draw(10) == 0 {
                drop(held.swap_remove(at));
                continue;
            }
            let (_, tokens, events) = &mut held[at];
            match events.next().await.expect("an event") {
                Event::End(_) => {
                    let (request, tokens, _) = held.swap_remove(at);
                    if draw(16) == 0 {
                        some.push((request, tokens));
                    }
                }
                Event::Failed(error) => panic!("{error}"),
                Event::Piece(piece) => tokens.extend(piece.tokens),
                Event::Prefill { .. } => {}
            }
        }
        batcher.drain().await;
        let stats = batcher.stats();
        drop(batcher);
        (stats, some)
    };
    let (stats, some) = block_on(join(steps, read)).1;
    for (request, tokens) in some {
        assert_eq!(model.alone(&request), tokens, "{request:?}");
    }
    assert_eq!(stats.ended + stats.cancelled, all, "{stats:?}");
    assert!(stats.failed == 0 && stats.hits > 0 && stats.cancelled > 0, "{stats:?}");
    assert_eq!((stats.queued, stats.running), (0, 0), "{stats:?}");
    // Every slot and every block can be had again.
    let mut sessions: Vec<_> = (0..6).map(|_| model.engine.session().expect("a slot")).collect();
    for (session, tokens) in sessions.iter_mut().zip([300, 300, 100]) {
        prefill(&model.engine, session, &prompt(1, tokens), Want::Nothing).expect("room");
    }
    stats.ended
}

#[test]
fn requests_at_random_leave_nothing_behind() {
    assert!(churn(200, 1) > 60);
}

#[test]
#[ignore = "two minutes: the gate has two hundred of them in the test above"]
fn ten_thousand_requests_at_random_leave_nothing_behind() {
    assert!(churn(10_000, 2) > 3000);
}
