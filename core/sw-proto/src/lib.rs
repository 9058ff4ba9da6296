//! Byte codecs: DERP, disco, STUN, PCP and NAT-PMP, Geneve, TSMP, IP headers.
#![forbid(unsafe_code)]
#![warn(clippy::iter_over_hash_type)]
