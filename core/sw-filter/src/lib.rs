//! Packet filter: compile, match, connection tracking.
#![forbid(unsafe_code)]
#![warn(clippy::iter_over_hash_type)]
