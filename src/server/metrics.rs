//! Counters and times in Prometheus' format, named as vLLM's after the prefix.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::generate::EngineStats;

/// Upper bounds of short and long times, in seconds, and of counts.
const SHORT: &[f64] = &[
    0.001, 0.002, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 40.96,
];
const LONG: &[f64] = &[0.01, 0.05, 0.1, 0.3, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0, 600.0];
const COUNTS: &[f64] =
    &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 16384.0];

/// What is measured of each answer, pass or image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Measure {
    FirstToken,
    InterToken,
    Whole,
    Queue,
    Prefill,
    Decode,
    Inference,
    PromptTokens,
    GenerationTokens,
    Answers,
    MaxTokens,
    Rows,
    Image,
    ImageDecoding,
}

/// Each measure with its name, help and upper bounds, in the order of [`Measure`].
const MEASURES: [(Measure, &str, &str, &[f64]); 14] = [
    (
        Measure::FirstToken,
        "time_to_first_token_seconds",
        "From a request to the first token or code of its answer",
        SHORT,
    ),
    (
        Measure::InterToken,
        "inter_token_latency_seconds",
        "From a token or code to the next one that arrives in a later pass",
        SHORT,
    ),
    (
        Measure::Whole,
        "e2e_request_latency_seconds",
        "From a request to the end of its answer",
        LONG,
    ),
    (
        Measure::Queue,
        "request_queue_time_seconds",
        "From a request to the start of its answer, tokenization included",
        SHORT,
    ),
    (
        Measure::Prefill,
        "request_prefill_time_seconds",
        "From the start of an answer to its first token",
        SHORT,
    ),
    (
        Measure::Decode,
        "request_decode_time_seconds",
        "From the first token of an answer to its end",
        LONG,
    ),
    (
        Measure::Inference,
        "request_inference_time_seconds",
        "From the start of an answer to its end",
        LONG,
    ),
    (Measure::PromptTokens, "request_prompt_tokens", "Tokens of a prompt", COUNTS),
    (Measure::GenerationTokens, "request_generation_tokens", "Tokens of an answer", COUNTS),
    (Measure::Answers, "request_params_n", "Answers or images that a request asks for", COUNTS),
    (Measure::MaxTokens, "request_params_max_tokens", "max_tokens of a request", COUNTS),
    (Measure::Rows, "iteration_tokens_total", "Rows of a pass", COUNTS),
    (Measure::Image, "image_seconds", "From the first code of an image to its last", LONG),
    (Measure::ImageDecoding, "vq_decode_seconds", "Decoding of an image's codes to pixels", SHORT),
];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Of {
    model_name: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ended {
    model_name: String,
    finished_reason: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    route: String,
    status: u16,
}

/// Makes the histograms of a measure.
#[derive(Clone, Copy, Debug)]
struct Bounds(&'static [f64]);

impl MetricConstructor<Histogram> for Bounds {
    fn new_metric(&self) -> Histogram {
        Histogram::new(self.0.iter().copied())
    }
}

/// What engines count, with name and help.
type Counted = (&'static str, &'static str, fn(&EngineStats) -> usize);

const COUNTED: [Counted; 5] = [
    ("passes", "Passes of the model", |stats| stats.passes),
    ("prefix_cache_hits", "Tokens of prompts that another prompt had computed", |stats| {
        stats.prefix_hits
    }),
    ("image_passes", "Passes of answers within images", |stats| stats.image_passes),
    ("image_codes", "Codes that were drawn in them", |stats| stats.image_ids),
    ("generation_tokens", "Generated tokens", |stats| stats.text_ids + stats.image_ids),
];

type Counts<L> = Family<L, Counter>;
type Histograms = Family<Of, Histogram, Bounds>;

/// What a server counts.
pub(super) struct Metrics {
    registry: Registry,
    running: Family<Of, Gauge>,
    waiting: Family<Of, Gauge>,
    cache: Family<Of, Gauge<f64, AtomicU64>>,
    /// What engines count; see [`Metrics::engine`].
    counted: [Counts<Of>; COUNTED.len()],
    prompt_tokens: Counts<Of>,
    prefix_queries: Counts<Of>,
    ended: Counts<Ended>,
    images: Counts<Of>,
    answered: Counts<Answered>,
    /// In the order of [`MEASURES`].
    measures: [Histograms; MEASURES.len()],
}

fn of(name: &str) -> Of {
    Of { model_name: name.to_owned() }
}

impl Metrics {
    pub(super) fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("calumma"),
            running: Family::default(),
            waiting: Family::default(),
            cache: Family::default(),
            counted: Default::default(),
            prompt_tokens: Family::default(),
            prefix_queries: Family::default(),
            ended: Family::default(),
            images: Family::default(),
            answered: Family::default(),
            measures: MEASURES.map(|(.., bounds)| Histograms::new_with_constructor(Bounds(bounds))),
        };
        metrics.register();
        metrics
    }

    /// Gives everything its name and help.
    fn register(&mut self) {
        let r = &mut self.registry;
        r.register("num_requests_running", "Answers in progress", self.running.clone());
        r.register("num_requests_waiting", "Answers not yet begun", self.waiting.clone());
        r.register("kv_cache_usage_perc", "Share of the cache in use, 0 to 1", self.cache.clone());
        for ((name, help, _), counts) in COUNTED.iter().zip(&self.counted) {
            r.register(*name, *help, counts.clone());
        }
        let help = "Tokens of prompts that were looked for in the cache";
        r.register("prefix_cache_queries", help, self.prefix_queries.clone());
        r.register("prompt_tokens", "Tokens of prompts", self.prompt_tokens.clone());
        r.register("request_success", "Ended answers by the reason", self.ended.clone());
        r.register("images", "Images drawn", self.images.clone());
        r.register("http_requests", "Responses by route and status", self.answered.clone());
        for ((_, name, help, _), histograms) in MEASURES.iter().zip(&self.measures) {
            r.register(*name, *help, histograms.clone());
        }
    }

    /// Takes over what an engine counts, of which `known` is known.
    pub(super) fn engine(&self, model: &str, stats: &EngineStats, known: &EngineStats) {
        let of = of(model);
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.running.get_or_create(&of).set(number(stats.running));
        self.waiting.get_or_create(&of).set(number(stats.waiting));
        let share = stats.blocks_used as f64 / stats.blocks_total.max(1) as f64;
        self.cache.get_or_create(&of).set(share);
        for ((.., count), counts) in COUNTED.iter().zip(&self.counted) {
            counts.get_or_create(&of).inc_by((count(stats) - count(known)) as u64);
        }
        if stats.passes > known.passes {
            self.observe(model, Measure::Rows, (stats.rows - known.rows) as f64);
        }
    }

    /// One more `value` of `measure`, in seconds or as a count.
    pub(super) fn observe(&self, model: &str, measure: Measure, value: f64) {
        self.measures[measure as usize].get_or_create(&of(model)).observe(value);
    }

    /// One more time of `measure`.
    pub(super) fn took(&self, model: &str, measure: Measure, time: Duration) {
        self.observe(model, measure, time.as_secs_f64());
    }

    /// An answer to a prompt of so many tokens was admitted.
    pub(super) fn admitted(&self, model: &str, prompt: usize) {
        self.prefix_queries.get_or_create(&of(model)).inc_by(prompt as u64);
    }

    /// An answer to a prompt of so many tokens got its part of the cache.
    pub(super) fn begun(&self, model: &str, prompt: usize) {
        self.prompt_tokens.get_or_create(&of(model)).inc_by(prompt as u64);
        self.observe(model, Measure::PromptTokens, prompt as f64);
    }

    /// An answer ended.
    pub(super) fn ended(&self, model: &str, reason: &str) {
        let label = Ended { model_name: model.to_owned(), finished_reason: reason.to_owned() };
        self.ended.get_or_create(&label).inc();
    }

    pub(super) fn drawn(&self, model: &str) {
        self.images.get_or_create(&of(model)).inc();
    }

    /// A response was sent.
    pub(super) fn answered(&self, route: &str, status: u16) {
        self.answered.get_or_create(&Answered { route: route.to_owned(), status }).inc();
    }

    /// The text that Prometheus reads.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_measure_has_a_row_of_its_own() {
        let metrics = Metrics::new();
        for (at, (measure, name, ..)) in MEASURES.into_iter().enumerate() {
            assert_eq!(measure as usize, at, "{name}");
            metrics.observe("m", measure, 0.25 + at as f64);
        }
        let text = metrics.text();
        for (at, (_, name, ..)) in MEASURES.into_iter().enumerate() {
            let sum = 0.25 + at as f64;
            let line = format!("calumma_{name}_sum{{model_name=\"m\"}} {sum}\n");
            assert!(text.contains(&line), "{line}");
        }
    }

    #[test]
    fn engines_are_counted_by_what_is_new() {
        let metrics = Metrics::new();
        let known = EngineStats { passes: 3, rows: 40, ..EngineStats::default() };
        let stats = EngineStats { passes: 4, rows: 52, image_ids: 7, running: 2, ..known };
        metrics.engine("m", &stats, &known);
        metrics.engine("m", &stats, &stats);
        let text = metrics.text();
        for line in [
            "calumma_passes_total{model_name=\"m\"} 1\n",
            "calumma_image_codes_total{model_name=\"m\"} 7\n",
            "calumma_num_requests_running{model_name=\"m\"} 2\n",
            "calumma_iteration_tokens_total_sum{model_name=\"m\"} 12",
            "calumma_iteration_tokens_total_count{model_name=\"m\"} 1\n",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
