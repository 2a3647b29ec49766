//! What all connections share.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::Semaphore;
use tokio::sync::mpsc::WeakUnboundedSender;

use super::config::{NamedPipeline, ServerConfig};
use super::fault::Fault;
use super::metrics::Metrics;
use super::remote::Fetcher;
use super::worker::Job;

/// What all connections share.
pub(super) struct State {
    pub(super) config: ServerConfig,
    /// Empty until they are opened.
    pub(super) models: Arc<OnceLock<Vec<NamedPipeline>>>,
    pub(super) metrics: Arc<Metrics>,
    /// If images may be fetched.
    pub(super) fetcher: Option<Fetcher>,
    /// Free places for answers.
    pub(super) places: Arc<Semaphore>,
    /// KiB that bodies may still take.
    pub(super) bodies: Arc<Semaphore>,
    /// Held by the request that computes outside the engines: images, prompts and choices among candidates.
    pub(super) turn: Mutex<()>,
    /// Weak, so that the worker ends when the server does, whatever requests still hold.
    pub(super) jobs: WeakUnboundedSender<Job>,
    /// Seconds since 1970.
    pub(super) started: u64,
    ends: AtomicBool,
}

impl State {
    pub(super) fn new(
        config: ServerConfig,
        fetcher: Option<Fetcher>,
        metrics: Arc<Metrics>,
        jobs: WeakUnboundedSender<Job>,
    ) -> Self {
        let places = Arc::new(Semaphore::new(config.limits.queue));
        let bodies = config.limits.bodies.max(config.limits.body);
        let bodies = Arc::new(Semaphore::new(bodies.div_ceil(1024)));
        Self {
            config,
            models: Arc::default(),
            metrics,
            fetcher,
            places,
            bodies,
            turn: Mutex::default(),
            jobs,
            started: now(),
            ends: AtomicBool::new(false),
        }
    }

    /// The served models.
    ///
    /// # Errors
    /// If they are not opened yet.
    pub(super) fn models(&self) -> Result<&[NamedPipeline], Fault> {
        let opened = self.models.get().ok_or_else(|| Fault::unavailable("the model is loading"))?;
        Ok(opened)
    }

    /// The number of the model called `name`; of the first without a name.
    ///
    /// # Errors
    /// If there is none of this name, or they are not opened yet.
    pub(super) fn model(&self, name: Option<&str>) -> Result<usize, Fault> {
        let models = self.models()?;
        let Some(name) = name else { return Ok(0) };
        models.iter().position(|model| model.name == name).ok_or_else(|| {
            let known: Vec<&str> = models.iter().map(|model| model.name.as_str()).collect();
            Fault::no_model(name, &known)
        })
    }

    /// The model with a number that [`model`](Self::model) has returned.
    pub(super) fn opened(&self, number: usize) -> &NamedPipeline {
        &self.models.get().expect("numbers are given after the models are opened")[number]
    }

    /// Takes no new work from now on.
    pub(super) fn end(&self) {
        self.ends.store(true, Ordering::Relaxed);
    }

    pub(super) fn ends(&self) -> bool {
        self.ends.load(Ordering::Relaxed)
    }
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}
