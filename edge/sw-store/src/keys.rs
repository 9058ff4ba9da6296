//! The server's private keys: one JSON file, 0600, apart from the database.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use sw_types::Secret;

/// Private keys by name (`noise`, `derp`, `tls-key`, …). Losing them cuts every client off.
#[derive(Debug)]
pub struct KeyFile {
    file: PathBuf,
    keys: BTreeMap<String, Secret<String>>,
}

/// Why the key file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// Others can read it.
    #[error("{file} can be read by others (mode {mode:o}); run: chmod 600 {file}")]
    Open {
        /// The file.
        file: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It holds something else.
    #[error("{file} is no key file: {source}")]
    Malformed {
        /// The file.
        file: PathBuf,
        /// Where reading stopped; never the content.
        source: serde_json::Error,
    },
    /// The file system.
    #[error("{action} {file}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

impl KeyFile {
    /// Where the keys of a backup lie: `BACKUP.keys`.
    pub fn beside(backup: &Path) -> PathBuf {
        let mut name = backup.as_os_str().to_owned();
        name.push(".keys");
        name.into()
    }

    /// Reads the file; one that does not exist is empty.
    ///
    /// # Errors
    /// [`KeyFileError::Open`] when others may read it, [`KeyFileError::Malformed`].
    pub fn open(file: &Path) -> Result<Self, KeyFileError> {
        let io = |action, source| KeyFileError::Io { action, file: file.to_owned(), source };
        let text = match std::fs::read(file) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self { file: file.to_owned(), keys: BTreeMap::new() });
            }
            Err(e) => return Err(io("reading", e)),
        };
        let mode = std::fs::metadata(file).map_err(|e| io("reading", e))?.mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(KeyFileError::Open { file: file.to_owned(), mode });
        }
        let malformed = |source| KeyFileError::Malformed { file: file.to_owned(), source };
        Ok(Self { file: file.to_owned(), keys: serde_json::from_slice(&text).map_err(malformed)? })
    }

    /// The key of that name.
    pub fn get(&self, name: &str) -> Option<&Secret<String>> {
        self.keys.get(name)
    }

    /// Returns the key of that name, made and saved if it is not there.
    ///
    /// # Errors
    /// Those of [`Self::set`].
    pub fn get_or_make(
        &mut self,
        name: &str,
        make: impl FnOnce() -> Secret<String>,
    ) -> Result<Secret<String>, KeyFileError> {
        if let Some(key) = self.keys.get(name) {
            return Ok(key.clone());
        }
        let key = make();
        self.set(name, key.clone())?;
        Ok(key)
    }

    /// Puts a key and saves the file: written beside, synced, renamed.
    ///
    /// # Errors
    /// [`KeyFileError::Io`]; the file is as it was.
    pub fn set(&mut self, name: &str, key: Secret<String>) -> Result<(), KeyFileError> {
        let old = self.keys.insert(name.to_owned(), key);
        let saved = self.save_to(&self.file);
        if saved.is_err() {
            match old {
                Some(old) => drop(self.keys.insert(name.to_owned(), old)),
                None => drop(self.keys.remove(name)),
            }
        }
        saved
    }

    /// Writes a copy, for a backup.
    ///
    /// # Errors
    /// [`KeyFileError::Io`].
    pub fn save_to(&self, file: &Path) -> Result<(), KeyFileError> {
        let io = |action, source| KeyFileError::Io { action, file: file.to_owned(), source };
        let exposed: BTreeMap<&str, &str> =
            self.keys.iter().map(|(k, v)| (k.as_str(), v.expose().as_str())).collect();
        let text = Secret::new(serde_json::to_string_pretty(&exposed).expect("strings are JSON"));
        let mut name = file.as_os_str().to_owned();
        name.push(".new");
        let staged = PathBuf::from(name);
        drop(std::fs::remove_file(&staged));
        let mut options = std::fs::OpenOptions::new();
        let mut out =
            options.write(true).create_new(true).mode(0o600).open(&staged).map_err(|e| io("creating", e))?;
        out.write_all(text.expose().as_bytes())
            .and_then(|()| out.sync_all())
            .map_err(|e| io("writing", e))?;
        std::fs::rename(&staged, file).map_err(|e| io("renaming to", e))?;
        let dir = file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        std::fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(|e| io("syncing the directory of", e))
    }
}
