//! The last acknowledged sequence, beside the database.
//!
//! A damaged write-ahead log makes SQLite drop its tail without a word, and a file copied back by
//! hand is older without a word. This file notices both: it is written after each commit. It is not
//! synced: after a power cut it may lag, and lagging is harmless.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::Seq;

#[derive(Debug)]
pub(crate) struct Witness {
    file: File,
}

impl Witness {
    pub(crate) fn path(database: &Path) -> PathBuf {
        let mut name = database.as_os_str().to_owned();
        name.push(".seen");
        name.into()
    }

    /// Opens or makes the file and returns what it says; `None` when it is new or unreadable text.
    pub(crate) fn open(database: &Path) -> io::Result<(Self, Option<Seq>)> {
        let mut options = OpenOptions::new();
        let file = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(Self::path(database))?;
        let mut text = String::new();
        (&file).take(64).read_to_string(&mut text)?;
        let seq = text.trim().parse().ok().map(Seq);
        Ok((Self { file }, seq))
    }

    pub(crate) fn set(&mut self, seq: Seq) -> io::Result<()> {
        // Fixed width, so that one write replaces the one before.
        let text = format!("{:020}\n", seq.0);
        self.file.seek(SeekFrom::Start(0))?;
        self.file.write_all(text.as_bytes())
    }
}
