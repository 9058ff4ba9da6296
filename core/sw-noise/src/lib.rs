//! Noise symmetric state, the control protocol's IK handshake and record framing.
#![forbid(unsafe_code)]
#![warn(clippy::iter_over_hash_type)]
