//! Keeps one certificate of an authority: in a file, in force, and renewed in time.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rcgen::KeyPair;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use tokio::sync::mpsc;

use super::{AcmeError, AcmeWish, HttpProofs, Proofs, obtain};
use crate::dial::{self, DialOptions};
use crate::tls::{CertStore, Identity, IdentityError};

/// The file in the state directory, 0600.
const FILE: &str = "acme.json";
/// How long the authority may take to answer at all, before anything is asked of it.
const REACH_LIMIT: Duration = Duration::from_secs(3);
/// After a failure: the first wait, which doubles up to the longest one.
const RETRY_MIN: Duration = Duration::from_secs(60);
const RETRY_MAX: Duration = Duration::from_secs(3600);
/// While the authority cannot be reached at all.
const RETRY_AWAY: Duration = Duration::from_secs(20);
/// Clocks jump and machines sleep: no wait is longer.
const LOOK_AGAIN: Duration = Duration::from_secs(6 * 3600);

/// What is kept between runs.
#[derive(Serialize, Deserialize)]
struct Kept {
    host: String,
    directory: String,
    account: String,
    chain: String,
    key: String,
}

/// Keeps a certificate in force.
#[derive(Debug)]
pub struct Keeper {
    wish: AcmeWish,
    file: PathBuf,
    /// The certificate is made for this key, so that whoever pinned it before goes on.
    key_pem: Option<String>,
    store: Arc<CertStore>,
    http: Arc<HttpProofs>,
}

impl Keeper {
    /// How long after the first failure it asks again; later waits double.
    pub const FIRST_RETRY: Duration = RETRY_MIN;

    /// A keeper with its file in `state`; nothing is asked of anybody yet. `key_pem` is a PKCS #8 key to certify; without
    /// one the keeper makes its own.
    #[must_use]
    pub fn new(
        wish: AcmeWish,
        state: &Path,
        key_pem: Option<String>,
        store: Arc<CertStore>,
        http: Arc<HttpProofs>,
    ) -> Self {
        Self { wish, file: state.join(FILE), key_pem, store, http }
    }

    /// The kept certificate, if it is one for our host from our authority and still good.
    ///
    /// # Errors
    /// The file is there and cannot be used.
    pub fn kept(&self) -> Result<Option<Identity>, AcmeError> {
        let Some(kept) = self.read()?.filter(|kept| self.is_ours(kept)) else { return Ok(None) };
        let identity = Identity::from_pem(kept.chain.as_bytes(), kept.key.as_bytes())?;
        let (_, end) = dates(&identity)?;
        Ok((end > OffsetDateTime::now_utc()).then_some(identity))
    }

    /// Gets a certificate and puts it in force.
    ///
    /// # Errors
    /// [`AcmeError`]; the certificate in force stays.
    pub async fn renew(&self) -> Result<Identity, AcmeError> {
        self.find_authority().await?;
        let kept = self.read()?;
        let account = kept.as_ref().filter(|kept| kept.directory == self.wish.directory);
        let ours = kept.as_ref().filter(|kept| self.is_ours(kept)).map(|kept| kept.key.clone());
        let pair = match self.key_pem.clone().or(ours) {
            Some(pem) => KeyPair::from_pem(&pem)?,
            None => KeyPair::generate()?,
        };
        let proofs = Proofs { store: &self.store, http: &self.http };
        let issued = obtain(&self.wish, account.map(|kept| kept.account.as_str()), &pair, proofs).await?;
        let key = pair.serialize_pem();
        let identity = Identity::from_pem(issued.chain_pem.as_bytes(), key.as_bytes())?;
        let kept = Kept {
            host: self.wish.host.clone(),
            directory: self.wish.directory.clone(),
            account: issued.account_json,
            chain: issued.chain_pem,
            key,
        };
        write(&self.file, &serde_json::to_vec_pretty(&kept)?)
            .map_err(|source| AcmeError::File { path: self.file.clone(), source })?;
        self.store.set_default(&identity);
        tracing::info!(host = %self.wish.host, "new certificate");
        Ok(identity)
    }

    /// Renews for ever, when two thirds of the time are over; tells `news` of each new certificate. `has_just_failed`
    /// makes it wait before the first attempt.
    pub async fn run(self, has_just_failed: bool, news: mpsc::Sender<()>) {
        let mut retry = RETRY_MIN;
        let mut wait = if has_just_failed { RETRY_MIN } else { self.due_in() };
        loop {
            tokio::time::sleep(wait.min(LOOK_AGAIN)).await;
            if !self.due_in().is_zero() {
                wait = self.due_in();
                continue;
            }
            match self.renew().await {
                Ok(_in_force_already) => {
                    // Nobody may need to know.
                    let _unheard = news.send(()).await;
                    retry = RETRY_MIN;
                    // An authority whose certificates are over at once must not be asked in a circle.
                    wait = self.due_in().max(Duration::from_secs(1));
                }
                Err(error) => {
                    // Asking nobody costs nothing: at boot the network may be a moment late.
                    wait = if matches!(error, AcmeError::Away(_)) { RETRY_AWAY } else { retry };
                    retry = if wait == retry { (retry * 2).min(RETRY_MAX) } else { retry };
                    tracing::warn!(%error, again_in = ?wait, "no new certificate");
                }
            }
        }
    }

    /// How long the kept certificate is good enough.
    fn due_in(&self) -> Duration {
        let Ok(Some(identity)) = self.kept() else { return Duration::ZERO };
        let Ok((begin, end)) = dates(&identity) else { return Duration::ZERO };
        let due = begin + (end - begin) * 2 / 3;
        Duration::try_from(due - OffsetDateTime::now_utc()).unwrap_or(Duration::ZERO)
    }

    fn is_ours(&self, kept: &Kept) -> bool {
        kept.host == self.wish.host && kept.directory == self.wish.directory
    }

    /// Fails soon where there is no Internet: the library would wait for long.
    async fn find_authority(&self) -> Result<(), AcmeError> {
        let away = || AcmeError::Away(self.wish.directory.clone());
        let uri: http::Uri = self.wish.directory.parse().map_err(|_| away())?;
        let host = uri.host().ok_or_else(away)?;
        let port = uri.port_u16().unwrap_or(443);
        let options = DialOptions::default();
        let dialled = tokio::time::timeout(REACH_LIMIT, dial::connect(&options, host, port)).await;
        dialled.ok().and_then(Result::ok).map(drop).ok_or_else(away)
    }

    fn read(&self) -> Result<Option<Kept>, AcmeError> {
        match fs::read(&self.file) {
            Ok(text) => Ok(Some(serde_json::from_slice(&text)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(AcmeError::File { path: self.file.clone(), source }),
        }
    }
}

/// From when until when a certificate is good.
fn dates(identity: &Identity) -> Result<(OffsetDateTime, OffsetDateTime), AcmeError> {
    let (_, certificate) = x509_parser::parse_x509_certificate(identity.leaf())
        .map_err(|_| AcmeError::Identity(IdentityError::NoCertificate))?;
    let validity = certificate.validity();
    Ok((validity.not_before.to_datetime(), validity.not_after.to_datetime()))
}

/// Replaces the file as a whole (threat-model.md §6).
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("new");
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}
