//! Several reports side by side.

use super::super::report::{AdapterReport, Report};
use super::super::row::{Outcome, Summary};
use super::{Text, put};
use std::collections::BTreeMap;

/// A summary of each, and the cases whose outcomes differ.
pub(super) fn tables(out: &mut String, report: &Report, others: &[(String, Report)]) {
    let ours = report.adapters.iter().map(|adapter| ("this run", adapter));
    let theirs = others
        .iter()
        .flat_map(|(name, report)| report.adapters.iter().map(|adapter| (name.as_str(), adapter)));
    let all: Vec<(&str, &AdapterReport)> = ours.chain(theirs).collect();
    *out += "<h2>Side by side</h2>\n<table>\n<tr><th></th><th>report</th><th>adapter</th><th>driver</th><th>kernels</th>\
        <th class=\"n\">passed</th><th class=\"n\">failed</th><th class=\"n\">unsupported</th><th class=\"n\">known</th>\
        <th class=\"n\">flaky</th><th class=\"n\">not run</th></tr>\n";
    for (number, (name, adapter)) in all.iter().enumerate() {
        let Summary { passed, failed, unsupported, known_failures, flaky } = adapter.summary;
        put(
            out,
            format_args!(
                "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td>",
                number + 1,
                Text(name),
                Text(&adapter.about.adapter),
                Text(&adapter.about.driver),
                Text(adapter.about.tier.as_deref().unwrap_or_default())
            ),
        );
        for count in [passed, failed, unsupported, known_failures, flaky, adapter.not_run] {
            put(out, format_args!("<td class=\"n\">{count}</td>"));
        }
        *out += "</tr>\n";
    }
    *out += "</table>\n";
    differences(out, &all);
}

fn differences(out: &mut String, all: &[(&str, &AdapterReport)]) {
    let mut cases = BTreeMap::<&str, Vec<Option<Outcome>>>::new();
    for (number, (_, adapter)) in all.iter().enumerate() {
        for row in &adapter.rows {
            let outcomes = cases.entry(&row.name).or_insert_with(|| vec![None; all.len()]);
            outcomes[number] = Some(row.outcome);
        }
    }
    // A case that did not run somewhere differs only where it ended otherwise elsewhere.
    cases.retain(|_, outcomes| {
        let mut known = outcomes.iter().flatten();
        known.next().is_some_and(|first| known.any(|other| other != first))
    });
    put(out, format_args!("<h3>Cases that differ</h3>\n"));
    if cases.is_empty() {
        *out += "<p>None.</p>\n";
        return;
    }
    *out += "<table>\n<tr><th>case</th>";
    (1..=all.len()).for_each(|number| put(out, format_args!("<th>{number}</th>")));
    *out += "</tr>\n";
    for (name, outcomes) in cases {
        put(out, format_args!("<tr><td><code>{}</code></td>", Text(name)));
        for outcome in outcomes {
            let (class, word) = match outcome {
                None => ("", "did not run"),
                Some(Outcome::Passed) => ("good", "passed"),
                Some(Outcome::Failed) => ("bad", "failed"),
                Some(Outcome::Unsupported) => ("", "unsupported"),
                Some(Outcome::KnownFailure) => ("", "known failure"),
                Some(Outcome::Flaky) => ("bad", "flaky"),
            };
            put(out, format_args!("<td class=\"{class}\">{word}</td>"));
        }
        *out += "</tr>\n";
    }
    *out += "</table>\n";
}
