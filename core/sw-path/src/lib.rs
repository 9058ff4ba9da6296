//! Finds and keeps the best path to each peer ("magicsock" as a machine).
//!
//! It gathers our own endpoints, looks at the network (netcheck), picks the
//! home relay, pings the candidate addresses of peers and says which way data
//! for each peer goes: straight, through a peer relay, or over a DERP relay.
//! It sends no data itself and knows nothing of WireGuard; it opens no socket
//! and asks no clock.
//!
//! ```text
//!   netmap ─ on_peer ──────┐                     ┌─ SetRoute ────▶ data path
//!   data path ─ on_traffic ┤                     ├─ SendUdp, SendRelay (disco, STUN)
//!   sockets ─ on_datagram ─┤     PathEngine      ├─ EndpointsChanged, NetInfo ▶ control
//!   OS ─ on_link_change … ─┤  peers · netcheck · ├─ HomeRegion ──▶ relay client
//!   timer ─ on_deadline ───┘      endpoints      └─ PingResult, NetcheckReport ▶ people
//! ```
//!
//! ```
//! use sw_path::{PathConfig, PathEngine};
//! use sw_types::{DiscoPrivate, NodePrivate};
//!
//! let disco = DiscoPrivate::generate([1; 32]);
//! let node = NodePrivate::generate([2; 32]).public();
//! let mut engine = PathEngine::new(PathConfig::default(), disco, node, [3; 32]);
//! assert!(engine.poll_output().is_none());
//! ```
#![forbid(unsafe_code)]
#![warn(clippy::iter_over_hash_type)]

mod api;
mod candidate;
mod choose;
mod endpoints;
mod engine;
mod ext;
mod home;
mod nat;
mod netcheck;
mod peer;
mod peer_relay;
mod rate;
mod spray;
mod timing;

pub use api::*;
pub use engine::{LinkChange, PathEngine};
