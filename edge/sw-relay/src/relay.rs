//! The handle of a running relay.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use ::http::{Request, Response};
use hyper::body::Incoming;
use sw_net::front::{Body, BoxFuture, Conn, Router, Stream};
use sw_net::tls::MetaCert;
use sw_proto::derp::ServerFrame;
use sw_relay_core::{LinkId, RegistryStats};
use sw_types::{DerpKey, NodeKey, RelayRegion};
use tokio::net::UdpSocket;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::accept::{self, Asked, random};
use crate::config::{ClientRate, RelayConfig};
use crate::http::{self, BOOTSTRAP_REFRESH, BootstrapNames};
use crate::hub::{Hub, encode};
use crate::{mesh, metrics, stun};

/// How long a client may try to come back after a restart, as it is told.
const RESTART_TRY_FOR: Duration = Duration::from_secs(30);

/// Clients of a restarting relay come back within this time, each at its own moment.
const RESTART_SPREAD_MS: u64 = 1000;

/// A relay; clones are the same one.
#[derive(Clone, Debug)]
pub struct Relay {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    hub: Arc<Hub>,
    names: Arc<BootstrapNames>,
    tasks: TaskTracker,
    stopping: CancellationToken,
    next_link: AtomicU32,
}

/// Sums since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RelayTotals {
    /// Packets that clients sent.
    pub packets_received: u64,
    /// Packets that clients got.
    pub packets_sent: u64,
    /// Bytes that clients got.
    pub bytes_sent: u64,
    /// Logins that failed.
    pub login_failures: u64,
}

impl Relay {
    /// Starts a relay in the present tokio runtime. It listens nowhere: the caller has the listener.
    ///
    /// # Errors
    /// When the random generator fails.
    pub fn new(config: RelayConfig) -> io::Result<Self> {
        let names = config.bootstrap_names.clone();
        let inner = Inner {
            hub: Arc::new(Hub::new(config)),
            names: Arc::default(),
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
            next_link: AtomicU32::new(0),
        };
        let relay = Self { inner: Arc::new(inner) };
        if !names.is_empty() {
            let known = Arc::clone(&relay.inner.names);
            relay.spawn(async move {
                loop {
                    known.refresh(&names).await;
                    tokio::time::sleep(BOOTSTRAP_REFRESH).await;
                }
            });
        }
        Ok(relay)
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stopping = self.inner.stopping.clone();
        self.inner.tasks.spawn(async move {
            stopping.run_until_cancelled_owned(task).await;
        });
    }

    /// The relay's public key.
    #[must_use]
    pub fn key(&self) -> DerpKey {
        self.inner.hub.key()
    }

    /// The certificate that tells the key inside TLS; put it at the end of the chain
    /// ([`sw_net::tls::CertStore::set_meta`]) and renew it within 30 days.
    ///
    /// # Errors
    /// When the random generator fails.
    pub fn meta_cert(&self) -> io::Result<MetaCert> {
        MetaCert::new(self.key()).map_err(io::Error::other)
    }

    /// Whether a request path is the relay's when the listener is shared.
    #[must_use]
    pub fn owns_path(path: &str) -> bool {
        http::is_relay_path(path)
    }

    /// Answers STUN on a socket until [`Self::drain`].
    ///
    /// # Errors
    /// When the random generator fails.
    pub fn serve_stun(&self, socket: UdpSocket) -> io::Result<()> {
        let seed = random::<16>()?;
        self.spawn(stun::serve(Arc::clone(&self.inner.hub), socket, seed));
        Ok(())
    }

    /// Answers STUN for sockets of others, within the same limits.
    ///
    /// # Errors
    /// When the random generator fails.
    pub fn stun_answerer(&self) -> io::Result<stun::Answerer> {
        Ok(stun::Answerer::new(Arc::clone(&self.inner.hub), random::<16>()?))
    }

    /// Keeps a mesh connection to another relay of this region; the mesh key must be set. Plain HTTP is for tests.
    pub fn join_mesh(&self, peer: RelayRegion, plain_http: bool) {
        let link = LinkId(self.inner.next_link.fetch_add(1, Ordering::Relaxed));
        self.spawn(mesh::link(Arc::clone(&self.inner.hub), link, peer, plain_http));
    }

    /// Closes all connections of a key that may no longer come in.
    pub fn kick(&self, key: NodeKey) {
        self.inner.hub.close_key(key);
    }

    /// Changes how fast a client may send; those that are connected take it over with their next frame.
    pub fn set_rate(&self, rate: Option<ClientRate>) {
        self.inner.hub.set_rate(rate);
    }

    /// Gauges.
    #[must_use]
    pub fn stats(&self) -> RegistryStats {
        self.inner.hub.stats()
    }

    /// Sums.
    #[must_use]
    pub fn totals(&self) -> RelayTotals {
        let counters = &self.inner.hub.counters;
        RelayTotals {
            packets_received: counters.packets_received.load(Ordering::Relaxed),
            packets_sent: counters.packets_sent.load(Ordering::Relaxed),
            bytes_sent: counters.bytes_sent.load(Ordering::Relaxed),
            login_failures: counters.login_failures.load(Ordering::Relaxed),
        }
    }

    /// The Prometheus page.
    #[must_use]
    pub fn metrics_text(&self) -> String {
        metrics::text(&self.inner.hub)
    }

    /// As a router of its own.
    #[must_use]
    pub fn router(&self) -> Arc<dyn Router> {
        Arc::new(self.clone())
    }

    /// Answers a request; see [`Self::owns_path`].
    #[must_use]
    pub fn answer(&self, request: Request<Incoming>, conn: &Arc<Conn>) -> Response<Body> {
        http::route(&self.inner.hub, &self.inner.names, request, conn)
    }

    /// Tells all clients that the relay goes, writes what waits for them, and ends within `limit`.
    pub async fn drain(&self, limit: Duration) {
        let hub = &self.inner.hub;
        hub.drain(|| {
            let [a, b] = random::<2>().unwrap_or_default();
            let spread = u64::from(u16::from_be_bytes([a, b])) * RESTART_SPREAD_MS / 65_536;
            let reconnect_in = Duration::from_millis(spread);
            encode(&ServerFrame::Restarting { reconnect_in, try_for: RESTART_TRY_FOR })
        });
        let emptied = async {
            while hub.stats().connections > 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        drop(tokio::time::timeout(limit, emptied).await);
        hub.close_all();
        self.inner.stopping.cancel();
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
    }
}

impl Router for Relay {
    fn route(&self, request: Request<Incoming>, conn: Arc<Conn>) -> BoxFuture<Response<Body>> {
        let response = self.answer(request, &conn);
        Box::pin(std::future::ready(response))
    }

    fn claims(&self, head: &Request<()>, conn: &Conn) -> bool {
        let is_open = conn.is_tls() || self.inner.hub.config.plain_http;
        is_open && head.uri().path() == "/derp" && Asked::of(head).is_some()
    }

    fn take(&self, head: Request<()>, stream: Stream, conn: Arc<Conn>) -> BoxFuture<()> {
        Box::pin(accept::serve_first(Arc::clone(&self.inner.hub), head, stream, conn))
    }

    fn accepts_absolute_form(&self, path: &str) -> bool {
        // The official Rust client sends it (control.md §8.3).
        Self::owns_path(path)
    }
}
