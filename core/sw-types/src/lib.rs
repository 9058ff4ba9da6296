//! Keys, ids, times, names and prefixes that every part speaks in.
#![forbid(unsafe_code)]
#![warn(clippy::iter_over_hash_type)]
