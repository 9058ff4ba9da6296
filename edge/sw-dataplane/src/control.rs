//! The state thread: it alone enters the WireGuard state machine.

use crate::clock;
use crate::event::Event;
use crate::inbound::path_of;
use crate::inbox::{Handshake, Note};
use crate::shared::Shared;
use crate::slot::{LiveSession, Slot, lock};
use crate::stats::Counter;
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use sw_types::{Instant, NodeKey, Now, UnixTime};
use sw_wg::{Directory, Dropped, MacCheck, Output, PeerParams, Sessions, Source, WireGuard};

/// Initiations of unknown keys that wait for the peer to be configured: in a tailnet the two sides hear of each other
/// at different moments, and the one who hears first writes at once.
const STRANGERS_MAX: usize = 16;
/// How long such an initiation waits; the sender repeats it after five seconds.
const STRANGER_PATIENCE: Duration = Duration::from_secs(5);

/// The device's peers, as the machine looks them up.
#[derive(Debug)]
struct Peers(Arc<Shared>);

impl Directory for Peers {
    fn peer(&self, key: &NodeKey) -> Option<PeerParams> {
        let slot = lock(&self.0.peers).get(key)?.clone();
        Some(PeerParams {
            psk: slot.psk(),
            keepalive: slot.keepalive(),
            activity: slot.live().activity.clone(),
        })
    }
}

/// The machine and what it drives.
#[derive(Debug)]
struct Control {
    shared: Arc<Shared>,
    machine: WireGuard<Peers>,
    /// The peers with sessions, and the indices of those.
    published: BTreeMap<NodeKey, (Arc<Slot>, Vec<u32>)>,
    strangers: VecDeque<(Instant, Handshake)>,
}

/// The state thread: until a stop note.
pub(crate) fn run(shared: Arc<Shared>, seed: [u8; 32], stats: &Mutex<sw_wg::Stats>) {
    let machine = WireGuard::new(Peers(shared.clone()), seed);
    let mut control = Control { shared, machine, published: BTreeMap::new(), strangers: VecDeque::new() };
    loop {
        let wait = control.machine.next_deadline().map(|(at, _)| at.saturating_since(clock::mono()));
        let waiting = control.shared.inbox.take(wait);
        let now = clock::now();
        control.machine.on_backlog(waiting.handshakes.len(), now);
        for note in waiting.notes {
            if matches!(note, Note::Stop) {
                control.machine.set_private_key(None);
                control.perform(now);
                return;
            }
            control.on_note(note, now);
        }
        for handshake in waiting.handshakes {
            control.on_handshake(handshake, now);
        }
        control.machine.on_deadline(clock::now());
        control.perform(now);
        *lock(stats) = control.machine.stats();
    }
}

impl Control {
    fn on_handshake(&mut self, handshake: Handshake, now: Now) {
        match self.machine.on_datagram(handshake.from, &handshake.bytes, now) {
            Ok(()) => {}
            Err(Dropped::UnknownPeer) => {
                if self.strangers.len() >= STRANGERS_MAX {
                    self.strangers.pop_front();
                }
                self.strangers.push_back((now.mono, handshake));
                self.shared.has_strangers.store(true, Ordering::Relaxed);
            }
            Err(_) => self.shared.counters.add(Counter::InHandshakeRefused, 1),
        }
        self.perform(now);
    }

    /// Looks whether those who wrote before they were configured are peers now.
    fn admit_strangers(&mut self, now: Now) {
        self.shared.has_strangers.store(false, Ordering::Relaxed);
        for (at, handshake) in std::mem::take(&mut self.strangers) {
            if at + STRANGER_PATIENCE > now.mono {
                self.on_handshake(handshake, now);
            }
        }
    }

    fn on_note(&mut self, note: Note, now: Now) {
        match note {
            Note::SessionWanted(peer) => self.machine.on_session_wanted(&peer, now),
            Note::Reachable(peer) => self.machine.on_reachable(&peer, now),
            Note::PeerAdded => self.admit_strangers(now),
            Note::Activity(peer) => self.machine.on_activity(&peer, now),
            Note::Confirmed(index) => self.machine.on_confirmed(index, now),
            Note::PeerChanged(peer) => {
                if let Some(slot) = self.slot(&peer) {
                    session_answered(&slot);
                }
                self.machine.on_peer_changed(&peer, now);
            }
            Note::PeerRemoved(peer) => self.machine.remove_peer(&peer),
            Note::PrivateKey(key) => {
                self.machine.set_private_key(key.as_ref());
                let public = self.machine.public_key();
                self.shared.mac_check.store(public.map(|key| Arc::new(MacCheck::new(&key))));
                let slots: Vec<_> = lock(&self.shared.peers).values().cloned().collect();
                for slot in slots {
                    session_answered(&slot);
                    if slot.keepalive().is_some() {
                        self.machine.on_peer_changed(&slot.key, now);
                    }
                }
            }
            Note::Stop => {}
        }
        self.perform(now);
    }

    fn slot(&self, peer: &NodeKey) -> Option<Arc<Slot>> {
        lock(&self.shared.peers).get(peer).cloned()
    }

    fn perform(&mut self, now: Now) {
        while let Some(output) = self.machine.poll_output() {
            match output {
                Output::Send { peer, reply_to, message } => {
                    self.send(peer, reply_to, &message, now.mono);
                }
                Output::Sessions { peer, sessions } => self.publish(&peer, &sessions),
                Output::Flush { peer, or_keepalive } => self.flush(&peer, or_keepalive, now.mono),
                Output::Keepalive { peer } => self.keepalive(&peer, now.mono),
                Output::GaveUp { peer } => self.gave_up(&peer),
                Output::Heard { peer, from } => self.heard(&peer, from),
                Output::Established { peer, role, .. } => {
                    if let Some(slot) = self.slot(&peer) {
                        let nanos = u64::try_from(now.wall.as_nanos()).unwrap_or(0);
                        slot.live().last_handshake_unix_nanos.store(nanos, Ordering::Relaxed);
                    }
                    self.tell(Event::Handshake { peer, role, at: now.wall });
                }
            }
        }
    }

    fn send(&self, peer: Option<NodeKey>, reply_to: Option<Source>, message: &[u8], now: Instant) {
        let slot = peer.and_then(|peer| self.slot(&peer));
        let Some(slot) = slot else {
            // A cookie reply goes back to where its cause came from.
            if let Some(from) = reply_to {
                self.answer(&from, message);
            }
            return;
        };
        let path = slot.path().or_else(|| reply_to.as_ref().map(path_of));
        match path {
            Some(path) => self.shared.send_handshake(&slot, &path, message),
            None => {
                *lock(&slot.live().unsent) = Some(message.to_vec());
                self.shared.want_path(&slot, now);
            }
        }
    }

    fn answer(&self, from: &Source, message: &[u8]) {
        match from {
            Source::Udp(addr) => {
                let sockets = self.shared.sockets.load();
                sockets.send(*addr, message, message.len(), &self.shared.counters);
            }
            Source::PeerRelay { via, vni } => {
                let wrapped = [&crate::shared::geneve_header(*vni), message].concat();
                let sockets = self.shared.sockets.load();
                sockets.send(*via, &wrapped, wrapped.len(), &self.shared.counters);
            }
            Source::Derp { region, from } => {
                let event = Event::RelayOut { region: *region, to: *from, bytes: message.to_vec() };
                self.tell(event);
            }
        }
    }

    /// Makes the data threads see exactly these sessions of a peer.
    fn publish(&mut self, peer: &NodeKey, sessions: &Sessions) {
        let slot = match self.published.get(peer) {
            Some((slot, _)) => slot.clone(),
            None => match self.slot(peer) {
                Some(slot) => slot,
                None => return,
            },
        };
        let table = &self.shared.sessions;
        let before = self.published.remove(peer).map(|(_, indices)| indices).unwrap_or_default();
        let after: Vec<u32> = sessions.iter().map(|session| session.local_index).collect();
        for session in sessions.iter().filter(|s| !before.contains(&s.local_index)) {
            table.insert(Arc::new(LiveSession {
                session: session.clone(),
                slot: slot.clone(),
                window: Mutex::default(),
            }));
        }
        let current = sessions.current.as_ref().and_then(|s| table.get(s.local_index));
        slot.current.store(current);
        for gone in before.iter().filter(|index| !after.contains(index)) {
            table.remove(*gone);
        }
        session_answered(&slot);
        if !after.is_empty() {
            self.published.insert(*peer, (slot, after));
        }
    }

    fn flush(&self, peer: &NodeKey, or_keepalive: bool, now: Instant) {
        let Some(slot) = self.slot(peer) else { return };
        if !self.shared.send_staged(&slot, now) && or_keepalive {
            self.keepalive(peer, now);
        }
    }

    fn keepalive(&self, peer: &NodeKey, now: Instant) {
        let Some(slot) = self.slot(peer) else { return };
        let Some(session) = slot.current.load_full() else { return };
        match slot.path() {
            Some(path) => self.shared.send_packets(&session, path, [Vec::new()], now),
            None => self.shared.want_path(&slot, now),
        }
    }

    fn gave_up(&self, peer: &NodeKey) {
        let Some(slot) = self.slot(peer) else { return };
        let dropped = slot.live().take_staged().len();
        self.shared.counters.add(Counter::OutHandshakeFailed, dropped as u64);
        session_answered(&slot);
        self.tell(Event::HandshakeFailed(*peer));
    }

    fn heard(&self, peer: &NodeKey, from: Source) {
        let Some(slot) = self.slot(peer) else { return };
        let path = path_of(&from);
        if slot.path() == Some(path) {
            return;
        }
        if slot.roams() {
            slot.set_path(Some(path));
        } else if slot.live().hear(from) {
            self.tell(Event::FirstPacketFrom { peer: *peer, source: from });
        }
    }

    fn tell(&self, event: Event) {
        if !self.shared.events.send(event) {
            self.shared.counters.add(Counter::EventQueueFull, 1);
        }
    }
}

/// Whoever wants a session next has to ask again.
fn session_answered(slot: &Slot) {
    if let Some(live) = slot.if_live() {
        live.session_answered();
    }
}

/// Unix time of the last finished handshake, `None` before the first.
pub(crate) fn last_handshake(slot: &Slot) -> Option<UnixTime> {
    let nanos = slot.if_live()?.last_handshake_unix_nanos.load(Ordering::Relaxed);
    (nanos != 0).then(|| UnixTime::from_nanos(nanos.into()))
}
