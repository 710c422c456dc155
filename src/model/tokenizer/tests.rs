use proptest::prelude::*;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

use super::*;
use crate::Error;

/// Every byte, a few merges, and two special tokens.
fn small() -> Vocabulary {
    let mut tokens: Vec<String> = ByteLevel::alphabet().into_iter().map(String::from).collect();
    tokens.sort();
    let merges = ["h e", "l l", "he ll", "hell o", "Ġ hello"].map(String::from).to_vec();
    tokens.extend(merges.iter().map(|merge| merge.replace(' ', "")));
    let mut kinds = vec![1; tokens.len()];
    tokens.extend(["<|im_end|>", "<tab>"].map(String::from));
    kinds.extend([3, 4]);
    let eos = Some(261);
    Vocabulary { tokens, merges, kinds, pre_tokenizer: "smollm".into(), eos, ..Default::default() }
}

fn tokenizer() -> Tokenizer {
    Tokenizer::new(small()).unwrap()
}

fn refusal(change: impl FnOnce(&mut Vocabulary)) -> String {
    let mut vocabulary = small();
    change(&mut vocabulary);
    match Tokenizer::new(vocabulary) {
        Err(Error::Model(message)) => message,
        other => panic!("{other:?} is not a refusal"),
    }
}

#[test]
fn merges_apply_within_words() {
    let tokenizer = tokenizer();
    let spelled: Vec<&str> = tokenizer
        .encode("hello hello12", false)
        .unwrap()
        .into_iter()
        .map(|id| tokenizer.token(id).unwrap())
        .collect();
    assert_eq!(spelled, ["hello", "Ġhello", "1", "2"]);
}

#[test]
fn control_tokens_in_text_count_only_on_request() {
    let tokenizer = tokenizer();
    assert_eq!(tokenizer.encode("<|im_end|><tab>", true).unwrap(), [261, 262]);
    let plain = tokenizer.encode("<|im_end|><tab>", false).unwrap();
    assert_eq!(plain.len(), "<|im_end|>".len() + 1);
    assert_eq!(plain.last(), Some(&262), "user-defined tokens always count");
    assert_eq!(tokenizer.decode(&plain), "<|im_end|><tab>");
}

#[test]
fn decoders_hold_back_incomplete_characters() {
    let tokenizer = tokenizer();
    let ids = tokenizer.encode("a😀<|im_end|>", true).unwrap();
    let stream = |skip_control| {
        let mut decoder = tokenizer.decoder(skip_control);
        let pieces: Vec<String> = ids.iter().map(|&id| decoder.push(id)).collect();
        (pieces, decoder.finish())
    };
    assert_eq!(stream(true).0, ["a", "", "", "", "😀", ""]);
    assert_eq!(stream(false).0, ["a", "", "", "", "😀", "<|im_end|>"]);
    assert_eq!(stream(true).1, "");

    let mut decoder = tokenizer.decoder(true);
    assert_eq!(decoder.push(ids[1]), "");
    assert_eq!(decoder.push(ids[0]), "\u{FFFD}a", "the next token proves it broken");
    assert_eq!(decoder.push(ids[1]), "");
    assert_eq!(decoder.finish(), "\u{FFFD}");
}

#[test]
fn ids_beyond_the_vocabulary_are_replaced() {
    let tokenizer = tokenizer();
    assert_eq!(tokenizer.decode(&[263, u32::MAX]), "\u{FFFD}\u{FFFD}");
    assert_eq!(tokenizer.token(263), None);
    assert!(!tokenizer.is_stop(263));
}

#[test]
fn nothing_merges_across_a_byte_without_a_token() {
    let mut vocabulary = small();
    let x = vocabulary.tokens.iter().position(|token| token == "x").unwrap();
    vocabulary.tokens[x].clear();
    let tokenizer = Tokenizer::new(vocabulary).unwrap();
    let ids = tokenizer.encode("hxe", false).unwrap();
    let spelled: Vec<_> = ids.into_iter().map(|id| tokenizer.token(id).unwrap()).collect();
    assert_eq!(spelled, ["h", "e"]);
}

/// [`small`] with further tokens of these kinds.
fn with(more: &[(&str, i32)]) -> Tokenizer {
    let mut vocabulary = small();
    for (token, kind) in more {
        vocabulary.tokens.push((*token).into());
        vocabulary.kinds.push(*kind);
    }
    Tokenizer::new(vocabulary).unwrap()
}

#[test]
fn every_known_end_stops_whichever_is_eos() {
    for known in ["<|end_of_text|>", "<|eom_id|>", "<|eot_id|>", "</s>", "[EOS]", "<|observation|>"]
    {
        let tokenizer = with(&[(known, 3)]);
        assert!(tokenizer.is_stop(263) && tokenizer.is_stop(261), "{known}");
        assert_eq!(tokenizer.warnings(), [] as [&str; 0]);
    }
}

#[test]
fn ends_and_marks_of_another_type_are_control_tokens_and_the_tokenizer_says_so() {
    let tokenizer = with(&[
        ("<|eot_id|>", 1),
        ("<|eom_id|>", 4),
        ("<|start|>", 1),
        ("<|tool|>", 4),
        ("<|x|>", 3),
    ]);
    assert_eq!(tokenizer.encode("<|eot_id|><|eom_id|><|start|>", true).unwrap(), [263, 264, 265]);
    assert!(
        tokenizer
            .encode("<|eot_id|><|eom_id|><|start|>", false)
            .unwrap()
            .iter()
            .all(|&id| id < 256)
    );
    assert_eq!(tokenizer.encode("<|tool|>", false).unwrap(), [266], "may well be user-defined");
    let stops: Vec<u32> = (0..300).filter(|&id| tokenizer.is_stop(id)).collect();
    assert_eq!(stops, [261, 263, 264]);
    let mut decoder = tokenizer.decoder(true);
    assert_eq!(decoder.push(263) + &decoder.push(266), "<|tool|>");
    assert_eq!(
        tokenizer.warnings(),
        [
            "the vocabulary calls \"<|eot_id|>\" (263) text, \"<|eom_id|>\" (264) user-defined, \"<|start|>\" (265) text, \
          but spelled like that they can only be control tokens, and are taken for them"
        ]
    );
    let many = with(&[("<|a|>", 1), ("<|b|>", 1), ("<|c|>", 1), ("<|d|>", 1), ("<|e|>", 1)]);
    assert!(
        many.warnings()[0].contains("\"<|c|>\" (265) text and 2 more, but"),
        "{:?}",
        many.warnings()
    );
}

#[test]
fn what_merges_make_is_text_even_if_it_is_spelled_like_an_end() {
    let mut vocabulary = small();
    for (token, merge) in [("</", "< /"), ("s>", "s >"), ("</s>", "</ s>")] {
        vocabulary.tokens.push(token.into());
        vocabulary.kinds.push(1);
        vocabulary.merges.push(merge.into());
    }
    let tokenizer = Tokenizer::new(vocabulary.clone()).unwrap();
    assert!(!tokenizer.is_stop(265));
    assert_eq!(tokenizer.warnings(), [] as [&str; 0]);
    vocabulary.eos = Some(265);
    let tokenizer = Tokenizer::new(vocabulary).unwrap();
    assert!(tokenizer.is_stop(265), "but a file may say that it is one");
    assert!(!tokenizer.encode("</s>", false).unwrap().is_empty());
}

#[test]
fn stops_are_eos_the_files_and_known_control_tokens() {
    let mut vocabulary = small();
    vocabulary.eos = Some(3);
    vocabulary.stops = vec![7, 3];
    let tokenizer = Tokenizer::new(vocabulary).unwrap();
    let stops: Vec<u32> = (0..300).filter(|&id| tokenizer.is_stop(id)).collect();
    assert_eq!(stops, [3, 7, 261]);
}

#[test]
fn leading_bos_only_where_the_file_asks() {
    let mut vocabulary = small();
    vocabulary.bos = Some(5);
    let leading = |v: &Vocabulary| Tokenizer::new(v.clone()).unwrap().leading().to_vec();
    assert_eq!(leading(&vocabulary), [] as [u32; 0]);
    vocabulary.add_bos = Some(true);
    assert_eq!(leading(&vocabulary), [5]);
    vocabulary.add_bos = None;
    vocabulary.pre_tokenizer = "llama-bpe".into();
    assert_eq!(leading(&vocabulary), [5]);
    let tokenizer = Tokenizer::new(vocabulary.clone()).unwrap();
    assert_eq!(tokenizer.begin(vec![7, 8]), [5, 7, 8]);
    assert_eq!(tokenizer.begin(vec![5, 7]), [5, 7], "not twice");
    assert_eq!(tokenizer.begin(vec![]), [5]);
    vocabulary.add_bos = Some(false);
    assert_eq!(leading(&vocabulary), [] as [u32; 0]);
}

#[test]
fn a_text_in_pieces_is_one_text_but_for_control_tokens() {
    let tokenizer = tokenizer();
    let ids = |pieces: &[(&str, bool)]| {
        let pieces: Vec<Piece<'_>> =
            pieces.iter().map(|&(text, control)| Piece { text, control }).collect();
        tokenizer.encode_pieces(&pieces).unwrap()
    };
    let whole = |text: &str| tokenizer.encode(text, true).unwrap();
    let plain = |text: &str| tokenizer.encode(text, false).unwrap();
    // Merges and user-defined tokens reach across borders, control tokens do not.
    assert_eq!(
        ids(&[("he", true), ("llo <t", false), ("ab> hello", true)]),
        plain("hello <tab> hello")
    );
    for cut in ["<|im_end|>", "", "<", "<|im_", "<|im_end|"] {
        let rest = "<|im_end|>".strip_prefix(cut).unwrap();
        for kinds in [(false, false), (true, false), (false, true)] {
            if cut.is_empty() && kinds.1 || rest.is_empty() && kinds.0 {
                continue;
            }
            let found = ids(&[("hello ", true), (cut, kinds.0), (rest, kinds.1), (" hello", true)]);
            assert_eq!(found, plain("hello <|im_end|> hello"), "{cut:?} {kinds:?}");
        }
        let found = ids(&[("hello ", true), (cut, true), (rest, true), (" hello", false)]);
        assert_eq!(found, whole("hello <|im_end|> hello"), "{cut:?}");
    }
    assert_eq!(ids(&[]), [] as [u32; 0]);
    assert_eq!(ids(&[("", false), ("<|im_end|>", true), ("", false)]), [261]);
}

#[test]
fn contradictions_are_refused() {
    type Change = fn(&mut Vocabulary);
    let cases: [(&str, Change); 15] = [
        ("is empty", |v| *v = Vocabulary { pre_tokenizer: "smollm".into(), ..Default::default() }),
        ("no merges", |v| v.merges.clear()),
        ("needs \"zz\", which is not a token", |v| v.merges.push("zz e".into())),
        ("needs \"hh\", which is not a token", |v| v.merges.push("h h".into())),
        ("merge 5 of the vocabulary, \"hello\", is not two", |v| v.merges.push("hello".into())),
        ("is not two tokens", |v| v.merges.push("h e l".into())),
        ("is not two tokens", |v| v.merges.push(" h".into())),
        ("merge 5 of the vocabulary, \"h e\", occurs twice", |v| v.merges.push("h e".into())),
        ("tokens 0 and 9 of the vocabulary are both", |v| v.tokens[9] = v.tokens[0].clone()),
        ("has 262 entries, but the vocabulary has 263 tokens", |v| v.kinds.truncate(262)),
        ("is of kind 7, but kinds are 0 to 6", |v| v.kinds[0] = 7),
        ("has 1000 bytes, but at most 256", |v| v.tokens[261] = "語".repeat(333) + "!"),
        ("the bos token is 263, but the vocabulary has 263 tokens", |v| v.bos = Some(263)),
        ("the stop token is 4294967295", |v| v.stops.push(u32::MAX)),
        ("but there is none", |v| v.add_bos = Some(true)),
    ];
    for (expected, change) in cases {
        let message = refusal(change);
        assert!(message.contains(expected), "{message:?} lacks {expected:?}");
    }
}

#[test]
fn unknown_pre_tokenizers_are_refused_with_the_known_ones() {
    let message = refusal(|v| v.pre_tokenizer = "klingon".into());
    assert_eq!(
        message,
        "the pre-tokenizer (tokenizer.ggml.pre) is `klingon`, but only these are supported: smollm, \
         qwen2, deepseek-r1-qwen, glm4, chatglm-bpe, llama-bpe, llama3, llama-v3, tekken"
    );
}

/// Every byte, some characters, and merges of them by score: SentencePiece's kind.
fn marked() -> Tokenizer {
    let texts = ["▁hello", "hello", "hell", "he", "ll", "▁▁", "▁", "h", "e", "l", "o"];
    let mut tokens: Vec<String> = vec!["<unk>".into(), "<s>".into()];
    tokens.extend((0..=255).map(|byte| format!("<0x{byte:02X}>")));
    let first = tokens.len();
    tokens.extend(texts.map(String::from));
    let mut kinds = vec![2, 3];
    kinds.resize(first, 6);
    kinds.resize(tokens.len(), 1);
    let scores = (0..tokens.len()).map(|id| -(id as f32)).collect();
    let bos = Some(1);
    Tokenizer::new(Vocabulary { tokens, kinds, scores, bos, ..Vocabulary::default() }).unwrap()
}

#[test]
fn marked_spaces_come_and_go() {
    let tokenizer = marked();
    let spelled = |text: &str, special: bool| -> Vec<String> {
        let ids = tokenizer.encode(text, special).unwrap();
        ids.into_iter().map(|id| tokenizer.token(id).unwrap().to_owned()).collect()
    };
    assert_eq!(spelled("hello hello", false), ["▁hello", "▁hello"]);
    assert_eq!(spelled("", false), [""; 0]);
    assert_eq!(spelled("é", false), ["▁", "<0xC3>", "<0xA9>"]);
    assert_eq!(spelled("hello<s>hello", true), ["▁hello", "<s>", "▁hello"]);
    assert_eq!(tokenizer.leading(), [1]);
    for text in ["hello", " hello", "  ", "é hello\n", "<s>"] {
        assert_eq!(tokenizer.decode(&tokenizer.encode(text, false).unwrap()), text, "{text:?}");
    }
    // Only the space at the beginning of all goes.
    let ids = tokenizer.encode("hello", false).unwrap();
    let mut decoder = tokenizer.decoder(true);
    assert_eq!([1, ids[0], ids[0]].map(|id| decoder.push(id)), ["", "hello", " hello"]);
}

#[test]
fn long_texts_that_nothing_cuts_do_not_take_long() {
    let tokenizer = marked();
    for unit in [" ", "hello", "hello ", "語"] {
        let text = unit.repeat(150_000);
        assert_eq!(tokenizer.decode(&tokenizer.encode(&text, false).unwrap()), text);
    }
}

#[test]
fn long_runs_of_one_kind_are_cut_like_short_ones() {
    for rule in ["smollm", "qwen2", "glm4"] {
        let tokenizer =
            Tokenizer::new(Vocabulary { pre_tokenizer: rule.into(), ..small() }).unwrap();
        for unit in [" ", "\r\n", "-", "5", "語"] {
            let long = format!("hello{}hello", unit.repeat(150_000));
            let ids = tokenizer.encode(&long, false).unwrap();
            assert_eq!(tokenizer.decode(&ids), long, "{rule} {unit:?}");
            let hello = tokenizer.token(*ids.last().unwrap()).unwrap();
            assert_eq!(hello.trim_start_matches('Ġ'), "hello", "{rule} {unit:?}");
        }
    }
}

#[test]
fn words_that_are_tokens_need_no_merges_where_the_rule_says_so() {
    let mut vocabulary = small();
    vocabulary.tokens.extend(["abc", "control"].map(String::from));
    vocabulary.kinds.extend([1, 3]);
    for (rule, whole) in [("qwen2", 3), ("glm4", 1), ("chatglm-bpe", 1), ("llama-bpe", 1)] {
        vocabulary.pre_tokenizer = rule.into();
        let tokenizer = Tokenizer::new(vocabulary.clone()).unwrap();
        assert_eq!(tokenizer.encode("abc", false).unwrap().len(), whole, "{rule}");
        assert_eq!(tokenizer.encode("control", false).unwrap().len(), 7, "{rule}: text is text");
        assert_eq!(tokenizer.encode("control", true).unwrap(), [264], "{rule}");
    }
}

#[test]
fn families_differ_in_digits_contractions_and_line_ends() {
    let cut = |rule: &str, text: &str| {
        let words = pre::rule(rule).unwrap().words().unwrap();
        let mut parts = tokenizers::PreTokenizedString::from(text);
        words.cut(&mut parts, true).unwrap();
        let pieces = parts
            .get_splits(tokenizers::OffsetReferential::Original, tokenizers::OffsetType::None)
            .into_iter()
            .map(|piece| piece.0.replace('Ġ', " ").replace('Ċ', "\n"))
            .collect::<Vec<_>>();
        pieces.join("|")
    };
    let text = "I'M 12345 (ok)\n\n  x'tis";
    assert_eq!(cut("smollm", text), "I|'|M| |1|2|3|4|5| (|ok|)|\n\n | x|'t|is");
    assert_eq!(cut("qwen2", text), "I|'M| |1|2|3|4|5| (|ok|)\n\n| | x|'t|is");
    assert_eq!(cut("glm4", text), "I|'M| |123|45| (|ok|)\n\n| | x|'t|is");
}

proptest! {
    #[test]
    fn decoding_undoes_encoding(text in ".{0,60}") {
        let tokenizer = tokenizer();
        for parse_special in [false, true] {
            let ids = tokenizer.encode(&text, parse_special).unwrap();
            prop_assert_eq!(tokenizer.decode(&ids), &text[..]);
        }
    }

    #[test]
    fn streaming_equals_decoding_at_once(ids in prop::collection::vec(0u32..270, 0..40)) {
        let tokenizer = tokenizer();
        let mut bytes = Vec::new();
        for &id in &ids {
            tokenizer.append_bytes(id, false, &mut bytes);
        }
        prop_assert_eq!(tokenizer.decode(&ids), String::from_utf8_lossy(&bytes).into_owned());
    }

    #[test]
    fn no_vocabulary_panics(
        tokens in prop::collection::vec("[ab ]{0,3}", 0..8),
        merges in prop::collection::vec("[ab ]{0,5}", 0..4),
        kinds in prop::collection::vec(-1..8, 0..8),
        bos in prop::option::of(0u32..9),
        text in "[ab ]{0,9}",
    ) {
        let pre_tokenizer = "glm4".to_string();
        let vocabulary =
            Vocabulary { tokens, merges, kinds, pre_tokenizer, bos, ..Default::default() };
        if let Ok(tokenizer) = Tokenizer::new(vocabulary) {
            let ids = tokenizer.encode(&text, true).unwrap();
            tokenizer.decode(&ids);
        }
    }
}
