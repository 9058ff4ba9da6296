//! TLS: certificates that a server shows, and what a client believes.

mod client;
mod meta;
mod server;

pub use client::{Trust, client_config, server_name};
pub use meta::{MetaCert, derp_key_of};
pub use server::{CertStore, Identity, IdentityError, self_signed_pem, server_config};

use sha2::{Digest, Sha256};

/// The protocol name of ACME's TLS-ALPN challenge (RFC 8737).
pub const ACME_TLS_ALPN: &[u8] = b"acme-tls/1";

/// SHA-256 of a certificate: what the DERP map pins (derp.md §2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CertHash(pub [u8; 32]);

impl CertHash {
    /// The hash of a certificate's DER form.
    #[must_use]
    pub fn of(der: &[u8]) -> Self {
        Self(Sha256::digest(der).into())
    }

    /// Reads 64 hex digits.
    #[must_use]
    pub fn parse(digits: &str) -> Option<Self> {
        let mut hash = [0; 32];
        hex::decode_to_slice(digits, &mut hash).ok()?;
        Some(Self(hash))
    }

    /// The form that stands in `CertName` of a DERP map: `sha256-raw:` and 64 hex digits.
    #[must_use]
    pub fn cert_name(&self) -> String {
        format!("sha256-raw:{}", hex::encode(self.0))
    }
}
