//! What a daemon is started with.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use sw_net::dial::Proxy;
use sw_types::{ControlKey, DEFAULT_NODE_PORT};

/// Where inner packets go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TunMode {
    /// An interface of this name.
    Interface(String),
    /// A network stack inside the process: no privilege is needed, programs use the proxies.
    Userspace,
}

/// Which UDP port the node uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// This one, or any if it is taken.
    Preferred(u16),
    /// This one or none.
    Fixed(u16),
    /// Any.
    Any,
}

impl Default for Port {
    fn default() -> Self {
        Self::Preferred(DEFAULT_NODE_PORT)
    }
}

/// Gives the answer to a STUN request from this address, or none.
pub type AnswerStun = Arc<dyn Fn(&[u8], SocketAddr) -> Option<Vec<u8>> + Send + Sync>;

/// What answers STUN requests.
#[derive(Clone)]
pub struct StunAnswer(pub AnswerStun);

impl fmt::Debug for StunAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StunAnswer")
    }
}

/// What a daemon is started with.
#[derive(Clone, Debug)]
pub struct DaemonConfig {
    /// Where keys are kept; `None`: nowhere, and the node is ephemeral.
    pub state_dir: Option<PathBuf>,
    /// The LocalAPI's socket; `None`: none.
    pub socket: Option<PathBuf>,
    /// A second name for the socket, if nothing answers there.
    pub official_alias: Option<PathBuf>,
    pub tun: TunMode,
    pub port: Port,
    /// Address of the SOCKS5 proxy.
    pub socks5: Option<String>,
    /// Address of the HTTP proxy; may be the same.
    pub http_proxy: Option<String>,
    /// The proxy by which the server and the relays are reached over TCP.
    pub proxy: Option<Proxy>,
    /// In userspace mode: connections to this node reach the services of this host (on its loopback).
    pub serves_host: bool,
    /// An address of the control server to try before all others: that of this process.
    pub local_server: Option<String>,
    /// Answers STUN requests on the data sockets, where the server's number is theirs too (architecture.md §10.3).
    pub stun: Option<StunAnswer>,
    /// The key that the control server must have.
    pub server_key: Option<ControlKey>,
    /// Instead of the machine's own name.
    pub hostname: Option<String>,
}

impl Default for DaemonConfig {
    fn default() -> Self {
        Self {
            state_dir: None,
            socket: None,
            official_alias: None,
            tun: TunMode::Userspace,
            port: Port::default(),
            socks5: None,
            http_proxy: None,
            serves_host: false,
            proxy: None,
            local_server: None,
            stun: None,
            server_key: None,
            hostname: None,
        }
    }
}
