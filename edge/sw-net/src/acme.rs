//! Certificates from an ACME authority, proven over the TLS port itself (RFC 8555, RFC 8737): no port 80 needed.

use instant_acme::{
    Account, AccountCredentials, AuthorizationStatus, ChallengeType, Identifier, LetsEncrypt, NewAccount,
    NewOrder, OrderStatus, RetryPolicy,
};
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, KeyPair};

use crate::tls::{CertStore, Identity, IdentityError};

/// Where certificates come from unless something else is asked for.
pub const LETS_ENCRYPT: &str = LetsEncrypt::Production.url();

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum AcmeError {
    /// The authority refuses or does not answer.
    #[error("the certificate authority: {0}")]
    Authority(#[from] instant_acme::Error),
    /// The kept account cannot be read.
    #[error("the kept ACME account is damaged: {0}")]
    Account(#[from] serde_json::Error),
    /// The authority offers no proof that we can give.
    #[error("the certificate authority does not offer tls-alpn-01 for {0}")]
    NoChallenge(String),
    /// It did not believe the proof.
    #[error("the certificate authority did not reach this machine under {0} on TCP 443")]
    NotProven(String),
    /// A certificate or request cannot be made.
    #[error(transparent)]
    Make(#[from] rcgen::Error),
    /// The answer to the challenge cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

/// A certificate that an authority gave.
pub struct Issued {
    /// The chain in PEM form, leaf first.
    pub chain_pem: String,
    /// The private key in PEM form; to be kept with mode 0600.
    pub key_pem: String,
    /// The account in JSON form, for the next time; holds a private key as well.
    pub account_json: String,
}

impl std::fmt::Debug for Issued {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Issued(***)")
    }
}

/// Gets a certificate for a host name. The listener of `store` must be reachable under it on TCP 443 meanwhile.
///
/// # Errors
/// See [`AcmeError`].
pub async fn obtain(
    name: &str,
    directory_url: &str,
    account_json: Option<&str>,
    store: &CertStore,
) -> Result<Issued, AcmeError> {
    let (account, account_json) = account(directory_url, account_json).await?;
    let identifiers = [Identifier::Dns(name.to_owned())];
    let mut order = account.new_order(&NewOrder::new(&identifiers)).await?;
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        if authorization.status != AuthorizationStatus::Pending {
            continue;
        }
        let no_challenge = || AcmeError::NoChallenge(name.to_owned());
        let mut challenge = authorization.challenge(ChallengeType::TlsAlpn01).ok_or_else(no_challenge)?;
        let proof = proof(name, challenge.key_authorization().digest().as_ref())?;
        store.set_challenge(name, Some(&proof));
        challenge.set_ready().await?;
    }
    let proven = order.poll_ready(&RetryPolicy::default()).await;
    store.set_challenge(name, None);
    if proven? != OrderStatus::Ready {
        return Err(AcmeError::NotProven(name.to_owned()));
    }
    let pair = KeyPair::generate()?;
    let mut params = CertificateParams::new(vec![name.to_owned()])?;
    params.distinguished_name = DistinguishedName::new();
    order.finalize_csr(params.serialize_request(&pair)?.der()).await?;
    let chain_pem = order.poll_certificate(&RetryPolicy::default()).await?;
    Ok(Issued { chain_pem, key_pem: pair.serialize_pem(), account_json })
}

async fn account(directory_url: &str, kept: Option<&str>) -> Result<(Account, String), AcmeError> {
    if let Some(json) = kept {
        let credentials: AccountCredentials = serde_json::from_str(json)?;
        return Ok((Account::builder()?.from_credentials(credentials).await?, json.to_owned()));
    }
    let new = NewAccount { contact: &[], terms_of_service_agreed: true, only_return_existing: false };
    let (account, credentials) = Account::builder()?.create(&new, directory_url.to_owned(), None).await?;
    Ok((account, serde_json::to_string(&credentials)?))
}

/// The certificate that answers the challenge (RFC 8737 §3).
fn proof(name: &str, digest: &[u8]) -> Result<Identity, AcmeError> {
    let pair = KeyPair::generate()?;
    let mut params = CertificateParams::new(vec![name.to_owned()])?;
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
}
