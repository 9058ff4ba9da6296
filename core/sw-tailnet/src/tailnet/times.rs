//! What time brings: machines that leave, keys that expire, messages that were held back.

use std::time::Duration;

use sw_types::{Instant, NodeId, Now, UnixTime};

use super::{Output, Tailnet, Wake};
use crate::live::{Aspect, Presence};
use crate::record::{Audit, Change};
use crate::state::State;

impl Tailnet {
    /// Sets what a machine's presence is and arms what follows from it.
    pub(crate) fn set_presence(&mut self, id: NodeId, presence: Presence, now: Now) {
        let ephemeral_after = self.ephemeral_after(&self.state);
        let ephemeral = self.state.node(id).is_some_and(|n| n.ephemeral);
        let Some(live) = self.live.get_mut(&id) else {
            return;
        };
        let before = std::mem::replace(&mut live.presence, presence);
        if before == presence {
            return;
        }
        if let Presence::Leaving { until } = before {
            self.departures.remove(&(until, id));
        }
        match presence {
            Presence::Online => self.ephemerals.retain(|(_, node)| *node != id),
            Presence::Leaving { until } => {
                self.departures.insert((until, id));
                live.facts.last_seen = Some(now.wall);
                live.unsaved = true;
            }
            Presence::Offline if ephemeral => drop(self.ephemerals.insert((now.mono + ephemeral_after, id))),
            Presence::Offline => {}
        }
        if !presence.is_online() {
            (live.links, live.told) = (None, None);
        }
        if before.is_online() != presence.is_online() {
            let routes = live.routes.clone();
            self.touch(id, &[Aspect::Online]);
            for route in routes.into_iter().filter(|r| !crate::routes::is_exit(r)) {
                self.elect(route);
            }
        }
    }

    /// An ephemeral machine that has not come yet, or is away, does not stay for ever.
    pub(super) fn await_ephemeral(&mut self, change: &Change, now: Now) {
        let Change::Node(id, Some(node)) = change else { return };
        let away = self.live.get(id).is_some_and(|live| live.presence == Presence::Offline);
        if node.ephemeral && away && !self.ephemerals.iter().any(|(_, waiting)| waiting == id) {
            let at = now.mono + self.ephemeral_after(&self.state);
            self.ephemerals.insert((at, *id));
        }
    }

    pub(super) fn ephemeral_after(&self, state: &State) -> Duration {
        Duration::from_secs(u64::from(state.settings().ephemeral_s))
    }

    /// When to call [`Self::on_deadline`], and why.
    pub fn next_deadline(&self, now: Now) -> Option<(Instant, Wake)> {
        let wall = |at: UnixTime| now.mono + at.saturating_since(now.wall);
        [
            self.streams.flush_at().map(|at| (at, Wake::Flush)),
            self.departures.first().map(|(at, _)| (*at, Wake::Departure)),
            self.ephemerals.first().map(|(at, _)| (*at, Wake::Ephemeral)),
            self.expiries
                .range((now.wall, NodeId(i64::MAX))..)
                .next()
                .map(|(at, _)| (wall(*at), Wake::Expiry)),
            self.logins.next_deadline().map(|at| (at, Wake::Logins)),
            self.checks.next_deadline().map(|at| (at, Wake::Checks)),
        ]
        .into_iter()
        .flatten()
        .min_by_key(|(at, _)| *at)
    }

    /// Does what is due.
    pub fn on_deadline(&mut self, now: Now) {
        while let Some((until, id)) = self.departures.first().copied().filter(|(at, _)| *at <= now.mono) {
            self.departures.remove(&(until, id));
            self.set_presence(id, Presence::Offline, now);
        }
        while let Some((at, id)) = self.ephemerals.first().copied().filter(|(at, _)| *at <= now.mono) {
            self.ephemerals.remove(&(at, id));
            self.remove_ephemeral(id, now);
        }
        self.pass_expiries(now);
        self.renew_logins(now);
        let given_up = self.checks.expire(now).into_iter();
        self.outputs.extend(given_up.map(|ticket| Output::Checked { ticket, allowed: false }));
        self.streams.on_deadline(now);
        self.settle(now);
    }

    pub(super) fn remove_ephemeral(&mut self, id: NodeId, now: Now) {
        let away = self.live.get(&id).is_some_and(|l| l.presence == Presence::Offline);
        let Some(node) = self.state.node(id).filter(|n| n.ephemeral && away) else {
            return;
        };
        let audit =
            Audit { what: "machine.removed".to_owned(), target: node.label.clone(), old: None, new: None };
        self.record("server", vec![audit], vec![Change::Node(id, None)], now);
    }

    /// Tells about keys that expired since the last call.
    pub(super) fn pass_expiries(&mut self, now: Now) {
        let passed: Vec<(UnixTime, NodeId)> =
            self.expiries.range(..=(now.wall, NodeId(i64::MAX))).copied().collect();
        for (at, id) in passed {
            // WHY removed: the set holds only what is still to come; a new expiry puts it back.
            self.expiries.remove(&(at, id));
            self.touch(id, &[Aspect::Full, Aspect::Own]);
        }
    }
}
