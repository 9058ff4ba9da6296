//! What a server shows: certificates by name, changeable while it runs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::{ACME_TLS_ALPN, CertHash, MetaCert};

/// How long a self-signed certificate is good for: clients check its dates although they pin it (derp.md §2).
const SELF_SIGNED_YEARS: u64 = 20;

/// Why a certificate and its key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The certificate file holds no certificate.
    #[error("no certificate in the PEM text")]
    NoCertificate,
    /// One of the texts is not PEM.
    #[error("bad PEM text: {0}")]
    Pem(#[from] rustls::pki_types::pem::Error),
    /// The key does not fit the certificate, or is of a kind that cannot be used.
    #[error("private key and certificate do not fit: {0}")]
    Key(#[from] rustls::Error),
    /// A name is no host name and no address.
    #[error("certificate cannot be made: {0}")]
    Make(#[from] rcgen::Error),
}

/// A certificate chain and its private key.
#[derive(Clone, Debug)]
pub struct Identity {
    certified: Arc<CertifiedKey>,
}

impl Identity {
    /// Reads a chain (leaf first) and a key from PEM texts, and checks that they fit.
    ///
    /// # Errors
    /// See [`IdentityError`].
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, IdentityError> {
        let identity = Self::made_here(chain, key)?;
        match identity.certified.keys_match() {
            Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => Ok(identity),
            Err(error) => Err(error.into()),
        }
    }

    /// The same for a pair that was made a moment ago. The check that they fit cannot read the critical extension of
    /// an ACME proof (RFC 8737 §3) and would refuse it.
    ///
    /// # Errors
    /// See [`IdentityError`].
    pub(crate) fn made_here(chain: &[u8], key: &[u8]) -> Result<Self, IdentityError> {
        let chain = CertificateDer::pem_slice_iter(chain).collect::<Result<Vec<_>, _>>()?;
        if chain.is_empty() {
            return Err(IdentityError::NoCertificate);
        }
        let key = PrivateKeyDer::from_pem_slice(key)?;
        let key = aws_lc_rs::sign::any_supported_type(&key)?;
        Ok(Self { certified: Arc::new(CertifiedKey::new(chain, key)) })
    }

    /// Makes a self-signed certificate for host names and IP addresses, without keeping it: see [`self_signed_pem`].
    ///
    /// # Errors
    /// See [`IdentityError`].
    pub fn self_signed(names: &[String]) -> Result<Self, IdentityError> {
        let (chain, key) = self_signed_pem(names)?;
        Self::from_pem(chain.as_bytes(), key.as_bytes())
    }

    /// The certificate that clients pin.
    ///
    /// # Panics
    /// Never: an identity has at least one certificate.
    #[must_use]
    pub fn leaf(&self) -> &CertificateDer<'static> {
        self.certified.cert.first().expect("an identity is made with at least one certificate")
    }

    /// The hash of [`Self::leaf`].
    #[must_use]
    pub fn hash(&self) -> CertHash {
        CertHash::of(self.leaf())
    }
}

/// Makes a self-signed certificate for host names and IP addresses: PEM texts of certificate and private key.
///
/// # Errors
/// See [`IdentityError`].
pub fn self_signed_pem(names: &[String]) -> Result<(String, String), IdentityError> {
    let pair = KeyPair::generate()?;
    let mut params = CertificateParams::new(names.to_vec())?;
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, names.first().map_or("samewire", String::as_str));
    params.distinguished_name = subject;
    let now = time::OffsetDateTime::now_utc();
    // Clocks of clients may be behind.
    params.not_before = now - Duration::from_secs(30 * 24 * 3600);
    params.not_after = now + Duration::from_secs(SELF_SIGNED_YEARS * 365 * 24 * 3600);
    Ok((params.self_signed(&pair)?.pem(), pair.serialize_pem()))
}

/// The certificates of a listener.
#[derive(Debug, Default)]
pub struct CertStore {
    state: ArcSwap<State>,
}

#[derive(Clone, Debug, Default)]
struct State {
    default: Option<Arc<CertifiedKey>>,
    by_name: BTreeMap<String, Arc<CertifiedKey>>,
    challenges: BTreeMap<String, Arc<CertifiedKey>>,
    meta: Option<MetaCert>,
}

impl CertStore {
    /// A store without certificates: handshakes fail until one is set.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Sets the certificate for clients that ask for no name or an unknown one.
    pub fn set_default(&self, identity: &Identity) {
        self.change(|state| state.default = Some(with_meta(&identity.certified, state.meta.as_ref())));
    }

    /// Sets the certificate for clients that ask for `name` (any case).
    pub fn set_for(&self, name: &str, identity: &Identity) {
        let name = name.to_ascii_lowercase();
        self.change(|state| {
            let certified = with_meta(&identity.certified, state.meta.as_ref());
            state.by_name.insert(name, certified);
        });
    }

    /// Sets the certificate which every chain ends with; set it again before it is 30 days old.
    pub fn set_meta(&self, meta: &MetaCert) {
        self.change(|state| {
            let of = |certified: &Arc<CertifiedKey>| with_meta(certified, Some(meta));
            state.default = state.default.as_ref().map(of);
            state.by_name.values_mut().for_each(|certified| *certified = of(certified));
            state.meta = Some(meta.clone());
        });
    }

    /// Sets or removes the answer to an ACME TLS-ALPN challenge for `name`.
    pub fn set_challenge(&self, name: &str, identity: Option<&Identity>) {
        let name = name.to_ascii_lowercase();
        self.change(|state| match identity {
            Some(identity) => drop(state.challenges.insert(name, Arc::clone(&identity.certified))),
            None => drop(state.challenges.remove(&name)),
        });
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        // Changes are rare and come from one owner; readers never wait.
        let mut state = State::clone(&self.state.load());
        change(&mut state);
        self.state.store(Arc::new(state));
    }
}

fn with_meta(certified: &CertifiedKey, meta: Option<&MetaCert>) -> Arc<CertifiedKey> {
    let mut chain: Vec<_> = certified.cert.iter().filter(|der| !super::meta::is_meta(der)).cloned().collect();
    chain.extend(meta.map(|meta| meta.0.clone()));
    Arc::new(CertifiedKey::new(chain, Arc::clone(&certified.key)))
}

impl ResolvesServerCert for CertStore {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let state = self.state.load();
        let name = hello.server_name().map(str::to_ascii_lowercase);
        let named = |map: &BTreeMap<String, Arc<CertifiedKey>>| map.get(name.as_deref()?).cloned();
        // RFC 8737 §3: the challenge is asked for with this protocol alone.
        if hello.alpn().is_some_and(|mut offered| offered.any(|protocol| protocol == ACME_TLS_ALPN)) {
            return named(&state.challenges);
        }
        named(&state.by_name).or_else(|| state.default.clone())
    }
}

/// TLS 1.2 and 1.3 with the store's certificates; a client that offers no protocol gets HTTP/1.1.
///
/// # Panics
/// Never: the provider supports both versions.
#[must_use]
pub fn server_config(store: Arc<CertStore>) -> Arc<ServerConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider supports TLS 1.2 and 1.3")
        .with_no_client_auth()
        .with_cert_resolver(store);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec(), ACME_TLS_ALPN.to_vec()];
    // Tickets instead of a table: resumption that costs the server no memory.
    if let Ok(ticketer) = aws_lc_rs::Ticketer::new() {
        config.ticketer = ticketer;
    }
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.send_tls13_tickets = 1;
    Arc::new(config)
}
