//! The work of one HTTP request: what is computed for it, on a thread that may block.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::spawn_blocking;

use super::config::NamedPipeline;
use super::fault::Fault;
use super::state::State;
use super::worker::{Job, Step};
use crate::generate::{Event, Generated, Request};
use crate::pipeline::Pipeline;

/// Places for the answers of one request, before its prompt is known.
pub(super) struct Work {
    state: Arc<State>,
    model: usize,
    places: Vec<OwnedSemaphorePermit>,
    arrived: Instant,
    cancelled: Arc<AtomicBool>,
}

/// What a request's thread sends to the client's side. Dropping it ends the jobs.
pub(super) struct Parts<T> {
    received: UnboundedReceiver<Result<T, Fault>>,
    cancelled: Arc<AtomicBool>,
}

impl<T> Parts<T> {
    /// The next part; `None` after the last.
    pub(super) async fn next(&mut self) -> Option<Result<T, Fault>> {
        self.received.recv().await
    }
}

impl<T> Drop for Parts<T> {
    fn drop(&mut self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }
}

/// Where a thread sends its parts.
pub(super) type Sender<T> = UnboundedSender<Result<T, Fault>>;

impl Work {
    /// Takes `count` places of the server for the model with the number `model`.
    ///
    /// # Errors
    /// If the server is full, or ends.
    pub(super) fn new(state: &Arc<State>, model: usize, count: usize) -> Result<Self, Fault> {
        if state.ends() {
            return Err(Fault::unavailable("the server is ending"));
        }
        let place = |_| state.places.clone().try_acquire_owned().map_err(|_| Fault::full());
        let places = (0..count).map(place).collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            state: state.clone(),
            model,
            places,
            arrived: Instant::now(),
            cancelled: Arc::default(),
        })
    }

    pub(super) fn model(&self) -> &NamedPipeline {
        self.state.opened(self.model)
    }

    /// The number of the model.
    pub(super) fn number(&self) -> usize {
        self.model
    }

    pub(super) fn pipeline(&self) -> &Pipeline {
        &self.model().pipeline
    }

    pub(super) fn state(&self) -> &State {
        &self.state
    }

    /// The state, independent of this.
    pub(super) fn shared(&self) -> Arc<State> {
        self.state.clone()
    }

    /// Runs `run` on a thread that may block.
    pub(super) fn start<T: Send + 'static>(
        self,
        run: impl FnOnce(Self, &Sender<T>) -> Result<(), Fault> + Send + 'static,
    ) -> Parts<T> {
        let (send, received) = unbounded_channel();
        let cancelled = self.cancelled.clone();
        spawn_blocking(move || {
            if let Err(fault) = run(self, &send) {
                // The client may be gone.
                let _ = send.send(Err(fault));
            }
        });
        Parts { received, cancelled }
    }

    /// Runs `requests`, one for each place, to their ends; `on_event` gets the number of the request with each event.
    ///
    /// # Errors
    /// If a request is refused, fails or takes too long, or with the error of `on_event`; then none goes on.
    pub(super) fn run(
        &mut self,
        requests: Vec<Request>,
        mut on_event: impl FnMut(usize, Event) -> Result<(), Fault>,
    ) -> Result<Vec<Generated>, Fault> {
        let count = requests.len();
        let (steps, mut received) = unbounded_channel();
        let deadline = self.arrived + self.state.config.limits.answer_time;
        let places = std::mem::take(&mut self.places);
        for ((index, request), place) in requests.into_iter().enumerate().zip(places) {
            let job = Job {
                model: self.model,
                request,
                index,
                steps: steps.clone(),
                cancelled: self.cancelled.clone(),
                deadline,
                arrived: self.arrived,
                place,
            };
            self.state.jobs.send(job).map_err(|_| Fault::internal())?;
        }
        drop(steps);
        let mut ended: Vec<Option<Generated>> = (0..count).map(|_| None).collect();
        // The worker drops a job that was cancelled, and with the last one its sender.
        while let Some((index, step)) = received.blocking_recv() {
            match step {
                Step::Event(event) => on_event(index, event)?,
                Step::Ended(generated) => ended[index] = Some(generated),
                Step::Refused(error) => return Err(error.into()),
                Step::Failed(error) => {
                    tracing::error!("a request failed: {error}");
                    return Err(Fault::internal());
                }
                Step::Late => return Err(Fault::late()),
            }
        }
        ended.into_iter().collect::<Option<Vec<_>>>().ok_or_else(Fault::internal)
    }
}

/// Sends a part to the client's side.
///
/// # Errors
/// If the client is gone; the fault has no reader then.
pub(super) fn send<T>(to: &Sender<T>, part: T) -> Result<(), Fault> {
    to.send(Ok(part)).map_err(|_| Fault::internal())
}
