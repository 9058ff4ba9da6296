//! Byte codecs of the data path: IP headers, DERP, disco, STUN, Geneve, TSMP, PCP and NAT-PMP.
//!
//! Every parser takes a slice, checks lengths against a named limit and gives back views or small values; nothing
//! here does IO, reads a clock or draws randomness (nonces and transaction ids are arguments). It is not a state
//! machine either: who sends what and when is decided in `sw-path`, `sw-relay-core` and `sw-node`.
//!
//! ```text
//!   inside the tunnel     ip, checksum, tsmp
//!   between nodes         disco (sealed with nacl), geneve
//!   with servers          derp (login sealed with nacl), stun
//!   with the gateway      natpmp, pcp
//! ```
//!
//! ```
//! use sw_proto::stun::{TxId, answer, parse_response, request};
//!
//! let tx = TxId(*b"unpredictabl");
//! let client = "203.0.113.7:41641".parse().unwrap();
//! let response = answer(&request(tx), client).unwrap();
//! assert_eq!(parse_response(response.as_bytes()), Ok((tx, client)));
//! ```
#![forbid(unsafe_code)]
#![warn(clippy::iter_over_hash_type)]

pub mod checksum;
pub mod derp;
pub mod disco;
pub mod geneve;
pub mod ip;
pub mod nacl;
pub mod natpmp;
pub mod pcp;
pub mod portmap;
pub mod stun;
pub mod tsmp;
