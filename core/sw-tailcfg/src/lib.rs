//! JSON types of the control protocol.
#![forbid(unsafe_code)]
#![warn(clippy::iter_over_hash_type)]
