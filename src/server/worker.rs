//! The thread that runs the engines: jobs in, steps out.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};

use super::config::NamedPipeline;
use super::metrics::{Measure, Metrics};
use crate::error::{Error, Result};
use crate::generate::{
    EndReason, Engine, EngineConfig, EngineStats, Event, Generated, LanguageModel, Request,
    RequestId, ServingModel,
};
use crate::model::BLOCK;

/// One request of an engine.
pub(super) struct Job {
    /// Which of the models.
    pub(super) model: usize,
    pub(super) request: Request,
    /// Its number among those of one answer to a client.
    pub(super) index: usize,
    /// Receives what happens with the number, in order.
    pub(super) steps: UnboundedSender<(usize, Step)>,
    /// Set when nobody waits for the answer any more.
    pub(super) cancelled: Arc<AtomicBool>,
    /// When the answer must have ended.
    pub(super) deadline: Instant,
    /// When the request came.
    pub(super) arrived: Instant,
}

/// What happens to a job.
#[derive(Debug)]
pub(super) enum Step {
    /// Something was generated.
    Event(Event),
    /// It ended; the last step.
    Ended(Generated),
    /// The request cannot run, by its own fault; the last step.
    Refused(Error),
    /// The server's fault; the last step.
    Failed(Error),
    /// It took too long; the last step.
    Late,
}

/// A job in an engine.
struct Running {
    index: usize,
    steps: UnboundedSender<(usize, Step)>,
    cancelled: Arc<AtomicBool>,
    deadline: Instant,
    clock: Clock,
}

/// When what happened to an answer.
struct Clock {
    arrived: Instant,
    /// It got its part of the cache.
    started: Option<Instant>,
    /// Its first token came, and its last one so far.
    first: Option<Instant>,
    last: Instant,
    /// The current image began.
    image: Instant,
    prompt: usize,
}

/// The engine of one model and its jobs.
struct Station<'a> {
    name: &'a str,
    engine: Engine<'a, ServingModel>,
    running: HashMap<RequestId, Running>,
    /// What the metrics have.
    counted: EngineStats,
}

/// Runs jobs until the sender of `jobs` is dropped and all have ended.
///
/// # Errors
/// If a limit of `engine` is out of range.
pub(super) fn run(
    models: &[NamedPipeline],
    engine: &EngineConfig,
    mut jobs: UnboundedReceiver<Job>,
    metrics: &Metrics,
) -> Result<()> {
    let open = |model| Station::new(model, engine);
    let mut stations = models.iter().map(open).collect::<Result<Vec<_>>>()?;
    loop {
        let is_idle = stations.iter().all(|station| station.engine.is_idle());
        let first = if is_idle { jobs.blocking_recv() } else { None };
        if is_idle && first.is_none() {
            return Ok(());
        }
        first.into_iter().for_each(|job| stations[job.model].admit(job, metrics));
        while let Ok(job) = jobs.try_recv() {
            stations[job.model].admit(job, metrics);
        }
        for station in &mut stations {
            station.sweep(metrics);
            if !station.engine.is_idle() {
                station.step(metrics);
            }
            let stats = station.engine.stats();
            metrics.engine(station.name, &stats, &std::mem::replace(&mut station.counted, stats));
        }
    }
}

impl<'a> Station<'a> {
    fn new(model: &'a NamedPipeline, config: &EngineConfig) -> Result<Self> {
        let NamedPipeline { name, pipeline } = model;
        let (vocabulary, blocks) =
            (pipeline.processor().vocabulary(), pipeline.processor().blocks().clone());
        let config = EngineConfig { window: pipeline.window(), ..config.clone() };
        let cache_bytes = config.cache_bytes;
        let engine = Engine::new(pipeline.model(), vocabulary, blocks, config)?;
        let needed = pipeline.model().context().div_ceil(BLOCK) * pipeline.model().block_bytes();
        if needed > cache_bytes {
            tracing::warn!(
                "{name}: a request that fills the context takes {} MiB of keys and values, and there \
                 are {}: such requests will be refused; see --cache",
                needed.div_ceil(1 << 20),
                cache_bytes >> 20
            );
        }
        Ok(Self { name, engine, running: HashMap::new(), counted: EngineStats::default() })
    }

    fn admit(&mut self, job: Job, metrics: &Metrics) {
        let Job { request, index, steps, cancelled, deadline, arrived, .. } = job;
        let clock = Clock {
            arrived,
            started: None,
            first: None,
            last: arrived,
            image: arrived,
            prompt: request.prompt.len(),
        };
        match self.engine.admit(request) {
            Ok(id) => {
                metrics.admitted(self.name, clock.prompt);
                self.running.insert(id, Running { index, steps, cancelled, deadline, clock });
            }
            Err(error) => drop(steps.send((index, Step::Refused(error)))),
        }
    }

    /// Ends what nobody waits for, and what took too long.
    fn sweep(&mut self, metrics: &Metrics) {
        let now = Instant::now();
        let is_over = |job: &Running| {
            job.cancelled.load(Ordering::Relaxed) || job.steps.is_closed() || job.deadline <= now
        };
        let over: Vec<_> =
            self.running.iter().filter(|(_, job)| is_over(job)).map(|(id, _)| *id).collect();
        for id in over {
            self.engine.cancel(id);
            drop(self.engine.take(id));
            let Some(job) = self.running.remove(&id) else { continue };
            if job.deadline <= now {
                job.send(Step::Late);
            }
            metrics.ended(self.name, "abort");
        }
    }

    fn step(&mut self, metrics: &Metrics) {
        let begun = Instant::now();
        let events = match self.engine.step() {
            Ok(events) => events,
            Err(error) => {
                // Every request has failed, which the events of the next step say.
                tracing::error!("a pass failed: {error}");
                return;
            }
        };
        let now = Instant::now();
        for (id, job) in self.running.iter_mut().filter(|(_, job)| job.clock.started.is_none()) {
            if !self.engine.is_waiting(*id) {
                job.clock.started = Some(begun);
                metrics.took(self.name, Measure::Queue, begun - job.clock.arrived);
                metrics.begun(self.name, job.clock.prompt);
            }
        }
        for (id, event) in events {
            let Some(job) = self.running.get_mut(&id) else { continue };
            job.clock.note(&event, now, self.name, metrics);
            match event {
                Event::End(_) | Event::Failed => self.end(id, event, metrics),
                event => job.send(Step::Event(event)),
            }
        }
    }

    /// Sends the last steps of a job.
    fn end(&mut self, id: RequestId, event: Event, metrics: &Metrics) {
        let (Some(job), Some(result)) = (self.running.remove(&id), self.engine.take(id)) else {
            return;
        };
        match result {
            Ok(generated) => {
                metrics.ended(self.name, finish_reason(generated.end));
                metrics.observe(self.name, Measure::GenerationTokens, generated.ids.len() as f64);
                job.clock.stop(self.name, metrics);
                job.send(Step::Event(event));
                job.send(Step::Ended(generated));
            }
            Err(error) => {
                metrics.ended(self.name, "error");
                job.send(Step::Failed(error));
            }
        }
    }
}

impl Running {
    fn send(&self, step: Step) {
        // A closed channel belongs to a client that is gone, which the next sweep sees.
        let _ = self.steps.send((self.index, step));
    }
}

impl Clock {
    /// Measures what `event` ends.
    fn note(&mut self, event: &Event, now: Instant, model: &str, metrics: &Metrics) {
        if let Event::ImageProgress { done: 1, .. } = event {
            self.image = now;
        }
        match event {
            Event::Image(_) => metrics.took(model, Measure::Image, now - self.image),
            Event::Text(_) | Event::ImageProgress { .. } if self.first.is_none() => {
                (self.first, self.last) = (Some(now), now);
                metrics.took(model, Measure::FirstToken, now - self.arrived);
                metrics.took(model, Measure::Prefill, now - self.started.unwrap_or(now));
            }
            // Several tokens of one pass come at once.
            Event::Text(_) | Event::ImageProgress { .. } if now > self.last => {
                metrics.took(model, Measure::InterToken, now - self.last);
                self.last = now;
            }
            _ => {}
        }
    }

    /// Measures a whole answer.
    fn stop(&self, model: &str, metrics: &Metrics) {
        metrics.took(model, Measure::Whole, self.arrived.elapsed());
        if let (Some(started), Some(first)) = (self.started, self.first) {
            metrics.took(model, Measure::Inference, started.elapsed());
            metrics.took(model, Measure::Decode, first.elapsed());
        }
    }
}

/// OpenAI's name for why an answer ended.
pub(super) fn finish_reason(end: EndReason) -> &'static str {
    match end {
        EndReason::Stop(_)
        | EndReason::StopString(_)
        | EndReason::Constraint
        | EndReason::ImageComplete => "stop",
        EndReason::MaxNewTokens | EndReason::Context => "length",
        EndReason::Cancelled => "abort",
    }
}
