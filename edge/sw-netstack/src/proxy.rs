//! The proxy for programs on this host: SOCKS5 and HTTP on one port, told apart by the first byte.

use crate::{http, socks};
use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Connections served at once; more wait.
const CONNECTIONS_MAX: usize = 1_024;
/// A client must have said something by then.
const FIRST_BYTE_TIMEOUT: Duration = Duration::from_secs(10);

/// Serves SOCKS5 and HTTP clients until the listener fails.
///
/// # Errors
/// The listener's own error.
pub async fn serve_proxy(listener: TcpListener, dial: Arc<dyn Dial>) -> io::Result<()> {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut clients = JoinSet::new();
    loop {
        let slot = Arc::clone(&slots).acquire_owned().await.expect("the semaphore is never closed");
        let (client, _) = listener.accept().await?;
        while clients.try_join_next().is_some() {}
        let dial = Arc::clone(&dial);
        clients.spawn(async move {
            if let Err(error) = serve(client, &*dial).await {
                tracing::trace!(%error, "a client of the proxy ended");
            }
            drop(slot);
        });
    }
}

async fn serve(client: TcpStream, dial: &dyn Dial) -> io::Result<()> {
    let mut first = [0];
    tokio::time::timeout(FIRST_BYTE_TIMEOUT, client.peek(&mut first)).await??;
    match first {
        [socks::VERSION] => socks::serve(client, dial).await,
        _ => http::serve(client, dial).await,
    }
}

/// A byte stream of any kind.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// A stream whose kind does not matter.
pub type BoxedStream = Box<dyn Stream>;

/// Where a client of the proxy wants to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    Address(IpAddr, u16),
    /// A name, as the client wrote it; at most 255 bytes.
    Name(String, u16),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(IpAddr::V6(ip), port) => write!(f, "[{ip}]:{port}"),
            Self::Address(IpAddr::V4(ip), port) => write!(f, "{ip}:{port}"),
            Self::Name(name, port) => write!(f, "{name}:{port}"),
        }
    }
}

impl Target {
    /// Reads `host:port`, `[v6]:port`; a missing port is `default_port`.
    pub fn parse(text: &str, default_port: u16) -> Option<Self> {
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, port.parse().ok()?),
            _ => (text, default_port),
        };
        let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        if bare.is_empty() || bare.len() > 255 {
            return None;
        }
        Some(bare.parse().map_or_else(|_| Self::Name(bare.to_owned(), port), |ip| Self::Address(ip, port)))
    }
}

/// Why a target could not be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DialError {
    #[error("no such name")]
    NoSuchName,
    #[error("refused")]
    Refused,
    #[error("not reachable")]
    Unreachable,
    #[error("not allowed")]
    NotAllowed,
}

/// Opens targets: machines of the network through the stack, everything else as the node decides.
pub trait Dial: Send + Sync + 'static {
    /// Opens a connection to `target`.
    fn dial(
        &self,
        target: Target,
    ) -> Pin<Box<dyn Future<Output = Result<BoxedStream, DialError>> + Send + '_>>;

    /// Opens a place to send datagrams from.
    fn datagrams(&self) -> Result<Box<dyn Datagrams>, DialError>;
}

/// What datagrams wait for.
pub type DatagramFuture<'d, T> = Pin<Box<dyn Future<Output = io::Result<T>> + Send + 'd>>;

/// Sends datagrams to targets and receives what comes back.
pub trait Datagrams: Send + Sync {
    /// Sends one datagram.
    fn send<'d>(&'d self, target: Target, data: &'d [u8]) -> DatagramFuture<'d, ()>;

    /// Waits for the next one, and tells its sender. Cancel safe.
    fn receive(&self) -> DatagramFuture<'_, (Vec<u8>, SocketAddr)>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_of_every_form() {
        let parse = |text| Target::parse(text, 80).map(|t| t.to_string());
        assert_eq!(parse("birch"), Some("birch:80".into()));
        assert_eq!(parse("birch:8080"), Some("birch:8080".into()));
        assert_eq!(parse("[fd7a::1]:22"), Some("[fd7a::1]:22".into()));
        assert_eq!(parse("fd7a::1"), Some("[fd7a::1]:80".into()));
        assert_eq!(parse("100.64.0.1:443"), Some("100.64.0.1:443".into()));
        for bad in ["", ":80", "birch:99999", "birch:x"] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }
}
