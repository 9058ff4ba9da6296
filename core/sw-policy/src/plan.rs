//! A policy made ready for compiling: selectors, source sets and rule pieces with numbers.
//!
//! A plan depends on the policy alone. What it says of machines, [`crate::Compiled`] fills in.
//!
//! ```text
//!   rule ─► pieces (one per protocol, capability, companion, self and via part; policy.md §8)
//!   piece ─► source set (selectors + posture)   piece ─► destination selectors
//! ```

mod build;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::alias::{Ports, Role};
use crate::bits::BitSet;
use crate::error::Span;
use crate::model::{Policy, PostureRef};
use crate::range::IpRange;

/// Number of a selector.
pub(crate) type SelId = u32;
/// Number of a source set.
pub(crate) type SetId = u32;
/// Number of a piece, which is also its place in the order of rules.
pub(crate) type PieceId = u32;

/// What a numbered selector stands for.
#[derive(Clone, Debug)]
pub(crate) enum Sel {
    /// Machines, found by their person or tag.
    Nodes,
    /// Addresses: an address, prefix, range, host or ipset.
    Addresses(Vec<Literal>),
    /// `*` as the destination of packets: every address.
    AnyNet,
    /// `*` as the destination of a capability: the addresses of the network.
    AnyCap,
    /// `autogroup:internet`.
    Internet,
}

/// A range of addresses with its text forms.
#[derive(Clone, Debug)]
pub(crate) struct Literal {
    pub(crate) range: IpRange,
    /// As it stands in `SrcIPs`.
    pub(crate) src_text: Arc<str>,
    /// As it stands in `DstPorts`.
    pub(crate) dst_text: Arc<str>,
}

/// The sources of a rule: selectors, seen through a posture.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SetSpec {
    /// Selectors of machines.
    pub(crate) nodes: Vec<SelId>,
    /// Selectors of addresses.
    pub(crate) addresses: Vec<SelId>,
    /// `*` without a posture.
    pub(crate) is_any: bool,
    /// `*` with a posture: all machines that pass.
    pub(crate) is_any_passing: bool,
    /// `autogroup:danger-all`.
    pub(crate) is_everything: bool,
    /// Neighbouring addresses print as ranges: so do the sources of companions.
    pub(crate) is_joined: bool,
    /// The list of postures of which one must hold.
    pub(crate) posture: Option<u32>,
}

/// A part of a rule that becomes one packet filter rule.
#[derive(Clone, Debug)]
pub(crate) struct Piece {
    pub(crate) rule: RuleRef,
    pub(crate) set: SetId,
    pub(crate) kind: PieceKind,
    /// Destination selectors in order; empty for self pieces and companions.
    pub(crate) dst: Vec<SelId>,
}

#[derive(Clone, Debug)]
pub(crate) enum PieceKind {
    Net(Net),
    App(Arc<CapMap>),
    /// The reverse of a capability: `set` holds the destinations, `origin` the sources of the rule.
    Companion {
        cap: &'static str,
        origin: SetId,
    },
    SelfNet(Net),
    SelfApp(Arc<CapMap>),
    SelfCompanion {
        cap: &'static str,
    },
    /// `net` is `None` for a grant with capabilities alone.
    Via {
        tags: Arc<[String]>,
        net: Option<Net>,
    },
}

/// Protocol and ports of a piece.
#[derive(Clone, Debug)]
pub(crate) struct Net {
    /// `None` is the default set: TCP, UDP, ICMP, ICMPv6.
    pub(crate) protocol: Option<u8>,
    pub(crate) ports: Vec<Ports>,
}

/// Capabilities with their values.
pub type CapMap = BTreeMap<String, serde_json::Value>;

/// Which rule of the policy a piece came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum RuleRef {
    /// The allow-all of a policy without rules.
    Default,
    Grant(usize),
    Acl(usize),
}

/// Where a selector is used as a destination.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Use {
    pub(crate) piece: PieceId,
    /// Place among the destinations of the piece.
    pub(crate) order: u32,
}

#[derive(Clone, Debug)]
pub(crate) struct SshPlan {
    /// Index into the policy's `ssh`.
    pub(crate) rule: usize,
    pub(crate) set: SetId,
    pub(crate) dst: Vec<SelId>,
    pub(crate) has_self: bool,
    /// A tagged source counts once for each of its tags.
    pub(crate) counts_tags: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct AttrPlan {
    /// Index into the policy's `nodeAttrs`.
    pub(crate) entry: usize,
    pub(crate) is_all: bool,
    pub(crate) targets: Vec<SelId>,
}

/// A policy with numbers.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) policy: Arc<Policy>,
    pub(crate) sels: Vec<Sel>,
    /// The word of a person → selectors that name it: the person and the groups.
    pub(crate) by_token: BTreeMap<String, Vec<SelId>>,
    /// A domain in lower case → selectors of all its people.
    pub(crate) by_domain: BTreeMap<String, Vec<SelId>>,
    pub(crate) by_tag: BTreeMap<String, Vec<SelId>>,
    pub(crate) by_role: Vec<(Role, SelId)>,
    pub(crate) member: Option<SelId>,
    pub(crate) tagged: Option<SelId>,
    /// All selectors of addresses.
    pub(crate) literals: Vec<SelId>,
    /// The selectors that are not of machines but that every machine meets.
    pub(crate) always: Vec<SelId>,
    pub(crate) internet: Option<SelId>,
    /// The ranges of the internet, printed (policy.md §7.4).
    pub(crate) internet_ranges: Vec<Literal>,
    pub(crate) sets: Vec<SetSpec>,
    /// Lists of postures, of which one must hold.
    pub(crate) postures: Vec<Vec<PostureRef>>,
    /// Selector → source sets that contain it.
    pub(crate) sel_sets: Vec<Vec<SetId>>,
    /// Source sets that every machine is in.
    pub(crate) any_sets: Vec<SetId>,
    /// Source sets that every machine is in if it passes the posture.
    pub(crate) any_passing_sets: Vec<SetId>,
    /// Single addresses in source sets with a posture: a machine that owns one can take it out.
    pub(crate) posture_hosts: Vec<(SetId, IpRange)>,
    pub(crate) pieces: Vec<Piece>,
    /// Selector → where it is a destination of ordinary pieces.
    pub(crate) uses: Vec<Vec<Use>>,
    /// Source set → companions whose destinations are this set.
    pub(crate) companions: Vec<Vec<PieceId>>,
    pub(crate) self_pieces: Vec<PieceId>,
    pub(crate) via_pieces: Vec<PieceId>,
    /// Source set → selectors that it may reach by ordinary pieces.
    pub(crate) reach: Vec<BitSet>,
    /// Source sets whose companions come from everywhere, so that all subnet routes are for them.
    pub(crate) route_sets: BitSet,
    /// Source set → it may reach its own person's machines.
    pub(crate) reaches_self: BitSet,
    /// Selectors of which all of the internet is part (policy.md §11.2).
    pub(crate) internet_sels: BitSet,
    pub(crate) ssh: Vec<SshPlan>,
    pub(crate) attrs: Vec<AttrPlan>,
}

impl Plan {
    pub(crate) fn sel(&self, sel: SelId) -> &Sel {
        self.sels.get(sel as usize).unwrap_or(&Sel::Nodes)
    }

    pub(crate) fn set(&self, set: SetId) -> &SetSpec {
        self.sets.get(set as usize).expect("set numbers come from this plan")
    }

    pub(crate) fn piece(&self, piece: PieceId) -> &Piece {
        self.pieces.get(piece as usize).expect("piece numbers come from this plan")
    }

    /// Returns the address ranges of a selector; none for machines and `*`.
    pub(crate) fn ranges(&self, sel: SelId) -> &[Literal] {
        match self.sel(sel) {
            Sel::Addresses(ranges) => ranges,
            Sel::Internet => &self.internet_ranges,
            Sel::Nodes | Sel::AnyNet | Sel::AnyCap => &[],
        }
    }

    /// Returns the span of the rule that a piece came from.
    pub(crate) fn rule_span(&self, rule: RuleRef) -> Option<Span> {
        match rule {
            RuleRef::Default => None,
            RuleRef::Grant(at) => self.policy.grants.as_ref()?.get(at).map(|grant| grant.span),
            RuleRef::Acl(at) => self.policy.acls.as_ref()?.get(at).map(|acl| acl.span),
        }
    }
}
