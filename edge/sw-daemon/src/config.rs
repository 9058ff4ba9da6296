//! What a daemon is started with.

use std::path::PathBuf;

use sw_net::dial::Proxy;
use sw_types::{ControlKey, DEFAULT_NODE_PORT, ServerKeyHash};

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
    /// Further addresses of the control server, tried after the one in the preferences.
    pub server_candidates: Vec<String>,
    /// The key that the control server must have.
    pub server_key: Option<ControlKey>,
    /// What the control server's key must hash to, at the first contact (from an invite).
    pub server_key_hash: Option<ServerKeyHash>,
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
            server_candidates: Vec::new(),
            server_key: None,
            server_key_hash: None,
            hostname: None,
        }
    }
}
