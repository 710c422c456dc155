//! Waits for the GPU hold no thread: what else an executor has to do goes on. What nobody waits for any more leaves no trace.

use crate::common::device::{decode, gpu, own_gpu, prefill, tiny_options};
use crate::common::steps::assert_near;
use asynctls::attention::{Attention, Blocks, Budget, MostMissed, Timing, TwoLevel};
use asynctls::engine::{Engine, EngineOptions, HostOptions, Session, SessionFormat, Want, Work};
use asynctls::gpu::{Gpu, GpuOptions};
use asynctls::model::{ModelConfig, ModelFile};
use asynctls::{Error, wgpu};
use futures::future::{Either, select};
use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake};
use std::thread::{Thread, current, park};

fn file() -> ModelFile {
    ModelFile::open(Path::new("tests/goldens/tiny/qwen3/model.gguf")).expect("a model")
}

// When chosen blocks have to be there, and how much a step may miss.
type Rule = (Timing, MostMissed);

fn options(gpu: &Gpu, rule: Option<Rule>) -> EngineOptions {
    let mut options = tiny_options(gpu, 1280, 2, 100);
    options.host = rule.map(|(timing, most_missed)| HostOptions {
        timing,
        most_missed,
        ring_bytes: 32 << 10,
        ..HostOptions::new(9, 0, 4096)
    });
    options
}

async fn load(gpu: Gpu, timing: Option<Rule>) -> Engine {
    let options = options(&gpu, timing);
    Engine::load(gpu, &file(), options, &mut |_| ()).await.expect("an engine")
}

// The whole cache on the GPU, and in CPU memory.
const RESIDENCIES: [Option<Rule>; 2] = [None, Some((Timing::Exact, MostMissed::ALL))];

fn prompt() -> Vec<u32> {
    (0..1200).map(|i| (i * 7 + i * i % 11) % 90 + 3).collect()
}

fn two_level() -> Attention {
    let (sink_blocks, recent_blocks) = (1, 2);
    let blocks = Blocks::Count(4);
    let budget = Budget { blocks, tokens: 30, sink_blocks, recent_blocks, dense_below: 0 };
    Attention::TwoLevel(TwoLevel::new(budget))
}

// On one thread, beside a task that always has something to do: how often that was let. Work may be any thread's.
fn beside<T>(work: impl Future<Output = T> + Send) -> (T, usize) {
    let times = Cell::new(0);
    let other = poll_fn(|context| {
        times.set(times.get() + 1);
        context.waker().wake_by_ref();
        Poll::<()>::Pending
    });
    match pollster::block_on(select(pin!(work), pin!(other))) {
        Either::Left((made, _)) => (made, times.get()),
        Either::Right(_) => unreachable!("it never ends"),
    }
}

// Whether work is done by the time that it was submitted, so that nobody ever waits for it.
fn is_done_at_once(gpu: &Gpu) -> bool {
    gpu.info().backend == wgpu::Backend::Gl && gpu.info().device_type == wgpu::DeviceType::Cpu
}

#[test]
fn other_tasks_go_on_while_one_waits() {
    if is_done_at_once(&gpu()) {
        return;
    }
    for timing in RESIDENCIES {
        let (engine, _) = beside(load(gpu(), timing));
        let mut session = engine.session().unwrap();
        let prompt = prompt();
        let mut goes_on = |_| true;
        let read = engine.prefill(&mut session, &prompt, Want::Token, &mut goes_on);
        let (made, times) = beside(read);
        made.unwrap();
        assert!(times > 0, "{timing:?}: never beside a prompt");
        let batch = &mut [(&mut session, 5)];
        // These are short: some of them have ended before they were waited for.
        let (made, stepping) = beside(engine.decode(batch, &two_level(), Want::Token));
        made.unwrap();

        let folder = tempfile::tempdir().unwrap();
        let config = ModelConfig::read(&file()).unwrap();
        let format = SessionFormat::new(&file(), &config, &engine.options);
        let mut kept = format.open(&folder.path().join("a.kv")).unwrap();
        let mut saved = |_| ();
        let (made, saving) = beside(engine.save(&mut session, &mut kept, b"", &mut saved));
        made.unwrap();
        let (made, restoring) = beside(engine.restore(&kept, &mut saved));
        made.unwrap();
        assert!(stepping + saving + restoring > 0, "{timing:?}");
    }
}

struct Counter {
    wakes: AtomicUsize,
    thread: Thread,
}

impl Wake for Counter {
    fn wake(self: Arc<Self>) {
        self.wakes.fetch_add(1, Ordering::SeqCst);
        self.thread.unpark();
    }
}

// Asks for it each time that it is woken, so often at most, and then gives it up. What it made, and how often it was woken.
fn asked<T>(work: impl Future<Output = T>, most: usize) -> (Option<T>, usize) {
    let counter = Arc::new(Counter { wakes: AtomicUsize::new(0), thread: current() });
    let waker = counter.clone().into();
    let mut work = pin!(work);
    let mut seen = 0;
    for _ in 0..most {
        if let Poll::Ready(made) = work.as_mut().poll(&mut Context::from_waker(&waker)) {
            return (Some(made), counter.wakes.load(Ordering::SeqCst));
        }
        while counter.wakes.load(Ordering::SeqCst) == seen {
            park();
        }
        seen = counter.wakes.load(Ordering::SeqCst);
    }
    (None, seen)
}

#[test]
fn who_waits_for_long_is_woken_once_a_wait() {
    // A device of its own: who waits is woken by what ends on the device, whoever's it is.
    let engine = pollster::block_on(load(own_gpu(GpuOptions::default()), None));
    // On a GPU an answer is near for a while, which is asked for again and again.
    if engine.gpu.info().device_type != wgpu::DeviceType::Cpu || is_done_at_once(&engine.gpu) {
        return;
    }
    let mut session = engine.session().unwrap();
    let (prompt, mut goes_on) = (prompt(), |_| true);
    let read = engine.prefill(&mut session, &prompt, Want::Token, &mut goes_on);
    let (made, wakes) = asked(read, usize::MAX);
    made.expect("an end").unwrap();
    // Chunks of 64 tokens, of a wait each and one more for each piece.
    assert!((1..200).contains(&wakes), "{wakes} times in a prompt");
    let batch = &mut [(&mut session, 5)];
    let step = engine.decode(batch, &Attention::Dense, Want::Token);
    let (made, wakes) = asked(step, usize::MAX);
    made.expect("an end").unwrap();
    assert!(wakes <= 3, "{wakes} times in a step");
}

#[test]
fn a_lost_device_ends_a_wait_with_the_cause() {
    if is_done_at_once(&gpu()) {
        return;
    }
    for timing in RESIDENCIES {
        let engine = pollster::block_on(load(own_gpu(GpuOptions::default()), timing));
        let mut session = engine.session().unwrap();
        let prompt = prompt();
        let mut goes_on = |_| true;
        let mut read = pin!(engine.prefill(&mut session, &prompt, Want::Token, &mut goes_on));
        let begun = pollster::block_on(poll_fn(|context| Poll::Ready(read.as_mut().poll(context))));
        assert!(begun.is_pending());
        engine.gpu.destroy();
        let error = pollster::block_on(read).expect_err("a lost device");
        assert!(matches!(error, Error::DeviceLost(_)), "{error}");
    }
}

// Gives work up at the first of its waits, at the second, and so on, at few of those that are many, until it comes to its end,
// as short work may at once.
fn give_up_everywhere<T>(mut attempt: impl FnMut(usize) -> Option<T>) -> T {
    let mut most = 1;
    loop {
        if let Some(made) = attempt(most) {
            return made;
        }
        most += 1 + most / 8;
    }
}

// An engine with just the room for two sessions, a session that is a fork, and what its next steps are if nothing else happens:
// those of the session that it shares its open block with.
fn forked(timing: Option<Rule>) -> (Engine, Session, Vec<Vec<f32>>) {
    let gpu = gpu();
    let room = EngineOptions { total_tokens: 2 * 288, decode_rows: 4, ..options(&gpu, timing) };
    let engine = pollster::block_on(Engine::load(gpu, &file(), room, &mut |_| ())).unwrap();
    let mut session = engine.session().unwrap();
    prefill(&engine, &mut session, &prompt()[..200], Want::Nothing).unwrap();
    let fork = pollster::block_on(engine.fork(&mut session)).unwrap();
    let want = steps(&engine, &mut session);
    (engine, fork, want)
}

// But for kernels' parameters, of which each new session leaves some.
fn allocated(engine: &Engine) -> u64 {
    engine.gpu.allocated_bytes() - engine.gpu.parameter_bytes()
}

fn steps(engine: &Engine, session: &mut Session) -> Vec<Vec<f32>> {
    (0..6).map(|step| decode(engine, session, step + 5, &two_level())).collect()
}

// Under two of them every step is done again that misses anything of its choice.
const TIMINGS: [Option<Rule>; 6] = [
    None,
    Some((Timing::Exact, MostMissed::ALL)),
    Some((Timing::Lagged, MostMissed::ALL)),
    Some((Timing::Lagged, MostMissed::NONE)),
    Some((Timing::Resident, MostMissed::ALL)),
    Some((Timing::Resident, MostMissed::NONE)),
];

#[test]
fn steps_that_nobody_waits_for_any_more_leave_no_trace() {
    let prompt = prompt();
    for timing in TIMINGS {
        let (engine, mut fork, want) = forked(timing);
        let what = format!("{timing:?}");
        let before = allocated(&engine);
        // Two steps, so that the second follows what the first chose. What they end with is taken back by hand.
        for first in [false, true] {
            give_up_everywhere(|most| {
                if first {
                    decode(&engine, &mut fork, 5, &two_level());
                }
                let length = fork.len();
                let batch = &mut [(&mut fork, 6)];
                let made = asked(engine.decode(batch, &two_level(), Want::Logits), most).0;
                let Some(made) = made else {
                    assert_eq!(fork.len(), length, "{what}");
                    fork.rewind(200).unwrap();
                    return None;
                };
                made.unwrap();
                fork.rewind(200).unwrap();
                Some(())
            });
        }
        // Drafts begin with few enough tokens for dense attention, and end with more: two rounds.
        let Attention::TwoLevel(mut late) = two_level() else { unreachable!() };
        late.budget.dense_below = 202;
        give_up_everywhere(|most| {
            let works = &mut [Work::decode(&mut fork, &[5, 6, 7, 8], Want::EveryLogits)];
            let made = asked(engine.step(works, &Attention::TwoLevel(late)), most).0;
            assert_eq!(fork.len(), if made.is_some() { 204 } else { 200 }, "{what}");
            made
        })
        .unwrap();
        fork.rewind(200).unwrap();
        // Room that was made for a step is there at once for others: all of it.
        let mut goes_on = |_| true;
        let read = engine.prefill(&mut fork, &prompt[200..264], Want::Logits, &mut goes_on);
        let made = asked(read, 1).0;
        if made.is_none() {
            assert_eq!(fork.len(), 200, "{what}");
            let mut other = engine.session().unwrap();
            let room = engine.options.blocks() - 200u32.div_ceil(16);
            prefill(&engine, &mut other, &prompt[..room as usize * 16], Want::Nothing).unwrap();
        }
        fork.rewind(200).unwrap();
        // A prompt ends where it was given up.
        give_up_everywhere(|most| {
            let mut goes_on = |_| true;
            let read = engine.prefill(&mut fork, &prompt[200..280], Want::Logits, &mut goes_on);
            let made = asked(read, most).0;
            assert_eq!(fork.tokens(), &prompt[..fork.len() as usize], "{what}");
            fork.rewind(200).unwrap();
            made
        })
        .unwrap();
        assert_eq!(fork.tokens(), &prompt[..200]);
        let got = steps(&engine, &mut fork);
        // What is there by chance is what that rule attends.
        if timing != Some((Timing::Resident, MostMissed::ALL)) {
            assert_near(&what, &got, &want);
        }
        assert_eq!(allocated(&engine), before, "{what}");
    }
}

#[test]
fn a_session_that_is_counted_anew_keeps_its_tokens() {
    let prompt = prompt();
    for timing in RESIDENCIES {
        let engine = pollster::block_on(load(gpu(), timing));
        let mut session = engine.session().unwrap();
        prefill(&engine, &mut session, &prompt[..200], Want::Nothing).unwrap();
        session.rewind(50).unwrap();
        give_up_everywhere(|most| {
            let made = asked(engine.channels(&mut session), most).0;
            assert_eq!(session.tokens(), &prompt[..50]);
            made
        })
        .unwrap();
        session.rewind(40).unwrap();
        give_up_everywhere(|most| {
            let mut goes_on = |_| true;
            let read = engine.prefill(&mut session, &prompt[40..200], Want::Logits, &mut goes_on);
            let made = asked(read, most).0;
            assert!(session.len() >= 40);
            assert_eq!(session.tokens(), &prompt[..session.len() as usize]);
            if made.is_none() {
                session.rewind(40).unwrap();
            }
            made
        })
        .unwrap();
        let mut other = engine.session().unwrap();
        prefill(&engine, &mut other, &prompt[..200], Want::Nothing).unwrap();
        let (got, want) = (steps(&engine, &mut session), steps(&engine, &mut other));
        assert_near(&format!("{timing:?}"), &got, &want);
    }
}

#[test]
fn sessions_that_nobody_waits_for_any_more_give_back_their_room() {
    let folder = tempfile::tempdir().unwrap();
    for (i, timing) in RESIDENCIES.into_iter().enumerate() {
        let (engine, mut fork, want) = forked(timing);
        let before = allocated(&engine);
        let config = ModelConfig::read(&file()).unwrap();
        let format = SessionFormat::new(&file(), &config, &engine.options);
        let mut kept = format.open(&folder.path().join(format!("{i}.kv"))).unwrap();
        give_up_everywhere(|most| {
            asked(engine.save(&mut fork, &mut kept, b"", &mut |_| ()), most).0
        })
        .unwrap();
        let restored = give_up_everywhere(|most| asked(engine.restore(&kept, &mut |_| ()), most).0);
        let (mut restored, damage) = restored.unwrap();
        assert!(damage.is_none());
        assert_eq!(restored.tokens(), fork.tokens());
        assert_near(&format!("{timing:?}"), &steps(&engine, &mut restored), &want);
        assert_near(&format!("{timing:?}"), &steps(&engine, &mut fork), &want);
        drop(restored);
        pollster::block_on(engine.fork(&mut fork)).unwrap();
        assert_eq!(allocated(&engine), before, "{timing:?}");
    }
}
