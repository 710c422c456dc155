//! The findings: a row a length, way and batch.

use super::steps::Timed;
use super::ways::Way;
use asynctls::Result;
use asynctls::engine::Fit;
use asynctls::eval::table::{Cell, Table};
use serde::Serialize;

/// One row.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Tokens of each sequence.
    pub length: u32,
    /// What is attended, and where the KV cache is.
    pub way: Way,
    /// Sequences that decode together; none where not even one fits.
    pub batch: Option<u32>,
    /// Why no more do, of the largest batch.
    pub limit: Option<String>,
    /// Tokens a second of all sequences.
    pub tokens_per_second: Option<f64>,
    /// Of each.
    pub sequence_tokens_per_second: Option<f64>,
    /// Median time from a token of a sequence to its next.
    pub token_ms: Option<f64>,
    /// The 99th of a hundred.
    pub token_p99_ms: Option<f64>,
    /// Seconds until a sequence of this length has its first token, where that was asked.
    pub first_token_seconds: Option<f64>,
    /// Share of the wanted head-blocks that were not on the GPU.
    pub miss_rate: Option<f64>,
    /// Bytes that came from CPU memory in a step.
    pub bytes_a_step: Option<f64>,
    /// Memory that the engine needs on the GPU.
    pub gpu_bytes: Option<u64>,
    /// Bytes of KV cache in CPU memory.
    pub host_bytes: Option<u64>,
    /// Its tokens a second as a multiple of those of `dense` at its best batch and this length.
    pub speedup: Option<f64>,
}

impl Row {
    /// The row of a way that cannot go.
    pub fn skipped(length: u32, way: Way, limit: Option<String>) -> Self {
        Self {
            length,
            way,
            batch: None,
            limit,
            tokens_per_second: None,
            sequence_tokens_per_second: None,
            token_ms: None,
            token_p99_ms: None,
            first_token_seconds: None,
            miss_rate: None,
            bytes_a_step: None,
            gpu_bytes: None,
            host_bytes: None,
            speedup: None,
        }
    }

    /// The row of what was timed.
    pub fn new(
        (length, way): (u32, Way),
        (batch, limit): (u32, Option<String>),
        timed: &Timed,
        first_token_seconds: Option<f64>,
        fit: &Fit,
    ) -> Self {
        let steps = timed.seconds.len();
        let mean = timed.seconds.iter().sum::<f64>() / steps as f64;
        let at = |share: f64| timed.seconds[((steps as f64 * share) as usize).min(steps - 1)] * 1e3;
        let offloads = way.timing().is_some();
        Self {
            batch: Some(batch),
            tokens_per_second: Some(f64::from(batch) / mean),
            sequence_tokens_per_second: Some(1.0 / mean),
            token_ms: Some(at(0.5)),
            token_p99_ms: Some(at(0.99)),
            first_token_seconds,
            miss_rate: (timed.wanted > 0).then(|| timed.missed as f64 / timed.wanted as f64),
            bytes_a_step: offloads.then(|| timed.bytes as f64 / steps as f64),
            gpu_bytes: Some(fit.total_bytes()),
            host_bytes: Some(fit.host_bytes),
            ..Self::skipped(length, way, limit)
        }
    }
}

/// Sets rows against dense attention at its best batch.
pub fn compare(rows: &mut [Row]) {
    let all = rows.to_vec();
    for row in rows {
        let dense =
            all.iter().filter(|other| other.way == Way::Dense && other.length == row.length);
        let best = dense.filter_map(|other| other.tokens_per_second).max_by(f64::total_cmp);
        row.speedup = best.and_then(|best| Some(row.tokens_per_second? / best));
    }
}

/// From which length on two-level attention's tokens come faster than dense attention's, everything on the GPU.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BreakEven {
    /// Sequences that decode together.
    pub batch: u32,
    /// About so many tokens of each; 0 where it is faster at the shortest length already, none where at none.
    pub tokens: Option<u32>,
}

impl BreakEven {
    /// Of each batch that has both at some lengths, ascending.
    pub fn of(rows: &[Row]) -> Vec<Self> {
        let mut batches: Vec<u32> = rows.iter().filter_map(|row| row.batch).collect();
        batches.sort_unstable();
        batches.dedup();
        let of_batch = |batch| {
            let lost = |dense: &Row| {
                let is_twin = |row: &&Row| {
                    row.way == Way::TwoLevel
                        && (row.length, row.batch) == (dense.length, dense.batch)
                };
                let twin = rows.iter().find(is_twin)?;
                Some((f64::from(dense.length), twin.token_ms? - dense.token_ms?))
            };
            let is_dense = |row: &&Row| row.way == Way::Dense && row.batch == Some(batch);
            let mut lost: Vec<(f64, f64)> = rows.iter().filter(is_dense).filter_map(lost).collect();
            lost.sort_by(|a, b| a.0.total_cmp(&b.0));
            let tokens = match lost.first()? {
                (_, first) if *first <= 0.0 => Some(0),
                // On the line between the last length at which it is slower and the next one.
                _ => lost
                    .array_windows()
                    .find(|[_, b]| b.1 <= 0.0)
                    .map(|[a, b]| (a.0 + (b.0 - a.0) * a.1 / (a.1 - b.1)).round() as u32),
            };
            Some(Self { batch, tokens })
        };
        batches.into_iter().filter_map(of_batch).collect()
    }

    /// For people.
    pub fn text(&self) -> String {
        let sequences = match self.batch {
            1 => "one sequence".to_owned(),
            batch => format!("{batch} sequences"),
        };
        match self.tokens {
            None => format!("{sequences}: dense attention is faster at all of these lengths"),
            Some(0) => {
                format!("{sequences}: two-level attention is faster at all of these lengths")
            }
            Some(tokens) => format!(
                "{sequences}: two-level attention is faster from about {tokens} tokens on (--dense-below {tokens})"
            ),
        }
    }
}

/// The table for people.
pub fn table(rows: &[Row]) -> Result<Table> {
    let mut table = Table::new([
        "tokens",
        "way",
        "batch",
        "tokens/s",
        "x dense",
        "of each",
        "token ms",
        "p99 ms",
        "first token s",
        "missed %",
        "MB a step",
        "GPU, GiB",
        "CPU, GiB",
        "no more, since",
    ]);
    for row in rows {
        let scaled = |value: Option<f64>, factor: f64| value.map(|value| value * factor);
        let gib = |bytes: Option<u64>| bytes.map(|bytes| bytes as f64 / f64::from(1 << 30));
        table.push(vec![
            Cell::count(row.length as usize),
            row.way.name().into(),
            row.batch.map_or(Cell::Empty, |batch| Cell::count(batch as usize)),
            Cell::number(row.tokens_per_second, 1),
            Cell::number(row.speedup, 2),
            Cell::number(row.sequence_tokens_per_second, 1),
            Cell::number(row.token_ms, 2),
            Cell::number(row.token_p99_ms, 2),
            Cell::number(row.first_token_seconds, 2),
            Cell::number(scaled(row.miss_rate, 1e2), 1),
            Cell::number(scaled(row.bytes_a_step, 1e-6), 1),
            Cell::number(gib(row.gpu_bytes), 2),
            Cell::number(gib(row.host_bytes), 2),
            row.limit.as_deref().map_or(Cell::Empty, Cell::from),
        ])?;
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    // A row of so many milliseconds a token.
    fn row(length: u32, way: Way, batch: u32, ms: f64) -> Row {
        Row { batch: Some(batch), token_ms: Some(ms), ..Row::skipped(length, way, None) }
    }

    #[test]
    fn lengths_from_which_two_levels_pay_lie_between_those_measured() {
        use Way::{Dense, Lagged, TwoLevel};
        let rows = [
            // In another order than that of lengths.
            row(3000, Dense, 1, 9.0),
            row(3000, TwoLevel, 1, 6.0),
            row(1000, Dense, 1, 4.0),
            row(1000, TwoLevel, 1, 5.0),
            row(1000, Dense, 8, 9.0),
            row(1000, TwoLevel, 8, 9.0),
            row(1000, Dense, 9, 5.0),
            row(1000, TwoLevel, 9, 6.0),
            row(3000, Dense, 9, 7.0),
            row(3000, TwoLevel, 9, 8.0),
            // Nothing to compare with.
            row(1000, Dense, 16, 9.0),
            row(1000, Lagged, 16, 1.0),
            Row::skipped(5000, Dense, None),
        ];
        let even = |batch, tokens| BreakEven { batch, tokens };
        assert_eq!(BreakEven::of(&rows), [even(1, Some(1500)), even(8, Some(0)), even(9, None)]);
        assert_eq!(BreakEven::of(&[]), []);
        let texts: Vec<String> = BreakEven::of(&rows).iter().map(BreakEven::text).collect();
        assert!(texts[0].ends_with("(--dense-below 1500)"), "{texts:?}");
    }
}
