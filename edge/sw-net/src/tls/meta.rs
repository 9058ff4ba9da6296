//! The meta certificate: the relay's DERP key inside the TLS handshake (derp.md §3).

use std::time::Duration;

use rcgen::{CertificateParams, DistinguishedName, DnType, IsCa, KeyPair, PKCS_ED25519, SerialNumber};
use rustls::pki_types::CertificateDer;
use sw_types::DerpKey;
use x509_parser::prelude::{FromDer, X509Certificate};

const PREFIX: &str = "derpkey";

/// Before and after its making.
const VALIDITY: Duration = Duration::from_secs(30 * 24 * 3600);

/// The extra certificate at the end of a relay's chain.
#[derive(Clone, Debug)]
pub struct MetaCert(pub(super) CertificateDer<'static>);

impl MetaCert {
    /// Makes one with a fresh key of its own, valid 30 days before and after now.
    ///
    /// # Errors
    /// Only if the random generator fails.
    pub fn new(key: DerpKey) -> Result<Self, rcgen::Error> {
        let pair = KeyPair::generate_for(&PKCS_ED25519)?;
        let mut params = CertificateParams::default();
        let mut name = DistinguishedName::new();
        // 71 characters, over the 64 of X.520: official clients take it.
        name.push(DnType::CommonName, format!("{PREFIX}{}", hex::encode(key.as_bytes())));
        params.distinguished_name = name;
        params.serial_number = Some(SerialNumber::from(u64::from(sw_proto::derp::VERSION)));
        let now = time::OffsetDateTime::now_utc();
        params.not_before = now - VALIDITY;
        params.not_after = now + VALIDITY;
        // Constraints that say "not a CA", as the reference writes them.
        params.is_ca = IsCa::ExplicitNoCa;
        Ok(Self(params.self_signed(&pair)?.der().clone()))
    }
}

/// Whether the certificate is one of these, whatever it says.
pub(super) fn is_meta(der: &[u8]) -> bool {
    common_name(der).is_some_and(|(name, _)| name.starts_with(PREFIX))
}

/// Looks for the relay's key in the chain that it showed; only to be asked in TLS 1.3, where chains are encrypted.
#[must_use]
pub fn derp_key_of(chain: &[CertificateDer<'_>]) -> Option<DerpKey> {
    chain.iter().find_map(|der| {
        let (name, serial) = common_name(der)?;
        let mut key = [0u8; 32];
        hex::decode_to_slice(name.strip_prefix(PREFIX)?, &mut key).ok()?;
        // The serial number is the protocol version: one byte, not zero.
        (serial != 0).then(|| DerpKey::from_bytes(key))
    })
}

fn common_name(der: &[u8]) -> Option<(String, u8)> {
    let (_, cert) = X509Certificate::from_der(der).ok()?;
    let name = cert.subject().iter_common_name().next()?.as_str().ok()?.to_owned();
    let serial = match cert.raw_serial() {
        [serial] | [0, serial] => *serial,
        _ => 0,
    };
    Some((name, serial))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_found_behind_other_certificates() {
        let key = DerpKey::from_bytes(std::array::from_fn(|index| index as u8));
        let meta = MetaCert::new(key).unwrap();
        assert!(is_meta(&meta.0));
        let leaf = super::super::Identity::self_signed(&["192.0.2.1".to_owned()]).unwrap();
        let chain = [leaf.leaf().clone(), meta.0];
        assert_eq!(derp_key_of(&chain), Some(key));
        assert_eq!(derp_key_of(&chain[..1]), None);
        assert!(!is_meta(&chain[0]));
    }
}
