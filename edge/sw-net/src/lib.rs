//! The network below the protocols: the listener of servers, TLS, dialling, the DERP client, port mapping.
//!
//! ```text
//! servers   front (accept, TLS, HTTP, upgrades) ─ tls::CertStore ─ socket
//! clients   dial (both families, proxy) ─ tls::client_config ─ derp_client
//! both      pump (a byte stream in one task), ws (a byte stream in WebSocket messages)
//! ```
//! What is said over these connections is decided elsewhere: in `sw-relay`, `sw-control` and `sw-daemon`.
#![forbid(unsafe_code)]

pub mod acme;
pub mod bootstrap;
pub mod derp_client;
pub mod dial;
pub mod front;
pub mod portmap;
pub mod pump;
pub mod socket;
pub mod tls;
pub mod ts2021;
pub mod ws;
