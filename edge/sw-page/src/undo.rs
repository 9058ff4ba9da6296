//! What just happened, and the way back: kept in memory for ten minutes, by an unguessable id.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use sw_tailnet::Command;
use sw_types::{Instant, UserId};

/// Entries kept; the oldest give way.
const KEPT: usize = 512;
const LIFETIME_S: u64 = 600;

/// One finished act.
#[derive(Clone, Debug)]
pub(crate) struct Act {
    pub(crate) id: String,
    pub(crate) user: UserId,
    pub(crate) text: String,
    pub(crate) is_error: bool,
    /// What puts the old state back, in this order; empty when nothing does.
    pub(crate) back: Vec<Command>,
    /// A secret to show once (a key just made).
    pub(crate) secret: Option<String>,
    at: Instant,
}

/// The acts of the last minutes.
#[derive(Debug, Default)]
pub(crate) struct Acts(Mutex<VecDeque<Act>>);

impl Acts {
    /// Keeps an act; returns its id.
    pub(crate) fn push(&self, user: UserId, text: String, outcome: Outcome, now: Instant) -> String {
        let id: String = random_id();
        let Outcome { is_error, back, secret } = outcome;
        let act = Act { id: id.clone(), user, text, is_error, back, secret, at: now };
        let mut acts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if acts.len() >= KEPT {
            acts.pop_front();
        }
        acts.push_back(act);
        id
    }

    /// The act of this id, if it is this person's and not too old. A secret is given out once.
    pub(crate) fn get(&self, id: &str, user: UserId, now: Instant) -> Option<Act> {
        let mut acts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let act = acts.iter_mut().find(|act| act.id == id && act.user == user)?;
        if now.saturating_since(act.at).as_secs() > LIFETIME_S {
            return None;
        }
        let shown = act.clone();
        act.secret = None;
        Some(shown)
    }

    /// Takes the act out, so that it is undone once.
    pub(crate) fn take(&self, id: &str, user: UserId) -> Option<Act> {
        let mut acts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = acts.iter().position(|act| act.id == id && act.user == user)?;
        acts.remove(at)
    }
}

/// How an act ended.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) is_error: bool,
    pub(crate) back: Vec<Command>,
    pub(crate) secret: Option<String>,
}

fn random_id() -> String {
    let bytes: [u8; 12] = sw_control::clock::random();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_person_undoes_and_only_once() {
        let acts = Acts::default();
        let back = vec![Command::DeleteSession("x".into())];
        let id =
            acts.push(UserId(1), "Renamed".into(), Outcome { back, ..Outcome::default() }, Instant::ZERO);
        assert!(acts.get(&id, UserId(2), Instant::ZERO).is_none());
        assert!(acts.get(&id, UserId(1), Instant::ZERO).is_some());
        assert!(acts.take(&id, UserId(2)).is_none());
        assert!(acts.take(&id, UserId(1)).is_some());
        assert!(acts.take(&id, UserId(1)).is_none());
    }

    #[test]
    fn a_secret_is_shown_once() {
        let acts = Acts::default();
        let outcome = Outcome { secret: Some("swkey-…".into()), ..Outcome::default() };
        let id = acts.push(UserId(1), "Made".into(), outcome, Instant::ZERO);
        assert!(acts.get(&id, UserId(1), Instant::ZERO).is_some_and(|act| act.secret.is_some()));
        assert!(acts.get(&id, UserId(1), Instant::ZERO).is_some_and(|act| act.secret.is_none()));
    }
}
