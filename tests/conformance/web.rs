//! A sample on WebGPU itself, by the runner in `web/conformance`: under Dawn in Node, and the page in Chromium, both on SwiftShader.

use asynctls::conformance::{Outcome, Report};
use libtest_mimic::{Failed, Trial};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

const SWIFTSHADER: &str = "/usr/lib/chromium/vk_swiftshader_icd.json";

/// The command line, where it was built.
const PROGRAM: Option<&str> = option_env!("CARGO_BIN_EXE_asynctls");

/// What `tools/setup web` brings, and another's paths for it.
fn chromium() -> PathBuf {
    std::env::var_os("CHROMIUM").unwrap_or_else(|| "/usr/bin/chromium".into()).into()
}

fn page(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("web/conformance").join(file)
}

/// Both, or what says what is missing for them.
pub fn trials() -> Vec<Trial> {
    let version = Command::new("node").arg("--version").output();
    let version = version.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let major = version.ok().and_then(|v| v.strip_prefix('v')?.split('.').next()?.parse().ok());
    let has_node = major.is_some_and(|major: u32| major >= 18);
    let missing = |needs: &[(bool, &'static str)]| {
        needs.iter().find(|(is_there, _)| !is_there).map(|(_, what)| *what)
    };
    let node = (has_node, "node 18");
    let package = |name| (page("node_modules").join(name).exists(), name);
    let program = (PROGRAM.is_some(), "the command line");
    let swiftshader = (Path::new(SWIFTSHADER).exists(), "SwiftShader");
    let dawn = missing(&[node, package("webgpu"), swiftshader, program]);
    let in_browser = [node, package("playwright-core"), (chromium().exists(), "chromium")];
    let browser = missing(&[&in_browser[..], &[program]].concat());
    let bindgen = Command::new("wasm-bindgen").arg("--version").output().is_ok();
    let library = missing(&[&in_browser[..], &[(bindgen, "wasm-bindgen")]].concat());
    let trial = |name: &str, missing: Option<&str>, run: fn() -> Result<(), Failed>| match missing {
        None => Trial::test(name, run),
        Some(what) => {
            let setup = "tools/setup web web-library";
            Trial::test(format!("{name} is not tried: {what} is missing ({setup})"), run)
                .with_ignored_flag(true)
        }
    };
    vec![
        trial("WebGPU: a sample under Dawn in Node", dawn, || sample("node.mjs")),
        trial("WebGPU: a sample in Chromium", browser, || sample("browser.mjs")),
        trial("WebGPU: the library in Chromium", library, in_chromium),
        trial("WebGPU: a broken shader is found", dawn, broken),
        trial("WebGPU: a lost device ends one case", dawn, lost),
        trial("WebGPU: comparisons are the program's", missing(&[node]), || {
            script("compare.mjs", None)
        }),
    ]
}

/// A folder with the sample, which all share.
fn bundle() -> &'static Path {
    static BUNDLE: OnceLock<tempfile::TempDir> = OnceLock::new();
    BUNDLE
        .get_or_init(|| {
            let folder = tempfile::tempdir().expect("a folder");
            export(&["--quick"], folder.path());
            folder
        })
        .path()
}

fn export(options: &[&str], folder: &Path) {
    let program = PROGRAM.expect("a trial that is not ignored");
    let mut command = Command::new(program);
    command
        .args(["conformance", "--adapter", "vulkan:llvmpipe", "--export"])
        .arg(folder)
        .args(options);
    let output = command.output().expect("the program starts");
    assert!(output.status.success(), "{output:?}");
}

/// What a runner came to, and what it said.
fn run(script: &str, bundle: &Path, options: &[&str]) -> (Option<i32>, Option<Report>, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let json = folder.path().join("report.json");
    let mut command = Command::new("node");
    command.arg(page(script)).arg(bundle).args(options).arg("--json").arg(&json);
    command.env("VK_DRIVER_FILES", SWIFTSHADER).env("CHROMIUM", chromium());
    let output = command.output().expect("node starts");
    let said =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let report =
        std::fs::read(&json).ok().map(|bytes| serde_json::from_slice(&bytes).expect("a report"));
    (output.status.code(), report, said.concat())
}

fn sample(script: &str) -> Result<(), Failed> {
    let (code, report, said) = run(script, bundle(), &["--sample"]);
    let Some(report) = report else { return Err(said.into()) };
    let adapter = &report.adapters[0];
    if code != Some(0) || !report.summary.is_fine() || report.not_run > 0 {
        return Err(said.into());
    }
    // Each kernel, with subgroups and without.
    for tier in ["subgroups", "portable"] {
        let kernels: std::collections::BTreeSet<&str> = adapter
            .rows
            .iter()
            .filter(|row| row.tier == tier && row.outcome == Outcome::Passed)
            .map(|row| row.kernel.as_str())
            .collect();
        assert!(kernels.len() >= 30, "{tier}: {kernels:?}");
    }
    assert_eq!(
        (adapter.about.backend.as_str(), adapter.about.subgroup_sizes),
        ("webgpu", Some((4, 4)))
    );
    Ok(())
}

/// A bundle in which one text is another, and what the runner says of it.
fn with(from: &str, to: &str) -> (Option<i32>, Report, String) {
    let folder = tempfile::tempdir().expect("a folder");
    export(&["--case", "rms_norm/width-576-Rows@trusted"], folder.path());
    let cases: Vec<_> = std::fs::read_dir(folder.path().join("cases")).unwrap().collect();
    let path = cases[0].as_ref().unwrap().path();
    let packed = std::fs::read(&path).unwrap();
    let mut text = String::new();
    std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&packed[..]), &mut text)
        .unwrap();
    assert!(text.contains(from), "{from}");
    // A runner takes what is not packed too, as where a server has unpacked it.
    std::fs::write(&path, text.replace(from, to)).unwrap();
    let (code, report, said) = run("node.mjs", folder.path(), &[]);
    (code, report.unwrap_or_else(|| panic!("{said}")), said)
}

fn broken() -> Result<(), Failed> {
    let sound = "* scale * weight[i]";
    let (code, report, said) = with(sound, "* scale * (weight[i] + 0.25)");
    assert_eq!((code, report.summary.failed), (Some(1), 1), "{said}");
    let row = &report.adapters[0].rows[0];
    assert_eq!((row.runs, row.failures), (4, 4));
    let worst = row.worst.as_ref().expect("numbers were compared");
    assert!(worst.wrong > 500 && worst.of == 576 && worst.tolerance < Some(1e-3), "{worst:?}");
    assert!(
        said.contains("in model/rms_norm.wgsl") && said.contains(row.detail.as_deref().unwrap()),
        "{said}"
    );

    let (code, report, said) = with(sound, "* scales * weight[i]");
    assert_eq!((code, report.summary.failed), (Some(1), 1), "{said}");
    let detail = report.adapters[0].rows[0].detail.as_deref().unwrap();
    assert!(detail.starts_with("model/rms_norm.wgsl:") && detail.contains("scales"), "{detail}");
    Ok(())
}

/// Builds the library for browsers, and runs its page.
fn in_chromium() -> Result<(), Failed> {
    let mut command = Command::new("make");
    command.arg("web-library").current_dir(env!("CARGO_MANIFEST_DIR"));
    // What cargo says to a test of its package is not for another package.
    command.env_remove("CARGO_MANIFEST_DIR").env("CHROMIUM", chromium());
    let output = command.output().expect("make starts");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    match output.status.success() && said.contains("10 models, 0 checks failed") {
        true => Ok(()),
        false => Err(format!("{said}{}", String::from_utf8_lossy(&output.stderr)).into()),
    }
}

fn lost() -> Result<(), Failed> {
    let folder = tempfile::tempdir().expect("a folder");
    export(&["--filter", "stream/1-vec4@"], folder.path());
    script("lost.mjs", Some(folder.path()))
}

/// A test of the runner's own.
fn script(name: &str, bundle: Option<&Path>) -> Result<(), Failed> {
    let mut command = Command::new("node");
    command.arg(page("test").join(name)).args(bundle).env("VK_DRIVER_FILES", SWIFTSHADER);
    let output = command.output().expect("node starts");
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("{output:?}").into()),
    }
}
