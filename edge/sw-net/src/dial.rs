//! Opening TCP connections: both families raced, through an HTTP proxy where there is one.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use sw_types::{RelayAddr, RelayNode, Secret};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, lookup_host};

use crate::bootstrap::BootstrapRelays;

/// Limit for reaching one host (derp.md §2).
pub const CONNECT_LIMIT: Duration = Duration::from_millis(1500);

/// Head start of the preferred family (derp.md §2).
pub const FAMILY_DELAY: Duration = Duration::from_millis(200);

/// Longest answer of a proxy to CONNECT.
const PROXY_ANSWER_MAX: usize = 16 << 10;

/// Why a host cannot be reached.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The name has no address.
    #[error("{host} has no address: {source}")]
    Resolve {
        /// The name.
        host: String,
        /// What the resolver says.
        source: io::Error,
    },
    /// No address, or all families switched off.
    #[error("{host} has no address that may be used")]
    NoAddress {
        /// The name.
        host: String,
    },
    /// None of the addresses took the connection; the last error.
    #[error("cannot connect to {address}: {source}")]
    Connect {
        /// The last address tried.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// Nothing answered in time.
    #[error("{host} does not answer")]
    TimedOut {
        /// The name.
        host: String,
    },
    /// The proxy does not open the tunnel.
    #[error("the proxy refuses the connection: {status}")]
    Proxy {
        /// Its first line.
        status: String,
    },
    /// Talking to the proxy failed.
    #[error("the proxy fails: {0}")]
    ProxyIo(io::Error),
}

/// An HTTP proxy that tunnels by CONNECT.
#[derive(Clone)]
pub struct Proxy {
    host: String,
    port: u16,
    authorization: Option<Arc<Secret<String>>>,
    /// Hosts and domains that are reached without it, in lower case.
    exceptions: Arc<[String]>,
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proxy({}:{})", self.host, self.port)
    }
}

impl Proxy {
    /// Reads `http://[user:password@]host:port`, or `host:port`; other schemes are not supported.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let uri: http::Uri =
            if text.contains("://") { text.parse() } else { format!("http://{text}").parse() }.ok()?;
        if uri.scheme_str() != Some("http") {
            return None;
        }
        let authority = uri.authority()?;
        let authorization = authority.as_str().rsplit_once('@').map(|(user, _)| {
            Arc::new(Secret::new(format!("Basic {}", BASE64_STANDARD.encode(percent_decode(user)))))
        });
        Some(Self {
            host: authority.host().to_owned(),
            port: authority.port_u16().unwrap_or(80),
            authorization,
            exceptions: Arc::default(),
        })
    }

    /// The proxy that the environment asks for: `https_proxy` or else `all_proxy`, without what `no_proxy` lists (hosts,
    /// domains, `*`) and without this machine. `variable` reads one; upper case counts too.
    #[must_use]
    pub fn from_environment(variable: impl Fn(&str) -> Option<String>) -> Option<Self> {
        let either = |name: &str| variable(name).or_else(|| variable(&name.to_uppercase()));
        let wanted = either("https_proxy").or_else(|| either("all_proxy"))?;
        let proxy = Self::parse(wanted.trim())?;
        let listed = either("no_proxy").unwrap_or_default().to_lowercase();
        let listed =
            listed.split(',').map(|entry| entry.trim().trim_start_matches("*.").trim_start_matches('.'));
        let here = ["localhost", "127.0.0.1", "::1"];
        let exceptions = listed.filter(|entry| !entry.is_empty()).chain(here).map(str::to_owned).collect();
        Some(Self { exceptions, ..proxy })
    }

    /// Reports whether a host is reached through the proxy.
    fn covers(&self, host: &str) -> bool {
        let host = host.trim_matches(['[', ']']).to_lowercase();
        let is_meant = |entry: &String| {
            let is_below = || host.strip_suffix(entry.as_str()).is_some_and(|rest| rest.ends_with('.'));
            entry == "*" || host == *entry || is_below()
        };
        !self.exceptions.iter().any(is_meant)
    }

    async fn tunnel(&self, options: &DialOptions, host: &str, port: u16) -> Result<TcpStream, DialError> {
        let mut stream = direct(options, &self.host, self.port).await?;
        let target = join_host_port(host, port);
        let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n");
        if let Some(authorization) = &self.authorization {
            request.push_str("Proxy-Authorization: ");
            request.push_str(authorization.expose());
            request.push_str("\r\n");
        }
        request.push_str("\r\n");
        stream.write_all(request.as_bytes()).await.map_err(DialError::ProxyIo)?;
        let head = read_head(&mut stream).await.map_err(DialError::ProxyIo)?;
        let status = head.lines().next().unwrap_or_default().to_owned();
        if status.split(' ').nth(1) == Some("200") { Ok(stream) } else { Err(DialError::Proxy { status }) }
    }
}

/// What is done to a socket before it connects, for example the mark that keeps it out of the tunnel.
pub type PrepareSocket = Arc<dyn Fn(&TcpSocket) -> io::Result<()> + Send + Sync>;

/// How connections are opened.
#[derive(Clone, Default)]
pub struct DialOptions {
    /// Through this proxy; names are then resolved by it.
    pub proxy: Option<Proxy>,
    /// Called for each socket.
    pub prepare: Option<PrepareSocket>,
    /// IPv6 was seen to work: IPv4 waits a little for it.
    pub prefer_ipv6: bool,
    /// Who is asked for a name that DNS does not tell.
    pub bootstrap: BootstrapRelays,
}

impl DialOptions {
    fn proxy_for(&self, host: &str) -> Option<&Proxy> {
        self.proxy.as_ref().filter(|proxy| proxy.covers(host))
    }
}

impl fmt::Debug for DialOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DialOptions").field("proxy", &self.proxy).finish_non_exhaustive()
    }
}

/// Opens a connection to a host name or IP literal.
///
/// # Errors
/// See [`DialError`].
pub async fn connect(options: &DialOptions, host: &str, port: u16) -> Result<TcpStream, DialError> {
    match options.proxy_for(host) {
        Some(proxy) => proxy.tunnel(options, host, port).await,
        None => direct(options, host, port).await,
    }
}

/// Opens a connection to a relay node by what the map says of its addresses.
///
/// # Errors
/// See [`DialError`].
pub async fn connect_node(options: &DialOptions, node: &RelayNode) -> Result<TcpStream, DialError> {
    let (host, port) = (node.host_name.as_str(), node.derp_port);
    if let Some(proxy) = options.proxy_for(host) {
        return proxy.tunnel(options, host, port).await;
    }
    let wants_name = matches!(node.ipv4, RelayAddr::Resolve) || matches!(node.ipv6, RelayAddr::Resolve);
    let fixed = || {
        let v4 = node.ipv4.fixed().map(IpAddr::from);
        v4.into_iter().chain(node.ipv6.fixed().map(IpAddr::from)).collect::<Vec<_>>()
    };
    let named =
        if wants_name && fixed().is_empty() { resolve(options, host, port).await? } else { Vec::new() };
    let may = |ip: &IpAddr| match ip {
        IpAddr::V4(_) => matches!(node.ipv4, RelayAddr::Resolve),
        IpAddr::V6(_) => matches!(node.ipv6, RelayAddr::Resolve),
    };
    let addresses = fixed().into_iter().chain(named.into_iter().filter(may)).collect();
    race(options, host, port, addresses).await
}

async fn direct(options: &DialOptions, host: &str, port: u16) -> Result<TcpStream, DialError> {
    let addresses = resolve(options, host, port).await?;
    race(options, host, port, addresses).await
}

async fn resolve(options: &DialOptions, host: &str, port: u16) -> Result<Vec<IpAddr>, DialError> {
    let bare = host.trim_matches(['[', ']']);
    if let Ok(ip) = bare.parse() {
        return Ok(vec![ip]);
    }
    let found = tokio::time::timeout(CONNECT_LIMIT * 2, lookup_host((bare, port))).await;
    let failed = match found {
        Ok(Ok(found)) => return Ok(found.map(|address| address.ip()).collect()),
        Ok(Err(source)) => DialError::Resolve { host: host.to_owned(), source },
        Err(_) => DialError::TimedOut { host: host.to_owned() },
    };
    // Boxed: a relay is reached by this very function.
    Box::pin(options.bootstrap.resolve(options, bare)).await.ok_or(failed)
}

/// Tries the first address of each family side by side, further ones in turn when those fail.
async fn race(
    options: &DialOptions,
    host: &str,
    port: u16,
    addresses: Vec<IpAddr>,
) -> Result<TcpStream, DialError> {
    let (v6, v4): (Vec<_>, Vec<_>) = addresses.into_iter().partition(IpAddr::is_ipv6);
    if v4.is_empty() && v6.is_empty() {
        return Err(DialError::NoAddress { host: host.to_owned() });
    }
    let delays = if options.prefer_ipv6 && !v6.is_empty() {
        (FAMILY_DELAY, Duration::ZERO)
    } else {
        (Duration::ZERO, if v4.is_empty() { Duration::ZERO } else { FAMILY_DELAY })
    };
    let racing = async {
        let four = in_turn(options, port, v4, delays.0);
        let six = in_turn(options, port, v6, delays.1);
        tokio::pin!(four, six);
        // The first to connect wins; the first to fail waits for the other.
        tokio::select! {
            result = &mut four => match result { Some(Ok(stream)) => Ok(stream), first => or(six.await, first) },
            result = &mut six => match result { Some(Ok(stream)) => Ok(stream), first => or(four.await, first) },
        }
    };
    match tokio::time::timeout(CONNECT_LIMIT, racing).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(Some(error))) => Err(error),
        Ok(Err(None)) => Err(DialError::NoAddress { host: host.to_owned() }),
        Err(_) => Err(DialError::TimedOut { host: host.to_owned() }),
    }
}

type Tried = Option<Result<TcpStream, DialError>>;

fn or(second: Tried, first: Tried) -> Result<TcpStream, Option<DialError>> {
    match (second, first) {
        (Some(Ok(stream)), _) | (_, Some(Ok(stream))) => Ok(stream),
        (Some(Err(error)), _) | (None, Some(Err(error))) => Err(Some(error)),
        (None, None) => Err(None),
    }
}

async fn in_turn(options: &DialOptions, port: u16, addresses: Vec<IpAddr>, delay: Duration) -> Tried {
    if addresses.is_empty() {
        return None;
    }
    tokio::time::sleep(delay).await;
    let mut last = None;
    for ip in addresses {
        let address = SocketAddr::new(ip, port);
        match open(options, address).await {
            Ok(stream) => return Some(Ok(stream)),
            Err(source) => last = Some(Err(DialError::Connect { address, source })),
        }
    }
    last
}

async fn open(options: &DialOptions, address: SocketAddr) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    if let Some(prepare) = &options.prepare {
        prepare(&socket)?;
    }
    let stream = socket.connect(address).await?;
    crate::socket::tune_tcp(&stream);
    Ok(stream)
}

/// `host:port`, with brackets round an IPv6 literal.
#[must_use]
pub fn join_host_port(host: &str, port: u16) -> String {
    let bare = host.trim_matches(['[', ']']);
    if bare.contains(':') { format!("[{bare}]:{port}") } else { format!("{bare}:{port}") }
}

async fn read_head(stream: &mut TcpStream) -> io::Result<String> {
    let mut head = Vec::with_capacity(256);
    // Byte by byte: what follows the head belongs to the tunnel.
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() >= PROXY_ANSWER_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        head.push(stream.read_u8().await?);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

fn percent_decode(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let escaped = (byte == b'%').then(|| tail.first_chunk::<2>()).flatten();
        let decoded = escaped.and_then(|pair| {
            let mut one = [0u8; 1];
            hex::decode_to_slice(pair, &mut one).ok().map(|()| one[0])
        });
        out.push(decoded.unwrap_or(byte));
        rest = if decoded.is_some() { tail.get(2..).unwrap_or_default() } else { tail };
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_are_read_from_their_usual_forms() {
        let proxy = Proxy::parse("http://us%65r:p%40ss@proxy.example:3128").unwrap();
        assert_eq!((proxy.host.as_str(), proxy.port), ("proxy.example", 3128));
        assert_eq!(proxy.authorization.unwrap().expose(), "Basic dXNlcjpwQHNz");
        assert_eq!(Proxy::parse("10.0.0.1:8080").unwrap().port, 8080);
        assert!(Proxy::parse("socks5://x:1").is_none());
        assert!(format!("{:?}", Proxy::parse("http://u:secret@h:1")).find("secret").is_none());
    }

    #[tokio::test]
    async fn the_family_that_answers_wins() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        // Nothing listens on the IPv6 side (and there may be no IPv6 at all).
        let both = vec!["::1".parse().unwrap(), "127.0.0.1".parse().unwrap()];
        for prefer_ipv6 in [false, true] {
            let options = DialOptions { prefer_ipv6, ..DialOptions::default() };
            let stream = race(&options, "x", port, both.clone()).await.unwrap();
            assert!(stream.peer_addr().unwrap().is_ipv4());
        }
    }

    #[test]
    fn the_environment_names_the_proxy_and_its_exceptions() {
        let with = |variables: &[(&str, &str)]| {
            Proxy::from_environment(|name| {
                variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
            })
        };
        assert!(with(&[]).is_none());
        assert!(with(&[("https_proxy", "socks5://10.0.0.1:1080")]).is_none(), "no tunnel by CONNECT");
        let proxy =
            with(&[("HTTPS_PROXY", "http://proxy.lan:3128"), ("NO_PROXY", "example.org, *.lan ,10.0.0.7")]);
        let proxy = proxy.unwrap();
        assert_eq!((proxy.host.as_str(), proxy.port), ("proxy.lan", 3128));
        for host in ["relay.example.com", "notexample.org", "10.0.0.70", "2001:db8::1"] {
            assert!(proxy.covers(host), "{host}");
        }
        for host in
            ["example.org", "VPN.example.org", "nas.lan", "10.0.0.7", "localhost", "127.0.0.1", "[::1]"]
        {
            assert!(!proxy.covers(host), "{host}");
        }
        assert!(!with(&[("all_proxy", "p:1"), ("no_proxy", "*")]).unwrap().covers("x.example"));
    }

    #[tokio::test]
    async fn a_proxy_is_asked_for_a_tunnel() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Proxy::parse(&format!("http://u:p@{}", listener.local_addr().unwrap()));
        let options = DialOptions { proxy, ..DialOptions::default() };
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let head = read_head(&mut stream).await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nthrough").await.unwrap();
            head
        };
        let (head, stream) = tokio::join!(serve, connect(&options, "relay.example", 443));
        assert!(head.starts_with("CONNECT relay.example:443 HTTP/1.1\r\n"), "{head}");
        assert!(head.contains("Proxy-Authorization: Basic dTpw\r\n"));
        let mut rest = String::new();
        stream.unwrap().read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "through");
    }
}
