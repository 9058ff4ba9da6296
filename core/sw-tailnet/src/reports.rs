//! What our own machines report beyond the official protocol: live paths, kept in memory while they are online, and
//! who connected to them, kept for 30 days so that a change of the policy can name what it would cut.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use sw_filter::RuleSet;
use sw_tailcfg::{ACCEPTED_MAX, LINKS_MAX, LinkReport, PathsReport};
use sw_types::{NodeId, Now, UnixTime};

use crate::rules::Compiled;
use crate::tailnet::Tailnet;

/// A report that comes earlier after the one before is dropped; machines keep at least 3 s.
const REPORT_SPACING: Duration = Duration::from_secs(1);
/// Most connections remembered of one machine; the oldest make room.
const REMEMBERED_MAX: usize = 256;
/// How long a connection is remembered.
const REMEMBERED_FOR: Duration = Duration::from_secs(30 * 86_400);
/// A connection seen again within this is not written anew.
const WRITE_AGAIN: Duration = Duration::from_secs(3_600);

/// A connection that a machine answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// Who opened it.
    pub peer: NodeId,
    /// IP protocol number.
    pub protocol: u8,
    /// Port of the machine that answered.
    pub port: u16,
    /// When it was last told of.
    pub at: UnixTime,
}

/// A connection that happened and that other rules would refuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// Who was connected to.
    pub to: NodeId,
    /// By whom, by what, when last.
    pub seen: Accepted,
}

impl Tailnet {
    /// A machine tells its live links and whom it answered.
    pub fn on_paths(&mut self, id: NodeId, report: PathsReport, now: Now) {
        let state = &self.state;
        let Some(live) = self.live.get_mut(&id).filter(|live| live.presence.is_online()) else { return };
        if live.told.is_some_and(|told| now.mono - told < REPORT_SPACING) {
            return;
        }
        live.told = Some(now.mono);
        let mut links = report.links;
        links.truncate(LINKS_MAX);
        links.retain(|link| link.peer != id && state.node(link.peer).is_some());
        links.sort_by_key(|link| link.peer);
        links.dedup_by_key(|link| link.peer);
        live.links = Some(links);

        if !state.settings().record_connections {
            return;
        }
        let accepted = &mut live.facts.accepted;
        let is_fresh = |seen: &Accepted| now.wall.saturating_since(seen.at) < REMEMBERED_FOR;
        let before = accepted.len();
        accepted.retain(|seen| is_fresh(seen) && state.node(seen.peer).is_some());
        live.unsaved |= accepted.len() != before;
        let told = report.accepted.into_iter().take(ACCEPTED_MAX);
        for new in told.filter(|new| new.peer != id && state.node(new.peer).is_some()) {
            let is_same = |old: &&mut Accepted| {
                (old.peer, old.protocol, old.port) == (new.peer, new.protocol, new.port)
            };
            match accepted.iter_mut().find(is_same) {
                Some(old) if now.wall.saturating_since(old.at) < WRITE_AGAIN => continue,
                Some(old) => old.at = now.wall,
                None => {
                    let (peer, protocol, port, at) = (new.peer, new.protocol, new.port, now.wall);
                    accepted.push(Accepted { peer, protocol, port, at });
                }
            }
            live.unsaved = true;
        }
        if accepted.len() > REMEMBERED_MAX {
            accepted.sort_by_key(|seen| std::cmp::Reverse(seen.at));
            accepted.truncate(REMEMBERED_MAX);
        }
    }

    /// Forgets who connected to whom; what is stored of it goes with the next writing of facts.
    pub(crate) fn forget_connections(&mut self) {
        for live in self.live.values_mut().filter(|live| !live.facts.accepted.is_empty()) {
            live.facts.accepted.clear();
            live.unsaved = true;
        }
    }

    /// The live links that a machine told; `None`: it tells none, as an official app or as an offline machine.
    pub fn links_of(&self, id: NodeId) -> Option<&[LinkReport]> {
        self.live.get(&id)?.links.as_deref()
    }

    /// The link between two machines as either of them told it.
    pub fn link(&self, a: NodeId, b: NodeId) -> Option<&LinkReport> {
        let told = |from: NodeId, to: NodeId| {
            let links = self.links_of(from)?;
            links.binary_search_by_key(&to, |link| link.peer).ok().and_then(|at| links.get(at))
        };
        told(a, b).or_else(|| told(b, a))
    }

    /// The connections of the last 30 days that a machine answered.
    pub fn accepted_by(&self, id: NodeId, now: UnixTime) -> impl Iterator<Item = &Accepted> {
        let all = self.live.get(&id).map_or(&[][..], |live| &live.facts.accepted);
        all.iter().filter(move |seen| now.saturating_since(seen.at) < REMEMBERED_FOR)
    }

    /// Which connections of the last 30 days `new` rules would refuse and the present ones allow; the latest first.
    pub fn cut_by(&self, new: &dyn Compiled, now: UnixTime) -> Vec<Cut> {
        let mut cuts = Vec::new();
        for &to in self.live.keys() {
            let (old, new) = (self.compiled.filter(to), new.filter(to));
            if self.accepted_by(to, now).next().is_none() || old[..] == new[..] {
                continue;
            }
            let (Ok(old), Ok(new), Some(node)) =
                (RuleSet::compile(&old), RuleSet::compile(&new), self.state.node(to))
            else {
                continue;
            };
            for seen in self.accepted_by(to, now) {
                let Some(peer) = self.state.node(seen.peer) else { continue };
                let is_let_in = |rules: &RuleSet| {
                    let (protocol, port) = (seen.protocol, seen.port);
                    rules.allows(peer.ipv4.into(), node.ipv4.into(), protocol, port)
                        || rules.allows(peer.ipv6.into(), node.ipv6.into(), protocol, port)
                };
                if is_let_in(&old) && !is_let_in(&new) {
                    cuts.push(Cut { to, seen: *seen });
                }
            }
        }
        cuts.sort_by_key(|cut| std::cmp::Reverse(cut.seen.at));
        cuts
    }
}
