//! Storage of the tailnet: the trait and the SQLite back end.
//!
//! A [`Store`] speaks in the words of the tailnet: it keeps the current records and the ordered log
//! of the entries that made them, appends with the sequence that the writer believes is the last
//! (so two writers never interleave), and keeps facts that may be lost (endpoints, last seen) apart.
//! It knows nothing of what the records mean.
//!
//! ```text
//!   control.db        records + log (SQLite, WAL, every commit synced)
//!   control.db.seen   the last acknowledged sequence: an older database is refused, not served
//!   control.keys      private keys of the server, 0600, never in the database
//! ```
//!
//! It is not a query layer: everything but the audit log is read once, at start.
//!
//! ```
//! use sw_store::{MemoryStore, Seq, Store};
//!
//! let mut store = MemoryStore::default();
//! assert_eq!(store.append(Seq(0), &[]).unwrap(), Seq(0));
//! ```
#![forbid(unsafe_code)]

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use sw_tailnet::{Change, Entry};
use sw_types::NodeId;

mod keys;
mod memory;
mod restore;
mod sqlite;
mod witness;

pub use keys::{KeyFile, KeyFileError};
pub use memory::MemoryStore;
pub use restore::{RestoreError, restore};
pub use sqlite::SqliteStore;

/// Place in the log: the number of entries before and including this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Seq(pub u64);

/// What a store holds when a server starts.
#[derive(Debug, Default)]
pub struct Loaded {
    /// Sequence of the last entry; 0 when nothing was ever written.
    pub seq: Seq,
    /// Current records, each as the change that puts it.
    pub records: Vec<Change>,
    /// Volatile facts by machine, as the writer's own text.
    pub volatile: Vec<(NodeId, String)>,
}

/// Keeps one tailnet.
///
/// INVARIANT: when `append` returned `Ok`, the entries survive any crash; when it returned `Err`,
/// none of them will ever be seen.
pub trait Store: Send {
    /// Reads everything, and checks it.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] names what is damaged and where. Damage never reads as emptiness.
    fn load(&mut self) -> Result<Loaded, StoreError>;

    /// Appends entries after `expected` in one transaction and returns the new last sequence.
    ///
    /// # Errors
    /// [`StoreError::Moved`] when somebody else wrote since; [`StoreError::Busy`] and
    /// [`StoreError::Full`] may be tried again later.
    fn append(&mut self, expected: Seq, entries: &[Entry]) -> Result<Seq, StoreError>;

    /// Up to `limit` entries after `seq`, oldest first.
    ///
    /// # Errors
    /// Those of reading.
    fn entries_after(&mut self, seq: Seq, limit: usize) -> Result<Vec<(Seq, Entry)>, StoreError>;

    /// Up to `limit` entries before `seq` (`None`: from the end), newest first.
    ///
    /// # Errors
    /// Those of reading.
    fn entries_before(&mut self, seq: Option<Seq>, limit: usize) -> Result<Vec<(Seq, Entry)>, StoreError>;

    /// Keeps facts that may be lost in a crash; `None` removes.
    ///
    /// # Errors
    /// Those of writing.
    fn put_volatile(&mut self, facts: &[(NodeId, Option<String>)]) -> Result<(), StoreError>;

    /// Drops log entries up to and including `seq`; records stay.
    ///
    /// # Errors
    /// Those of writing.
    fn trim(&mut self, seq: Seq) -> Result<(), StoreError>;

    /// Writes a consistent copy while the store is in use, to a file that must not exist.
    ///
    /// # Errors
    /// [`StoreError::NoFiles`] for a store without files, those of writing.
    fn backup(&mut self, to: &std::path::Path) -> Result<(), StoreError>;
}

/// Why storage failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Somebody else appended; read the log and decide again.
    #[error("the log is at {found:?}, not at {expected:?}")]
    Moved {
        /// What the writer believed.
        expected: Seq,
        /// What is there.
        found: Seq,
    },
    /// Another process holds the database.
    #[error("the database {file} is locked by another program")]
    Busy {
        /// The file.
        file: PathBuf,
    },
    /// No space left.
    #[error("there is no space left for {file}")]
    Full {
        /// The file.
        file: PathBuf,
    },
    /// The content does not add up.
    #[error("{file} is damaged: {what}")]
    Corrupt {
        /// The file.
        file: PathBuf,
        /// Which part, and what is wrong with it.
        what: String,
    },
    /// Written by a newer program.
    #[error("{file} has format {found}, this program knows up to {known}")]
    TooNew {
        /// The file.
        file: PathBuf,
        /// Format of the file.
        found: i64,
        /// Newest format known.
        known: i64,
    },
    /// The operation needs files.
    #[error("this store has no files to copy")]
    NoFiles,
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
    /// Anything else SQLite says.
    #[error("{file}: {source}")]
    Sqlite {
        /// The file.
        file: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
}
