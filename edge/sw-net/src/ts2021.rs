//! The control protocol's transport: the client's HTTP upgrade, handshake and early payload, and the byte stream for
//! HTTP/2 that both ends then have (control.md §1).
//!
//! ```text
//!   client: any stream ── POST /ts2021 + initiation ──▶ 101 ── response, early payload ──▶ NoiseStream
//! ```

mod client;
mod stream;

pub use client::{ConnectError, Connected, connect};
pub use stream::NoiseStream;

/// Path of the upgrade on the server.
pub const PATH: &str = "/ts2021";

#[cfg(test)]
mod tests;
