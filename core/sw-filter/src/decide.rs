//! The decision on a packet (node-services.md §13.2, threat-model.md §12).

use std::net::IpAddr;

use ipnet::IpNet;
use sw_proto::ip::{Fragment, IpError, IpProto, IpView, Transport};
use sw_tailcfg::FilterRule;

use crate::answered::Service;
use crate::atoms::{Holders, InvalidRules, NoHolders, Range, atoms};
use crate::flows::{Flows, Tuple};
use crate::matcher::Matcher;

/// Why a packet was dropped; the label of the counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    TooShort,
    /// The headers cannot be read.
    UnknownProtocol,
    Multicast,
    LinkLocalUnicast,
    /// The destination is none of ours.
    NotLocal,
    /// No rule lets it in.
    Acl,
    /// A message between nodes that came from the host.
    TsmpFromHost,
    /// The source is none of ours.
    NotOurSource,
    /// The network behind this router may not start flows.
    LanStart,
}

impl Reason {
    /// Returns the label of the counter.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::TooShort => "too_short",
            Self::UnknownProtocol => "unknown_protocol",
            Self::Multicast => "multicast",
            Self::LinkLocalUnicast => "link_local_unicast",
            Self::NotLocal => "not_local",
            Self::Acl => "acl",
            Self::TsmpFromHost => "tsmp_from_host",
            Self::NotOurSource => "not_our_source",
            Self::LanStart => "lan_start",
        }
    }
}

/// What happens to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    Accept,
    Drop(Reason),
}

/// Whether networks behind this router may start flows into the tailnet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LanFlows {
    #[default]
    Allowed,
    /// Only answers to flows that came from the tailnet.
    AnswersOnly,
}

/// What a filter is made of.
pub struct FilterConfig<'c> {
    pub rules: &'c [FilterRule],
    /// The node's own addresses.
    pub own: &'c [IpNet],
    /// Routes and services it serves, default routes already shrunk (node-services.md §10.3).
    pub served: &'c [IpNet],
    pub lan_flows: LanFlows,
    pub holders: &'c dyn Holders,
}

impl std::fmt::Debug for FilterConfig<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FilterConfig")
            .field("rules", &self.rules.len())
            .field("own", &self.own)
            .finish_non_exhaustive()
    }
}

/// Compiled rules of one state of the network. Immutable.
#[derive(Debug)]
pub struct Filter {
    matcher: Matcher,
    own: Vec<Range>,
    served: Vec<Range>,
    lan_flows: LanFlows,
    /// Flows that the rules let in: valid as long as this filter.
    admitted: Flows,
}

/// IPv4 link-local address of cloud metadata services, which may be asked.
const METADATA: [u8; 4] = [169, 254, 169, 254];

/// Rules alone, for questions about them.
#[derive(Debug)]
pub struct RuleSet(Matcher);

impl RuleSet {
    /// Compiles rules; those that depend on who holds a capability allow nothing.
    ///
    /// # Errors
    /// As [`Filter::compile`].
    pub fn compile(rules: &[FilterRule]) -> Result<Self, InvalidRules> {
        Ok(Self(Matcher::new(atoms(rules, &NoHolders)?)))
    }

    /// Whether they let `src` open `port` of `dst`. `protocol` is a number of IP.
    #[must_use]
    pub fn allows(&self, src: IpAddr, dst: IpAddr, protocol: u8, port: u16) -> bool {
        self.0.matches(src, dst, Some(service(IpProto(protocol), port)))
    }
}

impl Filter {
    /// Compiles rules. `seed` is secret and random.
    ///
    /// # Errors
    /// When the rules are of a form that makes the whole filter invalid: then nothing may pass.
    pub fn compile(config: &FilterConfig<'_>, seed: [u8; 32]) -> Result<Self, InvalidRules> {
        let ranges = |nets: &[IpNet]| nets.iter().map(|net| Range::net(*net)).collect();
        Ok(Self {
            matcher: Matcher::new(atoms(config.rules, config.holders)?),
            own: ranges(config.own),
            served: ranges(config.served),
            lan_flows: config.lan_flows,
            admitted: Flows::new(seed),
        })
    }

    /// Makes the filter without rules: replies pass, nothing new comes in. For shields-up and jailed peers, and,
    /// without local addresses, for a node without a netmap.
    #[must_use]
    pub fn shields_up(own: &[IpNet], served: &[IpNet], seed: [u8; 32]) -> Self {
        let config =
            FilterConfig { rules: &[], own, served, lan_flows: LanFlows::Allowed, holders: &NoHolders };
        Self::compile(&config, seed).expect("no rules are no invalid rules")
    }

    fn is_local(&self, addr: IpAddr) -> bool {
        self.own.iter().chain(&self.served).any(|range| range.contains(addr))
    }

    fn is_own(&self, addr: IpAddr) -> bool {
        self.own.iter().any(|range| range.contains(addr))
    }

    /// Whether rules let `src` open `port` of `dst`: the question of explanations and services of the node.
    #[must_use]
    pub fn allows(&self, src: IpAddr, dst: IpAddr, protocol: IpProto, port: u16) -> bool {
        self.is_local(dst) && self.matcher.matches(src, dst, Some(service(protocol, port)))
    }

    /// Decides on a packet from a peer. `peer_owns` says whether an address is the peer's or routed to it.
    pub fn inbound(&self, packet: &[u8], flows: &Flows, peer_owns: impl Fn(IpAddr) -> bool) -> Verdict {
        let view = match preliminary(packet) {
            Ok(Some(view)) => view,
            Ok(None) => return Verdict::Accept,
            Err(reason) => return Verdict::Drop(reason),
        };
        if !self.is_local(view.dst()) {
            return Verdict::Drop(Reason::NotLocal);
        }
        if !self.admits(&view, flows, &peer_owns) {
            return Verdict::Drop(Reason::Acl);
        }
        if self.lan_flows == LanFlows::AnswersOnly && !self.is_own(view.dst()) && is_stateful(view.proto()) {
            flows.learn(&tuple(&view).reversed());
        }
        Verdict::Accept
    }

    fn admits(&self, view: &IpView<'_>, flows: &Flows, peer_owns: &dyn Fn(IpAddr) -> bool) -> bool {
        match view.transport() {
            Transport::Icmp(icmp) => {
                if icmp.is_echo_reply() {
                    return true;
                }
                if icmp.is_error() {
                    return icmp.quoted().is_some_and(|quoted| {
                        let answer = Tuple {
                            protocol: quoted.proto.0,
                            src: quoted.dst,
                            dst: quoted.src,
                            src_port: quoted.dst_port,
                            dst_port: quoted.src_port,
                        };
                        self.is_local(quoted.src)
                            && peer_owns(quoted.dst)
                            && (!has_table(quoted.proto) || flows.knows(&answer))
                    });
                }
                self.matcher.matches(view.src(), view.dst(), None)
            }
            Transport::Tcp(tcp) => !tcp.is_opening() || self.matches(view),
            Transport::Udp(_) | Transport::Sctp(_) => {
                let tuple = tuple(view);
                if flows.knows(&tuple) || self.admitted.knows(&tuple) {
                    return true;
                }
                let is_match = self.matches(view);
                if is_match {
                    self.admitted.learn(&tuple);
                }
                is_match
            }
            Transport::Later(_) => true,
            Transport::Other(_) if view.proto() == IpProto::TSMP => true,
            Transport::Other(_) => self.matches_whole(view),
        }
    }

    fn matches(&self, view: &IpView<'_>) -> bool {
        let (_, port) = view.ports();
        self.matcher.matches(view.src(), view.dst(), Some(service(view.proto(), port)))
    }

    fn matches_whole(&self, view: &IpView<'_>) -> bool {
        self.matcher.matches(view.src(), view.dst(), Some(whole(view.proto())))
    }

    /// Decides on a packet of the host to a peer, and learns its flow.
    pub fn outbound(&self, packet: &[u8], flows: &Flows) -> Verdict {
        self.outbound_answering(packet, flows).0
    }

    /// The same. With it comes the service whose connection the
    /// packet is the first answer to, if it is one.
    pub(crate) fn outbound_answering(&self, packet: &[u8], flows: &Flows) -> (Verdict, Option<Service>) {
        let view = match preliminary(packet) {
            Ok(Some(view)) => view,
            Ok(None) => return (Verdict::Accept, None),
            Err(reason) => return (Verdict::Drop(reason), None),
        };
        if view.proto() == IpProto::TSMP {
            return (Verdict::Drop(Reason::TsmpFromHost), None);
        }
        if !self.is_local(view.src()) {
            return (Verdict::Drop(Reason::NotOurSource), None);
        }
        let tuple = tuple(&view);
        if self.lan_flows == LanFlows::AnswersOnly && !self.is_own(view.src()) {
            let is_answer = self.is_answer(&view, &tuple, flows);
            return (if is_answer { Verdict::Accept } else { Verdict::Drop(Reason::LanStart) }, None);
        }
        let is_first = if has_table(view.proto()) {
            flows.learn(&tuple.reversed()) && self.admitted.knows(&tuple.reversed())
        } else {
            view.tcp().is_some_and(|tcp| tcp.is_accepting())
        };
        let service = Service { protocol: view.proto(), port: tuple.src_port };
        (Verdict::Accept, (is_first && self.is_own(view.src())).then_some(service))
    }

    fn is_answer(&self, view: &IpView<'_>, tuple: &Tuple, flows: &Flows) -> bool {
        match view.transport() {
            Transport::Tcp(tcp) => !tcp.is_opening() && flows.knows(tuple),
            Transport::Udp(_) | Transport::Sctp(_) => flows.knows(tuple),
            Transport::Icmp(icmp) => icmp.is_echo_reply() || icmp.is_error(),
            Transport::Later(_) => true,
            Transport::Other(_) => false,
        }
    }
}

/// The steps that hold in both directions; `None` is a packet that needs no further look.
fn preliminary(packet: &[u8]) -> Result<Option<IpView<'_>>, Reason> {
    let view = match IpView::parse(packet) {
        Ok(view) => view,
        Err(IpError::Empty) => return Ok(None),
        Err(IpError::TooShort) => return Err(Reason::TooShort),
        Err(_) if packet.len() < 20 => return Err(Reason::TooShort),
        Err(_) => return Err(Reason::UnknownProtocol),
    };
    if view.proto().0 == 0 && view.src().is_ipv4() {
        return Err(Reason::UnknownProtocol);
    }
    if view.dst().is_multicast() {
        return Err(Reason::Multicast);
    }
    let is_link_local = match view.dst() {
        IpAddr::V4(v4) => v4.is_link_local() && v4.octets() != METADATA,
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    if is_link_local {
        return Err(Reason::LinkLocalUnicast);
    }
    if matches!(view.fragment(), Fragment::Later { .. }) {
        return Ok(None);
    }
    Ok(Some(view))
}

/// Protocols whose answers are admitted by the flow table.
fn has_table(protocol: IpProto) -> bool {
    matches!(protocol, IpProto::UDP | IpProto::SCTP)
}

fn is_stateful(protocol: IpProto) -> bool {
    matches!(protocol, IpProto::TCP | IpProto::UDP | IpProto::SCTP)
}

fn service(protocol: IpProto, port: u16) -> u32 {
    u32::from(protocol.0) << 16 | u32::from(port)
}

/// Protocols have 16 bits of ports; conditions with all of them also cover this number beyond all protocols.
pub(crate) fn whole(protocol: IpProto) -> u32 {
    1 << 24 | u32::from(protocol.0)
}

/// Returns the protocol of a number made by [`whole`].
pub(crate) fn whole_protocol(service: u32) -> Option<u8> {
    let [is_whole, _, _, protocol] = service.to_be_bytes();
    (is_whole == 1).then_some(protocol)
}

fn tuple(view: &IpView<'_>) -> Tuple {
    let (src_port, dst_port) = view.ports();
    Tuple { protocol: view.proto().0, src: view.src(), dst: view.dst(), src_port, dst_port }
}
