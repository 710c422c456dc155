//! A report for people who read a terminal.

use super::super::terminal::visible;
use asynctls::Result;
use asynctls::conformance::{AdapterReport, Outcome, Report, Row, Summary};
use asynctls::eval::table::{Cell, Table};
use std::collections::{BTreeMap, BTreeSet};

/// Failures that are shown; the JSON object and the page have all.
const SHOWN: usize = 20;

/// All of it.
pub fn text(report: &Report) -> Result<String> {
    let adapters = report.adapters.iter().map(of_adapter).collect::<Result<Vec<_>>>()?;
    Ok(adapters.join("\n"))
}

fn of_adapter(report: &AdapterReport) -> Result<String> {
    let about = &report.about;
    let kernels = about.tier.as_deref().unwrap_or("none can run");
    let mut text = format!(
        "{}; driver {}; kernels {kernels}\n\n{}\n",
        visible(&about.adapter),
        visible(&about.driver),
        table(&report.rows, report.summary)?.to_text()
    );
    text += &reasons(&report.rows, Outcome::Unsupported, "unsupported");
    text += &reasons(&report.rows, Outcome::KnownFailure, "known to fail");
    let wrong: Vec<&Row> = report
        .rows
        .iter()
        .filter(|row| matches!(row.outcome, Outcome::Failed | Outcome::Flaky))
        .collect();
    for row in wrong.iter().take(SHOWN) {
        let detail = row.detail.as_deref().unwrap_or_default();
        text += &format!("failed: {}: {}\n", row.name, visible(detail));
    }
    if let Some(row) = wrong.first() {
        let more = wrong.len().saturating_sub(SHOWN);
        if more > 0 {
            text += &format!("failed: {more} more, which --json and --report show\n");
        }
        let adapter = visible(&about.adapter);
        text += &format!("again: asynctls conformance --adapter '{adapter}' --case {}\n", row.name);
    }
    if let Some(why) = &report.gave_up {
        text += &format!("given up with {} cases left: {why}\n", report.not_run);
    }
    Ok(text)
}

fn table(rows: &[Row], all: Summary) -> Result<Table> {
    let mut table =
        Table::new(["kernel", "variants", "passed", "failed", "unsupported", "known", "flaky"]);
    let mut kernels = BTreeMap::<&str, Vec<&Row>>::new();
    for row in rows {
        kernels.entry(&row.kernel).or_default().push(row);
    }
    let variants = |rows: &[&Row]| -> usize {
        rows.iter().filter_map(|row| row.variant.as_ref()).collect::<BTreeSet<_>>().len()
    };
    let mut push = |name: &str, variants: usize, summary: Summary| {
        let Summary { passed, failed, unsupported, known_failures, flaky } = summary;
        let counts = [variants, passed, failed, unsupported, known_failures, flaky];
        let cells = counts.into_iter().map(|count| Cell::number(count as f64, 0));
        table.push([Cell::from(name)].into_iter().chain(cells).collect())
    };
    for (kernel, rows) in kernels {
        push(kernel, variants(&rows), Summary::of(rows.iter().copied()))?;
    }
    push("all", variants(&rows.iter().collect::<Vec<_>>()), all)?;
    Ok(table)
}

// What rows of an outcome say, each once.
fn reasons(rows: &[Row], outcome: Outcome, word: &str) -> String {
    let mut counts = BTreeMap::<&str, usize>::new();
    for row in rows.iter().filter(|row| row.outcome == outcome) {
        *counts.entry(row.detail.as_deref().unwrap_or_default()).or_default() += 1;
    }
    counts.iter().map(|(why, count)| format!("{word}: {count}: {}\n", visible(why))).collect()
}
