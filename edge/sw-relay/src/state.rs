//! Files of a relay: its key, its self-signed certificate, and where it was last reachable.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use sw_net::tls::{Identity, self_signed_pem};
use sw_types::DerpPrivate;

use crate::accept::random;
use crate::config::ClientRate;
use crate::region::RelayPlace;

/// The relay's key, in the official relay's form (derp.md §13).
const KEY_FILE: &str = "derper.key";
const CERT_FILE: &str = "relay.crt";
const CERT_KEY_FILE: &str = "relay.key";
const PLACE_FILE: &str = "relay.json";
const RATE_FILE: &str = "rate.json";

/// A relay's directory.
#[derive(Clone, Debug)]
pub(crate) struct StateDir(PathBuf);

#[derive(Serialize, Deserialize)]
struct KeyFile {
    #[serde(rename = "PrivateKey")]
    private_key: String,
}

#[derive(Deserialize)]
struct RateFile {
    #[serde(rename = "PerClientRateLimitBytesPerSec", default)]
    bytes_per_second: u64,
    #[serde(rename = "PerClientRateBurstBytes", default)]
    burst_bytes: u64,
}

impl StateDir {
    /// Makes the directory if need be, for this user alone.
    pub(crate) fn open(path: &Path) -> anyhow::Result<Self> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .with_context(|| format!("{} cannot be made", path.display()))?;
        Ok(Self(path.to_owned()))
    }

    /// The directory itself.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The relay's key; made at the first start.
    pub(crate) fn key(&self) -> anyhow::Result<DerpPrivate> {
        if let Some(text) = self.read_secret(KEY_FILE)? {
            let file: KeyFile = serde_json::from_slice(&text)
                .with_context(|| format!("{} is damaged", self.file(KEY_FILE).display()))?;
            return DerpPrivate::from_text(&file.private_key)
                .with_context(|| format!("{} is damaged", self.file(KEY_FILE).display()));
        }
        let key = DerpPrivate::generate(random().context("no random bytes")?);
        let file = KeyFile { private_key: key.to_text().expose().clone() };
        self.write(KEY_FILE, &serde_json::to_vec(&file)?, 0o600)?;
        Ok(key)
    }

    /// The self-signed certificate; made at the first start, and anew when the name changes.
    pub(crate) fn self_signed(&self, name: &str) -> anyhow::Result<Identity> {
        let tagged = |pem: &str| format!("# {name}\n{pem}");
        if let (Ok(cert), Some(key)) = (fs::read(self.file(CERT_FILE)), self.read_secret(CERT_KEY_FILE)?)
            && cert.starts_with(tagged("").as_bytes())
        {
            return Identity::from_pem(&cert, &key).context("the relay's certificate is damaged");
        }
        let (cert, key) = self_signed_pem(&[name.to_owned()])?;
        self.write(CERT_KEY_FILE, key.as_bytes(), 0o600)?;
        self.write(CERT_FILE, tagged(&cert).as_bytes(), 0o644)?;
        Ok(Identity::from_pem(cert.as_bytes(), key.as_bytes())?)
    }

    /// How fast a client may send, if there is a file about it (derp.md §8).
    pub(crate) fn rate(&self) -> anyhow::Result<Option<ClientRate>> {
        let path = self.file(RATE_FILE);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("{} cannot be read", path.display())),
        };
        let file: RateFile =
            serde_json::from_slice(&text).with_context(|| format!("{} is damaged", path.display()))?;
        let rate = ClientRate { bytes_per_second: file.bytes_per_second, burst_bytes: file.burst_bytes };
        Ok((rate.bytes_per_second > 0).then_some(rate))
    }

    /// Notes where the relay is reachable.
    pub(crate) fn set_place(&self, place: &RelayPlace) -> anyhow::Result<()> {
        self.write(PLACE_FILE, &serde_json::to_vec_pretty(place)?, 0o644)
    }

    /// Where the relay is, or was last, reachable.
    pub(crate) fn place(&self) -> anyhow::Result<RelayPlace> {
        let path = self.file(PLACE_FILE);
        let text = fs::read(&path).with_context(|| {
            format!("{} is not there: the relay has not been started yet", path.display())
        })?;
        serde_json::from_slice(&text).with_context(|| format!("{} is damaged", path.display()))
    }

    /// Reads a file that only its owner may read.
    fn read_secret(&self, name: &str) -> anyhow::Result<Option<Vec<u8>>> {
        read_secret(&self.file(name))
    }

    /// Replaces a file as a whole (threat-model.md §6).
    fn write(&self, name: &str, bytes: &[u8], mode: u32) -> anyhow::Result<()> {
        let (path, temporary) = (self.file(name), self.file(&format!("{name}.new")));
        let write = || -> io::Result<()> {
            drop(fs::remove_file(&temporary));
            let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&temporary, &path)?;
            File::open(&self.0)?.sync_all()
        };
        write().with_context(|| format!("{} cannot be written", path.display()))
    }
}

/// Reads a secret; `None` when it is not there. Refuses one that others may read.
pub(crate) fn read_secret(path: &Path) -> anyhow::Result<Option<Vec<u8>>> {
    let file = match fs::metadata(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("{} cannot be read", path.display())),
    };
    if file.mode() & 0o077 != 0 {
        bail!("{path} may be read by others; fix: chmod 600 {path}", path = path.display());
    }
    fs::read(path).map(Some).with_context(|| format!("{} cannot be read", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn key_and_certificate_are_kept_and_guarded() {
        let path = std::env::temp_dir().join(format!("sw-relay-state-{}", std::process::id()));
        let state = StateDir::open(&path).unwrap();
        let key = state.key().unwrap().public();
        assert_eq!(state.key().unwrap().public(), key);
        let hash = state.self_signed("192.0.2.1").unwrap().hash();
        assert_eq!(state.self_signed("192.0.2.1").unwrap().hash(), hash);
        assert_ne!(state.self_signed("192.0.2.2").unwrap().hash(), hash, "another name, another certificate");
        fs::set_permissions(path.join(KEY_FILE), fs::Permissions::from_mode(0o644)).unwrap();
        assert!(state.key().unwrap_err().to_string().contains("chmod 600"));
        assert_eq!(state.rate().unwrap(), None);
        fs::write(path.join(RATE_FILE), br#"{"PerClientRateLimitBytesPerSec":1000}"#).unwrap();
        assert_eq!(state.rate().unwrap().unwrap().bytes_per_second, 1000);
        fs::remove_dir_all(path).unwrap();
    }
}
