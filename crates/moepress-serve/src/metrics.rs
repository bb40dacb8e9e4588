//! Counts for Prometheus.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the ranges that durations are counted in, in milliseconds.
const BOUNDS: [u64; 10] = [10, 30, 100, 300, 1000, 3000, 10_000, 30_000, 100_000, 300_000];

/// What has happened since the start.
#[derive(Default)]
pub(crate) struct Metrics {
    /// Answers by the class of their status: 2xx, 4xx, 5xx.
    answers: [AtomicU64; 3],
    prompt_tokens: AtomicU64,
    generated_tokens: AtomicU64,
    running: AtomicU64,
    waiting: AtomicU64,
    /// Durations of completion requests.
    counts: [AtomicU64; BOUNDS.len() + 1],
    milliseconds: AtomicU64,
}

impl Metrics {
    pub(crate) fn answered(&self, status: u16) {
        let class = match status {
            0..400 => 0,
            400..500 => 1,
            _ => 2,
        };
        self.answers[class].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn prompt_tokens(&self, count: usize) {
        self.prompt_tokens.fetch_add(count as u64, Ordering::Relaxed);
    }

    pub(crate) fn generated_tokens(&self, count: usize) {
        self.generated_tokens.fetch_add(count as u64, Ordering::Relaxed);
    }

    pub(crate) fn running(&self, running: usize, waiting: usize) {
        self.running.store(running as u64, Ordering::Relaxed);
        self.waiting.store(waiting as u64, Ordering::Relaxed);
    }

    pub(crate) fn took(&self, time: Duration) {
        let milliseconds = time.as_millis() as u64;
        let range = BOUNDS.iter().position(|bound| milliseconds <= *bound).unwrap_or(BOUNDS.len());
        self.counts[range].fetch_add(1, Ordering::Relaxed);
        self.milliseconds.fetch_add(milliseconds, Ordering::Relaxed);
    }

    /// All of it in Prometheus' text format.
    pub(crate) fn text(&self, memory: Option<u64>) -> String {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let mut text = String::new();
        let mut family = |name: &str, kind: &str, help: &str, lines: &[(String, String)]| {
            // Writing to text does not fail.
            let _ = writeln!(text, "# HELP moepress_{name} {help}\n# TYPE moepress_{name} {kind}");
            for (rest, value) in lines {
                let _ = writeln!(text, "moepress_{name}{rest} {value}");
            }
        };
        let one = |counter| vec![(String::new(), read(counter).to_string())];
        let classes = ["2xx", "4xx", "5xx"].iter().zip(&self.answers);
        let answers: Vec<_> = classes
            .map(|(class, count)| (format!("{{status=\"{class}\"}}"), read(count).to_string()))
            .collect();
        family("requests_total", "counter", "Answered requests by class of status.", &answers);
        family("prompt_tokens_total", "counter", "Tokens of prompts that ran.", &one(&self.prompt_tokens));
        family(
            "generated_tokens_total",
            "counter",
            "Tokens that were generated.",
            &one(&self.generated_tokens),
        );
        family("running_sequences", "gauge", "Sequences that advance together.", &one(&self.running));
        family("waiting_sequences", "gauge", "Sequences that wait for a place.", &one(&self.waiting));
        let mut sum = 0;
        let bounds =
            BOUNDS.iter().map(|bound| format!("{}", *bound as f64 / 1000.0)).chain(["+Inf".to_owned()]);
        let mut lines: Vec<_> = bounds
            .zip(&self.counts)
            .map(|(bound, count)| {
                sum += read(count);
                (format!("_bucket{{le=\"{bound}\"}}"), sum.to_string())
            })
            .collect();
        lines.push(("_sum".into(), format!("{}", read(&self.milliseconds) as f64 / 1000.0)));
        lines.push(("_count".into(), sum.to_string()));
        family("request_seconds", "histogram", "From a completion request to its last token.", &lines);
        if let Some(memory) = memory {
            family(
                "resident_memory_bytes",
                "gauge",
                "Resident memory.",
                &[(String::new(), memory.to_string())],
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_counted_cumulatively() {
        let metrics = Metrics::default();
        for milliseconds in [5, 10, 11, 400_000] {
            metrics.took(Duration::from_millis(milliseconds));
        }
        metrics.answered(200);
        metrics.answered(429);
        let text = metrics.text(Some(7));
        for line in [
            "moepress_requests_total{status=\"2xx\"} 1",
            "moepress_requests_total{status=\"4xx\"} 1",
            "moepress_request_seconds_bucket{le=\"0.01\"} 2",
            "moepress_request_seconds_bucket{le=\"0.03\"} 3",
            "moepress_request_seconds_bucket{le=\"+Inf\"} 4",
            "moepress_request_seconds_count 4",
            "moepress_resident_memory_bytes 7",
        ] {
            assert!(text.contains(&format!("{line}\n")), "{line} is not in\n{text}");
        }
    }
}
