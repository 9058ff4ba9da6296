//! Files that peers sent and nobody has fetched yet (node-services.md §4).

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{Context, SHA256};
use serde::Serialize;
use tokio::sync::watch;

/// Block whose hash a sender compares, to go on where it was.
const BLOCK: usize = 64 << 10;
/// Longest name of a file.
const NAME_MAX: usize = 255;
/// A half-received file that nobody continues is removed after this long.
const PARTIAL_AGE_MAX: Duration = Duration::from_secs(3600);
/// Names tried for a file whose name is taken.
const RENAMES_MAX: u32 = 10;

/// The folder of received files. Clones are the same one.
#[derive(Clone, Debug)]
pub(crate) struct Inbox {
    directory: Option<PathBuf>,
    /// Partial files that are being written.
    receiving: Arc<Mutex<BTreeSet<String>>>,
    /// Counts the files that arrived.
    arrived: Arc<watch::Sender<u64>>,
}

/// A file that waits.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Waiting {
    pub(crate) name: String,
    pub(crate) size: u64,
}

/// One block of a half-received file.
#[derive(Debug, Serialize)]
pub(crate) struct Block {
    checksum: String,
    algo: &'static str,
    size: usize,
}

/// Why a file is not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    #[error("this node keeps no files")]
    NoPlace,
    #[error("invalid filename")]
    Name,
    #[error("bad range")]
    Range,
    #[error("a transfer of this file is under way")]
    Busy,
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl Inbox {
    /// The inbox below the state directory; without one nothing is taken.
    pub(crate) fn new(state: Option<&Path>) -> Self {
        let (arrived, _) = watch::channel(0);
        let directory = state.map(|state| state.join("files"));
        Self { directory, receiving: Arc::default(), arrived: Arc::new(arrived) }
    }

    /// Hears of files that arrive.
    pub(crate) fn arrivals(&self) -> watch::Receiver<u64> {
        self.arrived.subscribe()
    }

    /// What waits to be fetched, by name.
    pub(crate) fn waiting(&self) -> Vec<Waiting> {
        let Some(directory) = &self.directory else { return Vec::new() };
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        let mut waiting: Vec<Waiting> = entries
            .filter_map(|entry| {
                let name = entry.file_name().into_string().ok().filter(|name| is_good_name(name))?;
                let file = entry.metadata().ok().filter(fs::Metadata::is_file)?;
                Some(Waiting { name, size: file.len() })
            })
            .collect();
        waiting.sort_by(|a, b| a.name.cmp(&b.name));
        waiting
    }

    /// Opens a waiting file; returns its size too.
    pub(crate) fn open(&self, name: &str) -> Result<(File, u64), Refused> {
        let file = File::open(self.place(name)?)?;
        let size = file.metadata()?.len();
        Ok((file, size))
    }

    /// Removes a waiting file.
    pub(crate) fn remove(&self, name: &str) -> Result<(), Refused> {
        Ok(fs::remove_file(self.place(name)?)?)
    }

    fn place(&self, name: &str) -> Result<PathBuf, Refused> {
        let directory = self.directory.as_ref().ok_or(Refused::NoPlace)?;
        if is_good_name(name) { Ok(directory.join(name)) } else { Err(Refused::Name) }
    }

    fn partial(&self, name: &str, sender: &str) -> Result<PathBuf, Refused> {
        let place = self.place(name)?;
        let id: String = sender.chars().filter(char::is_ascii_alphanumeric).collect();
        Ok(place.with_file_name(format!("{name}.{id}.partial")))
    }

    /// The names of the half-received files of a sender.
    pub(crate) fn partials(&self, sender: &str) -> Vec<String> {
        let Some(directory) = &self.directory else { return Vec::new() };
        let suffix = format!(".{sender}.partial");
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        entries
            .filter_map(|entry| Some(entry.file_name().to_str()?.strip_suffix(&suffix)?.to_owned()))
            .collect()
    }

    /// Hands the blocks of a half-received file on, until `each` says stop. Blocks the thread.
    pub(crate) fn blocks(
        &self,
        name: &str,
        sender: &str,
        mut each: impl FnMut(Block) -> bool,
    ) -> Result<(), Refused> {
        let mut file = match File::open(self.partial(name, sender)?) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        loop {
            let mut block = Vec::with_capacity(BLOCK);
            let size = file.by_ref().take(BLOCK as u64).read_to_end(&mut block)?;
            if size == 0 || !each(Block { checksum: hash(&block), algo: "sha256", size }) {
                return Ok(());
            }
        }
    }

    /// Begins to receive a file at an offset. The transfer is over when the value is finished or dropped.
    pub(crate) fn receive(&self, name: &str, sender: &str, offset: u64) -> Result<Receiving, Refused> {
        let partial = self.partial(name, sender)?;
        let directory = self.directory.as_ref().ok_or(Refused::NoPlace)?;
        fs::create_dir_all(directory)?;
        self.remove_old_partials(directory);
        let key = partial.display().to_string();
        if !self.lock().insert(key.clone()) {
            return Err(Refused::Busy);
        }
        let mut receiving =
            Receiving { inbox: self.clone(), key, partial, name: name.to_owned(), file: None };
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = options.open(&receiving.partial)?;
        if offset > file.metadata()?.len() {
            return Err(Refused::Range);
        }
        file.set_len(offset)?;
        file.seek(SeekFrom::End(0))?;
        receiving.file = Some(file);
        Ok(receiving)
    }

    fn remove_old_partials(&self, directory: &Path) {
        let now = SystemTime::now();
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let is_partial = entry.path().extension().is_some_and(|extension| extension == "partial");
            let changed = entry.metadata().and_then(|file| file.modified()).unwrap_or(now);
            let is_old = now.duration_since(changed).unwrap_or_default() > PARTIAL_AGE_MAX;
            if is_partial && is_old && !self.lock().contains(&entry.path().display().to_string()) {
                let _gone_meanwhile = fs::remove_file(entry.path());
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeSet<String>> {
        self.receiving.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A file that is being received.
#[derive(Debug)]
pub(crate) struct Receiving {
    inbox: Inbox,
    key: String,
    partial: PathBuf,
    name: String,
    file: Option<File>,
}

impl Receiving {
    /// The file to write to; once.
    pub(crate) fn take_file(&mut self) -> Option<File> {
        self.file.take()
    }

    /// All bytes are there: the file gets its name, or the next free one. Blocks the thread.
    pub(crate) fn finish(self) -> io::Result<String> {
        let mut name = self.name.clone();
        for attempt in 0..=RENAMES_MAX {
            let place = self.partial.with_file_name(&name);
            // Taken and renamed in one step, so that no other file is overwritten.
            match fs::hard_link(&self.partial, &place) {
                Ok(()) => {
                    fs::remove_file(&self.partial)?;
                    self.inbox.arrived.send_modify(|count| *count += 1);
                    return Ok(name);
                }
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                Err(_) if attempt == 0 && is_same(&self.partial, &place)? => {
                    fs::remove_file(&self.partial)?;
                    self.inbox.arrived.send_modify(|count| *count += 1);
                    return Ok(name);
                }
                Err(_) => name = next_name(&name),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        self.inbox.lock().remove(&self.key);
    }
}

/// Whether two files hold the same bytes.
fn is_same(a: &Path, b: &Path) -> io::Result<bool> {
    if fs::metadata(a)?.len() != fs::metadata(b)?.len() {
        return Ok(false);
    }
    let digest = |path: &Path| -> io::Result<String> {
        let mut file = File::open(path)?;
        let mut context = Context::new(&SHA256);
        let mut block = vec![0; BLOCK];
        loop {
            let read = file.read(&mut block)?;
            if read == 0 {
                return Ok(hex(context.finish().as_ref()));
            }
            context.update(&block[..read]);
        }
    };
    Ok(digest(a)? == digest(b)?)
}

fn hash(bytes: &[u8]) -> String {
    hex(aws_lc_rs::digest::digest(&SHA256, bytes).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What may be the name of a file here and there.
pub(crate) fn is_good_name(name: &str) -> bool {
    let is_graphic = |c: char| !c.is_control() && !"/\\:*\"<>|".contains(c);
    !name.is_empty()
        && name.len() <= NAME_MAX
        && name.trim() == name
        && !matches!(name, "." | "..")
        && !name.ends_with(".partial")
        && !name.ends_with(".deleted")
        && name.chars().all(is_graphic)
}

/// `photo.tar.gz` → `photo (1).tar.gz` → `photo (2).tar.gz`.
fn next_name(name: &str) -> String {
    let mut base = name;
    while let Some((rest, extension)) = base.rsplit_once('.') {
        let is_short = (1..=7).contains(&extension.len())
            && extension.chars().all(|c| c.is_ascii_alphanumeric())
            && extension.chars().any(|c| c.is_ascii_alphabetic());
        if rest.is_empty() || !is_short {
            break;
        }
        base = rest;
    }
    let extension = &name[base.len()..];
    let numbered = base.strip_suffix(')').and_then(|rest| {
        let (stem, number) = rest.rsplit_once(" (")?;
        Some((stem, number.parse::<u32>().ok()?))
    });
    let (stem, number) = numbered.unwrap_or((base, 0));
    format!("{stem} ({}){extension}", number.saturating_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn inbox(name: &str) -> (Inbox, PathBuf) {
        let state = std::env::temp_dir().join(format!("samewire-inbox-{}-{name}", std::process::id()));
        let _left_by_a_crash = fs::remove_dir_all(&state);
        fs::create_dir_all(&state).expect("a directory");
        (Inbox::new(Some(&state)), state)
    }

    fn receive(inbox: &Inbox, name: &str, offset: u64, bytes: &[u8]) -> String {
        let mut receiving = inbox.receive(name, "n1", offset).expect("taken");
        receiving.take_file().expect("a file").write_all(bytes).expect("written");
        receiving.finish().expect("finished")
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for name in ["", ".", "..", "a/b", "a\\b", " a", "a ", "a.partial", "x\0y", "a\nb", "c:d"] {
            assert!(!is_good_name(name), "{name:?}");
        }
        for name in ["a", "größe.txt", "photo (1).tar.gz", ".hidden"] {
            assert!(is_good_name(name), "{name:?}");
        }
        assert_eq!(next_name("photo.tar.gz"), "photo (1).tar.gz");
        assert_eq!(next_name("photo (1).tar.gz"), "photo (2).tar.gz");
        assert_eq!(next_name("v1.2"), "v1.2 (1)");
        assert_eq!(next_name(".hidden"), ".hidden (1)");
    }

    #[test]
    fn a_file_is_continued_and_no_other_is_overwritten() {
        let (inbox, state) = inbox("continue");
        {
            let mut half = inbox.receive("a.txt", "n1", 0).expect("taken");
            half.take_file().expect("a file").write_all(b"hello ").expect("written");
            assert!(matches!(inbox.receive("a.txt", "n1", 0), Err(Refused::Busy)));
        }
        assert!(inbox.waiting().is_empty(), "half a file does not wait");
        assert_eq!(inbox.partials("n1"), ["a.txt"]);
        let mut sizes = Vec::new();
        let each = |block: Block| {
            sizes.push(block.size);
            true
        };
        inbox.blocks("a.txt", "n1", each).expect("blocks");
        assert_eq!(sizes, [6]);
        assert!(matches!(inbox.receive("a.txt", "n1", 7), Err(Refused::Range)));
        assert_eq!(receive(&inbox, "a.txt", 6, b"world"), "a.txt");
        assert_eq!(receive(&inbox, "a.txt", 0, b"hello world"), "a.txt", "the same again is the same file");
        assert_eq!(receive(&inbox, "a.txt", 0, b"other"), "a (1).txt");
        let names: Vec<_> = inbox.waiting().into_iter().map(|file| (file.name, file.size)).collect();
        assert_eq!(names, [("a (1).txt".to_owned(), 5), ("a.txt".to_owned(), 11)]);
        inbox.remove("a.txt").expect("removed");
        assert_eq!(inbox.waiting().len(), 1);
        fs::remove_dir_all(state).expect("removed");
    }
}
