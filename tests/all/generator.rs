//! Answers of the library's generator, with a tiny model whose answers mean nothing.

use crate::cli::tiny::Tiny;
use crate::common::device::{gpu, tiny_options};
use asynctls::attention::Attention;
use asynctls::engine::{Engine, SessionFormat, Want};
use asynctls::generate::{
    Answer, AnswerOptions, Chat, ChatFile, End, Framing, Generator, Made, Sequence,
};
use asynctls::model::{ModelConfig, ModelFile, SamplerSettings};
use pollster::block_on;
use serde_json::json;
use std::sync::Arc;

struct Model {
    // The tokenizer is read from there.
    _folder: Tiny,
    file: ModelFile,
    engine: Arc<Engine>,
}

fn model(context: u32) -> Model {
    let folder = Tiny::new(&json!({}));
    let file = ModelFile::open(folder.path()).expect("the model");
    let gpu = gpu();
    let options = tiny_options(&gpu, context, 2, 64);
    let engine = block_on(Engine::load(gpu, &file, options, &mut |_| ())).expect("an engine");
    Model { _folder: folder, file, engine: Arc::new(engine) }
}

impl Model {
    fn framing(&self) -> Framing {
        Framing::read(&self.file).expect("framing")
    }

    fn generator(&self) -> Generator {
        Generator::new(self.engine.clone(), self.framing()).expect("a generator")
    }
}

fn options(max_tokens: u32) -> AnswerOptions {
    // Draws, since the likeliest tokens soon repeat themselves.
    let sampling = SamplerSettings { temperature: 1.0, seed: 7, ..Default::default() };
    AnswerOptions { max_tokens, ..AnswerOptions::new(sampling, Attention::Dense) }
}

fn rest(answer: &mut Answer<'_>) -> String {
    let mut text = String::new();
    while let Some(piece) = block_on(answer.next()).expect("a piece") {
        text.push_str(&piece.text);
    }
    text
}

fn ask(generator: &mut Generator, chat: &mut Chat, options: &AnswerOptions) -> Made {
    let mut answer =
        block_on(generator.answer(chat, options, &mut |_, _| true)).expect("an answer");
    let text = rest(&mut answer);
    let made = answer.finish();
    assert_eq!(made.text, text);
    made
}

#[test]
fn answers_go_on_in_one_session_and_in_one_file() {
    let model = model(256);
    let mut whole = model.generator();
    let mut chat = Chat::default();
    let mut made = Vec::new();
    for question in ["One?", "Two?"] {
        chat.ask(question);
        made.push(ask(&mut whole, &mut chat, &options(6)));
    }
    assert!(made[1].reused_tokens > 0, "{made:?}");
    assert_eq!(made[1].prompt_tokens as u32, made[1].reused_tokens + made[1].work.prompt_tokens);
    assert_eq!(chat.turns().len(), 4);
    drop(whole);

    // The same with a file between the two.
    let folder = tempfile::tempdir().unwrap();
    let config = ModelConfig::read(&model.file).unwrap();
    let format = SessionFormat::new(&model.file, &config, &model.engine.options);
    let open = || ChatFile::new(format.open(&folder.path().join("talk.kv")).unwrap()).unwrap();
    let mut first = model.generator();
    let mut again = Chat::default();
    again.ask("One?");
    assert_eq!(ask(&mut first, &mut again, &options(6)).tokens, made[0].tokens);
    let mut saved = open();
    assert!(!saved.is_begun());
    block_on(first.save(&again, &mut saved, &mut |_| ())).unwrap();
    assert!(saved.is_begun());
    drop((first, saved));

    let saved = open();
    let framing = model.framing();
    let mut again = Chat::default();
    saved.resume(&mut again, &framing).unwrap();
    assert_eq!((saved.draws(), saved.seed()), (6, Some(7)));
    let error = saved.resume(&mut Chat::default(), &Framing::raw(model.file.tokenizer().unwrap()));
    let error = error.unwrap_err().to_string();
    assert!(error.starts_with("raw text is given, but the session "), "{error}");
    let (mut second, damage) =
        block_on(Generator::load(model.engine.clone(), framing, &saved, &mut |_| ())).unwrap();
    assert!(damage.is_none());
    again.ask("Two?");
    assert_eq!(ask(&mut second, &mut again, &options(6)).tokens, made[1].tokens);
    assert_eq!(again, chat);
}

#[test]
fn an_answer_that_is_cancelled_or_dropped_leaves_a_session_that_goes_on() {
    let model = model(256);
    let mut generator = model.generator();
    let mut chat = Chat::default();
    chat.ask("One?");
    let greedy = AnswerOptions { sampling: SamplerSettings::default(), ..options(8) };
    let expected = ask(&mut generator, &mut chat.clone(), &greedy);

    let mut answer = block_on(generator.answer(&mut chat, &greedy, &mut |_, _| true)).unwrap();
    block_on(answer.next()).unwrap();
    block_on(answer.next()).unwrap();
    drop(answer);
    assert_eq!(chat.turns().len(), 1, "the question stays");

    let mut answer = block_on(generator.answer(&mut chat, &greedy, &mut |_, _| true)).unwrap();
    block_on(answer.next()).unwrap();
    answer.cancel();
    assert_eq!(answer.end(), Some(End::Cancelled));
    rest(&mut answer);
    let made = answer.finish();
    assert_eq!(made.tokens, expected.tokens[..1]);
    assert_eq!(chat.turns().len(), 2, "what was made of it is kept");

    // In its prompt it is none.
    chat.take_back();
    let long = "very ".repeat(40);
    chat.ask(&long);
    let mut calls = Vec::new();
    let mut progress = |done, all| {
        calls.push((done, all));
        done == 0
    };
    let answer = block_on(generator.answer(&mut chat, &greedy, &mut progress)).unwrap();
    let made = answer.finish();
    assert_eq!((made.tokens.len(), made.end), (0, End::Cancelled));
    assert_eq!(chat.turns().len(), 2, "its question is the latest message");
    let (done, all) = *calls.last().unwrap();
    assert!(calls[0] == (0, all) && done > 0 && done < all, "{calls:?}");

    // The session is what the tokens of the next prompt make of it.
    chat.take_back();
    let made = ask(&mut generator, &mut chat, &greedy);
    assert_eq!(made.tokens, expected.tokens);
    assert!(made.reused_tokens > 0);
}

#[test]
fn a_full_context_ends_an_answer_and_the_oldest_can_be_forgotten() {
    let model = model(48);
    let mut generator = model.generator();
    let mut chat = Chat::default();
    chat.ask("0123456789");
    let made = ask(&mut generator, &mut chat, &options(99));
    assert_eq!(made.end, End::ContextFull);
    chat.ask("Two?");
    let begun = block_on(generator.answer(&mut chat, &options(4), &mut |_, _| true));
    let error = begun.err().expect("too long").to_string();
    assert!(error.starts_with("the conversation is "), "{error}");
    assert!(error.ends_with(" tokens, but the context holds 48"), "{error}");
    assert_eq!(generator.make_room(&mut chat, 4).unwrap(), 1);
    assert_eq!(ask(&mut generator, &mut chat, &options(4)).end, End::Length);
}

// As a server would: several sequences over one engine, each step for all of them.
#[test]
fn sequences_that_others_drive_become_what_a_generator_makes() {
    let model = model(256);
    let prompts = [vec![1, 2, 3], vec![4, 5, 6, 7, 8]];
    let mut alone = Vec::new();
    for prompt in &prompts {
        let mut generator = model.generator();
        let options = options(5);
        let mut answer =
            block_on(generator.complete(prompt.clone(), &options, &mut |_, _| true)).unwrap();
        rest(&mut answer);
        alone.push(answer.finish().tokens);
    }
    let tokenizer = Arc::new(model.file.tokenizer().unwrap());
    let engine = &model.engine;
    let mut sessions = Vec::new();
    let mut sequences = Vec::new();
    for prompt in prompts {
        let mut session = engine.session().unwrap();
        let mut sequence = Sequence::new(tokenizer.clone(), prompt, 256, &options(5), 0).unwrap();
        // A part of the prompt first.
        let part = &sequence.next_tokens()[..2];
        block_on(engine.prefill(&mut session, part, Want::Nothing, &mut |_| true)).unwrap();
        sequence.advance(2);
        let next = sequence.next_tokens();
        let want = sequence.want();
        let made = block_on(engine.prefill(&mut session, next, want, &mut |_| true)).unwrap();
        sequence.accept(&made).unwrap();
        sessions.push(session);
        sequences.push(sequence);
    }
    while sequences.iter().all(|sequence| sequence.end().is_none()) {
        let next = sequences.iter().map(|sequence| sequence.next_tokens()[0]);
        let mut batch: Vec<_> = sessions.iter_mut().zip(next).collect();
        let made = block_on(engine.decode(&mut batch, &Attention::Dense, Want::Logits)).unwrap();
        for (sequence, made) in sequences.iter_mut().zip(&made) {
            sequence.accept(made).unwrap();
        }
    }
    let made: Vec<&[u32]> = sequences.iter().map(Sequence::answer).collect();
    assert_eq!(made, alone);
}

#[test]
fn answers_can_be_made_by_any_thread() {
    fn is_send<T: Send>(value: T) -> T {
        value
    }
    let model = model(256);
    let mut generator = is_send(model.generator());
    let made = std::thread::spawn(move || {
        let mut chat = Chat::default();
        chat.ask("One?");
        let options = options(2);
        let mut progress = |_, _| true;
        let answer = is_send(generator.answer(&mut chat, &options, &mut progress));
        let mut answer = block_on(answer).unwrap();
        block_on(is_send(answer.next())).unwrap();
        answer.finish().tokens.len()
    });
    assert_eq!(made.join().unwrap(), 1);
}
