//! The findings: a row a way of asking.

use super::client::{Asked, End};
use asynctls::Result;
use asynctls::eval::stats::quantile;
use asynctls::eval::table::{Cell, Table};
use serde::Serialize;
use std::collections::BTreeMap;

/// How requests were asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// As the load says.
    Together,
    /// Each after the answer to the one before.
    OneByOne,
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::Together => "together",
            Self::OneByOne => "one by one",
        }
    }
}

/// Why requests failed.
#[derive(Clone, Debug, Serialize)]
pub struct Reason {
    /// The server's words, or what became of the connection.
    pub reason: String,
    /// How many.
    pub count: usize,
}

/// One row.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// How they were asked.
    pub way: Way,
    /// Requests that were answered.
    pub done: usize,
    /// That were not.
    pub failed: usize,
    /// That were dropped amid their answer.
    pub cancelled: usize,
    /// Why they failed, the most common first.
    pub reasons: Vec<Reason>,
    /// Until the last had ended.
    pub seconds: f64,
    /// Tokens of all answers; of those that were dropped or failed, pieces of text.
    pub tokens: u64,
    /// These by the time.
    pub tokens_per_second: f64,
    /// Tokens of the prompts that were answered, as the server counts.
    pub prompt_tokens: Option<u64>,
    /// Of these, what it did not compute again, where it tells.
    pub cached_tokens: Option<u64>,
    /// From a request to the first piece of its answer: median, of nine in ten, of 99 in a hundred.
    pub first_token_seconds: Option<f64>,
    pub first_token_p90_seconds: Option<f64>,
    pub first_token_p99_seconds: Option<f64>,
    /// From a piece of an answer to the next: median, of 99 in a hundred.
    pub token_ms: Option<f64>,
    pub token_p99_ms: Option<f64>,
}

impl Row {
    /// What came of all requests.
    pub fn new(way: Way, asked: &[Asked], seconds: f64) -> Self {
        let count = |end: &End| asked.iter().filter(|asked| asked.end == *end).count();
        let (done, cancelled) = (count(&End::Done), count(&End::Cancelled));
        let mut failures = BTreeMap::<&str, usize>::new();
        for asked in asked {
            if let End::Failed(reason) = &asked.end {
                *failures.entry(reason).or_default() += 1;
            }
        }
        let reason = |(reason, count): (&str, usize)| Reason { reason: reason.into(), count };
        let mut reasons: Vec<Reason> = failures.into_iter().map(reason).collect();
        reasons.sort_by_key(|reason| std::cmp::Reverse(reason.count));
        let tokens = asked.iter().map(|Asked { answer, .. }| {
            answer.usage.map_or(answer.pieces.len() as u64, |usage| usage.answer)
        });
        let tokens: u64 = tokens.sum();
        let usages: Vec<_> = asked.iter().filter_map(|asked| asked.answer.usage).collect();
        let cached: Vec<u64> = usages.iter().filter_map(|usage| usage.cached).collect();
        let pieces = || asked.iter().map(|asked| &asked.answer.pieces);
        let first: Vec<f64> = pieces().filter_map(|pieces| pieces.first().copied()).collect();
        let between: Vec<f64> = pieces()
            .flat_map(|pieces| pieces.windows(2).map(|pair| (pair[1] - pair[0]) * 1e3))
            .collect();
        Self {
            way,
            done,
            failed: asked.len() - done - cancelled,
            cancelled,
            reasons,
            seconds,
            tokens,
            tokens_per_second: tokens as f64 / seconds,
            prompt_tokens: (!usages.is_empty())
                .then(|| usages.iter().map(|usage| usage.prompt).sum()),
            cached_tokens: (!cached.is_empty()).then(|| cached.iter().sum()),
            first_token_seconds: quantile(&first, 0.5),
            first_token_p90_seconds: quantile(&first, 0.9),
            first_token_p99_seconds: quantile(&first, 0.99),
            token_ms: quantile(&between, 0.5),
            token_p99_ms: quantile(&between, 0.99),
        }
    }
}

/// Tokens a second as a multiple of those one by one, where both were measured and not nothing came.
pub fn ratio(rows: &[Row]) -> Option<f64> {
    let of = |way| rows.iter().find(|row| row.way == way).map(|row| row.tokens_per_second);
    let ratio = of(Way::Together)? / of(Way::OneByOne)?;
    ratio.is_finite().then_some(ratio)
}

/// Why requests failed, of all rows, in one line.
pub fn reasons(rows: &[Row]) -> String {
    let all = rows.iter().flat_map(|row| &row.reasons);
    all.map(|Reason { reason, count }| format!("{count} times {reason}"))
        .collect::<Vec<_>>()
        .join("; ")
}

/// The table for people.
pub fn table(rows: &[Row]) -> Result<Table> {
    let mut table = Table::new([
        "asked",
        "done",
        "failed",
        "dropped",
        "seconds",
        "tokens",
        "tokens/s",
        "of prompts",
        "cached",
        "first token s",
        "p90 s",
        "p99 s",
        "token ms",
        "p99 ms",
    ]);
    for row in rows {
        let count =
            |count: Option<u64>| count.map_or(Cell::Empty, |count| Cell::count(count as usize));
        table.push(vec![
            row.way.name().into(),
            Cell::count(row.done),
            Cell::count(row.failed),
            Cell::count(row.cancelled),
            Cell::number(Some(row.seconds), 2),
            count(Some(row.tokens)),
            Cell::number(Some(row.tokens_per_second), 1),
            count(row.prompt_tokens),
            count(row.cached_tokens),
            Cell::number(row.first_token_seconds, 2),
            Cell::number(row.first_token_p90_seconds, 2),
            Cell::number(row.first_token_p99_seconds, 2),
            Cell::number(row.token_ms, 2),
            Cell::number(row.token_p99_ms, 2),
        ])?;
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::super::answer::{Answer, Usage};
    use super::*;

    fn asked(pieces: &[f64], usage: Option<Usage>, end: End) -> Asked {
        Asked { answer: Answer { pieces: pieces.to_vec(), usage, has_ended: true }, end }
    }

    #[test]
    fn requests_are_counted_by_their_ends_and_times_by_their_share() {
        let usage = |cached| Some(Usage { prompt: 10, answer: 5, cached });
        let failed = |reason: &str| asked(&[], None, End::Failed(reason.into()));
        let row = Row::new(
            Way::Together,
            &[
                asked(&[1.0, 1.5, 1.75], usage(Some(4)), End::Done),
                asked(&[3.0, 4.0], usage(None), End::Done),
                asked(&[2.0], None, End::Cancelled),
                failed("late"),
                failed("early"),
                failed("late"),
            ],
            4.0,
        );
        assert_eq!((row.done, row.failed, row.cancelled), (2, 3, 1));
        let reasons: Vec<_> = row.reasons.iter().map(|r| (r.reason.as_str(), r.count)).collect();
        assert_eq!(reasons, [("late", 2), ("early", 1)]);
        // What was dropped has no usage: its one piece counts.
        assert_eq!((row.tokens, row.tokens_per_second), (11, 2.75));
        assert_eq!((row.prompt_tokens, row.cached_tokens), (Some(20), Some(4)));
        // Of 1, 2 and 3 seconds.
        assert_eq!(row.first_token_seconds, Some(2.0));
        assert!((row.first_token_p90_seconds.unwrap() - 2.8).abs() < 1e-9);
        assert!((row.first_token_p99_seconds.unwrap() - 2.98).abs() < 1e-9);
        // Of 250, 500 and 1000 ms.
        assert_eq!(row.token_ms, Some(500.0));
        assert!((row.token_p99_ms.unwrap() - 990.0).abs() < 1e-9);
        let slow = Row { way: Way::OneByOne, tokens_per_second: 0.5, ..row.clone() };
        assert_eq!((ratio(&[row.clone(), slow.clone()]), ratio(&[row])), (Some(5.5), None));
        let none = Row::new(Way::Together, &[failed("late")], 1.0);
        assert_eq!((none.token_ms, none.cached_tokens), (None, None));
        assert_eq!(ratio(&[none.clone(), Row { tokens_per_second: 0.0, ..slow }]), None);
        assert_eq!(super::reasons(&[none]), "1 times late");
    }
}
