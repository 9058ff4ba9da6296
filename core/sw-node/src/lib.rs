//! The node core: login and run states, netmap, name resolution, desired system state.
#![forbid(unsafe_code)]
#![warn(clippy::iter_over_hash_type)]
