//! The state machine of all peers: handshakes, timers, cookies.

mod peer;
mod stamp;
#[cfg(test)]
mod tests;

use crate::activity::Activity;
use crate::cookie::{CookieIssuer, MacCheck};
use crate::handshake::{self, Identity};
use crate::message::{COOKIE_REPLY_LEN, INITIATION_LEN, Message, RESPONSE_LEN, field};
use crate::primitives::{Secret, dh};
use crate::session::{Role, Session, Sessions};
use crate::{BACKLOG_MAX, INITIATION_INTERVAL, Source, UNDER_LOAD_FOR};
use peer::Live;
use stamp::Stamps;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use sw_types::{Instant, NodeKey, NodePrivate, Now, Rng};
use zeroize::Zeroizing;

/// What a peer's owner decided about it.
#[derive(Clone, Debug)]
pub struct PeerParams {
    /// Mixed into every handshake; all zero when there is none.
    pub psk: Zeroizing<[u8; 32]>,
    /// Send something at least this often, to keep a NAT mapping open.
    pub keepalive: Option<Duration>,
    /// Shared with the threads that move this peer's data.
    pub activity: Arc<Activity>,
}

/// Knows every configured peer, so that the machine holds only those in use.
pub trait Directory {
    /// Looks a peer up by its public key.
    fn peer(&self, key: &NodeKey) -> Option<PeerParams>;
}

/// What the machine asks of whoever drives it.
#[derive(Debug)]
pub enum Output {
    /// Send a handshake message. A `reply_to` is where the message came from that this one answers: use it when
    /// the peer has no path (or, without a peer, always).
    Send { peer: Option<NodeKey>, reply_to: Option<Source>, message: Vec<u8> },
    /// These are the peer's sessions from here on; any other is to be forgotten.
    Sessions { peer: NodeKey, sessions: Sessions },
    /// The current session is new: send what waited. Without anything waiting send a keepalive if `or_keepalive`,
    /// since the responder may send nothing before it has heard the new keys used.
    Flush { peer: NodeKey, or_keepalive: bool },
    /// Send an empty message on the current session.
    Keepalive { peer: NodeKey },
    /// No answer for 90 s: drop what waits.
    GaveUp { peer: NodeKey },
    /// A genuine handshake message came from here.
    Heard { peer: NodeKey, from: Source },
    /// A handshake is complete.
    Established { peer: NodeKey, role: Role, at: Instant },
}

/// Why the machine wants to be woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wake {
    HandshakeRetry,
    Keepalive,
    PeerSilent,
    PersistentKeepalive,
    SessionExpired,
}

/// Why a handshake datagram was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Dropped {
    #[error("not a handshake message")]
    NotHandshake,
    #[error("no private key is set")]
    NoIdentity,
    #[error("mac1 is wrong")]
    WrongMac,
    #[error("under load: answered with a cookie")]
    CookieSent,
    #[error("under load: too many from this source")]
    RateLimited,
    #[error("does not decrypt")]
    Undecipherable,
    #[error("from a key that is no peer")]
    UnknownPeer,
    #[error("a timestamp not newer than the last one")]
    Replayed,
    #[error("initiations of this peer come too fast")]
    TooFast,
    #[error("answers nothing in flight")]
    Unexpected,
}

/// Counts of the machine; the edge exports them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub initiations_sent: u64,
    pub initiations_received: u64,
    pub responses_sent: u64,
    pub handshakes_completed: u64,
    pub handshakes_given_up: u64,
    pub cookies_sent: u64,
    pub cookies_received: u64,
}

/// All WireGuard state that is not moving data.
///
/// Inputs are `on_*`, `set_private_key` and `remove_peer`; after each drain [`WireGuard::poll_output`], then sleep
/// until [`WireGuard::next_deadline`].
#[derive(Debug)]
pub struct WireGuard<D> {
    directory: D,
    live: BTreeMap<NodeKey, Live>,
    deadlines: BTreeSet<(Instant, NodeKey)>,
    /// Timestamps outlive sessions: an initiation must not be accepted twice, ever.
    stamps: BTreeMap<NodeKey, Stamps>,
    issuer: Option<(MacCheck, CookieIssuer)>,
    loaded_until: Option<Instant>,
    context: Context,
}

/// What every step of a peer needs besides the peer.
#[derive(Debug)]
pub(crate) struct Context {
    identity: Option<Identity>,
    rng: Rng,
    indices: BTreeMap<u32, NodeKey>,
    outputs: VecDeque<Output>,
    stats: Stats,
}

impl Context {
    /// A random index that no live session or handshake has.
    fn new_index(&mut self, peer: NodeKey) -> u32 {
        loop {
            let index = self.rng.next_u32();
            if let std::collections::btree_map::Entry::Vacant(free) = self.indices.entry(index) {
                free.insert(peer);
                return index;
            }
        }
    }
}

impl<D: Directory> WireGuard<D> {
    /// Makes a machine without a private key: nothing works until it has one.
    pub fn new(directory: D, seed: [u8; 32]) -> Self {
        Self {
            directory,
            live: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            stamps: BTreeMap::new(),
            issuer: None,
            loaded_until: None,
            context: Context {
                identity: None,
                rng: Rng::new(seed),
                indices: BTreeMap::new(),
                outputs: VecDeque::new(),
                stats: Stats::default(),
            },
        }
    }

    /// Sets our key; every session and handshake of the former one ends.
    pub fn set_private_key(&mut self, private: Option<&NodePrivate>) {
        for peer in self.live.keys().copied().collect::<Vec<_>>() {
            self.forget(&peer);
        }
        self.context.identity = private.map(|key| Identity::new(*key.expose_bytes()));
        self.issuer = self
            .context
            .identity
            .as_ref()
            .map(|identity| (MacCheck::new(&identity.public), CookieIssuer::new(&identity.public)));
    }

    /// Our public key, when a private one is set.
    pub fn public_key(&self) -> Option<[u8; 32]> {
        self.context.identity.as_ref().map(|identity| identity.public)
    }

    /// Ends everything about a peer that left the directory.
    pub fn remove_peer(&mut self, peer: &NodeKey) {
        self.forget(peer);
        self.stamps.remove(peer);
    }

    /// The directory has new parameters for a peer (or a new peer).
    pub fn on_peer_changed(&mut self, peer: &NodeKey, now: Now) {
        let Some(params) = self.directory.peer(peer) else { return };
        let has_keepalive = params.keepalive.is_some();
        if let Some(live) = self.live.get_mut(peer) {
            live.set_params(params);
        } else if !has_keepalive {
            return;
        }
        self.with_live(peer, now, |_, _, _, _| ());
    }

    /// A sender found no usable session, or one that is due for renewal.
    pub fn on_session_wanted(&mut self, peer: &NodeKey, now: Now) {
        self.with_live(peer, now, |live, stamps, context, now| live.begin(stamps, context, now));
    }

    /// A path to the peer appeared, or the peer showed over one that it lives: a handshake that waits for an answer
    /// is begun anew instead of after [`crate::REKEY_TIMEOUT`].
    pub fn on_reachable(&mut self, peer: &NodeKey, now: Now) {
        if self.live.contains_key(peer) {
            self.with_live(peer, now, |live, stamps, context, now| live.on_reachable(stamps, context, now));
        }
    }

    /// A data thread noted something and nobody was going to look ([`Activity`]).
    pub fn on_activity(&mut self, peer: &NodeKey, now: Now) {
        self.with_live(peer, now, |_, _, _, _| ());
    }

    /// The first genuine message came on a session that we answered.
    pub fn on_confirmed(&mut self, local_index: u32, now: Now) {
        let Some(peer) = self.context.indices.get(&local_index).copied() else { return };
        self.with_live(&peer, now, |live, _, context, now| live.confirm(local_index, context, now.mono));
    }

    /// `waiting` handshake messages are queued in front of the machine.
    pub fn on_backlog(&mut self, waiting: usize, now: Now) {
        if waiting > BACKLOG_MAX {
            self.loaded_until = Some(now.mono + UNDER_LOAD_FOR);
        }
    }

    /// Takes a handshake message or cookie reply.
    pub fn on_datagram(&mut self, from: Source, datagram: &[u8], now: Now) -> Result<(), Dropped> {
        match Message::parse(datagram) {
            Some(Message::Initiation(message)) => {
                self.admit(&from, message, now)?;
                self.on_initiation(from, message, now)
            }
            Some(Message::Response(message)) => {
                self.admit(&from, message, now)?;
                self.on_response(from, message, now)
            }
            Some(Message::CookieReply(message)) => self.on_cookie(message, now),
            Some(Message::Data(_)) | None => Err(Dropped::NotHandshake),
        }
    }

    /// Serves every deadline that has come.
    pub fn on_deadline(&mut self, now: Now) {
        while let Some((at, peer)) = self.deadlines.first().copied().filter(|(at, _)| *at <= now.mono) {
            self.deadlines.remove(&(at, peer));
            self.with_live(&peer, now, |_, _, _, _| ());
        }
    }

    pub fn poll_output(&mut self) -> Option<Output> {
        self.context.outputs.pop_front()
    }

    pub fn next_deadline(&self) -> Option<(Instant, Wake)> {
        let (at, peer) = self.deadlines.first()?;
        let wake = self.live.get(peer)?.deadline?.1;
        Some((*at, wake))
    }

    pub fn stats(&self) -> Stats {
        self.context.stats
    }

    /// Peers that hold a session or a handshake.
    pub fn live_peers(&self) -> usize {
        self.live.len()
    }

    /// mac1 first, then (under load) proof of address and the source's share.
    fn admit(&mut self, from: &Source, message: &[u8], now: Now) -> Result<(), Dropped> {
        let (mac1, issuer) = self.issuer.as_mut().ok_or(Dropped::NoIdentity)?;
        if !mac1.is_right(message) {
            return Err(Dropped::WrongMac);
        }
        if self.loaded_until.is_none_or(|until| now.mono >= until) {
            return Ok(());
        }
        if !issuer.is_proven(message, from, now.mono) {
            let rng = &mut self.context.rng;
            if let Some(reply) = issuer.reply(message, from, |b| rng.fill(b), now.mono) {
                self.context.stats.cookies_sent += 1;
                self.context.outputs.push_back(Output::Send {
                    peer: None,
                    reply_to: Some(*from),
                    message: reply.to_vec(),
                });
            }
            return Err(Dropped::CookieSent);
        }
        if issuer.admit(from, now.mono) { Ok(()) } else { Err(Dropped::RateLimited) }
    }

    fn on_initiation(
        &mut self,
        from: Source,
        message: &[u8; INITIATION_LEN],
        now: Now,
    ) -> Result<(), Dropped> {
        let identity = self.context.identity.as_ref().ok_or(Dropped::NoIdentity)?;
        let claimed = handshake::read_claim(identity, message).ok_or(Dropped::Undecipherable)?;
        let peer = NodeKey::from_bytes(claimed.peer);
        let params = self.directory.peer(&peer).ok_or(Dropped::UnknownPeer)?;
        let static_static = match self.live.get(&peer) {
            Some(live) => live.static_static.clone(),
            None => dh(&identity.private, &claimed.peer).ok_or(Dropped::Undecipherable)?,
        };
        let proven = claimed.prove(&static_static).ok_or(Dropped::Undecipherable)?;
        let stamps = self.stamps.entry(peer).or_default();
        stamps.receive(proven.timestamp)?;
        if stamps.last_accepted.is_some_and(|at| now.mono < at + INITIATION_INTERVAL) {
            return Err(Dropped::TooFast);
        }
        stamps.last_accepted = Some(now.mono);
        self.context.stats.initiations_received += 1;

        let index = self.context.new_index(peer);
        let ephemeral = self.context.rng.bytes();
        let Some((mut response, keys)) = proven.respond(&params.psk, index, ephemeral) else {
            self.context.indices.remove(&index);
            return Err(Dropped::Undecipherable);
        };
        let session =
            Session::new((index, keys.remote_index), Role::Responder, *keys.send, *keys.receive, now.mono);
        self.with_live(&peer, now, |live, _, context, now| {
            live.jar.stamp(&mut response, now.mono);
            live.add_session(session, context);
            context.stats.responses_sent += 1;
            context.outputs.push_back(Output::Heard { peer, from });
            context.outputs.push_back(Output::Send {
                peer: Some(peer),
                reply_to: Some(from),
                message: response.to_vec(),
            });
        });
        Ok(())
    }

    fn on_response(&mut self, from: Source, message: &[u8; RESPONSE_LEN], now: Now) -> Result<(), Dropped> {
        let index = handshake::response_receiver(message);
        let peer = *self.context.indices.get(&index).ok_or(Dropped::Unexpected)?;
        let identity = self.context.identity.as_ref().ok_or(Dropped::NoIdentity)?;
        let live = self.live.get_mut(&peer).ok_or(Dropped::Unexpected)?;
        let initiated = live.initiated(index).ok_or(Dropped::Unexpected)?;
        let keys = initiated.finish(identity, &live.params.psk, message).ok_or(Dropped::Undecipherable)?;
        let session =
            Session::new((index, keys.remote_index), Role::Initiator, *keys.send, *keys.receive, now.mono);
        self.with_live(&peer, now, |live, _, context, now| {
            live.finish_handshake();
            live.add_session(session, context);
            context.stats.handshakes_completed += 1;
            context.outputs.push_back(Output::Heard { peer, from });
            context.outputs.push_back(Output::Established { peer, role: Role::Initiator, at: now.mono });
            context.outputs.push_back(Output::Flush { peer, or_keepalive: true });
        });
        Ok(())
    }

    fn on_cookie(&mut self, message: &[u8; COOKIE_REPLY_LEN], now: Now) -> Result<(), Dropped> {
        let index = u32::from_le_bytes(field(message, 4));
        let peer = self.context.indices.get(&index).ok_or(Dropped::Unexpected)?;
        let live = self.live.get_mut(peer).ok_or(Dropped::Unexpected)?;
        if !live.jar.on_reply(message, now.mono) {
            return Err(Dropped::Undecipherable);
        }
        self.context.stats.cookies_received += 1;
        Ok(())
    }

    /// Runs `change` on the live form of a peer (waking it if need be), then its timers, and arms its deadline.
    fn with_live(
        &mut self,
        peer: &NodeKey,
        now: Now,
        change: impl FnOnce(&mut Live, &mut Stamps, &mut Context, Now),
    ) {
        if !self.live.contains_key(peer) {
            let Some(live) = self.wake(peer) else { return };
            self.live.insert(*peer, live);
        }
        let Some(live) = self.live.get_mut(peer) else { return };
        let stamps = self.stamps.entry(*peer).or_default();
        if let Some((at, _)) = live.deadline.take() {
            self.deadlines.remove(&(at, *peer));
        }
        change(live, stamps, &mut self.context, now);
        live.serve_timers(stamps, &mut self.context, now);
        live.deadline = live.next_deadline();
        match live.deadline {
            Some((at, _)) => {
                self.deadlines.insert((at, *peer));
            }
            None => {
                self.live.remove(peer);
            }
        }
    }

    /// Makes the live form of a configured peer; `None` when there is no such peer, no key of ours, or its key is
    /// our own or a low-order point.
    fn wake(&self, peer: &NodeKey) -> Option<Live> {
        let params = self.directory.peer(peer)?;
        let identity = self.context.identity.as_ref()?;
        if identity.public == *peer.as_bytes() {
            return None;
        }
        let static_static: Secret = dh(&identity.private, peer.as_bytes())?;
        Some(Live::new(*peer, params, static_static))
    }

    fn forget(&mut self, peer: &NodeKey) {
        let Some(mut live) = self.live.remove(peer) else { return };
        if let Some((at, _)) = live.deadline {
            self.deadlines.remove(&(at, *peer));
        }
        live.drop_all(&mut self.context);
    }
}
