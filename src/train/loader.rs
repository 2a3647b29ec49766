//! Prefetches batches on a thread, so that the device does not wait for data.
//!
//! The order does not depend on the thread: batches arrive in the order of the stream, each with the state of
//! the stream after it, which is what a checkpoint keeps.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::objective::NextTokenBatch;
use crate::data::{DocumentStream, StreamState};
use crate::error::{Error, Result};

/// Minimum number of prefetched batches.
const PREFETCHED: usize = 4;

type Loaded = Result<(NextTokenBatch, StreamState)>;

/// A [`DocumentStream`] that is read on a separate thread.
#[derive(Debug)]
pub struct Loader {
    labels: Vec<String>,
    /// State of the stream after the last batch that was taken.
    state: StreamState,
    waited: Duration,
    /// Maximum number of prefetched batches.
    depth: usize,
    /// Absent after a failed [`restore`](Self::restore).
    worker: Option<Worker>,
}

#[derive(Debug)]
struct Worker {
    batches: Receiver<Loaded>,
    thread: JoinHandle<DocumentStream>,
}

impl Loader {
    /// Starts prefetching; `per_step` is the number of batches that a step takes at once.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the system refuses a thread.
    pub fn new(stream: DocumentStream, per_step: usize) -> Result<Self> {
        let (labels, state) = (stream.labels().to_vec(), stream.state());
        let depth = per_step.max(PREFETCHED);
        let worker = Some(Worker::start(stream, depth)?);
        Ok(Self { labels, state, waited: Duration::ZERO, depth, worker })
    }

    /// The next batch.
    ///
    /// # Errors
    /// Those of the data; after one there are no more batches.
    pub fn next_batch(&mut self) -> Result<NextTokenBatch> {
        let begun = Instant::now();
        let ended = || Error::invalid("there are no batches after an error of the data");
        let worker = self.worker.as_ref().ok_or_else(ended)?;
        let (batch, state) = worker.batches.recv().map_err(|_| ended())??;
        self.waited += begun.elapsed();
        self.state = state;
        Ok(batch)
    }

    /// Names of the sources, by the numbers that batches hold.
    pub fn labels(&self) -> &[String] {
        &self.labels
    }

    /// State of the stream after the batches taken so far.
    pub fn state(&self) -> &StreamState {
        &self.state
    }

    /// Continues from `state`, skipping the next `skip` batches.
    ///
    /// # Errors
    /// If the data or the batch shape have changed since; those of the data.
    pub fn restore(&mut self, state: &StreamState, skip: u64) -> Result<()> {
        let stopped = || Error::invalid("the thread that makes batches has failed");
        let Worker { batches, thread } = self.worker.take().ok_or_else(stopped)?;
        drop(batches); // the thread ends once its channel is closed
        let mut stream = thread.join().map_err(|_| stopped())?;
        stream.restore(state)?;
        stream.skip(skip)?;
        self.state = stream.state();
        self.worker = Some(Worker::start(stream, self.depth)?);
        Ok(())
    }

    /// Time spent waiting for batches since the last call.
    pub fn take_waited(&mut self) -> Duration {
        std::mem::take(&mut self.waited)
    }
}

impl Worker {
    fn start(stream: DocumentStream, depth: usize) -> Result<Self> {
        let (sender, batches) = sync_channel(depth);
        let thread = std::thread::Builder::new()
            .name("batches".to_owned())
            .spawn(move || work(stream, &sender))
            .map_err(Error::because("cannot start the thread that makes batches"))?;
        Ok(Self { batches, thread })
    }
}

/// Makes batches until the channel is closed or one fails.
fn work(mut stream: DocumentStream, sender: &SyncSender<Loaded>) -> DocumentStream {
    loop {
        let batch = stream.next_batch().map(|batch| (batch, stream.state()));
        let failed = batch.is_err();
        if sender.send(batch).is_err() || failed {
            return stream;
        }
    }
}
