//! The tailnet core: state as a fold of changes, per-node views and deltas.
#![forbid(unsafe_code)]
#![warn(clippy::iter_over_hash_type)]
