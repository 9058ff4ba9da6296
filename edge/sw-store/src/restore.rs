//! Puts a backup in the place of a database.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::witness::Witness;
use crate::{KeyFile, Seq, SqliteStore, StoreError};

/// Why a backup was not restored. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The backup itself is damaged, or no backup.
    #[error(transparent)]
    Backup(#[from] StoreError),
    /// The file system.
    #[error("{action} {file}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        file: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// Checks `backup`, sets the present database aside (`control.db.before-restore`) and takes its place.
///
/// The keys are restored from `BACKUP.keys` where that exists and the directory has none.
/// The server must not be running. Returns where the restored log ends.
///
/// # Errors
/// [`RestoreError`]; then the present files are as they were.
pub fn restore(backup: &Path, database: &Path, keys: &Path) -> Result<Seq, RestoreError> {
    let seq = SqliteStore::verify(backup)?;
    let io = |action, file: &Path, source| RestoreError::Io { action, file: file.to_owned(), source };
    let staged = with_suffix(database, ".restoring");
    std::fs::copy(backup, &staged).map_err(|e| io("copying to", &staged, e))?;
    std::fs::File::open(&staged).and_then(|f| f.sync_all()).map_err(|e| io("syncing", &staged, e))?;
    let saved_keys = KeyFile::beside(backup);
    if saved_keys.exists() && !keys.exists() {
        std::fs::copy(&saved_keys, keys).map_err(|e| io("copying to", keys, e))?;
    }
    // INVARIANT: at every step either the old or the new database lies at `database`, or neither does
    // and the `.seen` file makes a start refuse.
    for suffix in ["", "-wal", "-shm"] {
        let old = with_suffix(database, suffix);
        if old.exists() {
            let aside = with_suffix(&with_suffix(database, ".before-restore"), suffix);
            std::fs::rename(&old, &aside).map_err(|e| io("setting aside", &old, e))?;
        }
    }
    let seen = Witness::path(database);
    std::fs::rename(&staged, database).map_err(|e| io("renaming to", database, e))?;
    let (mut witness, _) = Witness::open(database).map_err(|e| io("opening", &seen, e))?;
    witness.set(seq).map_err(|e| io("writing", &seen, e))?;
    Ok(seq)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name: OsString = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
