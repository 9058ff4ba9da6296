//! What a client believes: the usual roots, a pinned certificate, or (for tests) anything.

use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{CertHash, meta};

/// Which server certificate is good.
#[derive(Clone, Debug)]
pub enum Trust {
    /// One that the system's roots, or else the built-in ones, vouch for.
    Roots,
    /// Exactly this one, inside its dates (derp.md §2, point 6).
    Pinned(CertHash),
    /// One that a given authority vouches for, and nobody else.
    Authority(CertificateDer<'static>),
    /// Any: only where the DERP map says `InsecureForTests`.
    Anything,
}

/// A client configuration without session resumption; `alpn` is what is offered, nothing for DERP.
///
/// # Errors
/// When the given authority is not usable.
pub fn client_config(trust: &Trust, alpn: &[&[u8]]) -> Result<Arc<ClientConfig>, Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier: Arc<dyn ServerCertVerifier> = match trust {
        Trust::Roots => with_roots(usual_roots(), &provider)?,
        Trust::Authority(der) => {
            let mut roots = RootCertStore::empty();
            roots.add(der.clone())?;
            with_roots(Arc::new(roots), &provider)?
        }
        Trust::Pinned(hash) => Arc::new(Special { pin: Some(*hash), provider: Arc::clone(&provider) }),
        Trust::Anything => Arc::new(Special { pin: None, provider: Arc::clone(&provider) }),
    };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    // A resumed session shows no chain, and the chain holds the relay's key.
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

fn with_roots(
    roots: Arc<RootCertStore>,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, Error> {
    WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(provider))
        .build()
        .map(|verifier| verifier as Arc<dyn ServerCertVerifier>)
        .map_err(|error| Error::General(error.to_string()))
}

/// The system's roots and the built-in ones, read once.
fn usual_roots() -> Arc<RootCertStore> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    let read = || {
        let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        Arc::new(roots)
    };
    Arc::clone(ROOTS.get_or_init(read))
}

/// The name to ask for: a host name goes into the handshake, an IP address does not.
///
/// # Errors
/// When `host` is neither.
pub fn server_name(host: &str) -> Result<ServerName<'static>, rustls::pki_types::InvalidDnsNameError> {
    ServerName::try_from(host.trim_matches(['[', ']']).to_owned())
}

/// Believes one certificate, or all.
#[derive(Debug)]
struct Special {
    pin: Option<CertHash>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Special {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(pin) = self.pin else { return Ok(ServerCertVerified::assertion()) };
        if CertHash::of(leaf) != pin || !others.iter().all(|der| meta::is_meta(der)) {
            return Err(CertificateError::ApplicationVerificationFailure.into());
        }
        check_dates(leaf, now)?;
        // An IP literal sends no name, and then none is compared (derp.md §2).
        if let ServerName::DnsName(_) = name {
            rustls::client::verify_server_name(&ParsedCertificate::try_from(leaf)?, name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn check_dates(der: &CertificateDer<'_>, now: UnixTime) -> Result<(), Error> {
    let (_, cert) = X509Certificate::from_der(der).map_err(|_| CertificateError::BadEncoding)?;
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    if now < cert.validity().not_before.timestamp() {
        return Err(CertificateError::NotValidYet.into());
    }
    if now > cert.validity().not_after.timestamp() {
        return Err(CertificateError::Expired.into());
    }
    Ok(())
}
