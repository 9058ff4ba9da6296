//! Peer relays (disco.md §6, path-selection.md §9): tunnels over UDP through a machine that both ends reach, for pairs
//! whose NATs allow no direct path.
//!
//! ```text
//!   client ── AllocateRequest (DERP) ──▶ server          one tunnel for a pair of clients
//!   client ◀─ AllocateResponse (DERP) ── server
//!   client ── CallMeMaybeVia (DERP) ──▶ other client     both go on alike:
//!   client ── Bind ──▶ server ── Challenge ──▶ client ── Answer ──▶ server      their address is proven
//!   client ◀── Ping, Pong, data ── server ──▶ other client                      forwarded unchanged
//! ```

mod client;
mod server;

use std::time::Duration;

use sw_types::CapVer;

pub(crate) use client::{Client, ClientAct, Offer};
pub(crate) use server::{Control, Server};

/// Machines from this version on allocate and bind by disco messages.
pub(crate) const CAP_PEER_RELAY: CapVer = CapVer(121);

/// No handshake goes on longer, whatever its relay allows.
pub(crate) const HANDSHAKE_MAX: Duration = Duration::from_secs(30);
