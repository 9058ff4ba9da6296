//! What all connections of a relay share. The registry's lock is taken when somebody comes, goes, or sends the first
//! packet to somebody; packets after that find their way by what the connection remembers.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use sw_net::derp_client::DerpClient;
use sw_proto::derp::{PeerGone, ServerFrame};
use sw_relay_core::{Arrival, ConnId, LinkId, Output, Registry, RegistryStats, Route};
use sw_types::{DerpKey, NodeKey};

use crate::config::{ClientRate, RelayConfig};
use crate::counters::{Counters, Tally};
use crate::outbox::{Fate, Outbox};
use crate::stun::StunCounters;

/// What clients show when several machines use one key (derp.md §7).
const FIGHT: &str = "another machine uses the same key, so each takes packets from the other; \
                     was a state directory copied? Log one of them out";

/// Where a packet goes.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    /// To a connection here.
    Local(Arc<Outbox>),
    /// Through another relay; holds for as long as the mesh does not change.
    Forward { link: DerpClient, epoch: u64 },
}

/// See the module.
pub(crate) struct Hub {
    pub(crate) config: RelayConfig,
    pub(crate) counters: Counters,
    pub(crate) stun: StunCounters,
    /// Bytes that wait, over all connections.
    pub(crate) queued_bytes: AtomicUsize,
    rate: Mutex<Option<ClientRate>>,
    /// Grows with each change of the rate, so that connections take it over.
    rate_epoch: AtomicU64,
    book: Mutex<Book>,
    mesh_epoch: AtomicU64,
    started: Instant,
}

#[derive(Default)]
struct Book {
    registry: Registry,
    outboxes: HashMap<ConnId, Arc<Outbox>>,
    links: HashMap<LinkId, DerpClient>,
}

impl Hub {
    pub(crate) fn new(config: RelayConfig) -> Self {
        Self {
            rate: Mutex::new(config.rate),
            rate_epoch: AtomicU64::new(0),
            config,
            counters: Counters::default(),
            stun: StunCounters::default(),
            queued_bytes: AtomicUsize::new(0),
            book: Mutex::default(),
            mesh_epoch: AtomicU64::new(0),
            started: Instant::now(),
        }
    }

    /// The relay's public key.
    pub(crate) fn key(&self) -> DerpKey {
        self.config.key.public()
    }

    /// How fast a client may send; `None` when there is no limit.
    pub(crate) fn rate(&self) -> Option<ClientRate> {
        let rate = *self.rate.lock().unwrap_or_else(PoisonError::into_inner);
        rate.filter(|rate| rate.bytes_per_second > 0)
    }

    pub(crate) fn rate_epoch(&self) -> u64 {
        self.rate_epoch.load(Ordering::Relaxed)
    }

    pub(crate) fn set_rate(&self, rate: Option<ClientRate>) {
        *self.rate.lock().unwrap_or_else(PoisonError::into_inner) = rate;
        self.rate_epoch.fetch_add(1, Ordering::Relaxed);
    }

    /// Time since the start, in the core's form.
    pub(crate) fn now(&self) -> sw_types::Instant {
        let nanos = self.started.elapsed().as_nanos();
        sw_types::Instant::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    pub(crate) fn mesh_epoch(&self) -> u64 {
        self.mesh_epoch.load(Ordering::Acquire)
    }

    /// Does something with the registry and then what it asks for.
    fn with<T>(&self, act: impl FnOnce(&mut Book) -> T) -> T {
        let mut book = self.lock();
        let result = act(&mut book);
        self.settle(&mut book);
        result
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn settle(&self, book: &mut Book) {
        while let Some(output) = book.registry.poll_output() {
            let outbox = |conn: ConnId| book.outboxes.get(&conn);
            match output {
                Output::Active { conn, is_active } => {
                    if let Some(outbox) = outbox(conn) {
                        outbox.set_active(is_active);
                    }
                }
                Output::Shared { conn, is_shared } => {
                    if let Some(outbox) = outbox(conn) {
                        outbox.set_shared(is_shared);
                    }
                    if is_shared {
                        Counters::one(&self.counters.total_dup_client_conns);
                    }
                }
                Output::Fight { conn, is_fighting } => {
                    let text = if is_fighting { FIGHT } else { "" };
                    self.tell(outbox(conn), &ServerFrame::Health(text.as_bytes()));
                }
                Output::PeerGone { to, peer, reason } => {
                    Counters::one(&self.counters.peer_gone_disconnected_frames);
                    self.tell(outbox(to), &ServerFrame::PeerGone { key: peer, reason });
                }
                Output::PeerPresent { to, present } => {
                    self.tell(outbox(to), &ServerFrame::PeerPresent(present));
                }
                Output::Close { conn } => {
                    if let Some(outbox) = outbox(conn) {
                        outbox.end(Fate::Closed);
                    }
                }
                Output::MeshChanged => {
                    self.mesh_epoch.fetch_add(1, Ordering::Release);
                }
            }
        }
    }

    fn tell(&self, outbox: Option<&Arc<Outbox>>, frame: &ServerFrame<'_>) {
        let Some(outbox) = outbox else { return };
        if !outbox.push_control(encode(frame)) {
            Counters::one(&self.counters.dropped_control_frames);
            // A mesh member that misses news would be wrong for ever: let it connect again.
            if matches!(frame, ServerFrame::PeerPresent(_)) {
                outbox.end(Fate::Closed);
            }
        }
    }

    /// Takes a client in.
    pub(crate) fn connect(&self, arrival: Arrival) -> (ConnId, Arc<Outbox>) {
        self.with(|book| {
            let conn = book.registry.on_connect(arrival);
            let outbox = Arc::new(Outbox::new());
            book.outboxes.insert(conn, Arc::clone(&outbox));
            (conn, outbox)
        })
    }

    /// Lets a client go.
    pub(crate) fn disconnect(&self, conn: ConnId) {
        let outbox = self.with(|book| {
            book.registry.on_disconnect(conn);
            book.outboxes.remove(&conn)
        });
        if let Some(outbox) = outbox {
            // Whoever remembers the route asks again.
            outbox.set_active(false);
            let [disco, other] = outbox.waiting();
            self.queued_bytes.fetch_sub((disco.1 + other.1) as usize, Ordering::Relaxed);
            let mut lost = Tally::default();
            (lost.dropped_gone_disconnected_disco, lost.bytes_dropped_gone_disconnected_disco) = disco;
            (lost.dropped_gone_disconnected_other, lost.bytes_dropped_gone_disconnected_other) = other;
            self.counters.add(&mut lost);
        }
    }

    pub(crate) fn on_activity(&self, conn: ConnId) {
        self.with(|book| book.registry.on_activity(conn));
    }

    pub(crate) fn on_preferred(&self, conn: ConnId, is_home: bool) -> bool {
        self.with(|book| book.registry.on_preferred(conn, is_home))
    }

    pub(crate) fn on_watch(&self, conn: ConnId) {
        self.with(|book| book.registry.on_watch(conn));
    }

    pub(crate) fn close_key(&self, key: NodeKey) {
        self.with(|book| book.registry.on_close_key(key));
    }

    /// Finds the way for packets of a connection.
    pub(crate) fn route(&self, from: ConnId, to: NodeKey) -> Option<Target> {
        let epoch = self.mesh_epoch();
        self.with(|book| match book.registry.route(from, to) {
            Route::Local(conn) => book.outboxes.get(&conn).cloned().map(Target::Local),
            Route::Forward(link) => {
                book.links.get(&link).cloned().map(|link| Target::Forward { link, epoch })
            }
            Route::Unknown => None,
        })
    }

    /// Finds the way for a packet that another relay forwarded.
    pub(crate) fn route_forwarded(&self, from: NodeKey, to: NodeKey) -> Option<Arc<Outbox>> {
        self.with(|book| match book.registry.route_forwarded(from, to) {
            Route::Local(conn) => book.outboxes.get(&conn).cloned(),
            Route::Forward(_) | Route::Unknown => None,
        })
    }

    /// Adds a connection to another relay.
    pub(crate) fn add_link(&self, link: LinkId, client: DerpClient) {
        self.with(|book| book.links.insert(link, client));
    }

    /// Drops a connection to another relay and what it told.
    pub(crate) fn remove_link(&self, link: LinkId) {
        self.with(|book| {
            book.registry.on_link_down(link);
            book.links.remove(&link)
        });
    }

    pub(crate) fn on_link_down(&self, link: LinkId) {
        self.with(|book| book.registry.on_link_down(link));
    }

    pub(crate) fn on_remote(&self, link: LinkId, key: NodeKey, is_present: bool) {
        self.with(|book| {
            if is_present {
                book.registry.on_remote_present(link, key);
            } else {
                book.registry.on_remote_gone(link, key);
            }
        });
    }

    /// Tells all clients that the relay goes, and lets each end once its queue is written.
    pub(crate) fn drain(&self, frame: impl Fn() -> Bytes) {
        #[expect(clippy::iter_over_hash_type, reason = "each is told the same; the order does not matter")]
        for outbox in self.lock().outboxes.values() {
            outbox.push_control(frame());
            outbox.end(Fate::Draining);
        }
    }

    /// Closes all that are left.
    pub(crate) fn close_all(&self) {
        #[expect(clippy::iter_over_hash_type, reason = "all are closed; the order does not matter")]
        for outbox in self.lock().outboxes.values() {
            outbox.end(Fate::Closed);
        }
    }

    pub(crate) fn stats(&self) -> RegistryStats {
        self.lock().registry.stats()
    }
}

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hub").field("key", &self.key()).finish_non_exhaustive()
    }
}

/// A frame as bytes.
pub(crate) fn encode(frame: &ServerFrame<'_>) -> Bytes {
    let mut bytes = Vec::new();
    frame.encode(&mut bytes);
    bytes.into()
}

/// "You sent to somebody who is not here."
pub(crate) fn not_here(peer: NodeKey) -> Bytes {
    encode(&ServerFrame::PeerGone { key: peer, reason: PeerGone::NotHere })
}
