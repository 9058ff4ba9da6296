//! The relay: carries sealed packets between machines that cannot reach each other, and tells them by STUN how they
//! are seen from outside.
//!
//! ```text
//! sw_net::front ──► Relay (a Router) ──► accept: upgrade, login, admission ──► client: one task per connection
//!                      │                                                          │ first packet to a key
//!                      ├── http: probes, captive portal, bootstrap DNS, metrics   ▼
//!                      ├── stun: a UDP socket                                    hub: registry (sw-relay-core)
//!                      └── mesh: DERP clients towards other relays                │
//!                                                                                 ▼
//!                                                                outbox of the receiver ──► its task writes
//! ```
//! It runs as a program of its own ([`run`], `samewire relay`), or inside another listener, which hands it the paths
//! of [`Relay::owns_path`]. What is dropped and who is told what is decided in `sw-relay-core`.
//!
//! ```no_run
//! use std::sync::Arc;
//! use sw_net::front::{Front, FrontLimits};
//! use sw_relay::{Relay, RelayConfig};
//! use sw_types::DerpPrivate;
//!
//! # async fn example(key: DerpPrivate, tls: Arc<rustls::ServerConfig>) -> std::io::Result<()> {
//! let relay = Relay::new(RelayConfig::new(Arc::new(key)))?;
//! relay.serve_stun(sw_net::socket::bind_udp("[::]:3478".parse().unwrap())?)?;
//! let front = Front::new(relay.router(), FrontLimits::default());
//! front.listen(sw_net::socket::listen_tcp("[::]:443".parse().unwrap())?, Some(tls));
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

mod accept;
mod client;
mod command;
mod config;
mod counters;
mod http;
mod hub;
mod mesh;
mod metrics;
mod outbox;
mod region;
mod relay;
mod state;
mod stun;
mod verify;

pub use command::{RelayArgs, run};
pub use config::{Admission, AdmitAll, ClientRate, RelayConfig};
pub use region::{OWN_REGION, RelayPlace, derp_map, derp_region, hash_text};
pub use relay::{Relay, RelayTotals};
pub use verify::{BadUrl, VerifyUrl};
