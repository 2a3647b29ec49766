//! Batches made ahead, on a thread of their own, so that the device never waits for data.
//!
//! The order does not depend on the thread: batches come as the stream gives them, each with the state of
//! the stream behind it, which is what a checkpoint keeps.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::objective::NextTokenBatch;
use crate::data::{DocumentStream, StreamState};
use crate::error::{Error, Result};

/// Batches that are ready before they are asked for.
const AHEAD: usize = 4;

type Loaded = Result<(NextTokenBatch, StreamState)>;

/// A [`DocumentStream`] on its own thread.
#[derive(Debug)]
pub struct Loader {
    labels: Vec<String>,
    /// Where the stream stood after the last batch that was taken.
    state: StreamState,
    waited: Duration,
    worker: Option<Worker>,
}

#[derive(Debug)]
struct Worker {
    batches: Receiver<Loaded>,
    thread: JoinHandle<DocumentStream>,
}

impl Loader {
    /// Starts making batches.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the system refuses a thread.
    pub fn new(stream: DocumentStream) -> Result<Self> {
        let (labels, state) = (stream.labels().to_vec(), stream.state());
        let worker = Some(Worker::start(stream)?);
        Ok(Self { labels, state, waited: Duration::ZERO, worker })
    }

    /// The next batch.
    ///
    /// # Errors
    /// Those of the data; none comes after one.
    pub fn next_batch(&mut self) -> Result<NextTokenBatch> {
        let begun = Instant::now();
        let ended = || Error::invalid("no batch comes after an error of the data".to_owned());
        let worker = self.worker.as_ref().ok_or_else(ended)?;
        let (batch, state) = worker.batches.recv().map_err(|_| ended())??;
        self.waited += begun.elapsed();
        self.state = state;
        Ok(batch)
    }

    /// Names of the origins of documents, by the numbers that batches hold.
    pub fn labels(&self) -> &[String] {
        &self.labels
    }

    /// Where the stream stands for one who has seen the batches taken so far.
    pub fn state(&self) -> &StreamState {
        &self.state
    }

    /// Goes on from `state`, leaving out the next `skip` batches.
    ///
    /// # Errors
    /// When the data or the batch shape have changed since; those of the data.
    pub fn restore(&mut self, state: &StreamState, skip: u64) -> Result<()> {
        let stopped = || Error::invalid("the thread that makes batches has failed".to_owned());
        let Worker { batches, thread } = self.worker.take().ok_or_else(stopped)?;
        drop(batches); // the thread ends when nobody listens
        let mut stream = thread.join().map_err(|_| stopped())?;
        stream.restore(state)?;
        stream.skip(skip)?;
        self.state = stream.state();
        self.worker = Some(Worker::start(stream)?);
        Ok(())
    }

    /// How long batches were waited for since this was last asked.
    pub fn take_waited(&mut self) -> Duration {
        std::mem::take(&mut self.waited)
    }
}

impl Worker {
    fn start(stream: DocumentStream) -> Result<Self> {
        let (sender, batches) = sync_channel(AHEAD);
        let thread = std::thread::Builder::new()
            .name("batches".to_owned())
            .spawn(move || work(stream, &sender))
            .map_err(|e| Error::invalid(format!("no thread for making batches: {e}")))?;
        Ok(Self { batches, thread })
    }
}

/// Makes batches until nobody wants them or one fails.
fn work(mut stream: DocumentStream, sender: &SyncSender<Loaded>) -> DocumentStream {
    loop {
        let batch = stream.next_batch().map(|batch| (batch, stream.state()));
        let failed = batch.is_err();
        if sender.send(batch).is_err() || failed {
            return stream;
        }
    }
}
