//! One peer in use: its handshake in flight, its sessions, its timers.

use super::stamp::Stamps;
use super::{Context, Output, PeerParams, Wake};
use crate::cookie::CookieJar;
use crate::handshake::{self, Initiated};
use crate::primitives::Secret;
use crate::session::{Role, Session, Sessions};
use crate::{
    FIRST_RETRY, KEEPALIVE_TIMEOUT, REJECT_AFTER_TIME, REKEY_ATTEMPT_TIME, REKEY_JITTER_MAX, REKEY_REACHABLE,
    REKEY_TIMEOUT,
};
use std::sync::Arc;
use std::time::Duration;
use sw_types::{Instant, NodeKey, Now};

#[derive(Debug)]
pub(crate) struct Live {
    key: NodeKey,
    pub(crate) params: PeerParams,
    pub(crate) static_static: Secret,
    pub(crate) jar: CookieJar,
    sessions: Sessions,
    in_flight: Option<InFlight>,
    last_attempt: Option<Instant>,
    last_persistent: Option<Instant>,
    /// Added to the wait for a silent peer, so that two sides do not begin at once.
    silence_jitter: Duration,
    /// What is armed in the machine's queue.
    pub(crate) deadline: Option<(Instant, Wake)>,
}

/// Our attempts at one handshake.
#[derive(Debug)]
struct InFlight {
    /// The last initiation; none is out yet while the previous handshake is too young.
    initiated: Option<Initiated>,
    began: Instant,
    retry_at: Instant,
    /// Initiations that went out.
    tries: u32,
}

impl Live {
    pub(crate) fn new(key: NodeKey, params: PeerParams, static_static: Secret) -> Self {
        Self {
            jar: CookieJar::new(key.as_bytes()),
            key,
            params,
            static_static,
            sessions: Sessions::default(),
            in_flight: None,
            last_attempt: None,
            last_persistent: None,
            silence_jitter: Duration::ZERO,
            deadline: None,
        }
    }

    pub(crate) fn set_params(&mut self, params: PeerParams) {
        self.params = params;
        self.last_persistent = None;
    }

    /// Begins a handshake unless one is in flight.
    pub(crate) fn begin(&mut self, stamps: &mut Stamps, context: &mut Context, now: Now) {
        if self.in_flight.is_some() {
            return;
        }
        // One initiation per REKEY_TIMEOUT, whatever asks for them.
        let earliest = self.last_attempt.map_or(now.mono, |at| at + REKEY_TIMEOUT);
        let retry_at = earliest.max(now.mono);
        self.in_flight = Some(InFlight { initiated: None, began: now.mono, retry_at, tries: 0 });
        if earliest <= now.mono {
            self.attempt(stamps, context, now);
        }
    }

    /// Sends one initiation of the handshake in flight.
    fn attempt(&mut self, stamps: &mut Stamps, context: &mut Context, now: Now) {
        let can_send = self.can_send(now.mono);
        let Some(in_flight) = &mut self.in_flight else { return };
        if let Some(old) = in_flight.initiated.take() {
            context.indices.remove(&old.index);
        }
        let jitter = context.rng.duration(Duration::ZERO, REKEY_JITTER_MAX);
        self.last_attempt = Some(now.mono);
        in_flight.retry_at = now.mono + retry_pause(in_flight.tries, can_send) + jitter;
        in_flight.tries = in_flight.tries.saturating_add(1);
        let index = context.new_index(self.key);
        let (ephemeral, stamp) = (context.rng.bytes(), stamps.next(now.wall));
        let made = context.identity.as_ref().and_then(|us| {
            let peer = self.key.as_bytes();
            handshake::initiate(us, peer, &self.static_static, index, ephemeral, stamp)
        });
        let Some((mut message, initiated)) = made else {
            context.indices.remove(&index);
            return;
        };
        self.jar.stamp(&mut message, now.mono);
        in_flight.initiated = Some(initiated);
        context.stats.initiations_sent += 1;
        context.outputs.push_back(Output::Send {
            peer: Some(self.key),
            reply_to: None,
            message: message.to_vec(),
        });
    }

    /// The peer can be reached now, which it could not when the last initiation went out: tries again at once. The
    /// protocol's own interval is for a peer that does not answer, not for a path that was not there.
    pub(crate) fn on_reachable(&mut self, stamps: &mut Stamps, context: &mut Context, now: Now) {
        let Some(in_flight) = &mut self.in_flight else { return };
        // What went out a moment ago may still be answered; if it is not, the news must not be lost. Signs of life may
        // come in a stream, and an answer may need longer than the first pause.
        let pause = doubled(REKEY_REACHABLE, in_flight.tries.saturating_sub(1));
        let earliest = self.last_attempt.map_or(now.mono, |at| at + pause);
        in_flight.retry_at = in_flight.retry_at.min(earliest);
        if earliest <= now.mono {
            self.attempt(stamps, context, now);
        }
    }

    /// The initiation with this index, if it is the one in flight.
    pub(crate) fn initiated(&self, index: u32) -> Option<&Initiated> {
        self.in_flight.as_ref()?.initiated.as_ref().filter(|initiated| initiated.index == index)
    }

    /// Ends the handshake in flight as answered; its index lives on in the session.
    pub(crate) fn finish_handshake(&mut self) {
        self.in_flight = None;
        self.params.activity.forget_unreplied();
    }

    /// Puts a new session in its place and tells the edge.
    pub(crate) fn add_session(&mut self, session: Session, context: &mut Context) {
        self.change_sessions(context, |sessions| sessions.insert(Arc::new(session)));
    }

    /// The responder's session was used by the initiator: it becomes current.
    pub(crate) fn confirm(&mut self, local_index: u32, context: &mut Context, now: Instant) {
        let mut confirmed = false;
        self.change_sessions(context, |sessions| confirmed = sessions.confirm(local_index));
        if confirmed {
            context.stats.handshakes_completed += 1;
            let peer = self.key;
            context.outputs.push_back(Output::Established { peer, role: Role::Responder, at: now });
            context.outputs.push_back(Output::Flush { peer, or_keepalive: false });
        }
    }

    /// Ends all sessions and the handshake.
    pub(crate) fn drop_all(&mut self, context: &mut Context) {
        if let Some(initiated) = self.in_flight.take().and_then(|in_flight| in_flight.initiated) {
            context.indices.remove(&initiated.index);
        }
        self.change_sessions(context, |sessions| *sessions = Sessions::default());
    }

    /// Changes the sessions, frees the indices of those gone, and publishes if anything changed.
    fn change_sessions(&mut self, context: &mut Context, change: impl FnOnce(&mut Sessions)) {
        let indices = |sessions: &Sessions| -> Vec<u32> {
            sessions.iter().map(|session| session.local_index).collect()
        };
        let current = |sessions: &Sessions| sessions.current.as_ref().map(|s| s.local_index);
        let (before, current_before) = (indices(&self.sessions), current(&self.sessions));
        change(&mut self.sessions);
        let after = indices(&self.sessions);
        if before == after && current_before == current(&self.sessions) {
            return;
        }
        for gone in before.iter().filter(|index| !after.contains(index)) {
            context.indices.remove(gone);
        }
        context.outputs.push_back(Output::Sessions { peer: self.key, sessions: self.sessions.clone() });
    }

    /// Does everything that is due.
    pub(crate) fn serve_timers(&mut self, stamps: &mut Stamps, context: &mut Context, now: Now) {
        self.expire_sessions(context, now.mono);
        self.serve_handshake(stamps, context, now);
        let activity = self.params.activity.clone();
        let can_send = self.can_send(now.mono);
        if activity.unanswered_since().is_some_and(|since| now.mono >= since + KEEPALIVE_TIMEOUT) {
            activity.forget_unanswered();
            if can_send {
                context.outputs.push_back(Output::Keepalive { peer: self.key });
            }
        }
        if activity.unreplied_since().is_some_and(|since| now.mono >= self.silent_at(since)) {
            activity.forget_unreplied();
            self.silence_jitter = context.rng.duration(Duration::ZERO, REKEY_JITTER_MAX);
            self.begin(stamps, context, now);
        }
        if self.persistent_at().is_some_and(|at| now.mono >= at) {
            self.last_persistent = Some(now.mono);
            if can_send {
                context.outputs.push_back(Output::Keepalive { peer: self.key });
            } else {
                self.begin(stamps, context, now);
            }
        }
        self.settle_watch();
    }

    /// The next moment something is due; `None` when this peer needs no more than its directory entry.
    pub(crate) fn next_deadline(&self) -> Option<(Instant, Wake)> {
        let activity = &self.params.activity;
        [
            self.in_flight.as_ref().map(|in_flight| (in_flight.retry_at, Wake::HandshakeRetry)),
            activity.unanswered_since().map(|since| (since + KEEPALIVE_TIMEOUT, Wake::Keepalive)),
            activity.unreplied_since().map(|since| (self.silent_at(since), Wake::PeerSilent)),
            self.persistent_at().map(|at| (at, Wake::PersistentKeepalive)),
            self.sessions
                .iter()
                .map(|session| session.created + REJECT_AFTER_TIME)
                .min()
                .map(|at| (at, Wake::SessionExpired)),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn expire_sessions(&mut self, context: &mut Context, now: Instant) {
        if !self.sessions.iter().any(|session| session.is_expired(now)) {
            return;
        }
        self.change_sessions(context, |sessions| {
            for slot in [&mut sessions.current, &mut sessions.previous, &mut sessions.next] {
                if slot.as_ref().is_some_and(|session| session.is_expired(now)) {
                    *slot = None;
                }
            }
        });
    }

    fn serve_handshake(&mut self, stamps: &mut Stamps, context: &mut Context, now: Now) {
        let Some(in_flight) = self.in_flight.as_ref().filter(|f| now.mono >= f.retry_at) else {
            return;
        };
        if now.mono < in_flight.began + REKEY_ATTEMPT_TIME {
            self.attempt(stamps, context, now);
            return;
        }
        if let Some(initiated) = self.in_flight.take().and_then(|in_flight| in_flight.initiated) {
            context.indices.remove(&initiated.index);
        }
        for session in self.sessions.iter() {
            session.forget_rekey();
        }
        self.params.activity.forget_unreplied();
        context.stats.handshakes_given_up += 1;
        context.outputs.push_back(Output::GaveUp { peer: self.key });
    }

    fn can_send(&self, now: Instant) -> bool {
        self.sessions.current.as_ref().is_some_and(|session| !session.is_expired(now))
    }

    fn silent_at(&self, since: Instant) -> Instant {
        since + KEEPALIVE_TIMEOUT + REKEY_TIMEOUT + self.silence_jitter
    }

    /// When the persistent keepalive is due: the interval after anything last passed, at once for a new peer.
    fn persistent_at(&self) -> Option<Instant> {
        let interval = self.params.keepalive?;
        let activity = &self.params.activity;
        let last = [activity.last_sent(), activity.last_received(), self.last_persistent];
        Some(last.into_iter().flatten().max().map_or(Instant::ZERO, |last| last + interval))
    }

    /// Tells the data threads whether to wake us when they begin something.
    fn settle_watch(&self) {
        let activity = &self.params.activity;
        let is_pending = || activity.unanswered_since().is_some() || activity.unreplied_since().is_some();
        if !is_pending() {
            activity.set_watched(false);
        }
        // Asked again after the flag is down: a thread that began in between saw it up and told nobody.
        if is_pending() {
            activity.set_watched(true);
        }
    }
}

/// How long the answer to an initiation is awaited before the next one.
fn retry_pause(tries_before: u32, can_send: bool) -> Duration {
    if can_send { REKEY_TIMEOUT } else { doubled(FIRST_RETRY, tries_before) }
}

fn doubled(pause: Duration, times: u32) -> Duration {
    (pause * (1 << times.min(8))).min(REKEY_TIMEOUT)
}
