//! Listening on this node's own addresses, where peers come in: sockets of the machine, or ports of the stack in this
//! process.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use sw_netstack::BoxedStream;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::userspace::Network;

/// An accept that fails (no more descriptors) is tried again a little later.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// One connection: where it comes from, and which of our addresses it came to.
pub(crate) struct Arrival {
    pub(crate) stream: BoxedStream,
    pub(crate) peer: SocketAddr,
    pub(crate) own: SocketAddr,
}

/// Answers connections to `at` until `stop`, each on a task of its own; `slots` are how many at once, others wait. With
/// a `network` every address of the node shares the port. Returns where it listens.
///
/// # Errors
/// The port is taken, or the address is not ours.
pub(crate) fn listen<F, A>(
    network: Option<&Network>,
    at: SocketAddr,
    (slots, stop): (Arc<Semaphore>, &CancellationToken),
    answer: F,
) -> io::Result<SocketAddr>
where
    F: Fn(Arrival) -> A + Send + 'static,
    A: Future<Output = ()> + Send + 'static,
{
    if let Some(network) = network {
        let mut listener = network.listen(at.port()).map_err(io::Error::other)?;
        tokio::spawn(stop.clone().run_until_cancelled_owned(async move {
            while let Some(stream) = listener.accept().await {
                if let (Some(peer), Some(own)) = (stream.peer_addr(), stream.local_addr()) {
                    spawn(&slots, answer(Arrival { stream: Box::new(stream), peer, own })).await;
                }
            }
        }));
        return Ok(at);
    }
    let listener = std::net::TcpListener::bind(at)?;
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let own = listener.local_addr()?;
    tokio::spawn(stop.clone().run_until_cancelled_owned(async move {
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => {
                    spawn(&slots, answer(Arrival { stream: Box::new(stream), peer, own })).await;
                }
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            }
        }
    }));
    Ok(own)
}

/// Runs an answer as soon as there is room.
async fn spawn(slots: &Arc<Semaphore>, answer: impl Future<Output = ()> + Send + 'static) {
    let Ok(slot) = Arc::clone(slots).acquire_owned().await else { return };
    tokio::spawn(async move {
        answer.await;
        drop(slot);
    });
}
