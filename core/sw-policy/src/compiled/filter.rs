//! The packet filter of one machine (policy.md §8, §9).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use sw_types::NodeId;

use super::{Compiled, NodeState, SetHash, set};
use crate::plan::{CapMap, Literal, Net, Piece, PieceId, PieceKind, Sel, SelId};
use crate::range::{IpRange, RangeSet, internet, wildcard};
use crate::rule::{Action, CapGrant, DstPorts, Rule, Sources};

/// A rule with destinations before merging.
struct Reach {
    at: PieceId,
    sources: Sources,
    hash: SetHash,
    protocol: Option<u8>,
    dst: Vec<DstPorts>,
}

/// The rules of a machine while they are gathered.
#[derive(Default)]
struct Gathered {
    reaches: Vec<Reach>,
    uses: Vec<(PieceId, Rule)>,
}

impl Compiled {
    /// Returns the packet filter of a machine. An empty one refuses everything; so does an unknown machine.
    #[must_use]
    pub fn filter(&self, node: NodeId) -> Vec<Rule> {
        let Some(node) = self.node(node) else { return Vec::new() };
        let mut gathered = Gathered::default();
        self.gather_ordinary(node, &mut gathered);
        self.gather_companions(node, &mut gathered);
        self.gather_self(node, &mut gathered);
        self.gather_via(node, &mut gathered);
        self.merge(gathered)
    }

    /// Merges rules of equal sources and protocol at the place of the first one in the whole list, in which
    /// rules of other machines count (policy.md §8.7).
    fn merge(&self, gathered: Gathered) -> Vec<Rule> {
        let mut reaches = gathered.reaches;
        reaches.sort_by_key(|reach| reach.at);
        let mut places: BTreeMap<(SetHash, Option<u8>), PieceId> = BTreeMap::new();
        let mut merged: BTreeMap<PieceId, Rule> = gathered.uses.into_iter().collect();
        for reach in reaches {
            let key = (reach.hash, reach.protocol);
            let head = self.heads.get(&key).copied().unwrap_or(reach.at);
            let place = *places.entry(key).or_insert(head.min(reach.at));
            match merged.get_mut(&place).map(|rule| &mut rule.action) {
                Some(Action::Reach { dst, .. }) => dst.extend(reach.dst),
                Some(Action::Use(_)) | None => {
                    let action = Action::Reach { protocol: reach.protocol, dst: reach.dst };
                    merged.insert(place, Rule { sources: reach.sources, action });
                }
            }
        }
        merged.retain(|_, rule| !matches!(&rule.action, Action::Reach { dst, .. } if dst.is_empty()));
        merged.into_values().collect()
    }

    fn gather_ordinary(&self, node: &NodeState, gathered: &mut Gathered) {
        let mut uses: Vec<(PieceId, u32, SelId)> = Vec::new();
        for sel in &node.filter_sels {
            let of_sel = self.plan.uses.get(*sel as usize).into_iter().flatten();
            uses.extend(of_sel.map(|used| (used.piece, used.order, *sel)));
        }
        uses.sort_unstable();
        for of_piece in uses.chunk_by(|a, b| a.0 == b.0) {
            let Some((at, _, _)) = of_piece.first().copied() else { continue };
            let piece = self.plan.piece(at);
            let set = self.set(piece.set);
            let sels = of_piece.iter().map(|(_, _, sel)| *sel);
            match &piece.kind {
                PieceKind::Net(net) if !set.strings.is_empty() => {
                    let mut dst = Vec::new();
                    for sel in sels {
                        self.destinations(node, sel, net, &mut dst);
                    }
                    gathered.reaches.push(Reach {
                        at,
                        sources: Arc::clone(&set.strings),
                        hash: set.hash,
                        protocol: net.protocol,
                        dst,
                    });
                }
                PieceKind::App(caps) => {
                    let grants = sels.map(|sel| self.cap_dsts(node, sel));
                    // WHY: sources that resolve to nothing are still printed (policy.md §8.6).
                    push_use(gathered, at, Arc::clone(&set.strings), grants.collect(), caps);
                }
                PieceKind::Net(_)
                | PieceKind::Companion { .. }
                | PieceKind::SelfNet(_)
                | PieceKind::SelfApp(_)
                | PieceKind::SelfCompanion { .. }
                | PieceKind::Via { .. } => {}
            }
        }
    }

    /// Appends what the filter of `node` keeps of one destination.
    fn destinations(&self, node: &NodeState, sel: SelId, net: &Net, dst: &mut Vec<DstPorts>) {
        let mut push = |ip: &Arc<str>| {
            dst.extend(net.ports.iter().map(|ports| DstPorts { ip: Arc::clone(ip), ports: *ports }));
        };
        match self.plan.sel(sel) {
            Sel::AnyNet | Sel::AnyCap => push(&Arc::from("*")),
            Sel::Addresses(_) | Sel::Internet => {
                for literal in self.plan.ranges(sel).iter().filter(|literal| keeps(node, literal)) {
                    push(&literal.dst_text);
                }
            }
            Sel::Nodes => {
                for (_, text) in self.kept_addresses(node, |other| other.sels.binary_search(&sel).is_ok()) {
                    push(text);
                }
            }
        }
    }

    /// Returns the addresses that a filter keeps of those machines for which `is_meant` holds: its own, and those
    /// inside its routes.
    fn kept_addresses<'s>(
        &'s self,
        node: &'s NodeState,
        is_meant: impl Fn(&NodeState) -> bool,
    ) -> Vec<(IpAddr, &'s Arc<str>)> {
        let mut meant: Vec<&NodeState> = node
            .covers
            .iter()
            .filter_map(|id| self.node(*id))
            .chain([node])
            .filter(|n| is_meant(n))
            .collect();
        meant.sort_by_key(|meant| meant.facts.id);
        let mut kept = Vec::new();
        for other in meant {
            let is_own = other.facts.id == node.facts.id;
            for (addr, (text, _)) in other.facts.addresses.iter().zip(&other.texts) {
                if is_own || node.routes_overlap(IpRange::host(*addr)) {
                    kept.push((*addr, text));
                }
            }
        }
        kept
    }

    /// Returns what a capability rule towards one destination is for `node`.
    fn cap_dsts(&self, node: &NodeState, sel: SelId) -> Vec<IpNet> {
        let mut dsts = Vec::new();
        match self.plan.sel(sel) {
            Sel::AnyNet | Sel::AnyCap => narrow(node, wildcard().into_iter(), &mut dsts),
            Sel::Addresses(_) | Sel::Internet => {
                narrow(node, self.plan.ranges(sel).iter().map(|literal| literal.range), &mut dsts);
            }
            Sel::Nodes => {
                let kept = self.kept_addresses(node, |other| other.sels.binary_search(&sel).is_ok());
                dsts.extend(kept.into_iter().map(|(addr, _)| IpNet::from(addr)));
            }
        }
        dsts
    }

    fn gather_companions(&self, node: &NodeState, gathered: &mut Gathered) {
        for set in &node.src_hits {
            for at in self.plan.companions.get(*set as usize).into_iter().flatten() {
                let piece = self.plan.piece(*at);
                let PieceKind::Companion { cap, origin } = piece.kind else { continue };
                let sources = &self.set(piece.set).strings;
                if sources.is_empty() {
                    continue;
                }
                let dsts = self.source_dsts(node, origin);
                push_use(gathered, *at, Arc::clone(sources), vec![dsts], &companion_caps(cap));
            }
        }
    }

    /// Returns what `node` keeps of the prefixes of a source set.
    fn source_dsts(&self, node: &NodeState, set: u32) -> Vec<IpNet> {
        let spec = self.plan.set(set);
        let mut dsts = Vec::new();
        if spec.is_everything {
            narrow(node, [IpRange::ALL_V4, IpRange::ALL_V6].into_iter(), &mut dsts);
            return dsts;
        }
        let kept = self.kept_addresses(node, |other| other.member_of.binary_search(&set).is_ok());
        dsts.extend(kept.into_iter().map(|(addr, _)| IpNet::from(addr)));
        if spec.is_any {
            narrow(node, wildcard().into_iter(), &mut dsts);
        }
        let literals = spec.addresses.iter().flat_map(|sel| self.plan.ranges(*sel));
        let present = literals.filter(|literal| !node.blocks.contains(&(set, literal.range)));
        narrow(node, present.map(|literal| literal.range), &mut dsts);
        dsts
    }

    fn gather_self(&self, node: &NodeState, gathered: &mut Gathered) {
        let Some(owner) = node.facts.owner() else { return };
        for at in &self.plan.self_pieces {
            let piece = self.plan.piece(*at);
            let own: Vec<&NodeState> = self.owned(owner).iter().filter_map(|id| self.node(*id)).collect();
            let is_source = |other: &NodeState| {
                self.plan.any_sets.contains(&piece.set) || other.member_of.binary_search(&piece.set).is_ok()
            };
            let sources: Vec<&NodeState> = own.iter().copied().filter(|other| is_source(other)).collect();
            if sources.is_empty() {
                continue;
            }
            let is_own = |other: &NodeState| other.facts.owner() == Some(owner);
            match &piece.kind {
                PieceKind::SelfNet(net) => {
                    let mut dst = Vec::new();
                    for (_, ip) in self.kept_addresses(node, is_own) {
                        dst.extend(
                            net.ports.iter().map(|ports| DstPorts { ip: Arc::clone(ip), ports: *ports }),
                        );
                    }
                    let (sources, hash) = strings(&sources);
                    gathered.reaches.push(Reach { at: *at, sources, hash, protocol: net.protocol, dst });
                }
                PieceKind::SelfApp(caps) => {
                    let kept = |id: NodeId| {
                        let kept = self.kept_addresses(node, |other| other.facts.id == id);
                        kept.into_iter().map(|(addr, _)| IpNet::from(addr)).collect()
                    };
                    let grants = own.iter().map(|other| kept(other.facts.id)).collect();
                    push_use(gathered, *at, strings(&sources).0, grants, caps);
                }
                PieceKind::SelfCompanion { cap } => {
                    let kept = self.kept_addresses(node, |other| is_own(other) && is_source(other));
                    let dsts = kept.into_iter().map(|(addr, _)| IpNet::from(addr)).collect();
                    let all: RangeSet = own
                        .iter()
                        .flat_map(|node| &node.facts.addresses)
                        .map(|addr| IpRange::host(*addr))
                        .collect();
                    let mut sources: Vec<Arc<str>> =
                        all.ranges().iter().map(|range| Arc::from(range.to_string())).collect();
                    sources.sort_unstable();
                    push_use(gathered, *at, Arc::new(sources), vec![dsts], &companion_caps(cap));
                }
                PieceKind::Net(_)
                | PieceKind::App(_)
                | PieceKind::Companion { .. }
                | PieceKind::Via { .. } => {}
            }
        }
    }

    fn gather_via(&self, node: &NodeState, gathered: &mut Gathered) {
        for via in &node.via {
            let piece: &Piece = self.plan.piece(via.piece);
            let PieceKind::Via { net: Some(net), .. } = &piece.kind else { continue };
            let set = self.set(piece.set);
            if set.strings.is_empty() {
                continue;
            }
            let mut dst = Vec::new();
            for sel in &via.dst {
                let is_internet = matches!(self.plan.sel(*sel), Sel::Internet);
                let here = |literal: &&Literal| is_internet || node.routes_overlap(literal.range);
                for literal in self.plan.ranges(*sel).iter().filter(here) {
                    let one = |ports: &_| DstPorts { ip: Arc::clone(&literal.dst_text), ports: *ports };
                    dst.extend(net.ports.iter().map(one));
                }
            }
            gathered.reaches.push(Reach {
                at: via.piece,
                sources: Arc::clone(&set.strings),
                hash: set.hash,
                protocol: net.protocol,
                dst,
            });
        }
    }
}

/// Reports whether the filter of `node` keeps a range (policy.md §9).
fn keeps(node: &NodeState, literal: &Literal) -> bool {
    node.owns(literal.range)
        || node.routes_overlap(literal.range)
        || (node.is_exit() && internet().into_iter().collect::<RangeSet>().covers(literal.range))
}

/// Narrows ranges to the addresses of `node` inside; a prefix that overlaps one of its routes stays whole.
fn narrow(node: &NodeState, ranges: impl Iterator<Item = IpRange>, dsts: &mut Vec<IpNet>) {
    for range in ranges {
        let inside = node.facts.addresses.iter().filter(|addr| range.contains(**addr));
        dsts.extend(inside.map(|addr| IpNet::from(*addr)));
        if node.routes_overlap(range) {
            let prefixes = range.prefixes().into_iter();
            dsts.extend(prefixes.filter(|net| node.routes_overlap(IpRange::prefix(*net))));
        }
    }
}

fn push_use(
    gathered: &mut Gathered,
    at: PieceId,
    sources: Sources,
    dsts: Vec<Vec<IpNet>>,
    caps: &Arc<CapMap>,
) {
    let grants: Vec<CapGrant> = dsts
        .into_iter()
        .filter(|dsts| !dsts.is_empty())
        .map(|mut dsts| {
            dsts.sort_unstable_by_key(|net| (IpRange::prefix(*net).is_v6(), net.addr(), net.prefix_len()));
            dsts.dedup();
            CapGrant { dsts, caps: Arc::clone(caps) }
        })
        .collect();
    if !grants.is_empty() {
        gathered.uses.push((at, Rule { sources, action: Action::Use(grants) }));
    }
}

fn companion_caps(cap: &str) -> Arc<CapMap> {
    Arc::new(CapMap::from([(cap.to_owned(), serde_json::Value::Null)]))
}

/// Returns the addresses of machines as source strings, with their hash.
fn strings(nodes: &[&NodeState]) -> (Sources, SetHash) {
    let mut texts: Vec<Arc<str>> =
        nodes.iter().flat_map(|node| &node.texts).map(|(text, _)| text.clone()).collect();
    texts.sort_unstable();
    texts.dedup();
    let hash = texts.iter().fold(0, |sum: SetHash, text| sum.wrapping_add(set::hash(text)));
    (Arc::new(texts), hash)
}
