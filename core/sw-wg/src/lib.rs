//! WireGuard as a pure state machine.
#![forbid(unsafe_code)]
#![warn(clippy::iter_over_hash_type)]
