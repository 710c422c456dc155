//! Tasks with a tokenizer whose tokens are bytes: lengths are in bytes here.

use std::collections::HashMap;

use tokenizers::pre_tokenizers::byte_level::ByteLevel;

use super::puzzle::Puzzle;
use super::*;
use crate::model::chat::ChatTemplate;
use crate::model::tokenizer::{Tokenizer, Vocabulary};

/// A token a byte, without those of `lacking`, and one for `##`, since a vocabulary needs a merge.
fn bytes(lacking: &str) -> Tokenizer {
    let mut tokens: Vec<String> = ByteLevel::alphabet()
        .into_iter()
        .filter(|symbol| !lacking.contains(*symbol))
        .map(String::from)
        .collect();
    tokens.push("##".into());
    Tokenizer::new(Vocabulary {
        kinds: vec![1; tokens.len()],
        tokens,
        merges: vec!["# #".into()],
        pre_tokenizer: "smollm".into(),
        ..Default::default()
    })
    .unwrap()
}

fn spec(task: Task, length: u32) -> Spec {
    Spec { task, length, depth: 0.5, seed: 3 }
}

/// The context of a task, without framing.
fn context(spec: Spec, amount: u32) -> String {
    let filling = filling::Filling::new(&Haystack::Noise).unwrap();
    Puzzle::new(&spec, &filling).context.text(amount, spec.depth)
}

fn references(spec: Spec) -> Vec<String> {
    let filling = filling::Filling::new(&Haystack::Noise).unwrap();
    Puzzle::new(&spec, &filling).references
}

/// Words with how often they occur, the most frequent first.
fn frequencies(text: &str) -> Vec<(&str, u32)> {
    let mut counts = HashMap::new();
    for word in text.split_whitespace() {
        *counts.entry(word).or_default() += 1;
    }
    let mut counts: Vec<(&str, u32)> = counts.into_iter().collect();
    counts.sort_by_key(|&(word, count)| (std::cmp::Reverse(count), word));
    counts
}

fn sorted(words: impl IntoIterator<Item = impl ToString>) -> Vec<String> {
    let mut words: Vec<String> = words.into_iter().map(|word| word.to_string()).collect();
    words.sort();
    words
}

#[test]
fn names_are_read_back() {
    for task in Task::ALL {
        assert_eq!(task.to_string().parse::<Task>().unwrap(), task);
    }
    assert_eq!(Task::NiahSingle.to_string(), "niah-single");
    let error = "niah".parse::<Task>().unwrap_err().to_string();
    assert!(error.starts_with("the task is \"niah\", but it must be one of niah-single, "));
    assert!(error.ends_with("frequent-words"), "{error}");
}

#[test]
fn score_is_the_share_of_references_found() {
    for task in Task::ALL {
        let references = references(spec(task, 8_192));
        assert_eq!(score(&format!("They are: {}.", references.join(", ")), &references), 1.0);
        assert_eq!(score(&references.concat().to_lowercase(), &references), 1.0, "{task}");
        assert_eq!(score("none that I know", &references), 0.0, "{task}");
    }
    let references = ["Ab", "cd", "e f", "12"].map(String::from);
    assert_eq!(score("aB and 1 2 and E F", &references), 0.5);
    assert_eq!(score("anything", &[]), 0.0);
}

#[test]
fn draws_are_the_same_everywhere() {
    let first = |task| references(spec(task, 4_096)).swap_remove(0);
    let needle = context(spec(Task::NiahSingle, 4_096), 0);
    assert_eq!(needle, "One of the special magic numbers for bold-pebble is: 8891072.");
    assert_eq!(
        [Task::VariableTracking, Task::CommonWords, Task::FrequentWords].map(first),
        ["QWYER", "bold-wagon", "aqwyer"]
    );
    let order = context(spec(Task::CommonWords, 512), 0);
    let order: Vec<&str> = order.split(' ').take(3).collect();
    assert_eq!(order, ["sweet-rocket", "thin-desk", "deep-arrow"]);
}

#[test]
fn every_family_asks_for_what_it_says() {
    let needles = |task| {
        let text = context(spec(task, 4_096), 6);
        let sentence = |line: &str| {
            let (key, number) = line
                .strip_prefix("One of the special magic numbers for ")?
                .strip_suffix('.')?
                .split_once(" is: ")?;
            Some((key.to_owned(), number.to_owned()))
        };
        assert_eq!(text.lines().filter(|line| *line == NOISE).count(), 6);
        text.lines().filter_map(sentence).collect::<Vec<_>>()
    };
    let distinct = |words: Vec<String>| {
        let mut words = sorted(words);
        words.dedup();
        words.len()
    };
    for (task, needles_in_all, keys, asked) in [
        (Task::NiahSingle, 1, 1, 1),
        (Task::NiahMultikey, 4, 4, 1),
        (Task::NiahMultivalue, 4, 1, 4),
        (Task::NiahMultiquery, 4, 4, 4),
    ] {
        let (found_keys, numbers): (Vec<_>, Vec<_>) = needles(task).into_iter().unzip();
        assert_eq!(numbers.len(), needles_in_all, "{task}");
        assert_eq!(distinct(found_keys.clone()), keys, "{task}");
        assert_eq!(distinct(numbers.clone()), needles_in_all, "{task}");
        assert!(numbers.iter().all(|number| number.len() == 7), "{numbers:?}");

        let filling = filling::Filling::new(&Haystack::Noise).unwrap();
        let puzzle = Puzzle::new(&spec(task, 4_096), &filling);
        assert_eq!(puzzle.references.len(), asked, "{task}");
        for (key, number) in found_keys.iter().zip(&numbers) {
            let wanted = puzzle.references.contains(number);
            assert_eq!(puzzle.question.contains(key), wanted, "{task}: {}", puzzle.question);
            assert_eq!(puzzle.prefix.contains(key), wanted, "{task}: {}", puzzle.prefix);
        }
    }
}

#[test]
fn chains_hand_one_value_on() {
    for depth in [0.0, 0.3, 1.0] {
        let spec = Spec { depth, ..spec(Task::VariableTracking, 4_096) };
        let text = context(spec, 40);
        let mut values: HashMap<&str, &str> = HashMap::new();
        for line in text.lines().filter(|line| line.starts_with("VAR ")) {
            let (name, value) =
                line["VAR ".len()..].strip_suffix('.').unwrap().split_once(" = ").unwrap();
            // In order: what is handed on has been assigned before.
            let value = value.strip_prefix("VAR ").map_or(value, |from| values[from]);
            values.insert(name, value);
        }
        assert_eq!(sorted(values.keys()), sorted(references(spec)), "depth {depth}");
        let filling = filling::Filling::new(&Haystack::Noise).unwrap();
        let question = Puzzle::new(&spec, &filling).question;
        assert!(values.values().all(|value| question.contains(value)), "{question}");
    }
}

#[test]
fn common_words_are_the_most_common() {
    for (length, amount, common, uncommon) in
        [(512, 0, 6, 1), (4_095, 200, 6, 1), (4_096, 0, 30, 3), (65_537, 3_000, 60, 6)]
    {
        let spec = spec(Task::CommonWords, length);
        let text = context(spec, amount);
        let counts = frequencies(&text);
        assert_eq!(counts.len(), 10 + amount as usize);
        assert_eq!(sorted(counts[..10].iter().map(|word| word.0)), sorted(references(spec)));
        assert!(counts[..10].iter().all(|word| word.1 == common), "{length}");
        assert!(counts[10..].iter().all(|word| word.1 == uncommon), "{length}");
    }
}

#[test]
fn common_words_never_run_out() {
    for length in [4_096, 65_536, 65_537, 1 << 22] {
        let filling = filling::Filling::new(&Haystack::Noise).unwrap();
        let context = Puzzle::new(&spec(Task::CommonWords, length), &filling).context;
        // A word has at least two tokens.
        let text = context.text(context.most(), 0.0);
        assert!(2 * text.split(' ').count() > length as usize, "length {length}");
    }
}

#[test]
fn frequent_words_are_the_most_frequent_but_for_the_noise() {
    let spec = spec(Task::FrequentWords, 100_000);
    for amount in (0..600).chain([5_000, 50_000]) {
        let text = context(spec, amount);
        let counts = frequencies(&text);
        assert_eq!(counts[0].0, "...", "amount {amount}");
        assert!(counts[3].1 > counts[4].1, "amount {amount}: {:?}", &counts[..6]);
        let asked = sorted(counts[1..4].iter().map(|word| word.0));
        assert_eq!(asked, sorted(references(spec)), "amount {amount}");
    }
    // zeta(2) of 1.645: 1 / 1.645 and 1 / (4 x 1.645) of the words.
    let text = context(spec, 100_000 - 53);
    let counts: Vec<u32> = frequencies(&text).iter().map(|word| word.1).take(3).collect();
    assert_eq!(counts, [60_792, 15_198, 6_754]);
}

#[test]
fn depth_moves_the_needle_and_nothing_else() {
    let essay: String = (0..300).map(|i| format!("Sentence {i} is here. ")).collect();
    let tokenizer = bytes("");
    for haystack in [Haystack::Noise, Haystack::Essay(essay.as_str().into())] {
        let maker = Maker::new(&tokenizer, None, &haystack).unwrap();
        for task in [Task::NiahSingle, Task::NiahMultikey, Task::NiahMultivalue] {
            let split = |depth: f64| {
                let sample = maker.make(&Spec { depth, ..spec(task, 4_096) }).unwrap();
                let needle = sample.needles[0].start as usize..sample.needles[0].end as usize;
                let rest = [&sample.tokens[..needle.start], &sample.tokens[needle.end..]];
                let rest = rest.map(|tokens| tokenizer.decode(tokens)).join(" ");
                let rest = rest.split_whitespace().collect::<Vec<_>>().join(" ");
                (needle.start, tokenizer.decode(&sample.tokens[needle]), rest)
            };
            let first = split(0.0);
            let mut last = first.0;
            for depth in [0.2, 0.5, 0.9, 1.0] {
                let moved = split(depth);
                assert!(moved.0 > last, "{task} at {depth}");
                assert_eq!((&moved.1, &moved.2), (&first.1, &first.2), "{task} at {depth}");
                last = moved.0;
            }
        }
    }
}

#[test]
fn an_essay_begins_where_the_seed_says_and_again_behind_its_end() {
    let tokenizer = bytes("");
    let maker = Maker::new(&tokenizer, None, &Haystack::Essay("Ab c.\nDe?".into())).unwrap();
    let mut begins = [false; 2];
    for seed in 0..20 {
        let spec = Spec { depth: 1.0, seed, ..spec(Task::NiahSingle, 700) };
        let sample = maker.make(&spec).unwrap();
        let text = tokenizer.decode(&sample.tokens);
        let orders = ["\nAb c. De? Ab c. De? Ab c. De? ", "\nDe? Ab c. De? Ab c. De? Ab c. "];
        let order = orders.iter().position(|order| text.contains(order)).expect("an order");
        begins[order] = true;
        let tokens = sample.tokens.len();
        assert!((700 - 128 - 6..=700 - 128).contains(&tokens), "{tokens}");
    }
    assert_eq!(begins, [true; 2]);
}

#[test]
fn a_template_frames_the_question_and_not_the_answer() {
    let tokenizer = bytes("");
    let source = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</>{% endfor %}\
                  {% if add_generation_prompt %}<model>{% endif %}";
    let template = ChatTemplate::new(source).unwrap();
    let maker = Maker::new(&tokenizer, Some(template), &Haystack::Noise).unwrap();
    let text = tokenizer.decode(&maker.make(&spec(Task::NiahSingle, 2_048)).unwrap().tokens);
    assert!(text.starts_with("<user>A special magic number is hidden"), "{text}");
    let end = text.find("provided text?</><model>The special magic number for ").unwrap();
    assert!(text[end..].ends_with(" mentioned in the provided text is"), "{text}");
}

#[test]
fn lengths_that_cannot_be_are_refused() {
    let tokenizer = bytes("");
    let maker = Maker::new(&tokenizer, None, &Haystack::Noise).unwrap();
    for task in Task::ALL {
        let refusal = |length| maker.make(&spec(task, length)).unwrap_err().to_string();
        let error = refusal(0);
        let start = format!("the length in tokens is 0, but {task} takes at least ");
        let least = error.strip_prefix(&start).and_then(|rest| rest.split(' ').next());
        let least: u32 = least.unwrap_or_else(|| panic!("{error}")).parse().unwrap();
        let sample = maker.make(&spec(task, least)).unwrap();
        assert_eq!(sample.tokens.len() as u32 + sample.answer_tokens, least, "{task}");
        assert!(refusal(least - 1).contains(&format!("at least {least} ")), "{task}");
        let error = refusal(u32::MAX);
        assert!(error.contains("is 4294967295, but prompts have at most 4194304"), "{error}");
    }
}

#[test]
fn a_depth_changes_the_prompts_that_have_a_needle() {
    let tokenizer = bytes("");
    let maker = Maker::new(&tokenizer, None, &Haystack::Noise).unwrap();
    for task in Task::ALL {
        let at = |depth| maker.make(&Spec { depth, ..spec(task, 4_096) }).unwrap();
        assert_eq!(at(0.0) != at(1.0), task.has_needle(), "{task}");
    }
}

#[test]
fn depths_that_cannot_be_are_refused() {
    let tokenizer = bytes("");
    let maker = Maker::new(&tokenizer, None, &Haystack::Noise).unwrap();
    for depth in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
        let error = maker.make(&Spec { depth, ..spec(Task::NiahSingle, 4_096) }).unwrap_err();
        let expected = format!("the needle's depth is {depth}, but it must be from 0 to 1");
        assert_eq!(error.to_string(), expected);
    }
}

#[test]
fn a_vocabulary_that_cannot_spell_a_needle_is_refused() {
    let tokenizer = bytes("m");
    let maker = Maker::new(&tokenizer, None, &Haystack::Noise).unwrap();
    let error = maker.make(&spec(Task::NiahSingle, 4_096)).unwrap_err().to_string();
    assert!(error.contains("cannot spell the needle \"One of the special magic"), "{error}");
}
