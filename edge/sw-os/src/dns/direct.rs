//! A plain `/etc/resolv.conf`: kept aside while ours is in place.

use std::fs;
use std::path::{Path, PathBuf};

use super::resolv_conf::{is_ours as text_is_ours, render};
use super::{DnsConfig, DnsError};

/// What stands before the lines of the file that ours took the place of.
const KEPT_HEAD: &str = "\n# Before samewire:\n";
const KEPT_LINE: &str = "#~ ";

pub(super) fn path(root: &Path) -> PathBuf {
    root.join("etc/resolv.conf")
}

pub(super) fn backup_path(root: &Path) -> PathBuf {
    root.join("etc/resolv.pre-samewire-backup.conf")
}

pub(super) fn is_ours(root: &Path) -> bool {
    fs::read_to_string(path(root)).is_ok_and(|text| text_is_ours(&text))
}

/// Returns the text that holds without us.
pub(super) fn original(root: &Path) -> String {
    let text = fs::read_to_string(path(root)).unwrap_or_default();
    if let Some(kept) = kept_in(&text) {
        return kept;
    }
    fs::read_to_string(backup_path(root)).unwrap_or(text)
}

pub(super) fn apply(root: &Path, config: &DnsConfig) -> Result<(), DnsError> {
    let (path, backup) = (path(root), backup_path(root));
    let old = fs::read_to_string(&path).unwrap_or_default();
    let kept = if text_is_ours(&old) {
        kept_in(&old)
    } else if path.symlink_metadata().is_err() || fs::rename(&path, &backup).is_ok() {
        None
    } else {
        // A mount point of its own (containers, rooms of `ip netns exec`). The directory around it belongs to
        // others, who would take a backup there for theirs: what the file said stays in the file.
        Some(old)
    };
    replace(&path, with_kept(render(config), kept.as_deref()).as_bytes())
}

pub(super) fn restore(root: &Path) -> Result<(), DnsError> {
    let (path, backup) = (path(root), backup_path(root));
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| DnsError::File { path, source }
    };
    let text = fs::read_to_string(&path).unwrap_or_default();
    if let Some(kept) = kept_in(&text) {
        return fs::write(&path, kept).map_err(failed(&path));
    }
    let is_free = path.symlink_metadata().is_err() || text_is_ours(&text);
    match (backup.symlink_metadata().is_ok(), is_free) {
        (true, true) => fs::rename(&backup, &path).map_err(failed(&path)),
        // Somebody wrote a newer file of their own: that one counts.
        (true, false) => fs::remove_file(&backup).map_err(failed(&backup)),
        // There was no file before ours.
        (false, true) if !text.is_empty() => fs::remove_file(&path).map_err(failed(&path)),
        (false, _) => Ok(()),
    }
}

/// Adds the lines of the file before ours, as comments.
fn with_kept(mut text: String, kept: Option<&str>) -> String {
    if let Some(kept) = kept {
        text.push_str(KEPT_HEAD);
        for line in kept.lines() {
            text.push_str(KEPT_LINE);
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

/// Returns the text that [`with_kept`] added.
fn kept_in(text: &str) -> Option<String> {
    let (_, kept) = text.split_once(KEPT_HEAD)?;
    Some(
        kept.lines()
            .filter_map(|line| line.strip_prefix(KEPT_LINE))
            .fold(String::new(), |text, line| text + line + "\n"),
    )
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
