//! Byte codecs of the data path: IP headers, DERP, disco, STUN, Geneve, TSMP, PCP and NAT-PMP.
//!
//! Every parser takes a slice, checks lengths against a named limit and gives back views or small values; nothing
//! here does IO, reads a clock or draws randomness (nonces and transaction ids are arguments). It is not a state
//! machine either: who sends what and when is decided in `sw-path`, `sw-relay-core` and `sw-node`.
#![forbid(unsafe_code)]

pub mod checksum;
pub mod geneve;
pub mod ip;
pub mod nacl;
pub mod natpmp;
pub mod pcp;
pub mod portmap;
pub mod stun;
