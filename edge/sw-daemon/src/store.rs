//! What the node keeps on disk: `node.state` with the keys, and the last network (node-services.md §21).

use std::fs::{File, TryLockError};
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use sw_node::state_file::{StateError, StateFile};
use sw_os::files::{FileError, create_private_directory, read_private, write_private};
use sw_tailcfg::{MAP_MESSAGE_MAX, MapResponse, decode_answer};
use sw_types::local::{LoginProfile, NetworkProfile, Prefs, Problem, SecretText, ServeConfig};
use sw_types::problem::Slug;
use sw_types::{LockKey, LockPrivate, MachinePrivate, NodeKey, UnixTime};
use zeroize::Zeroizing;

use crate::control;
use crate::recall::{self, Ways};

const STATE_FILE: &str = "node.state";
const CACHE_FILE: &str = "netmap.cache";
const WAYS_FILE: &str = "ways.cache";
const DISCO_FILE: &str = "disco.key";
/// What the reconciler notes before it changes anything.
pub(crate) const JOURNAL_FILE: &str = "os.journal";
/// zstd level of the cache: it is written after every burst of changes.
const CACHE_LEVEL: i32 = 1;

/// The node's files. Without a directory everything is in memory, and the node is ephemeral.
#[derive(Debug)]
pub(crate) struct Store {
    directory: Option<PathBuf>,
    state: StateFile,
    pub(crate) machine: Arc<MachinePrivate>,
    /// The lock is given back when the file is closed.
    _lock: Option<File>,
}

impl Store {
    /// Opens the directory, making keys where there are none.
    pub(crate) fn open(directory: Option<PathBuf>) -> Result<Self, Problem> {
        let mut state = StateFile::default();
        let mut lock = None;
        if let Some(directory) = &directory {
            create_private_directory(directory).map_err(|error| file_problem(directory, &error))?;
            lock = Some(lock_directory(directory)?);
            let path = directory.join(STATE_FILE);
            if let Some(text) = read_private(&path).map_err(|error| file_problem(directory, &error))? {
                state = StateFile::parse(&text).map_err(|error| damaged(&path, &error))?;
            }
        }
        let stored = state.machine_key().map_err(|error| damaged(Path::new(STATE_FILE), &error))?;
        let is_new = stored.is_none();
        let machine = stored.unwrap_or_else(|| MachinePrivate::generate(crate::random()));
        if is_new {
            state.set_machine_key(&machine);
        }
        let store = Self { directory, state, machine: Arc::new(machine), _lock: lock };
        if is_new {
            store.write()?;
        }
        Ok(store)
    }

    /// Whether nothing outlives the process.
    pub(crate) fn is_ephemeral(&self) -> bool {
        self.directory.is_none()
    }

    /// Where the files are, for messages.
    pub(crate) fn directory(&self) -> Option<&Path> {
        self.directory.as_deref()
    }

    /// The preferences of the profile in use, with a tailnet-lock key in them.
    pub(crate) fn prefs(&self) -> Prefs {
        let mut prefs = self.state.prefs().ok().flatten().unwrap_or_default();
        let persist = prefs.config.get_or_insert_default();
        if persist.network_lock_key.is_empty() {
            persist.network_lock_key = SecretText(new_lock_key().to_text().expose().clone());
        }
        prefs
    }

    /// Saves the preferences of the profile in use; the first ones make a profile.
    pub(crate) fn save(
        &mut self,
        prefs: &Prefs,
        network: NetworkProfile,
        now: UnixTime,
    ) -> Result<(), Problem> {
        let profiles = self.profiles();
        let id = self.state.current_profile();
        let known = profiles.iter().find(|profile| profile.id == id).cloned();
        let mut profile = known.unwrap_or_else(|| {
            let id = new_profile_id(&profiles);
            LoginProfile { key: format!("profile-{id}"), id, created: now, ..LoginProfile::default() }
        });
        let persist = prefs.config.clone().unwrap_or_default();
        profile.name = if prefs.profile_name.is_empty() {
            persist.user_profile.login_name.clone()
        } else {
            prefs.profile_name.clone()
        };
        if !network.domain_name.is_empty() {
            profile.network_profile = network;
        }
        profile.user_profile = persist.user_profile;
        profile.node_id = persist.node_id;
        profile.control_url.clone_from(&prefs.control_url);
        self.state.put(profile, prefs).map_err(|error| damaged(Path::new(STATE_FILE), &error))?;
        self.write()
    }

    /// All profiles.
    pub(crate) fn profiles(&self) -> Vec<LoginProfile> {
        self.state.profiles().unwrap_or_default().into_values().collect()
    }

    /// The profile in use; without an id when it was never saved.
    pub(crate) fn current_profile(&self) -> LoginProfile {
        let id = self.state.current_profile();
        self.profiles().into_iter().find(|profile| profile.id == id).unwrap_or_default()
    }

    /// Makes a profile the one in use; `""` is a new, empty one. Returns its preferences.
    pub(crate) fn switch(&mut self, id: &str) -> Result<Prefs, Problem> {
        self.state.set_current_profile(id);
        self.write()?;
        Ok(self.prefs())
    }

    /// Forgets a profile and its keys.
    pub(crate) fn remove_profile(&mut self, id: &str) -> Result<(), Problem> {
        self.state.remove(id).map_err(|error| damaged(Path::new(STATE_FILE), &error))?;
        self.write()
    }

    /// What the profile in use serves.
    pub(crate) fn serve_config(&self) -> ServeConfig {
        self.state.serve_config().unwrap_or_default()
    }

    /// Saves what the profile in use serves.
    pub(crate) fn save_serve_config(&mut self, config: &ServeConfig) -> Result<(), Problem> {
        self.state.set_serve_config(config).map_err(|error| damaged(Path::new(STATE_FILE), &error))?;
        self.write()
    }

    fn write(&self) -> Result<(), Problem> {
        let Some(directory) = &self.directory else { return Ok(()) };
        write_private(&directory.join(STATE_FILE), &self.state.render())
            .map_err(|error| file_problem(directory, &error))
    }

    /// The network as it was, for a start without the server. What cannot be read counts as none.
    pub(crate) fn cached_map(&self) -> Option<MapResponse> {
        let packed = read_private(&self.directory.as_ref()?.join(CACHE_FILE)).ok()??;
        let json = control::decompress(&packed).ok()?;
        decode_answer(&json, MAP_MESSAGE_MAX).ok()
    }

    /// Where the network is remembered.
    pub(crate) fn cache_path(&self) -> Option<PathBuf> {
        Some(self.directory.as_ref()?.join(CACHE_FILE))
    }

    /// Forgets the network.
    pub(crate) fn remove_cache(&self) {
        for file in [CACHE_FILE, WAYS_FILE, DISCO_FILE] {
            if let Some(directory) = &self.directory {
                let _maybe_absent = std::fs::remove_file(directory.join(file));
            }
        }
    }

    /// Where peers were last reached directly. What cannot be read counts as nothing.
    pub(crate) fn ways(&self) -> Ways {
        let text = self.directory.as_ref().and_then(|at| read_private(&at.join(WAYS_FILE)).ok()?);
        text.map(|text| Ways::parse(&String::from_utf8_lossy(&text))).unwrap_or_default()
    }

    /// Remembers where peers were last reached directly.
    pub(crate) fn write_ways(&self, ways: &Ways) {
        self.write_aside(WAYS_FILE, ways.render().as_bytes());
    }

    /// The disco key that `node` had before it was restarted, or a new one.
    pub(crate) fn disco_key(&self, node: Option<NodeKey>) -> Zeroizing<[u8; 32]> {
        let text = self.directory.as_ref().and_then(|at| read_private(&at.join(DISCO_FILE)).ok()?);
        let text = text.map(Zeroizing::new);
        let kept = text.as_deref().and_then(|text| {
            let text = std::str::from_utf8(text).ok()?;
            recall::parse_disco(text, &node?)
        });
        kept.unwrap_or_else(|| Zeroizing::new(crate::random()))
    }

    /// Remembers the disco key of `node`.
    pub(crate) fn write_disco_key(&self, node: &NodeKey, key: &[u8; 32]) {
        self.write_aside(DISCO_FILE, recall::render_disco(node, key).as_bytes());
    }

    /// Writes a file that the node can do without.
    fn write_aside(&self, file: &str, content: &[u8]) {
        let Some(directory) = &self.directory else { return };
        if let Err(error) = write_private(&directory.join(file), content) {
            tracing::warn!(%error, file, "not remembered");
        }
    }
}

/// Two daemons on one state would each undo what the other writes, under one identity. The directory itself is
/// locked: that needs no room on a full disk.
fn lock_directory(directory: &Path) -> Result<File, Problem> {
    let broken = |source| file_problem(directory, &FileError::Io { path: directory.to_owned(), source });
    let file = File::open(directory).map_err(broken)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Problem::other(
            "another samewire daemon uses this state.",
            format!("it holds {}", directory.display()),
            "use that one, or start a second machine with a state of its own: samewire daemon --statedir=DIR",
        )),
        Err(TryLockError::Error(source)) => Err(broken(source)),
    }
}

/// Remembers the network; called off the node's task.
pub(crate) fn write_cache(path: &Path, message: &MapResponse) -> io::Result<()> {
    // Compressed as it is made: the text of a large network is ten times what it is packed.
    let mut packing = BufWriter::new(zstd::stream::write::Encoder::new(Vec::new(), CACHE_LEVEL)?);
    serde_json::to_writer(&mut packing, message)?;
    let packed = packing.into_inner().map_err(io::IntoInnerError::into_error)?.finish()?;
    write_private(path, &packed).map_err(io::Error::other)
}

/// The public half of the tailnet-lock key in the preferences.
pub(crate) fn lock_key(prefs: &Prefs) -> LockKey {
    let text = prefs.config.as_ref().map(|config| config.network_lock_key.0.as_str()).unwrap_or_default();
    LockPrivate::from_text(text).map(|key| key.public()).unwrap_or_default()
}

fn new_lock_key() -> LockPrivate {
    let seed = crate::random();
    let pair = Ed25519KeyPair::from_seed_unchecked(&seed).expect("every 32 bytes are a seed");
    let public: [u8; 32] = pair.public_key().as_ref().try_into().expect("an Ed25519 key has 32 bytes");
    LockPrivate::from_seed(&seed, LockKey::from_bytes(public))
}

fn new_profile_id(profiles: &[LoginProfile]) -> String {
    loop {
        let [a, b, ..] = crate::random();
        let id = format!("{a:02x}{b:02x}");
        if profiles.iter().all(|profile| profile.id != id) {
            return id;
        }
    }
}

fn damaged(path: &Path, error: &StateError) -> Problem {
    let values = [("file", &*path.display().to_string()), ("reason", &*error.to_string())];
    Problem {
        fix: "a backup puts it back: sudo samewire restore FILE. Without one: move the file away and join again"
            .to_owned(),
        ..Slug::StateDamaged.problem(&values)
    }
}

/// What is left on the disk for others than root; nothing where that cannot be told.
fn free_bytes(directory: &Path) -> String {
    let there = directory.ancestors().find_map(|place| rustix::fs::statvfs(place).ok());
    there.map(|disk| (disk.f_bavail * disk.f_frsize).to_string()).unwrap_or_default()
}

fn file_problem(directory: &Path, error: &FileError) -> Problem {
    if error.is_disk_full() {
        return Slug::DiskFull.problem(&[
            ("dir", &directory.display().to_string()),
            ("free", &free_bytes(directory)),
            ("needed", "some thousand"),
        ]);
    }
    match error {
        FileError::TooOpen { path, mode } => Problem::other(
            "the state file can be read by others, so samewire did not start.",
            format!("{} has mode {mode:o}", path.display()),
            format!("sudo chmod 600 {}", path.display()),
        ),
        FileError::Io { path, source } => Problem::other(
            format!("the state directory {} cannot be used.", directory.display()),
            format!("{}: {source}", path.display()),
            "run it as root, or choose another place: samewire daemon --statedir=DIR",
        ),
    }
}
