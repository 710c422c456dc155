//! Cases of shaders that are wrong on purpose: what a report says of them.

use super::report::AdapterReport;
use super::rig::{Data, bits, compare, run};
use super::*;
use crate::contract::{StepHeader, Words};
use crate::gpu::{Adapter, Disable, ShaderSpec, Tier, adapters};
use crate::kernels::{self, RmsNormParams};
use base64::Engine;
use serde_json::Value;
use std::io::Write;

const NAME: &str = "model/rms_norm.wgsl";
const SOUND: &str = include_str!("../../shaders/model/rms_norm.wgsl");

/// A norm of numbers 1 to 8, by this text instead of the shader's own.
async fn norm(gpu: &Gpu, text: &'static [(&'static str, &'static str)]) -> Result<Verdict> {
    let spec = ShaderSpec { sources: text, ..kernels::rms_norm(gpu.tier(), kernels::Normed::Rows) };
    let x: Vec<f32> = (1..=8).map(|i| i as f32).collect();
    let step = StepHeader::default();
    let (x_bits, weight) = (bits(&x), bits(&[1.0; 8]));
    let params = RmsNormParams { width: 8, x_stride: 8, y_stride: 8, epsilon: 0.0 };
    let data = kernels::RmsNorm {
        halves: None,
        step: Data::In(step.words()),
        rms_norm: Data::uniform(params),
        x: Data::In(&x_bits),
        weight: Data::In(&weight),
        y: Data::Out(8),
    };
    let y = run(gpu, &spec, data, (1, 1, 1)).await?.y;
    let want: Vec<f64> = x.iter().map(|&x| f64::from(x) / 25.5f64.sqrt()).collect();
    Ok(compare("row 0", &y, &want, "Eight squares are summed.", |_| 1e-5))
}

/// What becomes of the norm where a part of its shader is another one.
fn with(adapter: &Adapter, from: &str, to: &str) -> Reply {
    assert!(SOUND.contains(from), "{from}");
    let text: &'static str = SOUND.replace(from, to).leak();
    let sources: &'static [_] = vec![(NAME, text)].leak();
    let case = Case::new("rms_norm", "of eight", false, move |gpu| Box::pin(norm(gpu, sources)));
    let tier = Tier::of(adapter, Disable::default());
    let trial = Trial { case: Arc::new(case), mode: &MODES[0], tier };
    pollster::block_on(Runner::new(adapter.clone(), Disable::default()).run(&trial, true))
}

/// The best adapter. Where there is none, what is skipped for it is said past the harness, which shows nothing of a test that passes.
pub(super) fn adapter(skipped: &str) -> Option<Adapter> {
    let found = Adapter::choose(&pollster::block_on(adapters()), None);
    if let Err(error) = &found {
        let _ = writeln!(std::io::stderr(), "skipped: {skipped}: {error}");
    }
    found.ok()
}

#[test]
fn a_report_points_at_a_broken_shader() {
    let Some(adapter) = adapter("a report of a broken shader") else { return };
    let sound = with(&adapter, "* scale", "* scale");
    assert_eq!((sound.row.outcome, sound.evidence), (Outcome::Passed, None), "{:?}", sound.row);
    assert!(sound.row.variant.unwrap().starts_with("rms_norm+halved_none+reduce_"));

    let broken = "x[from_at + i] * scale * (weight[i] + 0.25)";
    let Reply { row, evidence, is_last } =
        with(&adapter, "x[from_at + i] * scale * weight[i]", broken);
    assert_eq!((row.outcome, row.failures, is_last), (Outcome::Failed, 1, false));
    // Each is a quarter too large, so that the largest is farthest off.
    let worst = row.worst.clone().unwrap();
    assert_eq!((worst.part.as_str(), worst.index, worst.wrong, worst.of), ("row 0", 7, 8, 8));
    let expected = 8.0 / 25.5f64.sqrt();
    assert!((worst.expected.unwrap() - expected).abs() < 1e-9, "{worst:?}");
    assert!((worst.actual.unwrap() - 1.25 * expected).abs() < 1e-4, "{worst:?}");
    assert_eq!(worst.tolerance, Some(1e-5));
    assert_eq!(worst.derivation, "Eight squares are summed.");
    let detail = row.detail.as_deref().unwrap();
    assert!(detail.starts_with("row 0[7] is 1.98") && detail.ends_with("; 8 of 8 are wrong"));

    let evidence = evidence.unwrap();
    let shader = &evidence.shaders[0];
    assert!(evidence.shaders.len() == 1 && shader.file == NAME);
    assert!(shader.wgsl.contains(broken) && shader.wgsl.contains("fn workgroup_sum"));
    assert!(!matches!(shader.given, Given::Nothing(_)), "{:?}", shader.given);

    let bundle: Value = serde_json::from_str(evidence.bundle.as_deref().unwrap()).unwrap();
    assert_eq!((&bundle["bundle"], &bundle["case"]), (&BUNDLE.into(), &"rms_norm/of-eight".into()));
    let run = &bundle["runs"][0];
    assert_eq!(run["name"], row.name.as_str());
    let dispatch = &run["dispatches"][0];
    let text = &bundle["texts"][dispatch["text"].as_u64().unwrap() as usize];
    assert!(text.as_str().unwrap().contains(broken));
    assert_eq!(dispatch["workgroups"], serde_json::json!([1, 1, 1]));
    let numbered = |list: &Value, number: &Value| list[number.as_u64().unwrap() as usize].clone();
    let bytes = |data: &Value| {
        let text = numbered(&bundle["data"], data);
        base64::prelude::BASE64_STANDARD.decode(text.as_str().unwrap()).unwrap()
    };
    let x = numbered(&run["buffers"], &dispatch["bindings"][2]["buffer"]);
    assert_eq!((&x["name"], &x["bytes"]), (&"x".into(), &32.into()));
    assert_eq!(bytes(&x["data"])[..8], [1f32.to_le_bytes(), 2f32.to_le_bytes()].concat());
    let check = &run["checks"][0];
    let y = numbered(&run["buffers"], &check["buffer"]);
    assert_eq!((&y["name"], &y["data"], &y["copy"]), (&"y".into(), &Value::Null, &Value::Null));
    let place = (&check["first_word"], &check["count"], &check["format"], &check["tolerance"]);
    assert_eq!(place, (&0.into(), &8.into(), &"f32".into(), &1e-5.into()));
    assert_eq!(bytes(&check["expected"]["data"])[56..], expected.to_le_bytes());

    let about = About::new(&adapter, Disable::default());
    let mut report = AdapterReport::new(about, 1, vec![row], 0.1);
    report.evidence.push(("rms_norm/of-eight@trusted".into(), evidence));
    let page = page(&Report::new(Settings::default(), vec![report]), &[]);
    for part in [broken, "--case rms_norm/of-eight@trusted", "[7] of row 0", "Eight squares"] {
        assert!(page.contains(part), "{part}");
    }
}

#[test]
fn a_shader_that_does_not_compile_is_a_failure_with_its_place() {
    let Some(adapter) = adapter("a shader that does not compile") else { return };
    let row = with(&adapter, "* scale * weight[i]", "* scales * weight[i]").row;
    assert_eq!(row.outcome, Outcome::Failed);
    let detail = row.detail.unwrap();
    assert!(detail.starts_with("shader model/rms_norm.wgsl:46: "), "{detail}");
}

#[test]
fn the_worst_element_is_the_one_farthest_beyond_its_tolerance() {
    let compared = |got: &[f32], want: &[f64], tolerance: f64| {
        let case =
            async { compare("part", &bits(got), want, "why", |i| tolerance * (i + 1) as f64) };
        let (verdict, record) = pollster::block_on(record::recorded(case));
        assert_eq!(verdict.is_err(), record.worst.is_some());
        record.worst.map(|worst| (worst.index, worst.wrong, verdict.unwrap_err()))
    };
    assert_eq!(compared(&[1.0, 2.0], &[1.5, 2.9], 0.5), None);
    // The first is off by twice its tolerance, the second by one and a half of its own, which is larger.
    let (index, wrong, words) = compared(&[1.0, 2.0, 3.0], &[2.0, 3.5, 3.0], 0.5).unwrap();
    assert_eq!((index, wrong), (0, 2));
    assert_eq!(words, "part[0] is 1e0, not 2e0 within 5e-1; 2 of 3 are wrong");
    // What is not finite is farther off than any number, and is right beside another.
    let nan = [9.0, f32::NAN, f32::INFINITY];
    let (index, wrong, _) = compared(&nan, &[1.0, 1.0, f64::NAN], 0.1).unwrap();
    assert_eq!((index, wrong), (1, 2));
    let poison = f32::from_bits(rig::POISON);
    let (index, _, words) = compared(&[1.0, poison], &[1.0, f64::NAN], 0.1).unwrap();
    assert_eq!((index, words.as_str()), (1, "part[1] was not written"));
    // A tolerance that is no number allows nothing.
    assert!(compared(&[1.0], &[1.0], f64::NAN).is_some());
    assert_eq!(compared(&[1.0], &[1.0], 0.0), None);
}
