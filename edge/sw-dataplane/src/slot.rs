//! One configured peer, as the packet threads see it.

use crate::udp::UdpSock;
use arc_swap::{ArcSwap, ArcSwapOption, Guard};
use ipnet::IpNet;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;
use sw_types::{Instant, NodeKey, Path, RegionId};
use sw_wg::{Activity, ReplayWindow, Session, Source};
use zeroize::Zeroizing;

/// Packets that wait for a session or a path; beyond that the oldest is dropped (threat-model.md §4).
const STAGING_MAX: usize = 128;
/// The least time between two events of one kind about one peer.
const EVENT_INTERVAL: Duration = Duration::from_secs(1);

/// A configured peer. Until it is used it is this structure and its routes.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) key: NodeKey,
    path: ArcSwapOption<Path>,
    detour: ArcSwapOption<Detour>,
    /// Plain WireGuard peers follow the source of authenticated packets; a tailnet peer's path is set by disco.
    roams: AtomicBool,
    /// What new packets are sealed with.
    pub(crate) current: ArcSwapOption<LiveSession>,
    keepalive_secs: AtomicU16,
    settings: Mutex<Settings>,
    live: OnceLock<Box<Live>>,
}

/// What is unusual about a direct path; the usual one is the data socket alone.
#[derive(Debug)]
pub(crate) struct Detour {
    /// Sent from this one instead of the data socket.
    pub(crate) socket: Option<Arc<UdpSock>>,
    /// Copies go through this relay too, since the path is in doubt; replay windows drop what comes twice.
    pub(crate) relay_copy: Option<RegionId>,
}

/// What only configuration and handshakes read.
#[derive(Debug, Default)]
struct Settings {
    psk: Option<Box<Zeroizing<[u8; 32]>>>,
    allowed: Box<[IpNet]>,
}

/// What a peer has from its first use on.
#[derive(Debug, Default)]
pub(crate) struct Live {
    pub(crate) activity: Arc<Activity>,
    staging: Mutex<VecDeque<Vec<u8>>>,
    /// A session was asked for and the answer is not in yet.
    is_session_wanted: AtomicBool,
    /// A handshake message for which there was no path.
    pub(crate) unsent: Mutex<Option<Vec<u8>>>,
    last_source: Mutex<Option<Source>>,
    path_wanted_at: AtomicU64,
    active_at: AtomicU64,
    pub(crate) last_handshake_unix_nanos: AtomicU64,
    pub(crate) packets: PathCounters,
}

/// Datagrams by the kind of path they took.
#[derive(Debug, Default)]
pub(crate) struct PathCounters {
    cells: [AtomicU64; 6],
}

/// Direction of travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Out,
    In,
}

impl PathCounters {
    pub(crate) fn add(&self, direction: Direction, path: &Path, count: u64) {
        let kind = match path {
            Path::Direct(_) => 0,
            Path::PeerRelay { .. } => 1,
            Path::Derp(_) => 2,
        };
        let offset = if direction == Direction::Out { 0 } else { 3 };
        self.cells[offset + kind].fetch_add(count, Ordering::Relaxed);
    }

    /// Out and in: direct, by peer relay, by relay.
    pub(crate) fn get(&self) -> [u64; 6] {
        std::array::from_fn(|i| self.cells[i].load(Ordering::Relaxed))
    }
}

/// A session with the state that receiving needs.
#[derive(Debug)]
pub(crate) struct LiveSession {
    pub(crate) session: Arc<Session>,
    pub(crate) slot: Arc<Slot>,
    /// Contended only when one peer's packets come in over two sockets or a relay at once.
    pub(crate) window: Mutex<ReplayWindow>,
}

impl Slot {
    pub(crate) fn new(key: NodeKey) -> Self {
        Self {
            key,
            path: ArcSwapOption::empty(),
            detour: ArcSwapOption::empty(),
            roams: AtomicBool::new(false),
            current: ArcSwapOption::empty(),
            keepalive_secs: AtomicU16::new(0),
            settings: Mutex::default(),
            live: OnceLock::new(),
        }
    }

    pub(crate) fn live(&self) -> &Live {
        self.live.get_or_init(Box::default)
    }

    /// The parts of a peer that was used at least once.
    pub(crate) fn if_live(&self) -> Option<&Live> {
        self.live.get().map(AsRef::as_ref)
    }

    #[inline]
    pub(crate) fn path(&self) -> Option<Path> {
        self.path.load().as_deref().copied()
    }

    pub(crate) fn set_path(&self, path: Option<Path>) {
        if self.path() != path {
            self.path.store(path.map(Arc::new));
        }
    }

    /// What is unusual about the path, if anything.
    #[inline]
    pub(crate) fn detour(&self) -> Guard<Option<Arc<Detour>>> {
        self.detour.load()
    }

    pub(crate) fn set_detour(&self, detour: Option<Detour>) {
        if detour.is_some() || self.detour.load().is_some() {
            self.detour.store(detour.map(Arc::new));
        }
    }

    pub(crate) fn roams(&self) -> bool {
        self.roams.load(Ordering::Relaxed)
    }

    pub(crate) fn set_roams(&self, roams: bool) {
        self.roams.store(roams, Ordering::Relaxed);
    }

    pub(crate) fn keepalive(&self) -> Option<Duration> {
        match self.keepalive_secs.load(Ordering::Relaxed) {
            0 => None,
            secs => Some(Duration::from_secs(secs.into())),
        }
    }

    pub(crate) fn set_keepalive(&self, keepalive: Option<Duration>) {
        let secs = keepalive.map_or(0, |k| k.as_secs().clamp(1, u16::MAX.into()) as u16);
        self.keepalive_secs.store(secs, Ordering::Relaxed);
    }

    pub(crate) fn psk(&self) -> Zeroizing<[u8; 32]> {
        lock(&self.settings).psk.as_deref().cloned().unwrap_or_default()
    }

    pub(crate) fn set_psk(&self, psk: Option<Zeroizing<[u8; 32]>>) {
        lock(&self.settings).psk = psk.filter(|psk| **psk != [0; 32]).map(Box::new);
    }

    pub(crate) fn allowed(&self) -> Box<[IpNet]> {
        lock(&self.settings).allowed.clone()
    }

    pub(crate) fn set_allowed(&self, allowed: Vec<IpNet>) {
        lock(&self.settings).allowed = allowed.into_boxed_slice();
    }
}

impl Live {
    /// Lets a packet wait; true when the oldest had to go for it.
    pub(crate) fn stage(&self, packet: Vec<u8>) -> bool {
        let mut staging = lock(&self.staging);
        let is_full = staging.len() >= STAGING_MAX;
        if is_full {
            staging.pop_front();
        }
        staging.push_back(packet);
        is_full
    }

    pub(crate) fn take_staged(&self) -> VecDeque<Vec<u8>> {
        std::mem::take(&mut *lock(&self.staging))
    }

    /// True for the first who wants a session, until `session_answered`.
    pub(crate) fn want_session(&self) -> bool {
        !self.is_session_wanted.load(Ordering::Relaxed)
            && !self.is_session_wanted.swap(true, Ordering::Relaxed)
    }

    pub(crate) fn session_answered(&self) {
        self.is_session_wanted.store(false, Ordering::Relaxed);
    }

    /// Whether an event 'a path is wanted' is due.
    pub(crate) fn want_path(&self, now: Instant) -> bool {
        is_due(&self.path_wanted_at, now)
    }

    /// Whether an event 'traffic goes to this peer' is due.
    #[inline]
    pub(crate) fn is_active_event_due(&self, now: Instant) -> bool {
        is_due(&self.active_at, now)
    }

    /// Remembers where the peer was last heard; true when that is new.
    pub(crate) fn hear(&self, source: Source) -> bool {
        lock(&self.last_source).replace(source) != Some(source)
    }
}

fn is_due(at: &AtomicU64, now: Instant) -> bool {
    let last = at.load(Ordering::Relaxed);
    let is_due = last == 0 || now >= Instant::from_nanos(last) + EVENT_INTERVAL;
    if is_due {
        at.store(now.as_nanos().max(1), Ordering::Relaxed);
    }
    is_due
}

/// Locks; a thread that panicked while it held one of these left nothing half done.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Every session that may receive, by our index.
#[derive(Debug)]
pub(crate) struct SessionTable {
    shards: Vec<ArcSwap<SessionShard>>,
}

const SESSION_SHARDS: usize = 64;

/// Sessions sorted by index.
type SessionShard = Vec<(u32, Arc<LiveSession>)>;

impl SessionTable {
    pub(crate) fn new() -> Self {
        Self { shards: (0..SESSION_SHARDS).map(|_| ArcSwap::from_pointee(Vec::new())).collect() }
    }

    fn shard(&self, index: u32) -> &ArcSwap<SessionShard> {
        // Indices are random, so any bits will do.
        &self.shards[index as usize % SESSION_SHARDS]
    }

    #[inline]
    pub(crate) fn get(&self, index: u32) -> Option<Arc<LiveSession>> {
        let shard = self.shard(index).load();
        let at = shard.binary_search_by_key(&index, |(i, _)| *i).ok()?;
        Some(shard[at].1.clone())
    }

    /// Only the state thread writes.
    pub(crate) fn insert(&self, session: Arc<LiveSession>) {
        let index = session.session.local_index;
        let shard = self.shard(index);
        let mut entries = shard.load().as_ref().clone();
        if let Err(at) = entries.binary_search_by_key(&index, |(i, _)| *i) {
            entries.insert(at, (index, session));
            shard.store(Arc::new(entries));
        }
    }

    pub(crate) fn remove(&self, index: u32) {
        let shard = self.shard(index);
        let mut entries = shard.load().as_ref().clone();
        if let Ok(at) = entries.binary_search_by_key(&index, |(i, _)| *i) {
            entries.remove(at);
            shard.store(Arc::new(entries));
        }
    }
}
