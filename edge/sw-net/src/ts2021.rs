//! The control protocol's transport, both ends: HTTP upgrade, Noise, early payload; what comes out is a byte stream
//! for HTTP/2 (control.md §1).
//!
//! ```text
//!   client: any stream ── POST /ts2021 + initiation ──▶ 101 ── response, early payload ──▶ NoiseStream
//!   server: request ── answer() ──▶ 101 to send, and a future that becomes NoiseStream + machine key
//! ```

mod client;
mod server;
mod stream;

pub use client::{ConnectError, Connected, connect};
pub use server::{Arrived, Refusal, answer};
pub use stream::NoiseStream;

/// Path of the upgrade on the server.
pub const PATH: &str = "/ts2021";

#[cfg(test)]
mod tests;
