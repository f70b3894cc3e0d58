//! Connections: how many, how slow, and how they end.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout, timeout_at};

use super::http::router;
use super::observe::Peer;
use super::service::Service;
use crate::{Error, Result};

/// The answer to a connection too many.
const TOO_MANY: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";

/// How long what waits in the listener's own queue is taken before the listener closes.
const LAST_CALL: Duration = Duration::from_millis(50);

/// Listens on an address; port 0 picks a free one.
///
/// # Errors
/// [`Error::Usage`] where it cannot be had.
pub async fn bind(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|e| Error::Usage(format!("cannot listen on {address}: {e}")))
}

/// Answers requests until `stop`, and then those that have come: what waits in the listener's own queue is taken
/// first, and every connection ends with its answer. Whether that was in time.
pub async fn serve(service: Arc<Service>, listener: TcpListener, stop: impl Future<Output = ()>) -> bool {
    let limits = service.limits().clone();
    let connections = Connections {
        app: router(service.clone()),
        graceful: GracefulShutdown::new(),
        room: Arc::new(Semaphore::new(limits.connections)),
        read_timeout: limits.read_timeout,
    };
    tokio::pin!(stop);
    let mut upkeep = tokio::time::interval(Duration::from_secs(5));
    loop {
        tokio::select! {
            () = &mut stop => break,
            accepted = listener.accept() => connections.accepted(accepted).await,
            _ = upkeep.tick() => service.upkeep(),
        }
    }
    service.drain();
    // No longer than this in all: clients that come again with every answer would keep the service from ending.
    let end = Instant::now() + LAST_CALL;
    while let Ok(accepted) = timeout_at(end, listener.accept()).await {
        connections.accepted(accepted).await;
    }
    drop(listener);
    timeout(limits.drain, connections.graceful.shutdown()).await.is_ok()
}

struct Connections {
    app: Router,
    graceful: GracefulShutdown,
    room: Arc<Semaphore>,
    read_timeout: Duration,
}

impl Connections {
    async fn accepted(&self, accepted: io::Result<(TcpStream, SocketAddr)>) {
        let (mut stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // As where there are too many open files: later there may be fewer.
                tracing::warn!(%error, "a connection was not accepted");
                tokio::time::sleep(Duration::from_millis(20)).await;
                return;
            }
        };
        let Ok(room) = self.room.clone().try_acquire_owned() else {
            // What does not fit into the socket at once is not worth waiting for.
            tokio::spawn(async move { timeout(Duration::from_secs(1), stream.write_all(TOO_MANY)).await });
            return;
        };
        // An answer is one small write, which should not wait for the client's acknowledgement.
        let _ = stream.set_nodelay(true);
        let app = self.app.clone().layer(Extension(Peer(peer.ip())));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.read_timeout)
            .half_close(true)
            .max_buf_size(64 << 10)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(app));
        let connection = self.graceful.watch(connection);
        tokio::spawn(async move {
            // What a client did wrong with its connection is its own affair.
            let _ = connection.await;
            drop(room);
        });
    }
}
