//! `/metrics`, as Prometheus reads it.

use super::slots::{CLASSES, Measured, Times};
use crate::engine::OffloadStats;
use crate::serve::Stats;
use std::fmt::Write;

/// A number of things that are there now, or were so far.
struct Metric {
    name: &'static str,
    kind: &'static str,
    about: &'static str,
    value: f64,
}

/// All metrics. The KV cache takes so many bytes of GPU memory.
pub(super) fn text(
    stats: &Stats,
    measured: &Measured,
    kv_gpu_bytes: u64,
    offload: Option<&OffloadStats>,
    has_prefix_cache: bool,
) -> String {
    let now = |name, about, value: f64| Metric { name, kind: "gauge", about, value };
    let all =
        |name, about, value: u64| Metric { name, kind: "counter", about, value: value as f64 };
    let mut metrics = vec![
        now("requests_queued", "Requests that wait.", stats.queued.into()),
        now("requests_running", "Requests that are being answered.", stats.running.into()),
        now(
            "conversations_kept",
            "Conversations that ended, of which others may take the beginning.",
            stats.kept.into(),
        ),
        now("kv_blocks", "Blocks of the KV cache.", stats.blocks.into()),
        now("kv_blocks_used", "Blocks of the KV cache that hold tokens.", stats.used_blocks.into()),
        now("kv_gpu_bytes", "GPU memory that the KV cache takes.", kv_gpu_bytes as f64),
        all("requests_ended_total", "Requests that were answered.", stats.ended),
        all("requests_failed_total", "Requests that failed.", stats.failed),
        all("requests_cancelled_total", "Requests that nobody wanted any more.", stats.cancelled),
        all(
            "requests_preempted_total",
            "How often a request gave its blocks back and began anew.",
            stats.preempted,
        ),
        all(
            "prefix_hits_total",
            "Requests that took the beginning of another conversation, or one that was stored.",
            stats.hits,
        ),
        all(
            "prefix_tokens_total",
            "Tokens of prompts that were there already.",
            stats.reused_tokens,
        ),
        all("prompt_tokens_total", "Tokens of prompts that were computed.", stats.prompt_tokens),
        all("answer_tokens_total", "Tokens of answers.", stats.answer_tokens),
        all("steps_total", "Steps.", stats.steps),
    ];
    if let Some(offload) = offload {
        metrics.extend([
            now("kv_host_bytes", "CPU memory that the KV cache takes.", offload.host_bytes as f64),
            all("kv_misses_total", "Chosen head-blocks that were not on the GPU.", offload.misses),
            all("kv_hits_total", "Chosen head-blocks that were on the GPU.", offload.hits),
        ]);
    }
    if has_prefix_cache {
        let prefix = &stats.prefix;
        metrics.extend([
            all("prefix_cache_hits_total", "Requests that began with stored blocks.", prefix.hits),
            all(
                "prefix_cache_tokens_total",
                "Tokens of stored blocks that were read.",
                prefix.tokens,
            ),
            all(
                "prefix_cache_read_bytes_total",
                "Bytes of blocks that were read.",
                prefix.read_bytes,
            ),
            all(
                "prefix_cache_written_bytes_total",
                "Bytes of blocks that were written.",
                prefix.written_bytes,
            ),
            all(
                "prefix_cache_damaged_total",
                "Stored blocks that were not what they should be.",
                prefix.damaged,
            ),
            all(
                "prefix_cache_evicted_total",
                "Stored blocks that had to make room for others.",
                prefix.evicted,
            ),
            all("prefix_cache_failed_total", "Blocks that could not be written.", prefix.failed),
            all(
                "prefix_bucket_read_bytes_total",
                "Bytes of blocks that came from the bucket.",
                prefix.fetched_bytes,
            ),
            all(
                "prefix_bucket_written_bytes_total",
                "Bytes of blocks that were sent to the bucket.",
                prefix.sent_bytes,
            ),
            all(
                "prefix_bucket_failed_total",
                "Requests to the bucket that failed.",
                prefix.bucket_failed,
            ),
        ]);
    }
    let mut text = String::new();
    for Metric { name, kind, about, value } in metrics {
        let _ = write!(
            text,
            "# HELP asynctls_{name} {about}\n# TYPE asynctls_{name} {kind}\nasynctls_{name} {value}\n"
        );
    }
    for (name, about, times) in [
        ("queue_seconds", "Time until a request was begun.", &measured.queued),
        ("first_token_seconds", "Time until an answer's first token.", &measured.first_token),
        (
            "token_seconds",
            "Time from one token to the next, in the mean of an answer.",
            &measured.token,
        ),
        ("request_seconds", "Time until an answer's end.", &measured.total),
    ] {
        histogram(&mut text, name, about, times);
    }
    text
}

fn histogram(text: &mut String, name: &str, about: &str, times: &Times) {
    let _ = write!(text, "# HELP asynctls_{name} {about}\n# TYPE asynctls_{name} histogram\n");
    for (class, count) in CLASSES.iter().zip(times.up_to) {
        let _ = writeln!(text, "asynctls_{name}_bucket{{le=\"{class}\"}} {count}");
    }
    let Times { count, sum, .. } = times;
    let _ = write!(
        text,
        "asynctls_{name}_bucket{{le=\"+Inf\"}} {count}\nasynctls_{name}_sum {sum}\nasynctls_{name}_count {count}\n"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_metric_has_its_kind_and_every_line_is_one() {
        let stats = Stats { queued: 3, hits: 5, ..Stats::default() };
        let text = text(&stats, &Measured::default(), 1 << 20, None, true);
        assert!(
            text.contains("# TYPE asynctls_requests_queued gauge\nasynctls_requests_queued 3\n")
        );
        assert!(
            text.contains(
                "# TYPE asynctls_prefix_hits_total counter\nasynctls_prefix_hits_total 5\n"
            )
        );
        assert!(text.contains("\nasynctls_prefix_cache_hits_total 0\n"));
        assert!(text.contains("asynctls_request_seconds_bucket{le=\"+Inf\"} 0\n"));
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (name, value) = line.split_once(' ').unwrap();
            assert!(name.starts_with("asynctls_") && value.parse::<f64>().is_ok(), "{line}");
        }
    }
}
