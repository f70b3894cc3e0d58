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
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_io_timeout::TimeoutStream;

use super::body::{LITTLE, SHORT};
use super::compute::Computing;
use super::http::router;
use super::observe::Peer;
use super::service::Service;
use crate::{Error, Result};

/// The answer to a connection too many.
const TOO_MANY: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";

/// How long what waits in the listener's own queue is taken before the listener closes.
const LAST_CALL: Duration = Duration::from_millis(50);

/// Connections too many that may be sending while they are told so.
const TURNED_AWAY: usize = 64;

/// Listens on an address; port 0 picks a free one.
///
/// # Errors
/// [`Error::Usage`] where it cannot be had.
pub async fn bind(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|e| Error::Usage(format!("cannot listen on {address}: {e}")))
}

/// Answers requests until `stop`, or until nothing can be computed any more, and then those that have come: what
/// waits in the listener's own queue is taken first, and every connection ends with its answer.
///
/// # Errors
/// [`Error::Device`] where computing failed; [`Error::Interrupted`] where clients or a batch took longer than
/// [`Limits::drain`](super::Limits::drain).
pub async fn serve(
    service: Arc<Service>,
    mut computing: Computing,
    listener: TcpListener,
    stop: impl Future<Output = ()>,
) -> Result<()> {
    let limits = service.limits().clone();
    let connections = Connections {
        app: router(service.clone()),
        graceful: GracefulShutdown::new(),
        room: Arc::new(Semaphore::new(limits.connections)),
        turned_away: Arc::new(Semaphore::new(TURNED_AWAY)),
        patience: limits.read_timeout,
    };
    tokio::pin!(stop);
    let mut upkeep = tokio::time::interval(Duration::from_secs(5));
    let ended = loop {
        tokio::select! {
            () = &mut stop => break None,
            ended = computing.ended() => break Some(ended),
            accepted = listener.accept() => connections.accepted(accepted).await,
            _ = upkeep.tick() => service.upkeep(),
        }
    };
    service.drain();
    let end = Instant::now() + limits.drain;
    // No longer than this in all: clients that come again with every answer would keep the service from ending. The
    // clock is asked, too: where somebody waits already, a time limit does not come into play.
    let last_call = Instant::now() + LAST_CALL;
    while Instant::now() < last_call
        && let Ok(accepted) = timeout_at(last_call, listener.accept()).await
    {
        connections.accepted(accepted).await;
    }
    drop(listener);
    let in_time = timeout_at(end, connections.graceful.shutdown()).await.is_ok();
    service.close();
    if let Some(ended) = ended {
        return ended;
    }
    if !in_time {
        return Err(Error::Interrupted("some clients did not take their answers in time".into()));
    }
    let late = |_| Error::Interrupted("a batch did not end in time".into());
    timeout_at(end, computing.ended()).await.map_err(late)?
}

struct Connections {
    app: Router,
    graceful: GracefulShutdown,
    room: Arc<Semaphore>,
    turned_away: Arc<Semaphore>,
    /// For every step of a client.
    patience: Duration,
}

impl Connections {
    async fn accepted(&self, accepted: io::Result<(TcpStream, SocketAddr)>) {
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // As where there are too many open files: later there may be fewer.
                tracing::warn!(%error, "a connection was not accepted");
                tokio::time::sleep(Duration::from_millis(20)).await;
                return;
            }
        };
        let Ok(room) = self.room.clone().try_acquire_owned() else {
            if let Ok(place) = self.turned_away.clone().try_acquire_owned() {
                tokio::spawn(async move {
                    turn_away(stream).await;
                    drop(place);
                });
            }
            return;
        };
        // An answer is one small write, which should not wait for the client's acknowledgement.
        let _ = stream.set_nodelay(true);
        // Who takes nothing of an answer for so long gets no more of it.
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(self.patience));
        let app = self.app.clone().layer(Extension(Peer(peer.ip())));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.patience)
            .half_close(true)
            .max_buf_size(64 << 10)
            .serve_connection(TokioIo::new(Box::pin(stream)), TowerToHyperService::new(app));
        let connection = self.graceful.watch(connection);
        tokio::spawn(async move {
            // What a client did wrong with its connection is its own affair.
            let _ = connection.await;
            drop(room);
        });
    }
}

/// Says that there are too many connections, and reads past what the client sends meanwhile: a connection that is
/// closed with something unread may take the answer with it.
async fn turn_away(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let telling = async {
        stream.write_all(TOO_MANY).await?;
        stream.shutdown().await?;
        tokio::io::copy(&mut stream.take(LITTLE as u64), &mut tokio::io::sink()).await
    };
    // It is gone in any case.
    let _ = timeout(SHORT, telling).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_turned_away_may_send_and_reads_why() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (mut client, service) = tokio::io::duplex(256);
            tokio::spawn(turn_away(service));
            // More than is sent at once.
            client.write_all(&[b'x'; 4096]).await.unwrap();
            client.shutdown().await.unwrap();
            let mut told = Vec::new();
            client.read_to_end(&mut told).await.unwrap();
            assert_eq!(told, TOO_MANY);
        });
    }
}
