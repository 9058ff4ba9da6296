//! What one machine may do to another, for comparisons of policies.

use std::collections::{BTreeMap, BTreeSet};

use sw_types::NodeId;

use super::{Compiled, NodeState};
use crate::alias::{Ports, protocol_name};
use crate::plan::{Net, PieceKind, Sel};
use crate::rule::{SshRule, SshVerdict};

/// Permissions of one machine towards another, or towards addresses behind a router, in words: `tcp 22`, `* 80`,
/// `capability example.com/cap/x`, `ssh as root`. Comparable as sets.
pub type Access = BTreeSet<String>;

#[derive(Default)]
struct Ranges(BTreeMap<Option<u8>, Vec<Ports>>);

impl Ranges {
    fn add(&mut self, net: &Net) {
        self.0.entry(net.protocol).or_default().extend(&net.ports);
    }

    /// Joins overlapping and neighbouring ports, and prints them.
    fn words(self) -> impl Iterator<Item = String> {
        self.0.into_iter().flat_map(|(protocol, mut ports)| {
            ports.sort_unstable();
            let mut joined: Vec<Ports> = Vec::new();
            for next in ports {
                match joined.last_mut() {
                    Some(last) if next.first <= last.last.saturating_add(1) => {
                        last.last = last.last.max(next.last);
                    }
                    Some(_) | None => joined.push(next),
                }
            }
            let name = protocol.map_or_else(|| "ports".to_owned(), protocol_name);
            joined.into_iter().map(move |ports| match (ports == Ports::ANY, protocol) {
                (true, None) => "everything".to_owned(),
                (true, Some(_)) => name.clone(),
                (false, _) => format!("{name} {ports}"),
            })
        })
    }
}

impl Compiled {
    /// Returns what `src` may do to `dst`.
    #[must_use]
    pub fn access(&self, src: NodeId, dst: NodeId) -> Access {
        let (Some(from), Some(to)) = (self.node(src), self.node(dst)) else { return Access::new() };
        let mut ranges = Ranges::default();
        let mut access = Access::new();
        let is_source = |set: &u32| from.src_hits.binary_search(set).is_ok();
        for used in to.dst_hits.iter().flat_map(|sel| self.plan.uses.get(*sel as usize).into_iter().flatten())
        {
            let piece = self.plan.piece(used.piece);
            if is_source(&piece.set) {
                add(&piece.kind, &mut ranges, &mut access);
            }
        }
        let is_same_owner = from.facts.owner().is_some() && from.facts.owner() == to.facts.owner();
        for id in self.plan.self_pieces.iter().filter(|_| is_same_owner) {
            let piece = self.plan.piece(*id);
            if is_source(&piece.set) {
                add(&piece.kind, &mut ranges, &mut access);
            }
        }
        access.extend(ranges.words());
        access.extend(self.ssh_words(from, dst));
        access
    }

    fn ssh_words(&self, from: &NodeState, dst: NodeId) -> Vec<String> {
        let mut words = Vec::new();
        if self.plan.ssh.is_empty() {
            return words;
        }
        let applies =
            |rule: &&SshRule| from.texts.iter().any(|(text, _)| rule.principals.binary_search(text).is_ok());
        for rule in self.ssh(dst, "").rules.iter().filter(applies) {
            let how = if matches!(rule.action, SshVerdict::Check(_)) { " after a check" } else { "" };
            for (login, _) in rule.users.iter().filter(|(_, local)| !local.is_empty()) {
                let login = if login == "*" { "any login but root" } else { login };
                words.push(format!("ssh as {login}{how}"));
            }
        }
        words
    }

    /// Returns what `src` may do to addresses that stand in the policy, by address.
    #[must_use]
    pub fn access_to_addresses(&self, src: NodeId) -> BTreeMap<String, Access> {
        let Some(from) = self.node(src) else { return BTreeMap::new() };
        let mut found: BTreeMap<String, Ranges> = BTreeMap::new();
        for piece in &self.plan.pieces {
            let net = match &piece.kind {
                PieceKind::Net(net) | PieceKind::Via { net: Some(net), .. } => net,
                PieceKind::App(_)
                | PieceKind::Companion { .. }
                | PieceKind::SelfNet(_)
                | PieceKind::SelfApp(_)
                | PieceKind::SelfCompanion { .. }
                | PieceKind::Via { net: None, .. } => continue,
            };
            if from.src_hits.binary_search(&piece.set).is_err() {
                continue;
            }
            for sel in &piece.dst {
                match self.plan.sel(*sel) {
                    Sel::Internet => {
                        found.entry("the Internet, through exit nodes".to_owned()).or_default().add(net);
                    }
                    Sel::Addresses(literals) => {
                        let foreign = |range| !range_is_machine(self, range);
                        for literal in literals.iter().filter(|literal| foreign(literal.range)) {
                            found.entry(literal.src_text.to_string()).or_default().add(net);
                        }
                    }
                    Sel::Nodes | Sel::AnyNet | Sel::AnyCap => {}
                }
            }
        }
        found.into_iter().map(|(to, ranges)| (to, ranges.words().collect())).collect()
    }
}

fn range_is_machine(compiled: &Compiled, range: crate::range::IpRange) -> bool {
    range.is_host() && compiled.owner_of(range).is_some()
}

fn add(kind: &PieceKind, ranges: &mut Ranges, access: &mut Access) {
    match kind {
        PieceKind::Net(net) | PieceKind::SelfNet(net) => ranges.add(net),
        PieceKind::App(caps) | PieceKind::SelfApp(caps) => {
            access.extend(caps.keys().map(|cap| format!("capability {cap}")));
        }
        PieceKind::Companion { .. } | PieceKind::SelfCompanion { .. } | PieceKind::Via { .. } => {}
    }
}
