//! Finds and keeps the best path to each peer: endpoints, netcheck, disco, peer relay.
#![forbid(unsafe_code)]
#![warn(clippy::iter_over_hash_type)]
