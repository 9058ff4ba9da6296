//! The one listener: TLS and plain HTTP on the same port, HTTP/1.1 and h2, upgrades (architecture.md §10.2).
//!
//! ```text
//! accept ─ fair queue per source ─ first byte ─┬─ 0x16: TLS (SNI, ALPN) ─┬─ h2 ──────────────────► Router::route
//!                                              └─ A..Z: plain ───────────┴─ head of the request ─┬► Router::route
//!                                                                                                └► Router::take
//! ```
//! A [`Router`] answers requests; it may also *claim* a connection by the head of its first request and then gets the
//! raw stream, which protocols need whose server answers nothing to the request (DERP fast start, derp.md §4.2).
//! Limits are those of threat-model.md §4.

mod admission;
mod head;
mod http;
mod stream;

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ::http::{Request, Response};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Full, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;

use admission::Gate;
pub use stream::{Io, Stream};

/// A future on the heap.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Any error of a body.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The body of an answer.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

/// A body that is there as a whole.
#[must_use]
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// No body.
#[must_use]
pub fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// Answers requests. One value serves all connections.
pub trait Router: Send + Sync + 'static {
    /// Answers one request. Upgrades go through `hyper::upgrade::on`.
    fn route(&self, request: Request<Incoming>, conn: Arc<Conn>) -> BoxFuture<Response<Body>>;

    /// Whether [`Self::take`] wants the connection, whose first request has this head; HTTP/1.1 only.
    fn claims(&self, _head: &Request<()>, _conn: &Conn) -> bool {
        false
    }

    /// Takes a claimed connection. Nothing was answered; bytes behind the head come first from `stream`.
    fn take(&self, _head: Request<()>, _stream: Stream, _conn: Arc<Conn>) -> BoxFuture<()> {
        Box::pin(std::future::ready(()))
    }

    /// Whether a request line with a whole URL is good for this path; elsewhere it gets 400 (threat-model.md §9).
    fn accepts_absolute_form(&self, _path: &str) -> bool {
        false
    }
}

/// What is known of a connection.
#[derive(Debug)]
pub struct Conn {
    /// Where it comes from.
    pub peer: SocketAddr,
    /// Where it came in.
    pub local: SocketAddr,
    /// TLS, if it is not plain.
    pub tls: Option<TlsInfo>,
    /// Fires when the front shuts down: taken and upgraded connections should end.
    pub shutdown: CancellationToken,
    admission: admission::Admission,
}

impl Conn {
    /// Says that the other side has proven who it is: it no longer counts against its address
    /// (threat-model.md §4, "connections").
    pub fn authenticated(&self) {
        self.admission.release();
    }

    /// Whether the connection is encrypted.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.tls.is_some()
    }
}

/// What was agreed in the TLS handshake.
#[derive(Clone, Debug)]
pub struct TlsInfo {
    /// The server name asked for; absent for IP literals.
    pub sni: Option<String>,
    /// Whether it is TLS 1.3, where the certificates are encrypted.
    pub is_tls13: bool,
}

/// Limits of a front; the defaults are those of threat-model.md §4.
#[derive(Clone, Copy, Debug)]
pub struct FrontLimits {
    /// Connections of one source (an IPv4 address or a /64) that have not proven who they are.
    pub unauthenticated_per_source: usize,
    /// Handshakes under way, over all sources.
    pub handshakes: usize,
    /// How long a connection may wait for its turn.
    pub queue_wait: Duration,
    /// From the first byte to the end of the TLS handshake.
    pub handshake: Duration,
    /// For the head of a request.
    pub header: Duration,
    /// Without a request.
    pub idle: Duration,
    /// Connections that may wait for their turn; further ones are closed at once.
    pub queue_len: usize,
}

impl Default for FrontLimits {
    fn default() -> Self {
        Self {
            unauthenticated_per_source: 256,
            handshakes: 1024,
            queue_wait: Duration::from_secs(5),
            handshake: Duration::from_secs(10),
            header: Duration::from_secs(10),
            idle: Duration::from_secs(120),
            queue_len: 16_384,
        }
    }
}

/// Counters of a front.
#[derive(Debug, Default)]
pub struct FrontStats {
    /// Connections accepted.
    pub accepted: AtomicU64,
    /// Connections closed because their turn did not come in time.
    pub refused_queue: AtomicU64,
    /// Connections closed because they did not finish the TLS handshake or the head of a request.
    pub failed_handshakes: AtomicU64,
    /// Connections whose first byte was neither TLS nor HTTP.
    pub not_http: AtomicU64,
    /// Requests answered by the front itself with an error.
    pub bad_requests: AtomicU64,
}

impl FrontStats {
    pub(crate) fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// The listener's owner. Dropping it does not stop it: [`Front::shutdown`] does.
pub struct Front {
    inner: Arc<Inner>,
}

struct Inner {
    router: Arc<dyn Router>,
    limits: FrontLimits,
    gate: Gate,
    stats: Arc<FrontStats>,
    accepting: CancellationToken,
    closing: CancellationToken,
    tasks: TaskTracker,
}

impl std::fmt::Debug for Front {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Front").field("limits", &self.inner.limits).finish_non_exhaustive()
    }
}

impl Front {
    /// A front that listens nowhere yet.
    #[must_use]
    pub fn new(router: Arc<dyn Router>, limits: FrontLimits) -> Self {
        let inner = Inner {
            router,
            limits,
            gate: Gate::new(limits),
            stats: Arc::default(),
            accepting: CancellationToken::new(),
            closing: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Serves `listener`, made by [`crate::socket::listen_tcp`]. Without `tls` the port speaks plain HTTP only.
    ///
    /// Must be called in a tokio runtime.
    pub fn listen(&self, listener: TcpListener, tls: Option<Arc<rustls::ServerConfig>>) {
        let inner = Arc::clone(&self.inner);
        self.inner.tasks.spawn(async move {
            let accepting = inner.accepting.clone();
            accepting
                .run_until_cancelled_owned(accept_loop(inner, listener, tls.map(TlsAcceptor::from)))
                .await;
        });
    }

    /// The counters.
    #[must_use]
    pub fn stats(&self) -> Arc<FrontStats> {
        Arc::clone(&self.inner.stats)
    }

    /// Stops accepting, lets requests under way end and closes everything after `limit`.
    pub async fn shutdown(&self, limit: Duration) {
        self.inner.accepting.cancel();
        self.inner.closing.cancel();
        self.inner.tasks.close();
        let drained = tokio::time::timeout(limit, self.inner.tasks.wait()).await;
        debug!(in_time = drained.is_ok(), "front closed");
    }
}

async fn accept_loop(inner: Arc<Inner>, listener: TcpListener, tls: Option<TlsAcceptor>) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                FrontStats::count(&inner.stats.accepted);
                let (inner, tls) = (Arc::clone(&inner), tls.clone());
                let tasks = inner.tasks.clone();
                tasks.spawn(async move {
                    let closing = inner.closing.clone();
                    serve(inner, stream, peer, tls, closing).await;
                });
            }
            Err(error) => {
                // Out of descriptors, usually: the connection stays in the backlog.
                debug!(%error, "accept failed");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// One connection from its first byte to its end.
async fn serve(
    inner: Arc<Inner>,
    stream: TcpStream,
    peer: SocketAddr,
    tls: Option<TlsAcceptor>,
    closing: CancellationToken,
) {
    let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
    let Some(admission) = inner.gate.enter(peer.ip()).await else {
        FrontStats::count(&inner.stats.refused_queue);
        return;
    };
    let Ok(local) = stream.local_addr() else { return };
    crate::socket::tune_tcp(&stream);
    // WHY boxed, here and below: a connection that stays for hours pays for the largest state it was ever in.
    let handshake = Box::pin(open(&inner, stream, tls));
    let handshake = tokio::time::timeout(inner.limits.handshake, handshake);
    let Some(Ok(Some((io, tls_info, h2)))) = closing.run_until_cancelled(handshake).await else {
        FrontStats::count(&inner.stats.failed_handshakes);
        return;
    };
    let local = SocketAddr::new(local.ip().to_canonical(), local.port());
    let conn = Arc::new(Conn { peer, local, tls: tls_info, shutdown: closing, admission });
    http::serve(&inner, io, h2, conn).await;
}

/// Looks at the first byte and opens TLS where it says so; gives whether h2 was agreed.
async fn open(
    inner: &Inner,
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
) -> Option<(Io, Option<TlsInfo>, bool)> {
    let mut first = [0u8; 1];
    if stream.peek(&mut first).await.ok()? == 0 {
        return None;
    }
    match (first[0], tls) {
        (0x16, Some(acceptor)) => {
            let stream = acceptor.accept(stream).await.ok()?;
            let (_, session) = stream.get_ref();
            let info = TlsInfo {
                sni: session.server_name().map(str::to_owned),
                is_tls13: session.protocol_version() == Some(rustls::ProtocolVersion::TLSv1_3),
            };
            let h2 = match session.alpn_protocol() {
                Some(b"h2") => true,
                // The certificate that the handshake showed was the whole answer.
                Some(crate::tls::ACME_TLS_ALPN) => return None,
                Some(_) | None => false,
            };
            Some((Io::Tls(Box::new(stream)), Some(info), h2))
        }
        (b'A'..=b'Z', _) => Some((Io::Plain(stream), None, false)),
        _ => {
            FrontStats::count(&inner.stats.not_http);
            None
        }
    }
}
