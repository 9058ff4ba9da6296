//! Noise: the symmetric state, the control protocol's IK handshake, and its record framing, both sides.
//!
//! ```text
//!   primitives   BLAKE2s, HKDF, ChaCha20-Poly1305        (also for sw-wg)
//!   symmetric    chaining key and hash of a handshake     (also for sw-wg)
//! ```
#![forbid(unsafe_code)]
#![warn(clippy::iter_over_hash_type)]

pub mod primitives;
mod symmetric;

pub use symmetric::SymmetricState;
