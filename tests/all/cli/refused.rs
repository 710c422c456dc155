//! Bad input: an exit code of 2, and a line that names the option, its value and the limit.

use super::program::{command, generate, generate_from, model, run, run_command, text};
use std::io::Read;

const HI: [&str; 2] = ["--prompt", "Hi"];

fn refused(arguments: &[&str], parts: &[&str]) {
    let run = generate(arguments);
    assert_eq!((run.code, run.out.as_str()), (Some(2), ""), "{arguments:?}: {run:?}");
    for part in parts {
        assert!(run.error().contains(part), "{arguments:?}: {part}: {}", run.error());
    }
}

#[test]
fn options_out_of_range() {
    for (option, value, limit) in [
        ("--blocks", "0", "a number of blocks from 1"),
        ("--blocks", "-1", "a number of blocks from 1"),
        ("--blocks", "200%", "to 100%"),
        ("--tokens", "0", "1.."),
        ("--tokens", "-5", "1.."),
        ("--max-tokens", "0", "1.."),
        ("--max-tokens", "many", "digit"),
        ("--context", "0", "1.."),
        ("--temperature", "NaN", "a finite number of at least 0"),
        ("--temperature", "-1", "a finite number of at least 0"),
        ("--top-p", "0", "above 0 and at most 1"),
        ("--top-p", "1.5", "above 0 and at most 1"),
        ("--context", "8193", "the model's context is 8192 tokens"),
        ("--scorer", "best", ", none or oracle"),
        ("--token-scorer", "minmax", "codes, none or oracle"),
        ("--index-channels", "12", "a multiple of 8"),
        ("--index-bits", "3", "2, 4 or 8"),
        ("--block-size", "48", "16, 32, 64 or 128"),
        ("--quantize", "q9", "--quantize is q9, but it must be q8_0 or q4_0"),
        ("--context", "4294967295", "the model's context is 8192 tokens"),
        ("--block-size", "0", "16, 32"),
        ("--block-size", "4294967295", "16, 32"),
        ("--index-bits", "4294967295", "2, 4 or 8"),
        ("--index-channels", "4294967288", "a multiple of 8"),
    ] {
        refused(&[&[option, value][..], &HI].concat(), &[option, value, limit]);
    }
    refused(&[&["--attention", "sparse"][..], &HI].concat(), &["--attention", "sparse"]);
    for (options, parts) in [
        (&["--kv-type", "q4_0"][..], ["--kv-type is q4_0", "it must be f16 or q8_0"]),
        (&["--missed-mass", "120%"], ["--missed-mass is 120%", "0% to 100%"]),
        (&["--missed-mass", "5"], ["--missed-mass is 5", "or off"]),
        (&["--kv-type", "q8_0", "--kv", "gpu"], ["--kv-type is q8_0", "use --kv host"]),
        (&["--kv-type", "q8_0", "--attention", "dense"], ["--kv-type is q8_0", "two-level"]),
        (&["--kv", "host", "--scorer", "oracle"], ["--scorer is oracle", "use --kv gpu"]),
        (
            &["--kv", "host", "--token-scorer", "oracle"],
            ["--token-scorer is oracle", "use --kv gpu"],
        ),
    ] {
        refused(&[options, &HI].concat(), &parts);
    }
}

#[test]
fn what_does_not_fit_names_its_largest_part_and_the_option_that_shrinks_it() {
    let stretched = ["--rope-scaling", "yarn", "--rope-scale", "1000"];
    let long = [&stretched[..], &["--context", "8000000"]].concat();
    let (gpu, host, dense) = (["--kv", "gpu"], ["--kv", "host"], ["--attention", "dense"]);
    let small = ["--gpu-memory", "96M"];
    for (options, parts) in [
        (
            &[&long[..], &gpu].concat()[..],
            &["--context is 8000000 tokens", "for the KV cache", "the largest context"][..],
        ),
        (
            &[&long[..], &dense].concat(),
            &["--context is 8000000 tokens", "for the KV cache", "the largest context"],
        ),
        (&[&long[..], &host].concat(), &["of CPU memory", "as q8_0"]),
        (&small, &["--gpu-memory is 100.7 MB", "for the weights"]),
        (
            &[&small[..], &gpu].concat(),
            &["--gpu-memory allows 100.7 MB", "for the weights", "a smaller model"],
        ),
        (
            &["--gpu-memory", "200M", "--kv", "gpu", "--context", "8000"],
            &["for the KV cache", "--kv host keeps", "the largest context that fits is "],
        ),
    ] {
        refused(&[options, &HI].concat(), parts);
    }
}

#[test]
fn prompts() {
    refused(&[], &["the prompt is missing", "--prompt-file FILE"]);
    refused(&["--prompt", ""], &["--prompt is empty"]);
    refused(&["--prompt", "Hi", "-"], &["cannot be used with"]);
    refused(&["--prompt", "Hi", "--no-think"], &["--no-think is given", "enable_thinking"]);
    refused(&["--prompt", "Hi", "--raw", "--no-think"], &["cannot be used with"]);
    refused(&["Hi"], &["Hi"]);
    refused(&["--prompt-file", "no/such/file"], &["cannot read no/such/file"]);
    let many = "a ".repeat(9000);
    refused(&["--prompt", &many], &["the prompt is 9", "the model's context is 8192 tokens"]);
    refused(
        &["--prompt", &many[..200], "--context", "64"],
        &["the prompt is 1", "--context is 64 tokens"],
    );

    let file = tempfile::NamedTempFile::new().unwrap();
    refused(&["--prompt-file", text(file.path())], &["--prompt-file is empty"]);
    std::fs::write(file.path(), b"ab\xff").unwrap();
    refused(&["--prompt-file", text(file.path())], &["at byte 2", "not UTF-8"]);
    for input in [&b""[..], b"\xff"] {
        let run = generate_from(&["-"], input);
        assert_eq!(run.code, Some(2), "{run:?}");
        assert!(run.error().contains("standard input"), "{}", run.error());
    }
}

#[test]
fn models() {
    let refused = |path: &str, parts: &[&str]| {
        for arguments in [
            &["generate", "--model", path, "--prompt", "Hi"][..],
            &["inspect", path],
            &["logits", "--model", path, "--ids", "1"],
        ] {
            let run = run(arguments);
            assert_eq!((run.code, run.out.as_str()), (Some(2), ""), "{run:?}");
            for part in parts {
                assert!(run.error().contains(part), "{part}: {}", run.error());
            }
        }
    };
    refused("no/such/model.gguf", &["cannot read no/such/model.gguf"]);
    refused("Cargo.toml", &["Cargo.toml: at byte 0", "GGUF"]);

    let mut start = Vec::new();
    std::fs::File::open(model()).unwrap().take(1 << 20).read_to_end(&mut start).unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), start).unwrap();
    refused(text(file.path()), &["at byte "]);
}

#[test]
fn adapters() {
    let run = generate(&["--adapter", "no such adapter", "--prompt", "Hi"]);
    assert_eq!((run.code, run.out.as_str()), (Some(2), ""));
    assert!(run.error().starts_with("no adapter matches \"no such adapter\"; there are: 0  "));

    let mut disabled = command(&["adapters"]);
    disabled.env("ASYNCTLS_DISABLE", "gravity");
    let run = run_command(disabled, b"");
    assert_eq!(run.code, Some(2));
    assert!(run.error().starts_with("ASYNCTLS_DISABLE is gravity"), "{}", run.error());
}
