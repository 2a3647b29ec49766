//! Counters and times in Prometheus' format, named as vLLM's after the prefix.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::generate::EngineStats;

/// Upper bounds in seconds.
const TO_FIRST: [f64; 14] =
    [0.001, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 40.96];
const WHOLE: [f64; 12] = [0.01, 0.05, 0.1, 0.3, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0, 600.0];

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

type Counts<L> = Family<L, Counter>;
type Times = Family<Of, Histogram, fn() -> Histogram>;

/// What a server counts.
#[derive(Debug)]
pub(super) struct Metrics {
    registry: Registry,
    running: Family<Of, Gauge>,
    waiting: Family<Of, Gauge>,
    cache: Family<Of, Gauge<f64, AtomicU64>>,
    passes: Counts<Of>,
    rows: Counts<Of>,
    prefix_hits: Counts<Of>,
    prompt_tokens: Counts<Of>,
    generation_tokens: Counts<Of>,
    ended: Counts<Ended>,
    to_first: Times,
    whole: Times,
    images: Counts<Of>,
    answered: Counts<Answered>,
}

fn to_first() -> Histogram {
    Histogram::new(TO_FIRST)
}

fn whole() -> Histogram {
    Histogram::new(WHOLE)
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
            passes: Family::default(),
            rows: Family::default(),
            prefix_hits: Family::default(),
            prompt_tokens: Family::default(),
            generation_tokens: Family::default(),
            ended: Family::default(),
            to_first: Family::new_with_constructor(to_first),
            whole: Family::new_with_constructor(whole),
            images: Family::default(),
            answered: Family::default(),
        };
        metrics.register();
        metrics
    }

    /// Gives every measure its name and help.
    fn register(&mut self) {
        let r = &mut self.registry;
        r.register("num_requests_running", "Answers in progress", self.running.clone());
        r.register("num_requests_waiting", "Answers not yet begun", self.waiting.clone());
        r.register("kv_cache_usage_perc", "Share of the cache in use, 0 to 1", self.cache.clone());
        r.register("passes", "Passes of the model", self.passes.clone());
        r.register("rows", "Rows of all passes", self.rows.clone());
        let help = "Tokens of prompts that another prompt had computed";
        r.register("prefix_cache_hits", help, self.prefix_hits.clone());
        r.register("prompt_tokens", "Tokens of prompts", self.prompt_tokens.clone());
        r.register("generation_tokens", "Generated tokens", self.generation_tokens.clone());
        r.register("request_success", "Ended answers by the reason", self.ended.clone());
        let help = "Seconds from a request to the first step of its answer";
        r.register("time_to_first_token_seconds", help, self.to_first.clone());
        let help = "Seconds from a request to the end of its answer";
        r.register("e2e_request_latency_seconds", help, self.whole.clone());
        r.register("images", "Images drawn", self.images.clone());
        r.register("http_requests", "Responses by route and status", self.answered.clone());
    }

    /// Takes over what an engine counts, of which `known` is known.
    pub(super) fn engine(&self, model: &str, stats: &EngineStats, known: &EngineStats) {
        let of = of(model);
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.running.get_or_create(&of).set(number(stats.running));
        self.waiting.get_or_create(&of).set(number(stats.waiting));
        let share = stats.blocks_used as f64 / stats.blocks_total.max(1) as f64;
        self.cache.get_or_create(&of).set(share);
        let counters = [
            (&self.passes, stats.passes - known.passes),
            (&self.rows, stats.rows - known.rows),
            (&self.prefix_hits, stats.prefix_hits - known.prefix_hits),
        ];
        for (counter, more) in counters {
            counter.get_or_create(&of).inc_by(more as u64);
        }
    }

    /// An answer began after so long to a prompt of so many tokens.
    pub(super) fn first(&self, model: &str, after: Duration, prompt: usize) {
        self.to_first.get_or_create(&of(model)).observe(after.as_secs_f64());
        self.prompt_tokens.get_or_create(&of(model)).inc_by(prompt as u64);
    }

    /// An answer of so many tokens ended.
    pub(super) fn ended(&self, model: &str, reason: &str, tokens: usize) {
        let label = Ended { model_name: model.to_owned(), finished_reason: reason.to_owned() };
        self.ended.get_or_create(&label).inc();
        self.generation_tokens.get_or_create(&of(model)).inc_by(tokens as u64);
    }

    /// A whole answer took so long.
    pub(super) fn took(&self, model: &str, time: Duration) {
        self.whole.get_or_create(&of(model)).observe(time.as_secs_f64());
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
