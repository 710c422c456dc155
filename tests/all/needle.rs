//! A needle in an essay: what the answer needs is one sentence in 2,048 tokens (RULER's niah_single, arXiv 2404.06654).

use crate::common::model::{engine, gpu, model_path, prefill};
use asynctls::attention::{Attention, Blocks, Budget};
use asynctls::engine::{Engine, Session, Want};
use asynctls::model::{ModelFile, Tokenizer};

const LENGTH: usize = 2048;
const ANSWER_TOKENS: usize = 16;
const CITY: &str = "Chicago";

fn sentences(text: &str) -> Vec<&str> {
    text.split_inclusive(". ").collect()
}

fn prompt(essay: &str, number: u32, depth: f64) -> String {
    let parts = sentences(essay);
    let at = (depth * parts.len() as f64) as usize;
    let needle = format!("One of the special magic numbers for {CITY} is: {number}. ");
    let context =
        [&parts[..at].concat(), &needle, &parts[at..].concat()].map(String::as_str).concat();
    format!(
        "<|im_start|>user\nA special magic number is hidden within the following text. Make sure to memorize it. I will \
         quiz you about the number afterwards.\n{context}\nWhat is the special magic number for {CITY} mentioned in the \
         provided text?<|im_end|>\n<|im_start|>assistant\nThe special magic number for {CITY} mentioned in the provided \
         text is"
    )
}

/// The essay cut so that the prompt and its answer take `LENGTH` tokens.
fn essay(tokenizer: &Tokenizer) -> String {
    let text = std::fs::read_to_string("demo/britannica-1911-shakespeare.txt").expect("the essay");
    let around = tokenizer.encode(&prompt("", 1_234_567, 0.0), true).unwrap().len();
    let tokens = tokenizer.encode(&text.replace('\n', " "), false).unwrap();
    tokenizer.decode(&tokens[..LENGTH - ANSWER_TOKENS - around])
}

fn next(engine: &Engine, session: &mut Session, token: u32, attention: &Attention) -> u32 {
    pollster::block_on(engine.decode(&mut [(session, token)], attention, Want::Token)).unwrap()[0]
        .token()
        .unwrap()
}

fn answer(
    engine: &Engine,
    tokenizer: &Tokenizer,
    mut session: Session,
    first: u32,
    attention: &Attention,
) -> String {
    let mut made = vec![first];
    while made.len() < ANSWER_TOKENS {
        made.push(next(engine, &mut session, made[made.len() - 1], attention));
    }
    tokenizer.decode(&made)
}

#[test]
fn two_level_returns_every_needle_that_dense_returns() {
    let tokenizer = ModelFile::open(&model_path()).expect("the model").tokenizer().unwrap();
    let engine = engine(gpu(), LENGTH as u32 + 64, |o| {
        o.sessions = 3;
        o.total_tokens += 1024;
    });
    let essay = essay(&tokenizer);
    let budget = Budget {
        blocks: Blocks::Count(8),
        tokens: 128,
        sink_blocks: 1,
        recent_blocks: 4,
        dense_below: 0,
    };
    let mut session = engine.session().unwrap();
    let mut found = Vec::new();
    for (i, depth) in [0.2, 0.6, 1.0].into_iter().enumerate() {
        let number = 7_210_543 + 311_117 * i as u32;
        let tokens = tokenizer.encode(&prompt(&essay, number, depth), true).unwrap();
        assert!(tokens.len().abs_diff(LENGTH - ANSWER_TOKENS) < 16, "{} tokens", tokens.len());
        // What this prompt shares with the last one is there already. The last token is a decode step of its own, so that
        // the first token of the answer is made by the attention under test.
        let shared = session.tokens().iter().zip(&tokens).take_while(|(a, b)| a == b).count();
        let last = tokens.len() - 1;
        // At least one token must be left to prefill.
        session.rewind(shared.min(last - 1) as u32).unwrap();
        let done = session.len() as usize;
        prefill(&engine, &mut session, &tokens[done..last], Want::Nothing).unwrap();
        let mut ask = |attention: &Attention| {
            let mut fork = pollster::block_on(engine.fork(&mut session)).unwrap();
            let first = next(&engine, &mut fork, tokens[last], attention);
            let text = answer(&engine, &tokenizer, fork, first, attention);
            println!("depth {depth}: {text:?}");
            text.contains(&number.to_string())
        };
        found.push([ask(&Attention::Dense), ask(&Attention::from(budget))]);
    }
    assert!(found.iter().all(|[dense, _]| *dense), "dense: {found:?}");
    assert!(found.iter().all(|[_, two_level]| *two_level), "two-level: {found:?}");
}
