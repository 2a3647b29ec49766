//! Connections: accepted, limited, and drained at the end.

use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::timeout;

use super::config::{NamedPipeline, ServerConfig};
use super::metrics::Metrics;
use super::remote::Fetcher;
use super::state::State;
use super::{routes, worker};
use crate::error::{Error, Result};

/// Connections at the same time; more wait to be accepted.
const CONNECTIONS: usize = 1024;

/// Headers of a request.
const MAX_HEADERS: usize = 64;

/// Bytes of a request's line and headers; up to twice as many may be read before they are refused.
const MAX_BUFFER: usize = 32 << 10;

/// Time for threads to notice that they are to end.
const LAST_MOMENT: Duration = Duration::from_secs(1);

/// A server whose address is taken and that has not begun to answer.
#[derive(Debug)]
pub struct Server {
    config: ServerConfig,
    fetcher: Option<Fetcher>,
    listener: std::net::TcpListener,
    address: SocketAddr,
}

impl Server {
    /// Takes the address.
    ///
    /// # Errors
    /// If the address is in use, or other machines could ask without a key; if images are to be fetched and this build
    /// cannot.
    pub fn bind(config: ServerConfig) -> Result<Self> {
        config.validate()?;
        let hosts = Some(config.image_hosts.clone()).filter(|hosts| !hosts.is_empty());
        let fetcher = hosts.map(Fetcher::new).transpose()?;
        let place = config.address.to_string();
        let failed = || Error::io(Path::new(&place));
        let listener = std::net::TcpListener::bind(config.address).map_err(failed())?;
        listener.set_nonblocking(true).map_err(failed())?;
        let address = listener.local_addr().map_err(failed())?;
        Ok(Self { config, fetcher, listener, address })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `ends` is ready, then finishes what runs. Requests for models get status 503 until `open`, which runs on
    /// a thread of its own, has opened them.
    ///
    /// # Errors
    /// Those of `open`; if there is no model or two have one name; if a limit is out of range.
    pub fn run(
        self,
        open: impl FnOnce() -> Result<Vec<NamedPipeline>> + Send,
        ends: impl Future<Output = ()> + Send,
    ) -> Result<()> {
        let place = self.address.to_string();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("http")
            .enable_all()
            .build()
            .map_err(Error::io(Path::new(&place)))?;
        let Self { config, fetcher, listener, .. } = self;
        let metrics = Arc::new(Metrics::new());
        let (jobs, received) = mpsc::unbounded_channel();
        let jobs_of_state = jobs.downgrade();
        let state = State::new(config.clone(), fetcher, metrics.clone(), jobs_of_state);
        let state = Arc::new(state);
        let (failed, has_failed) = oneshot::channel::<()>();
        thread::scope(|scope| {
            let models = state.models.clone();
            let engine = config.engine.clone();
            let worker = scope.spawn(move || {
                let ran = open().and_then(checked).and_then(|opened| {
                    worker::run(models.get_or_init(|| opened), &engine, received, &metrics)
                });
                // Ends the server, if it has not ended.
                drop(failed);
                ran
            });
            let served = runtime.block_on(serve(listener, state, async {
                tokio::select! {
                    () = ends => {}
                    _ = has_failed => {}
                }
            }));
            // What was not answered in time ends now.
            runtime.shutdown_timeout(LAST_MOMENT);
            drop(jobs);
            served.map_err(Error::io(Path::new(&place)))?;
            worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

/// `models`, if requests can choose among them.
fn checked(models: Vec<NamedPipeline>) -> Result<Vec<NamedPipeline>> {
    let names: Vec<&str> = models.iter().map(|model| model.name.as_str()).collect();
    if names.is_empty() {
        return Err(Error::invalid("there is no model to serve"));
    }
    match (1..names.len()).find(|&at| names[..at].contains(&names[at])) {
        Some(at) => Err(Error::invalid(format!("two models are called {:?}", names[at]))),
        None => Ok(models),
    }
}

/// Ready when the process is told to end: by SIGTERM, or from the keyboard. The next time ends it at once.
pub async fn ended_by_signal() {
    signal().await;
    // Outlives the server's own runtime, as long as a model is still being opened.
    thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        if let Ok(runtime) = runtime {
            runtime.block_on(signal());
            std::process::exit(ENDED_AT_ONCE);
        }
    });
}

/// The exit code after SIGTERM.
const ENDED_AT_ONCE: i32 = 143;

async fn signal() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminated) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = terminated.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
            }
            return;
        }
    }
    // Without a handler the signal itself ends the process.
    let _ = tokio::signal::ctrl_c().await;
}

/// Accepts connections until `ends`, then waits for those in progress, for a limited time.
async fn serve(
    listener: std::net::TcpListener,
    state: Arc<State>,
    ends: impl Future<Output = ()>,
) -> std::io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let routes = routes::all(state.clone());
    let (connections, graceful) = (Arc::new(Semaphore::new(CONNECTIONS)), GracefulShutdown::new());
    let mut ends = pin!(ends);
    loop {
        let place = tokio::select! {
            place = connections.clone().acquire_owned() => place,
            () = &mut ends => break,
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut ends => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            // Of the connection, or too many open files: the next one may do.
            Err(error) => {
                tracing::warn!("a connection failed: {error}");
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        let _ = stream.set_nodelay(true);
        let connection = connection(&state, routes.clone(), stream);
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!("a connection ended: {error}");
            }
            drop(place);
        });
    }
    state.end();
    drop(listener);
    if timeout(state.config.limits.drain_time, graceful.shutdown()).await.is_err() {
        tracing::warn!("some answers had not ended in time and were cut off");
    }
    Ok(())
}

type Connection = http1::Connection<TokioIo<tokio::net::TcpStream>, TowerToHyperService<Router>>;

fn connection(state: &State, routes: Router, stream: tokio::net::TcpStream) -> Connection {
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(state.config.limits.header_time)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_BUFFER)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes))
}
