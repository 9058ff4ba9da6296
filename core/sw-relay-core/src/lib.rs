//! The relay core: client registry, queues, drop policy, mesh.
#![forbid(unsafe_code)]
#![warn(clippy::iter_over_hash_type)]
