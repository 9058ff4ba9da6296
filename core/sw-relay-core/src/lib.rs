//! The relay's decisions: who is connected, which connection of a key gets the packets, what is dropped when a
//! queue is full, who hears that a peer is gone, what the mesh is told.
//!
//! It moves no bytes and knows no sockets. `sw-relay` owns the connections and asks here:
//!
//! ```text
//! connect, leave, first packet ──► Registry ──► outputs: PeerGone, PeerPresent, active or not, close
//! every packet ─────────────────► SendQueue of the receiver (what to drop)
//! every frame ──────────────────► TokenBucket of the sender (when to stop reading)
//! every STUN request ───────────► SourceLimiter
//! ```
//! Source of the rules: derp.md §7–§10, threat-model.md §4.
//!
//! ```
//! use sw_relay_core::{Arrival, Registry, Route};
//! use sw_types::NodeKey;
//!
//! let mut registry = Registry::new();
//! let (a, b) = (NodeKey::from_bytes([1; 32]), NodeKey::from_bytes([2; 32]));
//! let from = "192.0.2.1:1".parse().unwrap();
//! let conn_a = registry.on_connect(Arrival::regular(a, from));
//! let conn_b = registry.on_connect(Arrival::regular(b, from));
//! assert_eq!(registry.route(conn_a, b), Route::Local(conn_b));
//! ```
#![forbid(unsafe_code)]
#![warn(clippy::iter_over_hash_type)]

mod bucket;
mod queue;
mod registry;

pub use bucket::{SourceLimiter, TokenBucket};
pub use queue::{Chunk, Dropped, Kind, QueueLimits, SendQueue};
pub use registry::{Arrival, ConnId, LinkId, Output, Registry, RegistryStats, Route};
