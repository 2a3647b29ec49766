//! The work of one HTTP request: what is computed for it, on a thread that may block.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::spawn_blocking;

use super::config::NamedPipeline;
use super::fault::Fault;
use super::metrics::Measure;
use super::state::State;
use super::worker::{Job, Step};
use crate::generate::{Event, Generated, Request};
use crate::pipeline::Pipeline;

/// A request that the server has taken: places for its answers until all is done.
pub(super) struct Work {
    state: Arc<State>,
    model: usize,
    arrived: Instant,
    cancelled: Arc<AtomicBool>,
    _places: OwnedSemaphorePermit,
}

/// A part, or `None` when the thread has done all.
type Sent<T> = Option<Result<T, Fault>>;

/// What a request's thread sends to the client's side. Dropping it ends the jobs.
pub(super) struct Parts<T> {
    received: UnboundedReceiver<Sent<T>>,
    cancelled: Arc<AtomicBool>,
}

impl<T> Parts<T> {
    /// The next part; `None` after the last.
    pub(super) async fn next(&mut self) -> Option<Result<T, Fault>> {
        match self.received.recv().await {
            Some(sent) => sent,
            // The thread panicked.
            None => Some(Err(Fault::internal())),
        }
    }
}

impl<T> Drop for Parts<T> {
    fn drop(&mut self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }
}

/// Where a thread sends its parts.
pub(super) struct Sender<T>(UnboundedSender<Sent<T>>);

impl<T> Sender<T> {
    /// Sends a part to the client's side.
    ///
    /// # Errors
    /// If the client is gone; the fault has no reader then.
    pub(super) fn send(&self, part: T) -> Result<(), Fault> {
        self.0.send(Some(Ok(part))).map_err(|_| Fault::internal())
    }
}

impl Work {
    /// Takes `count` places of the server for the model with the number `model`.
    ///
    /// # Errors
    /// If the server is full or ends, or never has so many places.
    pub(super) fn new(state: &Arc<State>, model: usize, count: usize) -> Result<Self, Fault> {
        if state.ends() {
            return Err(Fault::unavailable("the server is ending"));
        }
        let most = state.config.limits.queue;
        if count > most {
            return Err(Fault::of(
                "n",
                format!("{count} answers or candidates at once; allowed: {most} in all"),
            ));
        }
        let number = u32::try_from(count).unwrap_or(u32::MAX);
        let places = state.places.clone().try_acquire_many_owned(number);
        Ok(Self {
            state: state.clone(),
            model,
            arrived: Instant::now(),
            cancelled: Arc::default(),
            _places: places.map_err(|_| Fault::full())?,
        })
    }

    pub(super) fn model(&self) -> &NamedPipeline {
        self.state.opened(self.model)
    }

    pub(super) fn pipeline(&self) -> &Pipeline {
        &self.model().pipeline
    }

    pub(super) fn state(&self) -> &State {
        &self.state
    }

    /// One more `value` of `measure`.
    pub(super) fn observe(&self, measure: Measure, value: usize) {
        self.state.metrics.observe(&self.model().name, measure, value as f64);
    }

    /// Decodes an image by `decode`, in turn.
    ///
    /// # Errors
    /// As [`in_turn`](Self::in_turn).
    pub(super) fn decode<T>(&self, decode: impl FnOnce() -> Result<T, Fault>) -> Result<T, Fault> {
        self.in_turn(|| {
            let begun = Instant::now();
            let decoded = decode()?;
            let metrics = &self.state.metrics;
            metrics.took(&self.model().name, Measure::ImageDecoding, begun.elapsed());
            Ok(decoded)
        })
    }

    /// Runs `run` on a thread that may block.
    pub(super) fn start<T: Send + 'static>(
        self,
        run: impl FnOnce(&Self, &Sender<T>) -> Result<(), Fault> + Send + 'static,
    ) -> Parts<T> {
        let (send, received) = unbounded_channel();
        let (cancelled, span) = (self.cancelled.clone(), tracing::Span::current());
        spawn_blocking(move || {
            let sender = Sender(send);
            let last = span.in_scope(|| run(&self, &sender)).err().map(Err);
            drop(self);
            // The client may be gone.
            let _ = sender.0.send(last);
        });
        Parts { received, cancelled }
    }

    /// Runs what computes outside the engines; one request after the other does, so that memory and engines suffice.
    ///
    /// # Errors
    /// If the client is gone or the answer is late, or with the error of `run`.
    pub(super) fn in_turn<T>(&self, run: impl FnOnce() -> Result<T, Fault>) -> Result<T, Fault> {
        let _turn = self.state.turn.lock().unwrap_or_else(PoisonError::into_inner);
        self.go_on()?;
        run()
    }

    /// # Errors
    /// If the client is gone, or the answer is late.
    pub(super) fn go_on(&self) -> Result<(), Fault> {
        if self.cancelled.load(Ordering::Relaxed) {
            return Err(Fault::internal());
        }
        if Instant::now() >= self.deadline() { Err(Fault::late()) } else { Ok(()) }
    }

    fn deadline(&self) -> Instant {
        self.arrived + self.state.config.limits.answer_time
    }

    /// Runs `requests` to their ends; `on_event` gets the number of the request with each event.
    ///
    /// # Errors
    /// If a request is refused, fails or takes too long, or with the error of `on_event`; then none goes on.
    pub(super) fn run(
        &self,
        requests: Vec<Request>,
        mut on_event: impl FnMut(usize, Event) -> Result<(), Fault>,
    ) -> Result<Vec<Generated>, Fault> {
        let count = requests.len();
        let (steps, mut received) = unbounded_channel();
        let ending = || Fault::unavailable("the server is ending");
        let jobs = self.state.jobs.upgrade().ok_or_else(ending)?;
        for (index, request) in requests.into_iter().enumerate() {
            let job = Job {
                model: self.model,
                request,
                index,
                steps: steps.clone(),
                cancelled: self.cancelled.clone(),
                deadline: self.deadline(),
                arrived: self.arrived,
            };
            jobs.send(job).map_err(|_| ending())?;
        }
        drop((steps, jobs));
        let mut ended: Vec<Option<Generated>> = (0..count).map(|_| None).collect();
        // The worker drops a job that was cancelled, and with the last one its sender.
        while let Some((index, step)) = received.blocking_recv() {
            match step {
                Step::Event(event) => on_event(index, event)?,
                Step::Ended(generated) => ended[index] = Some(generated),
                Step::Refused(error) => return Err(error.into()),
                Step::Failed(error) => return Err(Fault::failed(error)),
                Step::Late => return Err(Fault::late()),
            }
        }
        ended.into_iter().collect::<Option<Vec<_>>>().ok_or_else(Fault::internal)
    }
}
