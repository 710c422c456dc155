//! A report as a page that stands alone: no script, nothing from elsewhere.

mod beside;
mod failure;

use super::report::{AdapterReport, Report};
use super::row::{Outcome, Row, Summary};
use std::collections::BTreeMap;
use std::fmt::Write;

const STYLE: &str = "\
body{font:15px/1.45 system-ui,sans-serif;margin:2em auto;max-width:72em;padding:0 1em;color:#222;background:#fff}\
table{border-collapse:collapse;margin:.6em 0}\
th,td{border-bottom:1px solid #ddd;padding:.15em .8em .15em 0;text-align:left;vertical-align:top}\
td.n,th.n{text-align:right}\
code,pre{font:13px/1.35 ui-monospace,monospace}\
pre{background:#f6f6f6;padding:.6em;overflow:auto;max-height:36em}\
details{margin:.4em 0}summary{cursor:pointer}\
.bad{color:#b00020}.good{color:#1b6e2d}\
section.failure{border-left:3px solid #b00020;padding-left:1em;margin:1.5em 0}";

/// The page of a report, beside others where there are any, each by a name.
pub fn page(report: &Report, others: &[(String, Report)]) -> String {
    let mut out =
        String::from("<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n");
    let title = match &report.adapters[..] {
        [one] => format!("asynctls conformance: {}", one.about.adapter),
        many => format!("asynctls conformance: {} adapters", many.len()),
    };
    put(
        &mut out,
        format_args!("<title>{}</title><style>{STYLE}</style></head><body>\n", Text(&title)),
    );
    put(&mut out, format_args!("<h1>{}</h1>\n", Text(&title)));
    put(&mut out, format_args!("<p>{}</p>\n", Text(&opening(report))));
    for adapter in &report.adapters {
        of_adapter(&mut out, adapter);
    }
    if !others.is_empty() {
        beside::tables(&mut out, report, others);
    }
    out += "</body></html>\n";
    out
}

// A page is a string, which takes anything.
fn put(out: &mut String, text: std::fmt::Arguments<'_>) {
    let _ = out.write_fmt(text);
}

/// A text, with what HTML would take for its own spelled out.
struct Text<'t>(&'t str);

impl std::fmt::Display for Text<'_> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.chars().try_for_each(|c| match c {
            '&' => out.write_str("&amp;"),
            '<' => out.write_str("&lt;"),
            '>' => out.write_str("&gt;"),
            '"' => out.write_str("&quot;"),
            c if c.is_control() && c != '\n' && c != '\t' => write!(out, "{}", c.escape_default()),
            c => out.write_char(c),
        })
    }
}

fn opening(report: &Report) -> String {
    let settings = &report.settings;
    let what = match (&settings.case, &settings.filter, settings.quick) {
        (Some(case), ..) => format!("the case {case}"),
        (_, Some(filter), true) => format!("a sample of the cases with {filter} in their names"),
        (_, Some(filter), false) => format!("the cases with {filter} in their names"),
        (_, _, true) => "a sample of the cases".into(),
        _ => "every case".into(),
    };
    format!(
        "Version {} of asynctls ran {what} in {:.0} s: each kernel on the adapter, against its twin on the CPU. {}",
        report.version,
        report.seconds,
        sentence(&report.summary, report.not_run)
    )
}

fn sentence(summary: &Summary, not_run: usize) -> String {
    let Summary { passed, failed, unsupported, known_failures, flaky } = summary;
    let text = format!(
        "{passed} passed, {failed} failed, {unsupported} unsupported, {known_failures} known failures, {flaky} flaky"
    );
    match not_run {
        0 => format!("{text}."),
        more => format!("{text}; {more} did not run."),
    }
}

fn of_adapter(out: &mut String, report: &AdapterReport) {
    let about = &report.about;
    let class = if report.summary.is_fine() { "good" } else { "bad" };
    put(out, format_args!("<h2>{}</h2>\n", Text(&about.adapter)));
    put(
        out,
        format_args!(
            "<p class=\"{class}\">{}</p>\n",
            Text(&sentence(&report.summary, report.not_run))
        ),
    );
    if let Some(why) = &report.gave_up {
        put(out, format_args!("<p class=\"bad\">Given up: {}.</p>\n", Text(why)));
    }
    let subgroups = match about.subgroup_sizes {
        Some((least, most)) => format!("{least} to {most} lanes"),
        None => "none".into(),
    };
    let facts = [
        ("driver", about.driver.clone()),
        ("kind", about.kind.clone()),
        ("kernels", about.tier.clone().unwrap_or_else(|| "none can run".into())),
        ("subgroups", subgroups),
        ("features", about.features.join(", ")),
    ];
    let limits = about.limits.iter().map(|(name, value)| (name.as_str(), value.to_string()));
    let rows = facts.into_iter().chain(limits);
    pairs(out, rows);
    variants(out, report);
    details(out, "Unsupported", &report.rows, Outcome::Unsupported);
    details(out, "Known failures", &report.rows, Outcome::KnownFailure);
    let wrong: Vec<&Row> = report
        .rows
        .iter()
        .filter(|row| matches!(row.outcome, Outcome::Failed | Outcome::Flaky))
        .collect();
    if !wrong.is_empty() {
        put(out, format_args!("<h3>Failed</h3>\n"));
    }
    for row in wrong {
        let evidence = report.evidence.iter().find(|(name, _)| *name == row.name);
        failure::section(out, about, row, evidence.map(|(_, evidence)| evidence));
    }
}

/// A table of names and values.
fn pairs<'p>(out: &mut String, pairs: impl IntoIterator<Item = (&'p str, String)>) {
    *out += "<table>\n";
    for (name, value) in pairs {
        put(out, format_args!("<tr><th>{}</th><td>{}</td></tr>\n", Text(name), Text(&value)));
    }
    *out += "</table>\n";
}

fn variants(out: &mut String, report: &AdapterReport) {
    *out += "<h3>Kernels</h3>\n<table>\n<tr><th>kernel</th><th>variant</th><th>tier</th>\
        <th class=\"n\">passed</th><th class=\"n\">failed</th><th class=\"n\">unsupported</th>\
        <th class=\"n\">known</th><th class=\"n\">flaky</th></tr>\n";
    for row in &report.variants {
        let Summary { passed, failed, unsupported, known_failures, flaky } = row.summary;
        let variant = row.variant.as_deref().unwrap_or_default();
        put(
            out,
            format_args!(
                "<tr><td>{}</td><td><code>{}</code></td><td>{}</td>",
                Text(&row.kernel),
                Text(variant),
                Text(&row.tier)
            ),
        );
        for (count, is_bad) in [
            (passed, false),
            (failed, true),
            (unsupported, false),
            (known_failures, false),
            (flaky, true),
        ] {
            let class = if is_bad && count > 0 { "n bad" } else { "n" };
            put(out, format_args!("<td class=\"{class}\">{count}</td>"));
        }
        *out += "</tr>\n";
    }
    *out += "</table>\n";
}

// What rows of an outcome say, with how many say it.
fn details(out: &mut String, title: &str, rows: &[Row], outcome: Outcome) {
    let mut counts = BTreeMap::<&str, usize>::new();
    for row in rows.iter().filter(|row| row.outcome == outcome) {
        *counts.entry(row.detail.as_deref().unwrap_or_default()).or_default() += 1;
    }
    if counts.is_empty() {
        return;
    }
    put(out, format_args!("<h3>{title}</h3>\n<table>\n"));
    for (detail, count) in counts {
        put(out, format_args!("<tr><td class=\"n\">{count}</td><td>{}</td></tr>\n", Text(detail)));
    }
    *out += "</table>\n";
}

#[cfg(test)]
mod tests {
    use super::super::evidence::{Evidence, Shader};
    use super::super::report::{About, Settings};
    use super::super::{Given, Worst};
    use super::*;

    fn report(adapter: &str, outcomes: [Outcome; 2]) -> Report {
        let about = About { adapter: adapter.into(), driver: "oak 4".into(), ..About::default() };
        let worst = Worst {
            part: "row <3>".into(),
            index: 7,
            expected: Some(1.5),
            actual: None,
            tolerance: Some(1e-6),
            derivation: "Sums & products round.".into(),
            wrong: 2,
            of: 40,
        };
        let mut rows = vec![
            Row::of("stream/1@trusted", outcomes[0]),
            Row { worst: Some(worst), ..Row::of("stream/2@checked", outcomes[1]) },
        ];
        for row in &mut rows {
            row.detail = Some("the <reason>".into());
        }
        Report::new(Settings::default(), vec![AdapterReport::new(about, 3, rows, 1.0)])
    }

    #[test]
    fn a_failing_case_is_shown_with_all_that_it_came_from() {
        let mut report = report("gl:Tree", [Outcome::Unsupported, Outcome::Failed]);
        let shader = Shader {
            file: "model/stream.wgsl".into(),
            wgsl: "fn main() { if a < b {} }".into(),
            given: Given::Words("SPIR-V 1.6".into(), "AwIjB".into()),
        };
        let bundle = Some("{\"bundle\":1}".into());
        let evidence = Evidence { shaders: vec![shader], bundle, left_out: None };
        report.adapters[0].evidence.push(("stream/2@checked".into(), evidence));
        let page = page(&report, &[]);
        for part in [
            "0 passed, 1 failed, 1 unsupported",
            "1 did not run",
            "asynctls conformance --adapter gl:Tree --case stream/2@checked",
            "row &lt;3&gt;",
            "1.5",
            "not a number that is finite",
            "2 of 40",
            "Sums &amp; products round.",
            "if a &lt; b",
            "href=\"data:application/octet-stream;base64,AwIjB\"",
            // Of {"bundle":1}.
            "href=\"data:application/json;base64,eyJidW5kbGUiOjF9\"",
            "the &lt;reason&gt;",
            "oak 4",
        ] {
            assert!(page.contains(part), "{part}: {page}");
        }
        // Nothing from elsewhere.
        for part in ["http", "<script", "<link", "<img", "@import"] {
            assert!(!page.contains(part), "{part}");
        }
    }

    #[test]
    fn reports_stand_side_by_side() {
        let ours = report("gl:Tree", [Outcome::Passed, Outcome::Failed]);
        let other = report("metal:Leaf", [Outcome::Passed, Outcome::Passed]);
        let page = page(&ours, &[("other.json".into(), other)]);
        for part in ["<h2>Side by side</h2>", "metal:Leaf", "other.json"] {
            assert!(page.contains(part), "{part}: {page}");
        }
        let beside = page.split("Cases that differ").nth(1).unwrap();
        assert!(beside.contains("stream/2@checked") && !beside.contains("stream/1@trusted"));
    }
}
