//! Files with secrets: written whole or not at all, readable by their owner alone (threat-model.md §6).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Why a state file was refused.
#[derive(Debug, Error)]
pub enum FileError {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    /// Somebody but the owner may read it.
    #[error("{path} is readable by others (mode {mode:o})")]
    TooOpen { path: PathBuf, mode: u32 },
}

impl FileError {
    fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { path: path.to_owned(), source }
    }

    /// Whether the disk is full.
    pub fn is_disk_full(&self) -> bool {
        match self {
            Self::Io { source, .. } => source.kind() == io::ErrorKind::StorageFull,
            Self::TooOpen { .. } => false,
        }
    }
}

/// Makes the directory (and its parents) for the owner alone.
pub fn create_private_directory(path: &Path) -> Result<(), FileError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(FileError::io(path))
}

/// Reads a file of ours; `Ok(None)` if there is none. Files that others can read are refused.
pub fn read_private(path: &Path) -> Result<Option<Vec<u8>>, FileError> {
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(FileError::io(path)(error)),
    };
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(FileError::TooOpen { path: path.to_owned(), mode });
    }
    fs::read(path).map(Some).map_err(FileError::io(path))
}

/// Replaces the file in one step: old or new content after a crash, never a part. Mode 0600.
pub fn write_private(path: &Path, content: &[u8]) -> Result<(), FileError> {
    let directory = path.parent().unwrap_or(Path::new("."));
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(FileError::io(&temporary)(error));
        }
        Ok(()) | Err(_) => {}
    }
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        File::open(directory)?.sync_all()
    };
    write().map_err(FileError::io(path))
}

/// Whether a file is owned by the user this process runs as.
pub fn is_owned_by_us(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|meta| meta.uid() == rustix::process::geteuid().as_raw())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_files_are_private_and_whole() {
        let directory = std::env::temp_dir().join(format!("sw-os-files-{}", std::process::id()));
        create_private_directory(&directory).expect("a writable temporary directory");
        let path = directory.join("node.state");
        assert!(read_private(&path).expect("absent").is_none());
        write_private(&path, b"one").expect("writable");
        write_private(&path, b"two").expect("writable twice");
        assert_eq!(read_private(&path).expect("readable"), Some(b"two".to_vec()));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("our file");
        assert!(matches!(read_private(&path), Err(FileError::TooOpen { mode: 0o644, .. })));
        fs::remove_dir_all(&directory).expect("our directory");
    }
}
