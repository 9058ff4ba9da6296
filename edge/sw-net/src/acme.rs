//! Certificates from an ACME authority for a name or an address: proven over the TLS port itself, else over plain HTTP
//! (RFC 8555, RFC 8737, RFC 8738). Control server, first machine and relay share it.
//!
//! ```text
//!   Keeper ── due? ── obtain ──┬─ TLS-ALPN-01: CertStore answers the handshake
//!      │                       └─ HTTP-01:     Entrance answers the request
//!      └── file (chain, key, account), CertStore: new handshakes get it, streams live on
//! ```

mod entrance;
mod keeper;

use std::net::IpAddr;
use std::path::PathBuf;

use instant_acme::{
    Account, AccountCredentials, AuthorizationStatus, ChallengeType, Identifier, LetsEncrypt, NewAccount,
    NewOrder, OrderStatus, RetryPolicy,
};
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, KeyPair};

pub use self::entrance::{Entrance, HttpProofs};
pub use self::keeper::Keeper;
use crate::tls::{CertStore, Identity, IdentityError};

/// Where certificates come from unless something else is asked for.
pub const LETS_ENCRYPT: &str = LetsEncrypt::Production.url();
/// The profile without which Let's Encrypt gives none for addresses: good for six days.
const SHORT_LIVED: &str = "shortlived";

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum AcmeError {
    /// The authority refuses or does not answer.
    #[error("the certificate authority: {0}")]
    Authority(#[from] instant_acme::Error),
    /// Nobody answers at the authority's address.
    #[error("the certificate authority {0} cannot be reached from here")]
    Away(String),
    /// The kept account or certificate cannot be read.
    #[error("the kept certificate is damaged: {0}")]
    Kept(#[from] serde_json::Error),
    /// The file of account and certificate.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The authority offers no proof that we can give.
    #[error("the certificate authority offers neither tls-alpn-01 nor http-01 for {0}")]
    NoChallenge(String),
    /// It did not believe the proof.
    #[error("the authority could not reach {0} on TCP 443 or 80")]
    NotProven(String),
    /// Its resolver knows no address of the name.
    #[error("the authority finds no address for {0}")]
    NoAddress(String),
    /// It has given this host as many as it gives in a while.
    #[error("the authority gives no more certificates for {0} for now")]
    TooMany(String),
    /// A certificate or request cannot be made.
    #[error(transparent)]
    Make(#[from] rcgen::Error),
    /// The answer to the challenge cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

impl AcmeError {
    /// What the authority's error codes mean for whoever runs the server (RFC 8555 §6.7).
    fn in_words(self, host: &str) -> Self {
        let Self::Authority(instant_acme::Error::Api(problem)) = &self else { return self };
        let code = problem.r#type.as_deref().and_then(|code| code.rsplit(':').next());
        match code {
            Some("connection" | "tls" | "unauthorized" | "incorrectResponse") => {
                tracing::info!(error = %problem, "the proof was not believed");
                Self::NotProven(host.to_owned())
            }
            Some("dns") => Self::NoAddress(host.to_owned()),
            Some("rateLimited") => Self::TooMany(host.to_owned()),
            Some(_) | None => self,
        }
    }
}

/// What is wanted of whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcmeWish {
    /// A host name or an IP address, without brackets.
    pub host: String,
    /// URL of the authority's directory.
    pub directory: String,
    /// PEM file with the root of an authority that the system does not know.
    pub authority: Option<PathBuf>,
}

/// A certificate that an authority gave.
struct Issued {
    /// The chain in PEM form, leaf first.
    chain_pem: String,
    /// The account in JSON form, for the next time; holds a private key.
    account_json: String,
}

/// How we can prove that a host is ours.
#[derive(Clone, Copy)]
struct Proofs<'a> {
    store: &'a CertStore,
    http: &'a HttpProofs,
}

/// Gets a certificate for `pair`. The listeners of `proofs` must be reachable on TCP 443 or 80 meanwhile.
async fn obtain(
    wish: &AcmeWish,
    account_json: Option<&str>,
    pair: &KeyPair,
    proofs: Proofs<'_>,
) -> Result<Issued, AcmeError> {
    let (account, account_json) = account(wish, account_json).await?;
    let mut outcome = Err(AcmeError::NoChallenge(wish.host.clone()));
    for kind in [ChallengeType::TlsAlpn01, ChallengeType::Http01] {
        let ordered = order(&account, wish, kind, pair, proofs).await;
        outcome = match (ordered.map_err(|error| error.in_words(&wish.host)), outcome) {
            (Ok(chain_pem), _) => return Ok(Issued { chain_pem, account_json }),
            // What a way that was tried met says more than that another one is not offered.
            (Err(AcmeError::NoChallenge(_)), tried) => tried,
            (Err(error), _) => Err(error),
        };
    }
    outcome
}

/// One order, proven in one way; the chain.
async fn order(
    account: &Account,
    wish: &AcmeWish,
    kind: ChallengeType,
    pair: &KeyPair,
    proofs: Proofs<'_>,
) -> Result<String, AcmeError> {
    let ip = wish.host.parse::<IpAddr>().ok();
    let identifiers = [ip.map_or_else(|| Identifier::Dns(wish.host.clone()), Identifier::Ip)];
    let mut wanted = NewOrder::new(&identifiers);
    if ip.is_some() && account.profiles().any(|profile| profile.name == SHORT_LIVED) {
        wanted = wanted.profile(SHORT_LIVED);
    }
    let mut order = account.new_order(&wanted).await?;
    let mut shown = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        if authorization.status != AuthorizationStatus::Pending {
            continue;
        }
        let no_challenge = || AcmeError::NoChallenge(wish.host.clone());
        let mut challenge = authorization.challenge(kind.clone()).ok_or_else(no_challenge)?;
        shown.push(show(proofs, wish, &kind, &challenge)?);
        challenge.set_ready().await?;
    }
    let proven = order.poll_ready(&RetryPolicy::default()).await;
    drop(shown);
    if proven? != OrderStatus::Ready {
        return Err(AcmeError::NotProven(wish.host.clone()));
    }
    let mut params = CertificateParams::new(vec![wish.host.clone()])?;
    params.distinguished_name = DistinguishedName::new();
    order.finalize_csr(params.serialize_request(pair)?.der()).await?;
    Ok(order.poll_certificate(&RetryPolicy::default()).await?)
}

/// A proof that is shown until this is dropped.
struct Shown<'a> {
    proofs: Proofs<'a>,
    tls_name: Option<String>,
    token: Option<String>,
}

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        if let Some(name) = &self.tls_name {
            self.proofs.store.set_challenge(name, None);
        }
        if let Some(token) = &self.token {
            self.proofs.http.hide(token);
        }
    }
}

fn show<'a>(
    proofs: Proofs<'a>,
    wish: &AcmeWish,
    kind: &ChallengeType,
    challenge: &instant_acme::ChallengeHandle<'_>,
) -> Result<Shown<'a>, AcmeError> {
    let authorization = challenge.key_authorization();
    let mut shown = Shown { proofs, tls_name: None, token: None };
    if *kind == ChallengeType::TlsAlpn01 {
        let name = tls_name(&wish.host);
        proofs.store.set_challenge(&name, Some(&proof(&wish.host, authorization.digest().as_ref())?));
        shown.tls_name = Some(name);
    } else {
        proofs.http.show(&challenge.token, authorization.as_str());
        shown.token = Some(challenge.token.clone());
    }
    Ok(shown)
}

/// The name by which an authority asks for the proof: for addresses their reverse name (RFC 8738 §6).
fn tls_name(host: &str) -> String {
    match host.parse::<IpAddr>() {
        Ok(IpAddr::V4(ip)) => {
            let [a, b, c, d] = ip.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        Ok(IpAddr::V6(ip)) => {
            let nibbles = ip.octets().into_iter().rev().flat_map(|byte| [byte & 15, byte >> 4]);
            nibbles.map(|nibble| format!("{nibble:x}.")).collect::<String>() + "ip6.arpa"
        }
        Err(_) => host.to_owned(),
    }
}

async fn account(wish: &AcmeWish, kept: Option<&str>) -> Result<(Account, String), AcmeError> {
    let builder = || match &wish.authority {
        Some(root) => Account::builder_with_root(root),
        None => Account::builder(),
    };
    if let Some(json) = kept {
        let credentials: AccountCredentials = serde_json::from_str(json)?;
        return Ok((builder()?.from_credentials(credentials).await?, json.to_owned()));
    }
    let new = NewAccount { contact: &[], terms_of_service_agreed: true, only_return_existing: false };
    let (account, credentials) = builder()?.create(&new, wish.directory.clone(), None).await?;
    Ok((account, serde_json::to_string(&credentials)?))
}

/// The certificate that answers the challenge (RFC 8737 §3).
fn proof(host: &str, digest: &[u8]) -> Result<Identity, AcmeError> {
    let pair = KeyPair::generate()?;
    let mut params = CertificateParams::new(vec![host.to_owned()])?;
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
    let cert = params.self_signed(&pair)?;
    Ok(Identity::made_here(cert.pem().as_bytes(), pair.serialize_pem().as_bytes())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use x509_parser::prelude::{FromDer, X509Certificate};

    #[test]
    fn the_proof_holds_the_digest_in_a_critical_extension() {
        let proof = proof("relay.example.org", &[7; 32]).unwrap();
        let (_, cert) = X509Certificate::from_der(proof.leaf()).unwrap();
        let extension =
            cert.extensions().iter().find(|e| e.oid.to_id_string() == "1.3.6.1.5.5.7.1.31").unwrap();
        assert!(extension.critical);
        assert_eq!(extension.value, [&[4, 32][..], &[7; 32]].concat());
    }

    #[test]
    fn addresses_are_asked_for_by_their_reverse_names() {
        assert_eq!(tls_name("203.0.113.7"), "7.113.0.203.in-addr.arpa");
        assert_eq!(
            tls_name("2001:db8::1"),
            "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa"
        );
        assert_eq!(tls_name("net.example.org"), "net.example.org");
    }
}
