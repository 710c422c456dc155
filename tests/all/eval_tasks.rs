//! RULER's tasks as a real model's tokens.

use std::sync::LazyLock;

use asynctls::eval::tasks::{Haystack, Maker, NOISE, Sample, Spec, Task, score};
use asynctls::model::{ChatTemplate, Gguf, Tokenizer};

static MODEL: LazyLock<Gguf> = LazyLock::new(|| {
    let path = std::env::var_os("ASYNCTLS_MODEL")
        .map_or_else(|| ".models/SmolLM2-135M-Instruct.Q4_1.gguf".into(), std::path::PathBuf::from);
    Gguf::open(&path).unwrap_or_else(|error| panic!("{error}; ASYNCTLS_MODEL can name the model"))
});

static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(|| Tokenizer::read(&MODEL).unwrap());

fn maker(haystack: &Haystack) -> Maker<'static> {
    let template = ChatTemplate::new(MODEL.str("tokenizer.chat_template").unwrap()).unwrap();
    Maker::new(&TOKENIZER, Some(template), haystack).unwrap()
}

static ESSAY: LazyLock<String> = LazyLock::new(|| {
    std::fs::read_to_string("demo/britannica-1911-shakespeare.txt").expect("the essay")
});

fn essay() -> Haystack {
    Haystack::Essay(ESSAY.as_str().into())
}

fn tokens(text: &str) -> usize {
    TOKENIZER.encode(text, false).unwrap().len()
}

/// The text of each needle's tokens.
fn needles(sample: &Sample) -> Vec<String> {
    let text = |range: &std::ops::Range<u32>| {
        TOKENIZER.decode(&sample.tokens[range.start as usize..range.end as usize])
    };
    sample.needles.iter().map(text).collect()
}

#[test]
fn prompts_fill_their_length_to_within_a_unit() {
    let longest = ESSAY.split(". ").map(tokens).max().unwrap();
    for (haystack, unit) in [(Haystack::Noise, tokens(NOISE)), (essay(), longest)] {
        let maker = maker(&haystack);
        for task in Task::ALL {
            for length in [512, 777, 1_024, 2_048, 4_096] {
                for (seed, depth) in [(0, 0.0), (1, 0.35), (2, 1.0)] {
                    let sample = maker.make(&Spec { task, length, depth, seed }).unwrap();
                    let spare =
                        length as usize - sample.answer_tokens as usize - sample.tokens.len();
                    assert!(spare <= unit, "{task} {length} {depth}: {spare} tokens are left");
                    // The answer is short enough, and with it the task is done.
                    let answer = sample.references.join(", ");
                    assert!(tokens(&answer) <= sample.answer_tokens as usize, "{task}: {answer}");
                    assert_eq!(score(&answer, &sample.references), 1.0);
                }
            }
        }
    }
}

#[test]
fn needles_are_where_they_are_said_to_be() {
    for haystack in [Haystack::Noise, essay()] {
        let maker = maker(&haystack);
        for task in Task::ALL {
            for (seed, depth) in [(4, 0.0), (5, 0.5), (6, 1.0)] {
                let sample = maker.make(&Spec { task, length: 2_048, depth, seed }).unwrap();
                let needles = needles(&sample);
                if matches!(task, Task::CommonWords | Task::FrequentWords) {
                    assert_eq!(needles, [""; 0], "{task}");
                    continue;
                }
                assert_eq!(needles.len(), sample.references.len(), "{task}");
                for (needle, reference) in needles.iter().zip(&sample.references) {
                    // A space before a word is part of its token.
                    let needle = needle.strip_prefix(' ').unwrap_or(needle);
                    let whole = if task == Task::VariableTracking {
                        needle.starts_with(&format!("VAR {reference} = "))
                    } else {
                        needle.starts_with("One of the special magic numbers for ")
                            && needle.ends_with(&format!(" is: {reference}."))
                    };
                    assert!(whole, "{task} at {depth}: {needle:?} for {reference}");
                }
            }
        }
    }
}

#[test]
fn depth_is_the_first_needles_place() {
    let length = 4_096;
    for haystack in [Haystack::Noise, essay()] {
        let maker = maker(&haystack);
        for task in &Task::ALL[..5] {
            let at = |depth| {
                let sample = maker.make(&Spec { task: *task, length, depth, seed: 9 }).unwrap();
                (f64::from(sample.needles[0].start), needles(&sample)[0].trim().to_owned())
            };
            let ((start, needle), (end, same)) = (at(0.0), at(1.0));
            assert_eq!(needle, same, "{task}");
            for depth in [0.25, 0.5, 0.75] {
                let share = (at(depth).0 - start) / (end - start);
                assert!((share - depth).abs() < 0.06, "{task}: {share} at {depth}");
            }
        }
    }
}

#[test]
fn prompts_of_every_depth_have_the_same_haystack() {
    // More tokens where it begins the haystack than behind a space.
    let word = "Shakespeare";
    assert!(tokens(word) > tokens(&format!(" {word}")));
    let maker = maker(&Haystack::Essay(format!("{word} is here.").into()));
    // As many lengths as a sentence has tokens, so that some leave no room to spare.
    for length in 600..610 {
        let sentences = [0.0, 0.5, 1.0].map(|depth| {
            let sample =
                maker.make(&Spec { task: Task::NiahSingle, length, depth, seed: 0 }).unwrap();
            assert!(sample.tokens.len() as u32 + sample.answer_tokens <= length, "{length}");
            TOKENIZER.decode(&sample.tokens).matches(word).count()
        });
        assert!(sentences.iter().all(|&count| count == sentences[0]), "{length}: {sentences:?}");
    }
}

#[test]
fn a_seed_is_a_prompt() {
    let maker = maker(&essay());
    for task in Task::ALL {
        let make = |seed| maker.make(&Spec { task, length: 1_024, depth: 0.5, seed }).unwrap();
        assert_eq!(make(1), make(1), "{task}");
        assert_ne!(make(1).references, make(2).references, "{task}");
    }
}

#[test]
fn what_does_not_fit_is_refused_with_the_least_that_does() {
    let maker = maker(&Haystack::Noise);
    let spec = Spec { task: Task::NiahSingle, length: 100, depth: 0.0, seed: 0 };
    let error = maker.make(&spec).unwrap_err().to_string();
    assert!(error.starts_with("the length in tokens is 100, but niah-single takes at least "));
    assert!(error.ends_with(" for the question and 128 for the answer"), "{error}");
}
