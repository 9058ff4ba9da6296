//! One pair of transport keys, shared with the threads that move data.

use crate::cipher::Key;
use crate::{
    REJECT_AFTER_MESSAGES, REJECT_AFTER_TIME, REKEY_AFTER_MESSAGES, REKEY_AFTER_TIME, REKEY_ON_RECEIVE_AFTER,
};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use sw_types::Instant;

/// Which side began the handshake that made a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Initiator,
    Responder,
}

/// The keys of one finished handshake. Everything but the send counter and the two flags is fixed.
#[derive(Debug)]
pub struct Session {
    /// The index the peer puts in front of what it sends us.
    pub local_index: u32,
    /// The index we put in front of what we send.
    pub remote_index: u32,
    pub role: Role,
    pub send: Key,
    pub receive: Key,
    pub created: Instant,
    send_counter: AtomicU64,
    rekey_wanted: AtomicBool,
    is_confirmed: AtomicBool,
}

impl Session {
    pub(crate) fn new(
        indices: (u32, u32),
        role: Role,
        send: [u8; 32],
        receive: [u8; 32],
        created: Instant,
    ) -> Self {
        Self {
            local_index: indices.0,
            remote_index: indices.1,
            role,
            send: Key::new(send),
            receive: Key::new(receive),
            created,
            send_counter: AtomicU64::new(0),
            rekey_wanted: AtomicBool::new(false),
            is_confirmed: AtomicBool::new(role == Role::Initiator),
        }
    }

    /// Takes `count` counters for sending; `None` when the session may not send any more (too old, or used up:
    /// counters never wrap).
    #[inline]
    pub fn take_counters(&self, count: u64, now: Instant) -> Option<Range<u64>> {
        if self.is_expired(now) {
            return None;
        }
        let first = self.send_counter.fetch_add(count, Ordering::Relaxed);
        let end = first.checked_add(count)?;
        if end > REJECT_AFTER_MESSAGES {
            // Put back what cannot be used; a racing thread is refused in the same way.
            self.send_counter.fetch_sub(count, Ordering::Relaxed);
            return None;
        }
        Some(first..end)
    }

    /// Whether nothing may be sent or received with these keys.
    #[inline]
    pub fn is_expired(&self, now: Instant) -> bool {
        now >= self.created + REJECT_AFTER_TIME
    }

    /// True once, when a sender should ask for a new handshake (WireGuard paper §6.2: the initiator after 120 s,
    /// both after 2⁶⁰ messages).
    #[inline]
    pub fn should_rekey_on_send(&self, now: Instant) -> bool {
        let is_old = self.role == Role::Initiator && now >= self.created + REKEY_AFTER_TIME;
        let is_used = self.send_counter.load(Ordering::Relaxed) >= REKEY_AFTER_MESSAGES;
        (is_old || is_used) && !self.rekey_wanted.swap(true, Ordering::Relaxed)
    }

    /// True once, when a receiver should ask for a new handshake because these keys are about to expire.
    #[inline]
    pub fn should_rekey_on_receive(&self, now: Instant) -> bool {
        self.role == Role::Initiator
            && now >= self.created + REKEY_ON_RECEIVE_AFTER
            && !self.rekey_wanted.swap(true, Ordering::Relaxed)
    }

    /// True once, for the first genuine message on a session we answered: the initiator has the keys.
    #[inline]
    pub fn confirm(&self) -> bool {
        !self.is_confirmed.load(Ordering::Relaxed) && !self.is_confirmed.swap(true, Ordering::Relaxed)
    }

    /// Lets a later trigger ask again (the handshake it asked for came to nothing).
    pub(crate) fn forget_rekey(&self) {
        self.rekey_wanted.store(false, Ordering::Relaxed);
    }

    #[cfg(test)]
    pub(crate) fn set_send_counter(&self, counter: u64) {
        self.send_counter.store(counter, Ordering::Relaxed);
    }
}

/// The sessions of one peer: sending uses `current`; all three receive.
#[derive(Clone, Debug, Default)]
pub struct Sessions {
    pub current: Option<Arc<Session>>,
    pub previous: Option<Arc<Session>>,
    /// Answered by us and not confirmed by a message yet.
    pub next: Option<Arc<Session>>,
}

impl Sessions {
    /// All sessions that exist.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Session>> {
        [&self.current, &self.previous, &self.next].into_iter().flatten()
    }

    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }

    pub(crate) fn insert(&mut self, session: Arc<Session>) {
        match session.role {
            Role::Initiator => {
                self.previous = self.next.take().or_else(|| self.current.take());
                self.current = Some(session);
            }
            Role::Responder => {
                self.previous = None;
                self.next = Some(session);
            }
        }
    }

    /// Makes `next` current if it is the session with `local_index`.
    pub(crate) fn confirm(&mut self, local_index: u32) -> bool {
        if self.next.as_ref().is_none_or(|next| next.local_index != local_index) {
            return false;
        }
        self.previous = self.current.take();
        self.current = self.next.take();
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn session(role: Role) -> Session {
        Session::new((1, 2), role, [1; 32], [2; 32], Instant::from_nanos(1))
    }

    #[test]
    fn counters_end_before_they_wrap() {
        let (session, now) = (session(Role::Responder), Instant::from_nanos(2));
        assert_eq!(session.take_counters(3, now), Some(0..3));
        assert_eq!(session.take_counters(2, now), Some(3..5));
        session.set_send_counter(REJECT_AFTER_MESSAGES - 2);
        assert_eq!(session.take_counters(3, now), None);
        assert!(session.take_counters(2, now).is_some());
        assert_eq!(session.take_counters(1, now), None, "for ever");
        session.set_send_counter(u64::MAX);
        assert_eq!(session.take_counters(64, now), None);
    }

    #[test]
    fn a_session_is_renewed_by_count_from_both_sides_and_by_time_from_one() {
        let late = Instant::from_nanos(1) + REKEY_AFTER_TIME;
        for role in [Role::Initiator, Role::Responder] {
            let fresh = session(role);
            assert!(!fresh.should_rekey_on_send(Instant::from_nanos(2)));
            assert_eq!(fresh.should_rekey_on_send(late), role == Role::Initiator);
            assert!(!fresh.should_rekey_on_send(late), "asked once");
            let used = session(role);
            used.set_send_counter(REKEY_AFTER_MESSAGES);
            assert!(used.should_rekey_on_send(Instant::from_nanos(2)));
        }
        let very_late = Instant::from_nanos(1) + REKEY_ON_RECEIVE_AFTER;
        assert!(session(Role::Initiator).should_rekey_on_receive(very_late));
        assert!(!session(Role::Responder).should_rekey_on_receive(very_late));
    }

    #[test]
    fn nothing_is_sent_when_its_time_is_over() {
        let session = session(Role::Initiator);
        let end = Instant::from_nanos(1) + REJECT_AFTER_TIME;
        assert!(session.take_counters(1, Instant::from_nanos(end.as_nanos() - 1)).is_some());
        assert!(session.take_counters(1, end).is_none());
        assert!(session.is_expired(end + Duration::from_secs(1)));
    }
}
