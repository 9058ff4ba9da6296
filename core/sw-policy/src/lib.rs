//! The policy file: parse with positions, validate, compile, explain.
#![forbid(unsafe_code)]
#![warn(clippy::iter_over_hash_type)]
