//! Connections: accepted, bounded, and closed in an orderly way.

use crate::metrics::Metrics;
use crate::routes::{Shared, now, router};
use crate::{HEAD_TIME, Limits, Served, engine};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::channel;
use std::time::Duration;
use tokio::sync::Semaphore;

/// Threads that read and write; the model has its own.
const WORKERS: usize = 2;
/// Between two looks at whether to stop.
const GLANCE: Duration = Duration::from_millis(50);
/// What tasks are given to go away when no request is left.
const GRACE: Duration = Duration::from_secs(2);
/// Bytes of the head of a request.
const HEAD: usize = 64 << 10;

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Others could use it.
    #[error("{0} can be reached from elsewhere, so a token is needed: --token-file FILE, or MOEPRESS_TOKEN")]
    Open(SocketAddr),
    /// The address is not to be had.
    #[error("cannot listen on {0}: {1}")]
    Listen(SocketAddr, io::Error),
    /// The system does not play along.
    #[error("cannot start the server: {0}")]
    Start(io::Error),
}

/// A server that listens and does not answer yet.
pub struct Server {
    listener: TcpListener,
    token: Option<String>,
    limits: Limits,
}

impl Server {
    /// Listens on an address; one that others can reach takes a token.
    ///
    /// # Errors
    /// There is no token, or the address is in use.
    pub fn listen(address: SocketAddr, token: Option<String>, limits: Limits) -> Result<Self, ServeError> {
        if !address.ip().is_loopback() && token.is_none() {
            return Err(ServeError::Open(address));
        }
        let listening = |error| ServeError::Listen(address, error);
        let listener = TcpListener::bind(address).map_err(listening)?;
        listener.set_nonblocking(true).map_err(listening)?;
        Ok(Self { listener, token, limits })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The system does not tell.
    pub fn address(&self) -> Result<SocketAddr, ServeError> {
        self.listener.local_addr().map_err(ServeError::Start)
    }

    /// Answers until `stop` says so, then takes no more connections and completes the answers under way.
    ///
    /// # Errors
    /// The system does not play along.
    pub fn run(self, served: Served, stop: &dyn Fn() -> bool) -> Result<(), ServeError> {
        let (jobs, queue) = channel();
        let (served, metrics) = (Arc::new(served), Arc::new(Metrics::default()));
        let shared = Arc::new(Shared {
            served: served.clone(),
            limits: self.limits.clone(),
            metrics: metrics.clone(),
            taken: Arc::default(),
            jobs,
            token: self.token,
            started: now(),
            numbers: AtomicU64::new(0),
        });
        let limits = self.limits.clone();
        let model = std::thread::Builder::new()
            .name("model".to_owned())
            .spawn(move || engine::run(&served, &queue, &limits, &metrics))
            .map_err(ServeError::Start)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(WORKERS)
            .enable_all()
            .build()
            .map_err(ServeError::Start)?;
        let result = runtime.block_on(accept(self.listener, shared, &self.limits, stop));
        // Ends what is left of the tasks, so that the engine sees that nobody waits.
        runtime.shutdown_timeout(GRACE);
        // A panic there has been reported where it happened.
        let _ = model.join();
        result
    }
}

async fn accept(
    listener: TcpListener,
    shared: Arc<Shared>,
    limits: &Limits,
    stop: &dyn Fn() -> bool,
) -> Result<(), ServeError> {
    let listener = tokio::net::TcpListener::from_std(listener).map_err(ServeError::Start)?;
    let service = router(shared);
    let open = Arc::new(Semaphore::new(limits.connections));
    let graceful = GracefulShutdown::new();
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME).max_buf_size(HEAD).half_close(false);
    while !stop() {
        let Ok(Ok(permit)) = tokio::time::timeout(GLANCE, open.clone().acquire_owned()).await else {
            continue;
        };
        let stream = match tokio::time::timeout(GLANCE, listener.accept()).await {
            Ok(Ok((stream, _))) => stream,
            // Too many open files, say: what is open now will be closed.
            Ok(Err(_)) => {
                tokio::time::sleep(GLANCE).await;
                continue;
            }
            Err(_) => continue,
        };
        let service = TowerToHyperService::new(service.clone());
        let connection = graceful.watch(http.serve_connection(TokioIo::new(stream), service));
        tokio::spawn(async move {
            // Whatever ends a connection is its client's affair.
            let _ = connection.await;
            drop(permit);
        });
    }
    drop(listener);
    // Every request has its deadline; a reader that does not read is cut off then.
    let _ = tokio::time::timeout(limits.deadline, graceful.shutdown()).await;
    Ok(())
}
