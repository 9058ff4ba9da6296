//! The device: what the owner holds.

use crate::burst::Burst;
use crate::capture::Captured;
use crate::clock;
use crate::control;
use crate::event::{Event, Events};
use crate::extra::{ExtraSockets, SocketNumber};
use crate::filter::{PacketFilter, PassAll};
use crate::forward::Forwards;
use crate::inbound::{self, Inbound};
use crate::inbox::{Inbox, Note};
use crate::io::PacketIo;
use crate::outbound::{self, Outbound};
use crate::own::OwnTraffic;
use crate::packet::vnet::Vnet;
use crate::routes::Routes;
use crate::shared::{Local, Shared};
use crate::slot::{Detour, SessionTable, Slot, lock};
use crate::stats::{Counter, Counters};
use crate::udp::{SocketOptions, Sockets};
use arc_swap::{ArcSwap, ArcSwapOption};
use ipnet::IpNet;
use rustix::event::{EventfdFlags, eventfd};
use std::collections::HashSet;
use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;
use sw_types::{Instant, NodeKey, NodePrivate, Path, RegionId, UnixTime, Vni};
use sw_wg::Source;
use tokio::sync::mpsc;
use zeroize::Zeroizing;

/// What a device needs to begin.
#[derive(Debug)]
pub struct DeviceConfig {
    pub io: PacketIo,
    /// The UDP port; 0 lets the kernel choose.
    pub port: u16,
    pub sockets: SocketOptions,
    /// The inner MTU, until the TUN says otherwise.
    pub mtu: usize,
}

/// One peer, as the owner wants it.
#[derive(Clone)]
pub struct PeerConfig {
    pub key: NodeKey,
    pub psk: Option<Zeroizing<[u8; 32]>>,
    /// Send something at least this often (1 to 65,535 s).
    pub keepalive: Option<Duration>,
    /// The inner addresses that are the peer's: what goes there goes to it, and only it may send from there.
    pub allowed: Vec<IpNet>,
    /// How to reach it; `None` leaves the present path.
    pub path: Option<Path>,
    pub roaming: Roaming,
}

impl std::fmt::Debug for PeerConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PeerConfig")
            .field("key", &self.key.short())
            .field("keepalive", &self.keepalive)
            .field("allowed", &self.allowed)
            .field("path", &self.path)
            .field("roaming", &self.roaming)
            .finish_non_exhaustive()
    }
}

/// What authenticated packets from a new address do to a peer's path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Roaming {
    /// Nothing: only `set_path` moves it (tailnet peers, whose paths disco proves).
    #[default]
    ByOwner,
    /// The path follows them (plain WireGuard).
    FollowPackets,
}

/// How a peer is reached, in full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    pub path: Path,
    /// Which of our sockets a direct path starts from.
    pub socket: SocketNumber,
    /// Copies of everything go through this relay too, while the path is in doubt.
    pub relay_copy: Option<RegionId>,
}

impl From<Path> for Way {
    /// From the data socket, without copies.
    fn from(path: Path) -> Self {
        Self { path, socket: SocketNumber::MAIN, relay_copy: None }
    }
}

/// A peer's state and counts.
#[derive(Clone)]
pub struct PeerStats {
    pub key: NodeKey,
    pub path: Option<Path>,
    pub allowed: Box<[IpNet]>,
    pub keepalive: Option<Duration>,
    /// All zero: none.
    pub psk: Zeroizing<[u8; 32]>,
    pub last_handshake: Option<UnixTime>,
    pub sent_bytes: u64,
    pub received_bytes: u64,
    /// Datagrams sent: direct, by peer relay, by relay.
    pub sent_datagrams: [u64; 3],
    /// Batches received: direct, by peer relay, by relay.
    pub received_batches: [u64; 3],
}

impl std::fmt::Debug for PeerStats {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PeerStats")
            .field("key", &self.key.short())
            .field("path", &self.path)
            .field("last_handshake", &self.last_handshake)
            .field("sent_bytes", &self.sent_bytes)
            .field("received_bytes", &self.received_bytes)
            .finish_non_exhaustive()
    }
}

/// A device's state and counts.
#[derive(Clone, Debug)]
pub struct DeviceStats {
    pub counters: Vec<(Counter, u64)>,
    pub handshakes: sw_wg::Stats,
}

/// A running WireGuard device. Dropping it stops its threads and closes its sockets.
#[derive(Debug)]
pub struct Device {
    shared: Arc<Shared>,
    options: Mutex<SocketOptions>,
    stop: Arc<OwnedFd>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    readers: Mutex<Vec<JoinHandle<()>>>,
    /// What comes by relay is opened by whoever brings it, one at a time.
    relayed: Mutex<Inbound>,
    injected: Mutex<Outbound>,
    handshakes: Arc<Mutex<sw_wg::Stats>>,
    tun_name: Option<String>,
}

impl Device {
    /// Opens the sockets and starts the threads. Events come out of the receiver; whoever does not read it loses
    /// relayed packets and wishes for paths, nothing else.
    ///
    /// # Errors
    /// When no socket can be had on the port, or the system has no more threads or descriptors.
    pub fn start(config: DeviceConfig) -> io::Result<(Self, mpsc::Receiver<Event>)> {
        let sockets = Arc::new(Sockets::open(config.port, &config.sockets)?);
        let (events, receiver) = Events::new();
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(io::Error::other)?;
        let tun_name = match &config.io {
            PacketIo::Tun(tun) => Some(tun.name().to_owned()),
            PacketIo::Channel(_) => None,
        };
        let filter: Arc<dyn PacketFilter> = Arc::new(PassAll);
        let shared = Arc::new(Shared {
            peers: Mutex::default(),
            routes: Routes::new(),
            sessions: SessionTable::new(),
            sockets: ArcSwap::new(sockets.clone()),
            extra: ExtraSockets::new()?,
            filter: ArcSwap::from_pointee(filter),
            local: ArcSwap::from_pointee(Local::default()),
            own: ArcSwap::from_pointee(OwnTraffic::default()),
            mac_check: ArcSwapOption::empty(),
            cipher: crate::cipher::best(),
            io: config.io,
            mtu: AtomicUsize::new(config.mtu),
            events,
            inbox: Inbox::default(),
            counters: Counters::new(),
            capture: crate::capture::Capture::default(),
            forwards: Forwards::default(),
            has_strangers: AtomicBool::new(false),
            is_stopping: AtomicBool::new(false),
        });
        let device = Self {
            options: Mutex::new(config.sockets),
            stop: Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?),
            threads: Mutex::default(),
            readers: Mutex::default(),
            relayed: Mutex::new(Inbound::new(&shared)),
            injected: Mutex::new(Outbound::new(Burst::small())),
            handshakes: Arc::default(),
            tun_name,
            shared,
        };
        device.spawn_threads(seed)?;
        device.spawn_readers(&sockets)?;
        Ok((device, receiver))
    }

    fn spawn_threads(&self, seed: [u8; 32]) -> io::Result<()> {
        let (shared, stats) = (self.shared.clone(), self.handshakes.clone());
        let control = spawn("sw-wg-state", move || control::run(shared, seed, &stats))?;
        let (shared, stop) = (self.shared.clone(), self.stop.clone());
        let outbound = spawn("sw-data-out", move || outbound::run(&shared, &stop))?;
        lock(&self.threads).extend([control, outbound]);
        Ok(())
    }

    fn spawn_readers(&self, sockets: &Arc<Sockets>) -> io::Result<()> {
        let mut readers = Vec::new();
        for is_v4 in [true, false] {
            let (shared, sockets) = (self.shared.clone(), sockets.clone());
            let has_socket = if is_v4 { sockets.v4.is_some() } else { sockets.v6.is_some() };
            if !has_socket {
                continue;
            }
            readers.push(spawn(if is_v4 { "sw-data-in4" } else { "sw-data-in6" }, move || {
                let socket = if is_v4 { &sockets.v4 } else { &sockets.v6 };
                if let Some(socket) = socket {
                    inbound::run(&shared, socket);
                }
            })?);
        }
        let former = std::mem::replace(&mut *lock(&self.readers), readers);
        for reader in former {
            join(reader);
        }
        Ok(())
    }

    /// Sets our key; all sessions of a former one end. `None` leaves the device deaf.
    pub fn set_private_key(&self, key: Option<NodePrivate>) {
        self.shared.note(Note::PrivateKey(key));
    }

    /// Makes these the peers, no others: adds, changes and removes what differs.
    pub fn set_peers(&self, peers: Vec<PeerConfig>) {
        let wanted: HashSet<NodeKey> = peers.iter().map(|p| p.key).collect();
        let gone: Vec<NodeKey> =
            lock(&self.shared.peers).keys().filter(|key| !wanted.contains(key)).copied().collect();
        for key in gone {
            self.remove_peer(&key);
        }
        for peer in peers {
            self.upsert_peer(peer);
        }
    }

    /// Adds a peer or changes it. An address that belonged to another peer moves to this one.
    pub fn upsert_peer(&self, config: PeerConfig) {
        let shared = &self.shared;
        let mut peers = lock(&shared.peers);
        let is_new = !peers.contains_key(&config.key);
        let slot = peers.entry(config.key).or_insert_with(|| Arc::new(Slot::new(config.key))).clone();
        slot.set_psk(config.psk);
        slot.set_keepalive(config.keepalive);
        slot.set_roams(config.roaming == Roaming::FollowPackets);
        if config.path.is_some() {
            slot.set_path(config.path);
        }
        set_allowed(shared, &slot, config.allowed);
        drop(peers);
        if is_new && shared.has_strangers.load(Ordering::Relaxed) {
            shared.note(Note::PeerAdded);
        }
        // A peer that is not in use needs nothing from the state thread.
        if slot.if_live().is_some() || slot.keepalive().is_some() {
            shared.note(Note::PeerChanged(config.key));
        }
    }

    /// Removes a peer, its sessions and what waits for it; false when there is none.
    pub fn remove_peer(&self, key: &NodeKey) -> bool {
        let shared = &self.shared;
        let mut peers = lock(&shared.peers);
        let Some(slot) = peers.remove(key) else { return false };
        set_allowed(shared, &slot, Vec::new());
        slot.current.store(None);
        drop(peers);
        if slot.if_live().is_some() {
            shared.note(Note::PeerRemoved(*key));
        }
        true
    }

    /// Sets how a peer is reached; what waited for that is sent at once, and a handshake without an answer is begun
    /// anew. `None`: unknown.
    pub fn set_way(&self, key: &NodeKey, way: Option<Way>) {
        let Some(slot) = lock(&self.shared.peers).get(key).cloned() else { return };
        let detour =
            way.map(|way| Detour { socket: self.shared.extra.get(way.socket), relay_copy: way.relay_copy });
        slot.set_detour(detour.filter(|detour| detour.socket.is_some() || detour.relay_copy.is_some()));
        let path = way.map(|way| way.path);
        slot.set_path(path);
        let (Some(live), Some(path)) = (slot.if_live(), path) else { return };
        let unsent = lock(&live.unsent).take();
        if let Some(message) = unsent {
            self.shared.send_handshake(&slot, &path, &message);
        } else {
            self.note_reachable(&slot);
        }
        self.shared.send_staged(&slot, clock::mono());
    }

    /// The peer showed that packets reach it: a handshake without an answer is begun anew.
    pub fn on_reachable(&self, key: &NodeKey) {
        if let Some(slot) = lock(&self.shared.peers).get(key) {
            self.note_reachable(slot);
        }
    }

    /// The relay of `region` is connected: the same for all who are reached through it.
    pub fn on_relay_ready(&self, region: RegionId) {
        for slot in lock(&self.shared.peers).values() {
            if slot.path() == Some(Path::Derp(region)) {
                self.note_reachable(slot);
            }
        }
    }

    fn note_reachable(&self, slot: &Slot) {
        if slot.if_live().is_some() && slot.current.load().is_none() {
            self.shared.note(Note::Reachable(slot.key));
        }
    }

    /// Sets the filter that every inner packet passes.
    pub fn set_filter(&self, filter: Arc<dyn PacketFilter>) {
        self.shared.filter.store(Arc::new(filter));
    }

    /// Sets the sources that our packets may have (empty: any), and the destinations that are handed to the owner
    /// as [`Event::ServicePacket`].
    pub fn set_local_addrs(&self, sources: Vec<IpNet>, services: Vec<IpAddr>) {
        self.shared.local.store(Arc::new(Local { sources, services }));
    }

    /// Sets which packets from peers are the node's own.
    pub fn set_own_traffic(&self, own: OwnTraffic) {
        self.shared.own.store(Arc::new(own));
    }

    /// Sends a datagram of another protocol from one of our sockets; lost when that one is closed.
    pub fn send_udp(&self, socket: SocketNumber, to: SocketAddr, bytes: &[u8]) {
        let counters = &self.shared.counters;
        if socket == SocketNumber::MAIN {
            self.shared.sockets.load().send(to, bytes, bytes.len(), counters);
        } else if let Some(socket) = self.shared.extra.get(socket) {
            socket.send(to, bytes, bytes.len(), counters);
        } else {
            counters.add(Counter::NoSocket, 1);
        }
    }

    /// Sends the datagrams of tunnel `vni` that come from one of `legs` on to the other; `None` ends that.
    pub fn set_forward(&self, vni: Vni, legs: Option<[SocketAddr; 2]>) {
        self.shared.forwards.set(vni, legs, clock::mono());
    }

    /// When the legs of each tunnel of [`Self::set_forward`] were last heard.
    pub fn forwarded(&self) -> Vec<(Vni, [Instant; 2])> {
        self.shared.forwards.heard()
    }

    /// Opens a further IPv4 socket on a random port. What it receives is handled like what the data socket receives;
    /// a [`Way`] may start from it.
    ///
    /// # Errors
    /// When the system has no more descriptors, ports or threads.
    pub fn open_socket(&self) -> io::Result<SocketNumber> {
        let options = *lock(&self.options);
        crate::extra::open(&self.shared, &options)
    }

    /// Closes a further socket; paths from it lead nowhere until they are set anew.
    pub fn close_socket(&self, socket: SocketNumber) {
        self.shared.extra.close(socket);
    }

    /// Closes every further socket.
    pub fn close_extra_sockets(&self) {
        self.shared.extra.close_all();
    }

    /// Takes a WireGuard datagram that a relay brought. Disco over a relay is the relay client's own to read.
    pub fn on_relayed(&self, region: RegionId, from: NodeKey, mut bytes: Vec<u8>) {
        let source = Source::Derp { region, from };
        let len = bytes.len();
        lock(&self.relayed).on_datagrams(&self.shared, &mut bytes, len, source, clock::mono());
    }

    /// Hands a packet to the inner side, as if a peer had sent it: answers of services. The packet is complete
    /// (lengths and checksums).
    pub fn inject_inbound(&self, packet: &[u8]) {
        let header = Vnet::whole(false);
        let slices = [IoSlice::new(&header), IoSlice::new(packet)];
        let has_header = self.shared.io.header_len() > 0;
        if !self.shared.io.write(&slices[usize::from(!has_header)..]) {
            self.shared.counters.add(Counter::TunWriteFailed, 1);
        }
    }

    /// Sends a packet of the node itself to the peer that owns its destination. The filter is not asked: it is for
    /// what the host sends, and refuses messages between nodes from there.
    pub fn send_own(&self, packet: &[u8]) {
        let now = clock::mono();
        let mut outbound = lock(&self.injected);
        outbound.on_own(&self.shared, packet, now);
        outbound.flush(&self.shared, now);
    }

    /// Opens new sockets on `port` (0: any), after the network changed or to move to another port.
    ///
    /// # Errors
    /// When the port cannot be had; the old sockets stay then, unless they held the port themselves.
    pub fn rebind(&self, port: u16) -> io::Result<()> {
        let former = self.shared.sockets.load_full();
        let is_same = port != 0 && former.local_port() == Some(port);
        if is_same {
            // The port is ours: let go first.
            former.shut_down();
            self.shared.sockets.store(Arc::new(Sockets { v4: None, v6: None }));
            for reader in lock(&self.readers).drain(..) {
                join(reader);
            }
            // A thread may be in the middle of a send; the port is free when the last one lets go.
            while Arc::strong_count(&former) > 1 {
                std::thread::yield_now();
            }
        }
        let options = *lock(&self.options);
        drop(former);
        let sockets = Arc::new(Sockets::open(port, &options)?);
        let former = self.shared.sockets.swap(sockets.clone());
        former.shut_down();
        self.spawn_readers(&sockets)
    }

    /// Changes the firewall mark of the sockets.
    pub fn set_mark(&self, mark: u32) -> io::Result<()> {
        lock(&self.options).mark = mark;
        self.shared.sockets.load().set_mark(mark)
    }

    /// The UDP port in use.
    pub fn local_port(&self) -> u16 {
        self.shared.sockets.load().local_port().unwrap_or(0)
    }

    /// The name of the TUN interface, if there is one.
    pub fn tun_name(&self) -> Option<&str> {
        self.tun_name.as_deref()
    }

    /// Sets the inner MTU (a TUN's is also looked up from time to time).
    pub fn set_mtu(&self, mtu: usize) {
        self.shared.mtu.store(mtu, Ordering::Relaxed);
    }

    /// Counts and drop reasons.
    pub fn stats(&self) -> DeviceStats {
        let counters = Counter::ALL.iter().map(|c| (*c, self.shared.counters.get(*c))).collect();
        DeviceStats { counters, handshakes: *lock(&self.handshakes) }
    }

    /// All peers, in no order.
    pub fn peers(&self) -> Vec<PeerStats> {
        let slots: Vec<_> = lock(&self.shared.peers).values().cloned().collect();
        slots.iter().map(|slot| peer_stats(slot)).collect()
    }

    /// One peer.
    pub fn peer(&self, key: &NodeKey) -> Option<PeerStats> {
        let slot = lock(&self.shared.peers).get(key).cloned()?;
        Some(peer_stats(&slot))
    }

    /// The peer that owns an inner address.
    pub fn owner(&self, address: IpAddr) -> Option<NodeKey> {
        self.shared.routes.owner(address).map(|slot| slot.key)
    }

    /// Begins to copy inner packets, until the receiver is dropped or another capture begins.
    pub fn capture(&self) -> mpsc::Receiver<Captured> {
        self.shared.capture.start()
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.shared.is_stopping.store(true, Ordering::Relaxed);
        self.shared.note(Note::Stop);
        // Adding one to a counter that nobody reads cannot fail.
        let _is_signalled = rustix::io::write(&self.stop, &1u64.to_ne_bytes());
        if let PacketIo::Channel(end) = &self.shared.io {
            end.wake();
        }
        self.shared.sockets.load().shut_down();
        self.shared.extra.close_all();
        let threads = std::mem::take(&mut *lock(&self.threads));
        let readers = std::mem::take(&mut *lock(&self.readers));
        for thread in threads.into_iter().chain(readers) {
            join(thread);
        }
    }
}

/// Gives `slot` these prefixes, and no others; called under the peers' lock.
fn set_allowed(shared: &Shared, slot: &Arc<Slot>, mut allowed: Vec<IpNet>) {
    for net in &mut allowed {
        *net = net.trunc();
    }
    let former = slot.allowed();
    for net in former.iter().filter(|net| !allowed.contains(net)) {
        shared.routes.remove(*net, slot);
    }
    for net in &allowed {
        let Some(loser) = shared.routes.insert(*net, slot) else { continue };
        let rest = loser.allowed().iter().filter(|other| *other != net).copied().collect();
        loser.set_allowed(rest);
    }
    slot.set_allowed(allowed);
}

fn peer_stats(slot: &Slot) -> PeerStats {
    let live = slot.if_live();
    let (sent_bytes, received_bytes) = live.map_or((0, 0), |live| live.activity.bytes());
    let [a, b, c, d, e, f] = live.map_or([0; 6], |live| live.packets.get());
    PeerStats {
        key: slot.key,
        path: slot.path(),
        allowed: slot.allowed(),
        keepalive: slot.keepalive(),
        psk: slot.psk(),
        last_handshake: control::last_handshake(slot),
        sent_bytes,
        received_bytes,
        sent_datagrams: [a, b, c],
        received_batches: [d, e, f],
    }
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(body)
}

fn join(thread: JoinHandle<()>) {
    if thread.join().is_err() {
        tracing::error!("a data plane thread panicked");
    }
}
