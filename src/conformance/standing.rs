//! Reports as one table of kernels, tiers and adapters, in Markdown.

use super::report::{AdapterReport, Report};
use super::row::{Summary, VariantSummary};
use std::collections::BTreeMap;

/// The lines between which a table is written, in a page that has others' words around it.
pub const MARKERS: [&str; 2] = [
    "<!-- What follows is written by asynctls conformance --matrix. -->",
    "<!-- It ends here. -->",
];

/// The adapters of reports, and what each kernel came to on each of them.
pub fn standing(reports: &[Report]) -> String {
    let adapters: Vec<(&Report, &AdapterReport)> = reports
        .iter()
        .flat_map(|report| report.adapters.iter().map(move |adapter| (report, adapter)))
        .collect();
    let mut text = String::from(
        "| | adapter | driver | version, date | cases | passed | failed | unsupported | known | flaky |\n|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for (number, (report, adapter)) in adapters.iter().enumerate() {
        let Summary { passed, failed, unsupported, known_failures, flaky } = adapter.summary;
        let settings = &report.settings;
        let chosen = match (settings.quick, settings.case.is_some() || settings.filter.is_some()) {
            (_, true) => "some",
            (true, _) => "a sample",
            (false, false) => "all",
        };
        let cases = match adapter.not_run {
            0 => chosen.to_owned(),
            more => format!("{chosen} but {more}"),
        };
        let date = report.date.as_deref().unwrap_or("undated");
        text += &format!(
            "| {} | {} | {} | {}, {} | {cases} | {passed} | {failed} | {unsupported} | {known_failures} | {flaky} |\n",
            number + 1,
            cell(&adapter.about.adapter),
            cell(&adapter.about.driver),
            cell(&report.version),
            cell(date),
        );
    }
    let mut rows = BTreeMap::<(&str, &str), Vec<Vec<&VariantSummary>>>::new();
    for (number, (_, adapter)) in adapters.iter().enumerate() {
        for variant in &adapter.variants {
            let row = rows.entry((&variant.kernel, &variant.tier)).or_default();
            row.resize(adapters.len(), Vec::new());
            row[number].push(variant);
        }
    }
    text += "\n| kernel | tier |";
    (1..=adapters.len()).for_each(|number| text += &format!(" {number} |"));
    text += &format!("\n|---|---|{}\n", "---|".repeat(adapters.len()));
    for ((kernel, tier), mut row) in rows {
        row.resize(adapters.len(), Vec::new());
        let cells: Vec<String> = row.iter().map(|variants| came_to(variants)).collect();
        text += &format!("| {} | {} | {} |\n", cell(kernel), cell(tier), cells.join(" | "));
    }
    text
}

/// A page with this table in the place of the one that it has.
///
/// # Errors
/// What the page lacks.
pub fn placed(page: &str, table: &str) -> std::result::Result<String, String> {
    let [begin, end] = MARKERS;
    let missing = |marker: &str| format!("it has no line {marker}");
    let (before, rest) = page.split_once(begin).ok_or_else(|| missing(begin))?;
    let (_, after) = rest.split_once(end).ok_or_else(|| missing(end))?;
    Ok(format!("{before}{begin}\n\n{table}\n{end}{after}"))
}

// A kernel on an adapter: how many cases passed, in how many variants, and what else became of others.
fn came_to(variants: &[&VariantSummary]) -> String {
    let sum = |count: fn(&Summary) -> usize| -> usize {
        variants.iter().map(|variant| count(&variant.summary)).sum()
    };
    let passed = sum(|summary| summary.passed);
    let in_variants = variants.iter().filter(|variant| variant.summary.passed > 0).count();
    let mut parts = Vec::new();
    match (passed, in_variants) {
        (0, _) => {}
        (_, 1) => parts.push(format!("{passed} passed")),
        _ => parts.push(format!("{passed} passed in {in_variants} variants")),
    }
    for (count, word) in [
        (sum(|summary| summary.failed), "**failed**"),
        (sum(|summary| summary.flaky), "**flaky**"),
        (sum(|summary| summary.known_failures), "known to fail"),
        (sum(|summary| summary.unsupported), "unsupported"),
    ] {
        if count > 0 {
            parts.push(format!("{count} {word}"));
        }
    }
    parts.join(", ")
}

// What a table's cell would take for its own.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use super::super::report::{About, Settings};
    use super::super::row::{Outcome, Row};
    use super::*;

    fn report(adapter: &str, outcomes: &[Outcome]) -> Report {
        let about = About { adapter: adapter.into(), driver: "oak | 4".into(), ..About::default() };
        let row =
            |(i, &outcome): (usize, &Outcome)| Row::of(&format!("stream/{i}@trusted"), outcome);
        let rows: Vec<Row> = outcomes.iter().enumerate().map(row).collect();
        let adapters = vec![AdapterReport::new(about, rows.len(), rows, 1.0)];
        let report = Report::new(Settings::default(), adapters);
        Report { date: Some("2026-01-31".into()), ..report }
    }

    #[test]
    fn reports_are_one_table_that_takes_the_place_of_another() {
        use Outcome::{Failed, Passed, Unsupported};
        let reports =
            [report("gl:Tree", &[Passed, Passed, Unsupported]), report("metal:Leaf", &[Failed])];
        let table = standing(&reports);
        for line in [
            "| 1 | gl:Tree | oak \\| 4 | 0.1.0, 2026-01-31 | all | 2 | 0 | 1 | 0 | 0 |",
            "| kernel | tier | 1 | 2 |",
            "| stream | portable | 2 passed, 1 unsupported | 1 **failed** |",
        ] {
            assert!(table.lines().any(|found| found == line), "{line}: {table}");
        }
        let [begin, end] = MARKERS;
        let page = format!("before\n{begin}\nold\n{end}\nafter\n");
        let new = placed(&page, &table).unwrap();
        assert!(new.starts_with("before\n") && new.ends_with("after\n") && !new.contains("old"));
        // The same again changes nothing.
        assert_eq!(placed(&new, &table).unwrap(), new);
        assert!(placed("no markers", &table).unwrap_err().contains(begin));
    }
}
