//! How a relay runs.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use sw_net::front::BoxFuture;
use sw_relay_core::QueueLimits;
use sw_types::{DerpPrivate, MeshKey, NodeKey};

/// Decides who may come in. Asked after the client has proven its key; mesh members are not asked for.
pub trait Admission: Send + Sync + 'static {
    /// Whether the holder of `key`, coming from `source`, may use the relay.
    fn admits(&self, key: NodeKey, source: IpAddr) -> BoxFuture<bool>;
}

/// Lets everybody in.
#[derive(Clone, Copy, Debug)]
pub struct AdmitAll;

impl Admission for AdmitAll {
    fn admits(&self, _key: NodeKey, _source: IpAddr) -> BoxFuture<bool> {
        Box::pin(std::future::ready(true))
    }
}

/// How fast one client may send (derp.md §8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientRate {
    /// Bytes per second, frames included.
    pub bytes_per_second: u64,
    /// Bytes at once; at least one packet of the largest size.
    pub burst_bytes: u64,
}

/// Configuration of a [`crate::Relay`].
pub struct RelayConfig {
    /// The relay's own key.
    pub key: Arc<DerpPrivate>,
    /// Whether DERP is also served without TLS: only for development and behind a TLS proxy.
    pub plain_http: bool,
    /// The secret shared by the relays of the region.
    pub mesh_key: Option<Arc<MeshKey>>,
    /// Who may come in.
    pub admission: Arc<dyn Admission>,
    /// What may wait for a client.
    pub queue: QueueLimits,
    /// How fast a client may send; no limit by default.
    pub rate: Option<ClientRate>,
    /// A client that takes nothing for this long is closed; zero for never.
    pub write_timeout: Duration,
    /// Host names whose addresses `/bootstrap-dns` tells, usually that of the control server.
    pub bootstrap_names: Vec<String>,
}

impl RelayConfig {
    /// The defaults with this key.
    #[must_use]
    pub fn new(key: Arc<DerpPrivate>) -> Self {
        Self {
            key,
            plain_http: false,
            mesh_key: None,
            admission: Arc::new(AdmitAll),
            queue: QueueLimits::default(),
            rate: None,
            write_timeout: Duration::from_secs(2),
            bootstrap_names: Vec::new(),
        }
    }
}

impl std::fmt::Debug for RelayConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RelayConfig")
            .field("key", &self.key.public())
            .field("plain_http", &self.plain_http)
            .field("rate", &self.rate)
            .finish_non_exhaustive()
    }
}
