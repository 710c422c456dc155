//! Answers made of tokens that no model chose.

use super::*;
use std::path::Path;

fn tokenizer() -> Arc<Tokenizer> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/tokenizers/qwen2");
    Arc::new(Tokenizer::from_folder(Path::new(folder)).unwrap())
}

fn options() -> AnswerOptions {
    AnswerOptions::new(SamplerSettings::default(), Attention::Dense)
}

fn sequence(options: &AnswerOptions, context: u32) -> Sequence {
    Sequence::new(tokenizer(), vec![1, 2, 3], context, options, 0).unwrap()
}

fn likeliest(token: u32) -> Output {
    Output { tokens: vec![Some(token)], logits: Vec::new() }
}

// Feeds tokens until the answer ends or they do: the texts of the pieces.
fn feed(sequence: &mut Sequence, tokens: &[u32]) -> Vec<String> {
    let mut texts = Vec::new();
    for &token in tokens {
        if sequence.end().is_some() {
            break;
        }
        texts.push(sequence.accept(&likeliest(token)).unwrap().text);
    }
    texts
}

fn encode(text: &str) -> Vec<u32> {
    tokenizer().encode(text, false).unwrap()
}

#[test]
fn each_token_that_was_chosen_is_computed_next_but_the_last() {
    let mut sequence = sequence(&AnswerOptions { max_tokens: 2, ..options() }, 100);
    assert_eq!((sequence.next_tokens(), sequence.want()), (&[1, 2, 3][..], Want::Token));
    sequence.advance(2);
    assert_eq!(sequence.next_tokens(), [3]);
    let first = encode("O")[0];
    assert_eq!(sequence.accept(&likeliest(first)).unwrap().tokens, [first]);
    assert_eq!((sequence.next_tokens(), sequence.end()), (&[first][..], None));
    sequence.accept(&likeliest(first)).unwrap();
    assert_eq!((sequence.next_tokens(), sequence.end()), (&[][..], Some(End::Length)));
    assert_eq!((sequence.text(), sequence.answer()), ("OO", &[first, first][..]));
    let error = sequence.accept(&likeliest(first)).unwrap_err().to_string();
    assert_eq!(error, "a token is one more, but the answer ended: Length");
}

#[test]
fn what_a_session_holds_is_not_computed_again_but_for_the_last_token() {
    let mut sequence = sequence(&options(), 100);
    for (held, kept) in
        [(&[][..], 0), (&[1, 2], 2), (&[1, 2, 3], 2), (&[1, 2, 3, 4], 2), (&[1, 9, 3], 1)]
    {
        assert_eq!(sequence.reuse(held), kept, "{held:?}");
        assert_eq!(sequence.next_tokens(), &[1, 2, 3][kept as usize..]);
    }
    // As after a session was lost in the middle of an answer: all of it is computed again.
    let token = encode("O")[0];
    sequence.accept(&likeliest(token)).unwrap();
    assert_eq!(sequence.reuse(&[]), 0);
    assert_eq!(sequence.next_tokens(), [1, 2, 3, token]);
}

#[test]
fn a_stop_text_is_found_across_tokens_and_never_shown() {
    let tokens = encode("The answer is: 42.\nUser: Why?");
    let with = |stop: &[&str]| {
        let stop = stop.iter().map(|text| (*text).to_owned()).collect();
        let mut sequence = sequence(&AnswerOptions { stop, ..options() }, 100);
        let texts = feed(&mut sequence, &tokens);
        assert_eq!(texts.concat(), sequence.text());
        (sequence.text().to_owned(), sequence.end(), sequence.answer().len())
    };
    let (text, end, made) = with(&["\nUser:", "never"]);
    assert_eq!((text.as_str(), end), ("The answer is: 42.", Some(End::StopText)));
    assert!(made < tokens.len(), "{made} of {}", tokens.len());
    assert_eq!(with(&["swer i"]).0, "The an");
    let all = with(&["Why? No"]);
    assert_eq!((all.0.as_str(), all.1), ("The answer is: 42.\nUser: ", None), "held back");
}

#[test]
fn what_was_held_back_comes_with_the_end() {
    let tokens = encode("One Tw");
    let held = |max_tokens: u32| {
        let stop = vec!["Two".to_owned()];
        let mut sequence = sequence(&AnswerOptions { stop, max_tokens, ..options() }, 100);
        (feed(&mut sequence, &tokens), sequence)
    };
    let (texts, sequence) = held(tokens.len() as u32);
    assert_eq!((texts.concat().as_str(), sequence.end()), ("One Tw", Some(End::Length)));
    let (texts, mut sequence) = held(99);
    assert_eq!(texts.concat(), "One ");
    let rest = Piece { text: "Tw".into(), ..Piece::default() };
    assert_eq!(sequence.cancel(), rest);
    assert_eq!((sequence.text(), sequence.end()), ("One Tw", Some(End::Cancelled)));
    assert_eq!(sequence.cancel(), Piece::default(), "once");
    let (_, mut sequence) = held(99);
    let stop = tokenizer().eos().unwrap();
    let last = sequence.accept(&likeliest(stop)).unwrap();
    assert_eq!(last, rest);
    assert_eq!((sequence.end(), sequence.answer()), (Some(End::StopToken), &tokens[..]));
}

#[test]
fn characters_of_several_tokens_come_whole() {
    let tokens = encode("né 🦜 語");
    let mut whole = sequence(&options(), 100);
    let texts = feed(&mut whole, &tokens);
    assert_eq!(texts.concat(), "né 🦜 語");
    assert!(texts.iter().any(String::is_empty), "{texts:?}");
    assert!(texts.iter().all(|text| !text.contains('\u{FFFD}')), "{texts:?}");
    // One that is never finished becomes the sign for that, with the end.
    let parrot = encode("🦜");
    assert!(parrot.len() > 1);
    let mut broken = sequence(&options(), 100);
    assert_eq!(feed(&mut broken, &parrot[..1]), [""]);
    assert_eq!(broken.cancel().text, "\u{FFFD}");
    // And nothing follows a stop text.
    let stop = vec!["o".to_owned()];
    let mut stopped = sequence(&AnswerOptions { stop, ..options() }, 100);
    feed(&mut stopped, &encode("Hello 🦜"));
    assert_eq!((stopped.text(), stopped.end()), ("Hell", Some(End::StopText)));
}

#[test]
fn the_context_ends_an_answer_where_the_budget_does_not() {
    let token = encode("O")[0];
    for (context, max_tokens, made, end) in [
        (3, 256, 1, End::ContextFull),
        (5, 256, 3, End::ContextFull),
        (5, 3, 3, End::Length),
        (5, 2, 2, End::Length),
    ] {
        let mut sequence = sequence(&AnswerOptions { max_tokens, ..options() }, context);
        feed(&mut sequence, &[token; 9]);
        assert_eq!((sequence.answer().len(), sequence.end()), (made, Some(end)), "{context}");
    }
}

#[test]
fn an_answer_goes_on_behind_the_models_end_where_that_is_ignored() {
    let tokenizer = tokenizer();
    let end = (0..).find(|&id| tokenizer.is_stop(id)).unwrap();
    let letter = encode("O")[0];
    let tokens = [letter, end, letter, end, letter];
    let mut usual = sequence(&options(), 100);
    feed(&mut usual, &tokens);
    assert_eq!((usual.text(), usual.end()), ("O", Some(End::StopToken)));
    let mut ignoring =
        sequence(&AnswerOptions { ignore_eos: true, max_tokens: 5, ..options() }, 100);
    feed(&mut ignoring, &tokens);
    // Which its text does not show.
    assert_eq!((ignoring.text(), ignoring.end()), ("OOO", Some(End::Length)));
    assert_eq!(ignoring.answer(), tokens);
}

#[test]
fn what_makes_no_sense_is_refused() {
    let refused = |prompt: &[u32], context: u32, options: AnswerOptions| {
        let made = Sequence::new(tokenizer(), prompt.to_vec(), context, &options, 0);
        made.unwrap_err().to_string()
    };
    for (error, expected) in [
        (refused(&[], 9, options()), "the prompt is no token, but at least one is needed"),
        (
            refused(&[1, 2, 3], 2, options()),
            "the conversation is 3 tokens, but the context holds 2",
        ),
        (
            refused(&[1], 9, AnswerOptions { max_tokens: 0, ..options() }),
            "the most tokens of an answer is 0, but at least one is needed",
        ),
        (
            refused(&[1], 9, AnswerOptions { stop: vec![String::new()], ..options() }),
            "a stop text is empty, but every answer would end with it",
        ),
        (
            refused(
                &[1],
                9,
                AnswerOptions {
                    sampling: SamplerSettings { top_p: 7.0, ..Default::default() },
                    ..options()
                },
            ),
            "top-p is 7, but it must be a number above 0 and at most 1",
        ),
    ] {
        assert_eq!(error, expected);
    }
}

// Logits over a few tokens of text, the same after every step.
fn flat() -> Output {
    let mut logits = vec![f32::NEG_INFINITY; 1000];
    logits[100..120].fill(1.0);
    Output { tokens: Vec::new(), logits: vec![logits] }
}

fn drawn(sampling: SamplerSettings, draws: u64, count: u32) -> (Vec<u32>, u64) {
    let options = AnswerOptions { sampling, max_tokens: count, ..options() };
    let mut sequence = Sequence::new(tokenizer(), vec![1, 100], 100, &options, draws).unwrap();
    assert_eq!(sequence.want(), Want::Logits);
    while sequence.end().is_none() {
        sequence.accept(&flat()).unwrap();
    }
    (sequence.answer().to_vec(), sequence.draws())
}

#[test]
fn a_seed_repeats_its_draws_and_another_answer_goes_on_with_them() {
    let sampling = SamplerSettings { temperature: 1.0, seed: 7, ..Default::default() };
    let (all, draws) = drawn(sampling, 0, 20);
    assert_eq!((drawn(sampling, 0, 20).0, draws), (all.clone(), 20));
    let (first, after) = drawn(sampling, 0, 8);
    let (rest, _) = drawn(sampling, after, 12);
    assert_eq!([first, rest].concat(), all);
    assert_ne!(drawn(SamplerSettings { seed: 8, ..sampling }, 0, 20).0, all);
}

#[test]
fn log_probabilities_are_of_what_the_model_gave_and_change_no_token() {
    let mut logits = vec![f32::NEG_INFINITY; 1000];
    logits[100..104].copy_from_slice(&[1.0, 3.0, 2.0, 3.0]);
    let output = Output { tokens: Vec::new(), logits: vec![logits] };
    let sampling = SamplerSettings { presence_penalty: 9.0, ..SamplerSettings::default() };
    let chosen = |sampling, logprobs| {
        let options = AnswerOptions { sampling, logprobs, ..options() };
        let mut sequence = sequence(&options, 100);
        assert_eq!(sequence.want(), Want::Logits);
        let mut pieces = || sequence.accept(&output).unwrap();
        [pieces(), pieces(), pieces()]
    };
    let tokens = |pieces: &[Piece; 3]| pieces.clone().map(|piece| piece.tokens[0]);
    let none = SamplerSettings::default();
    assert_eq!(tokens(&chosen(none, Some(0))), [101; 3], "of equals the first");
    let pieces = chosen(sampling, Some(2));
    assert_eq!(tokens(&pieces), [101, 103, 102]);
    assert_eq!(tokens(&chosen(sampling, None)), tokens(&pieces));
    assert!(chosen(sampling, None).iter().all(|piece| piece.logprobs.is_empty()));
    let sum = (1f64.exp() + 2f64.exp() + 2.0 * 3f64.exp()).ln();
    for (piece, own) in pieces.iter().zip([3.0, 3.0, 2.0]) {
        let [logprobs] = &piece.logprobs[..] else { panic!("{piece:?}") };
        assert!((logprobs.chosen.logprob - (own - sum)).abs() < 1e-12, "{logprobs:?}");
        assert_eq!(logprobs.chosen.token, piece.tokens[0]);
        let likeliest: Vec<u32> = logprobs.likeliest.iter().map(|one| one.token).collect();
        assert_eq!(likeliest, [101, 103], "whatever the penalties say");
    }
    // What is no number is an error, not a panic.
    let options = AnswerOptions { logprobs: Some(5), ..options() };
    let mut broken = sequence(&options, 100);
    let output = Output { tokens: Vec::new(), logits: vec![vec![f32::NAN; 1000]] };
    assert!(broken.accept(&output).unwrap_err().to_string().contains("is not a number"));
}

#[test]
fn penalties_look_at_the_prompt_and_the_answer() {
    let penalised = |sampling| drawn(sampling, 0, 4).0;
    let none = SamplerSettings::default();
    // Of equals the first is taken; the prompt has 100, which only the repetition penalty minds.
    let repetition = SamplerSettings { repetition_penalty: 2.0, ..none };
    assert_eq!(penalised(repetition), [101, 102, 103, 104]);
    let presence = SamplerSettings { presence_penalty: 0.5, ..none };
    assert_eq!(penalised(presence), [100, 101, 102, 103]);
}

#[test]
fn common_tokens_are_those_of_one_by_one() {
    let tokens: Vec<u32> = (0..5000).collect();
    for length in [1, 2, 1024, 1025, 2049, 5000] {
        let before_last = &tokens[..length - 1];
        assert_eq!(common(&tokens, before_last) as usize, length - 1);
        for differs in [0, 1, 1023, 1024, 1025, 2047, 4999] {
            let mut held = tokens.clone();
            held[differs] = u32::MAX;
            assert_eq!(common(&held, before_last) as usize, differs.min(length - 1));
            assert_eq!(common(&tokens[..differs], before_last) as usize, differs.min(length - 1));
        }
    }
}
