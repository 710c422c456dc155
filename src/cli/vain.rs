//! Options that change nothing beside others, which is said once.

use super::line::Line;
use super::terminal::note;
use asynctls::attention::{BlockScorer, Reads, TokenScorer};

/// The facts of a run when it begins, besides its options.
pub struct Known {
    /// Whether the whole context is so short that all of it is attended.
    pub is_short: bool,
    /// Whether every layer attends a sliding window.
    pub has_windows: bool,
    /// Whether the whole KV cache is on the GPU.
    pub is_on_gpu: bool,
    /// Whether tokens are drawn.
    pub draws: bool,
    /// Whether repetitions are penalised.
    pub penalises: bool,
    /// Whether quantising changes any weights.
    pub quantises: bool,
    /// Whether the rotary scaling is another one than the file's.
    pub rescales: bool,
    /// Whether the adapter has a clock.
    pub has_clock: bool,
}

impl Default for Known {
    /// Nothing that makes an option vain.
    fn default() -> Self {
        let (is_short, has_windows, is_on_gpu) = (false, false, false);
        let (draws, penalises, quantises, rescales) = (true, true, true, true);
        Self {
            is_short,
            has_windows,
            is_on_gpu,
            draws,
            penalises,
            quantises,
            rescales,
            has_clock: true,
        }
    }
}

/// Options, in some commands, that change nothing in a case.
struct Vain {
    commands: &'static [&'static str],
    options: &'static [&'static str],
    when: fn(&Line, &Known) -> bool,
    why: &'static str,
}

const MODEL: &[&str] = &[
    "generate",
    "serve",
    "bench serve",
    "logits",
    "calibrate",
    "eval perplexity",
    "eval divergence",
    "eval retrieval",
    "eval recall",
    "eval trace",
];
const ATTENTION: &[&str] = &["generate", "serve", "bench serve", "logits"];
const TEXT: &[&str] = &["generate", "serve", "bench serve"];
const EVAL: &[&str] =
    &["eval perplexity", "eval divergence", "eval retrieval", "eval recall", "eval trace"];
const BESIDE_DENSE: &[&str] = &["eval perplexity", "eval divergence", "eval retrieval"];
const MAYBE_DENSE: &[&str] = &[
    "generate",
    "serve",
    "bench serve",
    "logits",
    "eval perplexity",
    "eval divergence",
    "eval retrieval",
];
const INDEX: &[&str] = &["index_channels", "index_bits", "channels"];
const SELECTION: &[&str] = &[
    "blocks",
    "tokens",
    "scorer",
    "token_scorer",
    "index_channels",
    "index_bits",
    "channels",
    "timing",
    "missed_mass",
];

const TABLE: &[Vain] = &[
    Vain {
        commands: MAYBE_DENSE,
        options: SELECTION,
        when: |line, _| is_dense(line),
        why: "with --attention dense, which attends every token",
    },
    Vain {
        commands: MAYBE_DENSE,
        options: &["budget", "dense_below", "hot_blocks"],
        when: |line, _| is_dense(line),
        why: "with --attention dense, which attends every token",
    },
    Vain {
        commands: ATTENTION,
        options: SELECTION,
        when: |line, known| !is_dense(line) && known.is_short,
        why: "here: a context of no more than --dense-below tokens is attended whole",
    },
    Vain {
        commands: ATTENTION,
        options: SELECTION,
        when: |line, known| !is_dense(line) && !known.is_short && known.has_windows,
        why: "with this model and context, of which every layer attends a sliding window",
    },
    Vain {
        commands: ATTENTION,
        options: &["blocks"],
        when: |line, known| selects(line, known) && level_1(line) == Some(Reads::Nothing),
        why: "with --scorer none, which keeps every block",
    },
    Vain {
        commands: ATTENTION,
        options: &["tokens"],
        when: |line, known| selects(line, known) && level_2(line) == Some(Reads::Nothing),
        why: "with --token-scorer none, which keeps every token of the blocks",
    },
    Vain {
        commands: ATTENTION,
        options: INDEX,
        when: |line, known| {
            selects(line, known)
                && level_1(line) != Some(Reads::Codes)
                && level_2(line) != Some(Reads::Codes)
        },
        why: "where no scorer is codes, which alone reads the index",
    },
    Vain {
        commands: EVAL,
        options: INDEX,
        when: |line, _| {
            !is_dense(line)
                && all_scorers(line, |block, token| ![block, token].contains(&Some(Reads::Codes)))
        },
        why: "where no scorer is codes, which alone reads the index",
    },
    Vain {
        commands: EVAL,
        options: &["blocks"],
        when: |line, _| {
            !is_dense(line) && all_scorers(line, |block, _| block == Some(Reads::Nothing))
        },
        why: "with --scorer none, which keeps every block",
    },
    Vain {
        commands: EVAL,
        options: &["tokens"],
        when: |line, _| {
            !is_dense(line) && all_scorers(line, |_, token| token == Some(Reads::Nothing))
        },
        why: "where every scorer ends in /none, which keeps every token of the blocks",
    },
    Vain {
        commands: BESIDE_DENSE,
        options: &["hot_blocks"],
        when: |line, _| !is_dense(line) && is_gpu_alone(line),
        why: "with --timing gpu, which has the whole KV cache on the GPU",
    },
    Vain {
        commands: BESIDE_DENSE,
        options: &["kv_type"],
        when: |line, _| (is_dense(line) || is_gpu_alone(line)) && line.is("kv_type", "f16"),
        why: "where the whole KV cache is on the GPU, as f16: --timing exact keeps it in CPU memory",
    },
    Vain {
        commands: TEXT,
        options: &["timing", "missed_mass"],
        when: |line, known| selects(line, known) && known.is_on_gpu,
        why: "where the whole KV cache is on the GPU: --kv host keeps it in CPU memory",
    },
    Vain {
        commands: TEXT,
        options: &["missed_mass"],
        when: |line, known| selects(line, known) && !known.is_on_gpu && line.is("timing", "exact"),
        why: "with --timing exact, whose steps miss nothing",
    },
    Vain {
        commands: TEXT,
        options: &["kv_type"],
        // On the GPU it is f16 anyway.
        when: |line, known| known.is_on_gpu && !line.is("kv_type", "f16"),
        why: "where the whole KV cache is on the GPU: --kv host keeps it in CPU memory",
    },
    Vain {
        commands: &["generate"],
        options: &["top_k", "top_p", "min_p"],
        when: |_, known| !known.draws,
        why: "at a temperature of 0, which takes the likeliest token",
    },
    Vain {
        commands: &["generate"],
        options: &["seed"],
        when: |line, known| !known.draws && !line.is("seed", "-1"),
        why: "at a temperature of 0, which takes the likeliest token",
    },
    Vain {
        commands: &["generate"],
        options: &["repetition_window"],
        when: |_, known| !known.penalises,
        why: "without --repetition-penalty",
    },
    Vain {
        commands: &["generate"],
        options: &["when_full"],
        when: |line, _| {
            line.is("when_full", "drop-oldest")
                && !line.gives("interactive")
                && !line.gives("session")
        },
        why: "without -i or --session: before a single question there is none to forget",
    },
    Vain {
        commands: MODEL,
        options: &["quantize"],
        when: |_, known| !known.quantises,
        why: "here: the model's weights are quantised already",
    },
    Vain {
        commands: MODEL,
        options: &["rope_scaling"],
        when: |_, known| !known.rescales,
        why: "here: the model's file says the same",
    },
    Vain {
        commands: &["eval retrieval", "eval recall"],
        options: &["text", "haystack", "depths"],
        when: |line, _| {
            let tasks = line.values("tasks");
            tasks.iter().flat_map(|list| list.split(',')).all(|task| task.ends_with("-words"))
        },
        why: "with tasks about words, which hide nothing",
    },
    Vain {
        commands: &["bench offload"],
        options: &["hot_blocks", "kv_type"],
        when: |line, _| is_gpu_alone(line),
        why: "with --timing gpu, which has the whole KV cache on the GPU",
    },
    Vain {
        commands: &["bench throughput"],
        options: &["hot_blocks", "kv_type", "misses", "seed"],
        when: |line, _| are_ways(line, &["dense", "two-level"]),
        why: "with --ways that have the whole KV cache on the GPU",
    },
    Vain {
        commands: &["bench throughput"],
        options: &["blocks", "tokens"],
        when: |line, _| are_ways(line, &["dense"]),
        why: "with --ways dense, which attends everything",
    },
    Vain {
        commands: &["bench offload"],
        options: &["seed"],
        when: |line, _| line.gives("trace"),
        why: "with --trace, which says what is chosen",
    },
    Vain {
        commands: &["bench offload"],
        options: &["timeline"],
        when: |_, known| !known.has_clock,
        why: "here: the adapter has no clock to draw it by",
    },
    Vain {
        commands: &["bench serve"],
        options: &["adapter"],
        when: |line, _| line.gives("url"),
        why: "with --url, whose server has its own",
    },
    Vain {
        commands: &["inspect", "adapters"],
        options: &["adapter"],
        when: |_, _| true,
        why: "where no model runs",
    },
];

fn is_dense(line: &Line) -> bool {
    line.is("attention", "dense")
}

// Whether no row has its KV cache in CPU memory.
fn is_gpu_alone(line: &Line) -> bool {
    line.values("timing").iter().all(|list| list.split(',').all(|rule| rule == "gpu"))
}

// Whether batches decode in no other ways.
fn are_ways(line: &Line, ways: &[&str]) -> bool {
    line.values("ways").iter().all(|list| list.split(',').all(|way| ways.contains(&way)))
}

// Whether anything is left out of what is attended.
fn selects(line: &Line, known: &Known) -> bool {
    !is_dense(line) && !known.is_short && !known.has_windows
}

// What the scorer of level 1 reads.
fn level_1(line: &Line) -> Option<Reads> {
    BlockScorer::all().find(|scorer| line.is("scorer", scorer.name())).map(BlockScorer::reads)
}

// What the scorer of level 2 reads.
fn level_2(line: &Line) -> Option<Reads> {
    TokenScorer::all().find(|scorer| line.is("token_scorer", scorer.name())).map(TokenScorer::reads)
}

// Whether all scorers of an evaluation, pairs such as `minmax/none` for both levels, read so.
fn all_scorers(line: &Line, are: fn(Option<Reads>, Option<Reads>) -> bool) -> bool {
    let lists = line.values("scorer");
    lists.iter().flat_map(|list| list.split(',')).all(|scorers| {
        let (block, token) = scorers.split_once('/').unwrap_or((scorers, "codes"));
        are(block.parse().ok().map(BlockScorer::reads), token.parse().ok().map(TokenScorer::reads))
    })
}

/// Says which options change nothing.
pub fn warn(line: &Line, known: &Known) {
    lines(line, known).iter().for_each(|line| note(line));
}

// A line for each reason.
fn lines(line: &Line, known: &Known) -> Vec<String> {
    let mut reasons: Vec<(&str, Vec<String>)> = Vec::new();
    for vain in TABLE {
        if !vain.commands.contains(&line.command.as_str()) || !(vain.when)(line, known) {
            continue;
        }
        let given = vain.options.iter().filter(|option| line.gives(option));
        let named = given.map(|option| format!("--{}", option.replace('_', "-")));
        match reasons.iter_mut().find(|(why, _)| *why == vain.why) {
            Some((_, options)) => options.extend(named),
            None => reasons.push((vain.why, named.collect())),
        }
    }
    let said = reasons.into_iter().filter(|(_, options)| !options.is_empty());
    said.map(|(why, options)| match options.split_last() {
        Some((last, [])) => format!("note: {last} changes nothing {why}"),
        Some((last, others)) => {
            format!("note: {} and {last} change nothing {why}", others.join(", "))
        }
        None => unreachable!("a reason without options is none"),
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::super::Cli;
    use super::*;
    use clap::{Command, CommandFactory};

    fn said(words: &str, known: &Known) -> Vec<String> {
        let words = format!("asynctls {words}");
        lines(&Line::new(Cli::command().get_matches_from(words.split(' '))), known)
    }

    fn find<'a>(command: &'a Command, path: &str) -> &'a Command {
        path.split(' ').fold(command, |command, name| command.find_subcommand(name).unwrap())
    }

    #[test]
    fn every_option_of_the_table_is_one_of_its_commands() {
        let all = Cli::command();
        for Vain { commands, options, .. } in TABLE {
            for option in *options {
                let long = option.replace('_', "-");
                let has = |command: &Command| {
                    let mut ids = command
                        .get_arguments()
                        .map(|argument| (argument.get_id().as_str(), argument.get_long()));
                    ids.any(|named| named == (*option, Some(&long)))
                };
                let count = commands.iter().filter(|path| has(find(&all, path))).count();
                // Options that all commands share are the whole program's.
                assert!(count > 0 || has(&all), "{option} of {commands:?}");
            }
        }
    }

    #[test]
    fn defaults_are_not_given() {
        let nothing = Known {
            is_short: true,
            has_windows: true,
            is_on_gpu: true,
            draws: false,
            penalises: false,
            quantises: false,
            rescales: false,
            has_clock: false,
        };
        for words in [
            "generate --model m --prompt x",
            "generate --model m --prompt x --attention dense",
            "generate --model m --prompt x --kv-type f16 --seed -1",
            "logits --model m --ids 1",
            "calibrate --model m --text t --output o",
            "eval perplexity --model m --text t --attention dense",
            "eval retrieval --model m --tasks common-words",
            "eval recall --model m",
            "eval trace --model m --text t --output o",
            "bench offload --timing gpu",
            "bench throughput --ways dense",
            "bench serve --url http://u --seed 3",
            "inspect m",
            "adapters",
        ] {
            assert_eq!(said(words, &nothing), [""; 0], "{words}");
        }
    }

    #[test]
    fn what_changes_nothing_is_said_in_a_line_a_reason() {
        let generate = |words: &str, known: Known| {
            said(&format!("generate --model m --prompt x {words}"), &known)
        };
        let dense = "--attention dense --blocks 9 --tokens 7 --dense-below 3 --timing lagged";
        assert_eq!(
            generate(dense, Known { is_on_gpu: true, ..Known::default() }),
            [
                "note: --blocks, --tokens, --timing and --dense-below change nothing with --attention dense, which attends \
              every token"
            ]
        );
        for (words, ends) in [
            (
                "--scorer none --blocks 9",
                "--blocks changes nothing with --scorer none, which keeps every block",
            ),
            (
                "--token-scorer none --tokens 9",
                "--tokens changes nothing with --token-scorer none, which keeps every token of the blocks",
            ),
            (
                "--scorer minmax --token-scorer none --index-bits 2",
                "--index-bits changes nothing where no scorer is codes, which alone reads the index",
            ),
            (
                "--when-full drop-oldest",
                "--when-full changes nothing without -i or --session: before a single question there is none to forget",
            ),
        ] {
            assert_eq!(generate(words, Known::default()), [format!("note: {ends}")], "{words}");
        }
        for heeded in [
            "--blocks 9 --tokens 7 --index-bits 2 --timing lagged --kv-type q8_0",
            "--scorer minmax --index-channels 8",
            "--scorer none --token-scorer codes --index-bits 8",
            "--top-k 3 --seed 1 --repetition-window 9 --quantize q8_0",
            "-i --when-full drop-oldest",
            "--session s --when-full drop-oldest",
        ] {
            assert_eq!(generate(heeded, Known::default()), [""; 0], "{heeded}");
        }
        let short = Known { is_short: true, ..Known::default() };
        assert_eq!(
            generate("--blocks 9 --scorer none", short),
            [
                "note: --blocks and --scorer change nothing here: a context of no more than --dense-below tokens is attended \
              whole"
            ]
        );
        let on_gpu = Known { is_on_gpu: true, ..Known::default() };
        assert_eq!(
            generate("--timing lagged --kv-type q8_0", on_gpu),
            [
                "note: --timing and --kv-type change nothing where the whole KV cache is on the GPU: --kv host keeps it in CPU \
              memory"
            ]
        );
        let greedy = Known { draws: false, penalises: false, ..Known::default() };
        assert_eq!(
            generate("--top-k 3 --seed 1 --repetition-window 9", greedy),
            [
                "note: --top-k and --seed change nothing at a temperature of 0, which takes the likeliest token",
                "note: --repetition-window changes nothing without --repetition-penalty"
            ]
        );
    }

    #[test]
    fn other_commands_say_it_too() {
        for (words, begins) in [
            (
                "logits --model m --ids 1 --attention dense --scorer none",
                "--scorer changes nothing with --attention dense",
            ),
            (
                "eval perplexity --model m --text t --attention dense --budget 3+9",
                "--budget changes nothing with --att",
            ),
            (
                "eval recall --model m --scorer minmax/none,oracle/oracle --index-channels 8",
                "--index-channels changes nothing where no scorer",
            ),
            (
                "eval retrieval --model m --tasks common-words,frequent-words --depths 3",
                "--depths changes nothing with tasks about words",
            ),
            (
                "bench offload --timing gpu --kv-type q8_0",
                "--kv-type changes nothing with --timing gpu",
            ),
            (
                "bench throughput --ways dense,two-level --misses 3%",
                "--misses changes nothing with --ways that have the whole KV cache",
            ),
            (
                "bench throughput --ways dense --blocks 3",
                "--blocks changes nothing with --ways dense",
            ),
            ("bench offload --trace t --seed 3", "--seed changes nothing with --trace"),
            ("--adapter 0 adapters", "--adapter changes nothing where no model runs"),
            (
                "bench serve --url http://u --adapter 0",
                "--adapter changes nothing with --url, whose server has its own",
            ),
            ("inspect m --adapter 0", "--adapter changes nothing where no model runs"),
        ] {
            let lines = said(words, &Known::default());
            assert!(
                lines.len() == 1 && lines[0].starts_with(&format!("note: {begins}")),
                "{words}: {lines:?}"
            );
        }
        for heeded in [
            "eval recall --model m --scorer minmax,oracle/oracle --index-channels 8",
            "eval recall --model m --scorer none,codes/none --blocks 3 --tokens 3",
            "eval retrieval --model m --tasks common-words,niah-single --depths 3",
            "bench offload --timing gpu,exact --kv-type q8_0 --timeline t --seed 1",
            "bench throughput --ways dense,lagged --kv-type q8_0 --blocks 3 --seed 1",
        ] {
            assert_eq!(said(heeded, &Known::default()), [""; 0], "{heeded}");
        }
        let none =
            Known { quantises: false, rescales: false, has_clock: false, ..Known::default() };
        assert_eq!(said("calibrate --model m --text t --output o --quantize q4_0", &none).len(), 1);
        assert_eq!(said("logits --model m --ids 1 --rope-scaling none", &none).len(), 1);
        assert_eq!(said("bench offload --timeline t", &none).len(), 1);
    }
}
