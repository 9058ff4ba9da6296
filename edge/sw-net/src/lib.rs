//! The network below the protocols: listeners, TLS, dialling, the DERP client, port mapping.
#![forbid(unsafe_code)]

pub mod front;
pub mod socket;
pub mod tls;
