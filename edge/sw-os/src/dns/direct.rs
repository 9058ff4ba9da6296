//! A plain `/etc/resolv.conf`: kept aside while ours is in place.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::resolv_conf::{is_ours as text_is_ours, render};
use super::{DnsConfig, DnsError};

pub(super) fn path(root: &Path) -> PathBuf {
    root.join("etc/resolv.conf")
}

pub(super) fn backup_path(root: &Path) -> PathBuf {
    root.join("etc/resolv.pre-samewire-backup.conf")
}

pub(super) fn is_ours(root: &Path) -> bool {
    fs::read_to_string(path(root)).is_ok_and(|text| text_is_ours(&text))
}

pub(super) fn apply(root: &Path, config: &DnsConfig) -> Result<(), DnsError> {
    let (path, backup) = (path(root), backup_path(root));
    if path.symlink_metadata().is_ok() && !is_ours(root) {
        move_file(&path, &backup)?;
    }
    replace(&path, render(config).as_bytes())
}

pub(super) fn restore(root: &Path) -> Result<(), DnsError> {
    let (path, backup) = (path(root), backup_path(root));
    if backup.symlink_metadata().is_err() {
        if is_ours(root) {
            // There was no file before ours.
            return fs::remove_file(&path).map_err(|source| DnsError::File { path, source });
        }
        return Ok(());
    }
    if path.symlink_metadata().is_err() || is_ours(root) {
        return move_file(&backup, &path);
    }
    // Somebody wrote a newer file of their own: that one counts.
    fs::remove_file(&backup).map_err(|source| DnsError::File { path: backup, source })
}

/// Renames, or copies where the target is a mount point of its own (containers).
fn move_file(from: &Path, to: &Path) -> Result<(), DnsError> {
    if fs::rename(from, to).is_ok() {
        return Ok(());
    }
    let text = fs::read(from).map_err(|source| DnsError::File { path: from.to_owned(), source })?;
    fs::write(to, text).map_err(|source| DnsError::File { path: to.to_owned(), source })?;
    match fs::remove_file(from) {
        Err(error) if error.kind() != io::ErrorKind::ResourceBusy => {
            Err(DnsError::File { path: from.to_owned(), source: error })
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Replaces the file in one step where the directory allows it.
fn replace(path: &Path, text: &[u8]) -> Result<(), DnsError> {
    let temporary = path.with_extension("samewire-new");
    let written = fs::write(&temporary, text).and_then(|()| fs::rename(&temporary, path));
    if written.is_ok() {
        return Ok(());
    }
    let _maybe_absent = fs::remove_file(&temporary);
    fs::write(path, text).map_err(|source| DnsError::File { path: path.to_owned(), source })
}
