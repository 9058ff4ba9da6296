//! Words that name machines or addresses, resolved outside of rules: for tests, explanations and comparisons.

use sw_types::NodeId;

use super::{Compiled, NodeState, derive};
use crate::alias::{Autogroup, Selector};
use crate::model::PostureRef;
use crate::plan::{Net, PieceId, PieceKind, Sel, SelId, SetId};
use crate::posture::Attributes;
use crate::range::{IpRange, wildcard};

/// One side of a question: a machine with its address, or addresses that need not be a machine's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) range: IpRange,
    pub(crate) node: Option<NodeId>,
}

/// Which packets a question is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Traffic {
    /// `None` is the default set: TCP, UDP, ICMP, ICMPv6.
    pub(crate) protocol: Option<u8>,
    /// `None` asks for any port.
    pub(crate) port: Option<u16>,
    /// A policy's test takes a rule without protocol for any protocol (policy.md §14); clients do not.
    pub(crate) is_test: bool,
}

impl Compiled {
    /// Resolves a selector of the policy; `None` when it names something that is not defined.
    pub(crate) fn resolve(&self, selector: &Selector) -> Option<Vec<Endpoint>> {
        let policy = &self.plan.policy;
        let found = match selector {
            Selector::Wildcard => {
                let prefixes = wildcard().into_iter().flat_map(IpRange::prefixes);
                prefixes.flat_map(|net| self.endpoint(IpRange::prefix(net))).collect()
            }
            Selector::Range(range) => self.endpoint(*range),
            Selector::Host(name) => self.endpoint(*policy.hosts.get(name)?),
            Selector::Ipset(name) => {
                policy.ipsets.get(name)?.ranges().iter().flat_map(|range| self.endpoint(*range)).collect()
            }
            Selector::Group(name) if !policy.groups.contains_key(name) => return None,
            Selector::Tag(name) if !policy.tag_owners.contains_key(name) => return None,
            Selector::Group(_) | Selector::Tag(_) | Selector::User(_) | Selector::DomainUsers(_) => {
                self.endpoints_of(|node| self.node_is(node, selector))
            }
            Selector::Autogroup(Autogroup::Member | Autogroup::Tagged | Autogroup::Role(_)) => {
                self.endpoints_of(|node| self.node_is(node, selector))
            }
            Selector::Autogroup(_) | Selector::Service(_) => Vec::new(),
        };
        Some(found)
    }

    fn endpoints_of(&self, is_meant: impl Fn(&NodeState) -> bool) -> Vec<Endpoint> {
        self.nodes.iter().filter(|node| is_meant(node)).flat_map(endpoints).collect()
    }

    /// Returns the addresses of a machine as endpoints.
    pub(crate) fn machine(&self, node: NodeId) -> Vec<Endpoint> {
        self.node(node).map(|node| endpoints(node).collect()).unwrap_or_default()
    }

    /// A single address that is a machine's stands for that machine.
    fn endpoint(&self, range: IpRange) -> Vec<Endpoint> {
        let node = if range.is_host() { self.owner_of(range) } else { None };
        vec![Endpoint { range, node }]
    }

    /// Returns the machine that has an address.
    pub(crate) fn owner_of(&self, range: IpRange) -> Option<NodeId> {
        self.nodes.iter().find(|node| node.owns(range)).map(|node| node.facts.id)
    }

    /// Reports whether a machine is one of those that a selector of people, tags or autogroups names.
    pub(super) fn node_is(&self, node: &NodeState, selector: &Selector) -> bool {
        let owner = node.facts.owner();
        let user = owner.and_then(|owner| self.people.users.get(&owner));
        match selector {
            Selector::User(token) => user.is_some_and(|user| self.people.is(token, user)),
            Selector::DomainUsers(domain) => {
                user.and_then(|user| user.domain()).is_some_and(|own| own.eq_ignore_ascii_case(domain))
            }
            Selector::Group(name) => {
                let members = self.plan.policy.groups.get(name).into_iter().flat_map(|group| &group.members);
                members.into_iter().any(|member| self.node_is(node, &member.selector))
            }
            Selector::Tag(tag) => node.facts.tags.contains(tag),
            Selector::Autogroup(Autogroup::Member) => owner.is_some(),
            Selector::Autogroup(Autogroup::Tagged) => !node.facts.tags.is_empty(),
            Selector::Autogroup(Autogroup::Role(role)) => user.is_some_and(|user| user.role.is(*role)),
            Selector::Wildcard => true,
            Selector::Range(range) => node.owns(*range),
            Selector::Host(name) => self.plan.policy.hosts.get(name).is_some_and(|range| node.owns(*range)),
            Selector::Ipset(name) => self
                .plan
                .policy
                .ipsets
                .get(name)
                .is_some_and(|set| set.ranges().iter().any(|range| node.owns(*range))),
            Selector::Autogroup(_) | Selector::Service(_) => false,
        }
    }

    /// Reports whether a source set holds an endpoint. With `attributes` the machine's posture is taken from there.
    pub(crate) fn set_has(&self, set: SetId, src: Endpoint, attributes: Option<&Attributes>) -> bool {
        let spec = self.plan.set(set);
        if spec.is_everything {
            return true;
        }
        let routes = || self.routes.keys().any(|net| IpRange::prefix(*net).overlaps(src.range));
        if spec.is_any && (wildcard().iter().any(|range| range.overlaps(src.range)) || routes()) {
            return true;
        }
        let blocks = src.node.and_then(|id| self.node(id)).map_or(&[][..], |node| &node.blocks);
        let literals = spec.addresses.iter().flat_map(|sel| self.plan.ranges(*sel));
        let mut present = literals.filter(|literal| !blocks.contains(&(set, literal.range)));
        if present.any(|literal| literal.range.overlaps(src.range)) {
            return true;
        }
        let Some(node) = src.node.and_then(|id| self.node(id)) else {
            let members = self.set(set).members.iter().filter_map(|id| self.node(*id));
            return members
                .into_iter()
                .any(|member| member.facts.addresses.iter().any(|addr| src.range.contains(*addr)));
        };
        match (attributes, spec.posture) {
            (Some(attributes), Some(list)) => {
                let is_meant =
                    spec.is_any_passing || spec.nodes.iter().any(|sel| node.sels.binary_search(sel).is_ok());
                is_meant && derive::passes(&self.plan, list, attributes)
            }
            _ => node.member_of.binary_search(&set).is_ok(),
        }
    }

    /// Reports whether a destination selector overlaps an endpoint.
    pub(crate) fn sel_has(&self, sel: SelId, dst: Endpoint) -> bool {
        match self.plan.sel(sel) {
            Sel::AnyNet => true,
            Sel::AnyCap => wildcard().iter().any(|range| range.overlaps(dst.range)),
            Sel::Addresses(_) | Sel::Internet => {
                self.plan.ranges(sel).iter().any(|literal| literal.range.overlaps(dst.range))
            }
            Sel::Nodes => match dst.node.and_then(|id| self.node(id)) {
                Some(node) => node.sels.binary_search(&sel).is_ok(),
                None => self.nodes.iter().any(|node| {
                    node.sels.binary_search(&sel).is_ok()
                        && node.facts.addresses.iter().any(|addr| dst.range.contains(*addr))
                }),
            },
        }
    }

    /// Returns the first ordinary piece that lets `src` reach `port` of `dst`; no port asks for any.
    pub(crate) fn first_allowing(
        &self,
        src: Endpoint,
        dst: Endpoint,
        traffic: Traffic,
        attributes: Option<&Attributes>,
    ) -> Option<PieceId> {
        let allows = |kind: &PieceKind| matches!(kind, PieceKind::Net(net) if net.allows(traffic));
        let found = self.plan.pieces.iter().position(|piece| {
            allows(&piece.kind)
                && piece.dst.iter().any(|sel| self.sel_has(*sel, dst))
                && self.set_has(piece.set, src, attributes)
        });
        found.and_then(|at| u32::try_from(at).ok())
    }

    /// Returns the first piece for one's own machines that lets `src` reach `port` of `dst`, both of one person.
    pub(crate) fn first_self_allowing(
        &self,
        src: Endpoint,
        dst: NodeId,
        traffic: Traffic,
    ) -> Option<PieceId> {
        let (from, to) = (self.node(src.node?)?, self.node(dst)?);
        if from.facts.owner().is_none() || from.facts.owner() != to.facts.owner() {
            return None;
        }
        self.plan.self_pieces.iter().copied().find(|id| {
            let piece = self.plan.piece(*id);
            matches!(&piece.kind, PieceKind::SelfNet(net) if net.allows(traffic))
                && self.set_has(piece.set, src, None)
        })
    }
}

impl Net {
    /// Reports whether some of the packets are meant.
    pub(crate) fn allows(&self, traffic: Traffic) -> bool {
        let Traffic { protocol, port, is_test } = traffic;
        let protocol_fits = match (self.protocol, protocol) {
            (None, None) => true,
            (None, Some(asked)) => is_test || matches!(asked, 1 | 6 | 17 | 58),
            (Some(own), None) => matches!(own, 1 | 6 | 17 | 58),
            (Some(own), Some(asked)) => own == asked,
        };
        protocol_fits && port.is_none_or(|port| self.ports.iter().any(|ports| ports.contains(port)))
    }
}

fn endpoints(node: &NodeState) -> impl Iterator<Item = Endpoint> + '_ {
    node.facts
        .addresses
        .iter()
        .map(|addr| Endpoint { range: IpRange::host(*addr), node: Some(node.facts.id) })
}

impl Compiled {
    /// Returns all machines of the person who owns `node`, itself included; none when it is tagged.
    pub(crate) fn siblings(&self, node: NodeId) -> Vec<NodeId> {
        let owner = self.node(node).and_then(|node| node.facts.owner());
        owner.map(|owner| self.owned(owner).to_vec()).unwrap_or_default()
    }

    /// Reports whether a name of `hosts` is one address.
    pub(crate) fn is_single_host(&self, name: &str) -> bool {
        self.plan.policy.hosts.get(name).is_some_and(|range| range.is_host())
    }

    /// Returns the line on which the rule of a piece begins.
    pub(crate) fn rule_line(&self, piece: PieceId) -> Option<usize> {
        let span = self.plan.rule_span(self.plan.piece(piece).rule)?;
        Some(self.plan.policy.lines.line(span.start))
    }
}

impl Compiled {
    pub(crate) fn piece(&self, piece: PieceId) -> &crate::plan::Piece {
        self.plan.piece(piece)
    }

    pub(crate) fn pieces(&self) -> impl Iterator<Item = (PieceId, &crate::plan::Piece)> {
        (0..).zip(&self.plan.pieces)
    }

    /// Returns where the rule of a piece stands.
    pub(crate) fn rule_span(&self, rule: crate::plan::RuleRef) -> Option<crate::error::Span> {
        self.plan.rule_span(rule)
    }

    /// Reports whether a machine is meant by a selector.
    pub(crate) fn machine_is(&self, node: NodeId, selector: &Selector) -> bool {
        self.node(node).is_some_and(|node| self.node_is(node, selector))
    }

    /// Reports whether a source set would hold an endpoint if it met the posture.
    pub(crate) fn set_has_without_posture(&self, set: SetId, src: Endpoint) -> bool {
        let spec = self.plan.set(set);
        let node = src.node.and_then(|id| self.node(id));
        spec.posture.is_some()
            && node.is_some_and(|node| {
                spec.is_any_passing || spec.nodes.iter().any(|sel| node.sels.binary_search(sel).is_ok())
            })
    }

    /// Returns what keeps attributes from the postures of a source set, each with what the machine has instead: of
    /// the listed postures the one that lacks the least.
    pub(crate) fn failed_assertions(
        &self,
        set: SetId,
        attributes: &Attributes,
    ) -> Vec<(String, Option<String>)> {
        let Some(list) = self.plan.set(set).posture else { return Vec::new() };
        let refs = self.plan.postures.get(list as usize).map_or(&[][..], Vec::as_slice);
        let failed = refs.iter().map(|posture| {
            let assertions = match posture {
                PostureRef::Inline(assertion) => std::slice::from_ref(assertion),
                PostureRef::Named(name) => {
                    self.plan.policy.postures.get(&name.text).map_or(&[][..], Vec::as_slice)
                }
            };
            let failed = assertions.iter().filter(|assertion| !assertion.holds(attributes));
            failed.map(|one| (one.text.clone(), one.value(attributes))).collect::<Vec<_>>()
        });
        failed.min_by_key(Vec::len).unwrap_or_default()
    }

    /// Returns the first via piece that lets `src` reach `port` of `dst` through a router that exists.
    pub(crate) fn first_via_allowing(
        &self,
        src: Endpoint,
        dst: Endpoint,
        traffic: Traffic,
    ) -> Option<PieceId> {
        self.plan.via_pieces.iter().copied().find(|id| {
            let piece = self.plan.piece(*id);
            matches!(&piece.kind, PieceKind::Via { net: Some(net), .. } if net.allows(traffic))
                && piece.dst.iter().any(|sel| self.sel_has(*sel, dst))
                && self.set_has(piece.set, src, None)
                && self.nodes.iter().any(|node| node.via.iter().any(|via| via.piece == *id))
        })
    }
}
