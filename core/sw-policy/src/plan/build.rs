//! Builds a plan from a policy.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{
    AttrPlan, CapMap, Literal, Net, Piece, PieceId, PieceKind, Plan, RuleRef, Sel, SelId, SetId, SetSpec,
    SshPlan, Use,
};
use crate::alias::{Autogroup, Ports, Selector};
use crate::bits::BitSet;
use crate::model::{Acl, AclDst, Alias, Grant, Policy, PostureRef};
use crate::range::{IpRange, RangeSet, addr_text, internet, is_default_route};

/// Capabilities that bring a rule in the other direction (policy.md §8.4), in this order.
const COMPANIONS: [(&str, &str); 2] = [
    ("tailscale.com/cap/drive", "tailscale.com/cap/drive-sharer"),
    ("tailscale.com/cap/relay", "tailscale.com/cap/relay-target"),
];

impl Plan {
    pub(crate) fn new(policy: &Arc<Policy>) -> Self {
        let mut builder = Builder { plan: empty(policy), sels: BTreeMap::new(), sets: BTreeMap::new() };
        if policy.is_allow_all() {
            builder.allow_all();
        }
        for (at, grant) in policy.grants.iter().flatten().enumerate() {
            builder.grant(RuleRef::Grant(at), grant);
        }
        for (at, acl) in policy.acls.iter().flatten().enumerate() {
            builder.acl(RuleRef::Acl(at), acl);
        }
        for at in 0..policy.ssh.len() {
            builder.ssh(policy, at);
        }
        for at in 0..policy.node_attrs.len() {
            builder.attrs(policy, at);
        }
        builder.finish()
    }
}

fn empty(policy: &Arc<Policy>) -> Plan {
    Plan {
        policy: Arc::clone(policy),
        sels: Vec::new(),
        by_token: BTreeMap::new(),
        by_domain: BTreeMap::new(),
        by_tag: BTreeMap::new(),
        by_role: Vec::new(),
        member: None,
        tagged: None,
        literals: Vec::new(),
        always: Vec::new(),
        internet: None,
        internet_ranges: internet().into_iter().map(|range| literal(range, true)).collect(),
        sets: Vec::new(),
        postures: Vec::new(),
        sel_sets: Vec::new(),
        any_sets: Vec::new(),
        any_passing_sets: Vec::new(),
        posture_hosts: Vec::new(),
        pieces: Vec::new(),
        uses: Vec::new(),
        companions: Vec::new(),
        self_pieces: Vec::new(),
        via_pieces: Vec::new(),
        reach: Vec::new(),
        route_sets: BitSet::default(),
        reaches_self: BitSet::default(),
        internet_sels: BitSet::default(),
        ssh: Vec::new(),
        attrs: Vec::new(),
    }
}

/// Identity of a selector: `*` is two, one for packets and one for capabilities.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    AnyNet,
    AnyCap,
    Named(Selector),
}

struct Builder {
    plan: Plan,
    sels: BTreeMap<Key, SelId>,
    sets: BTreeMap<SetSpec, SetId>,
}

fn number(length: usize) -> u32 {
    u32::try_from(length).expect("a policy of 4 MiB has fewer than 2^32 parts")
}

/// Prints a range; in destinations those of ipsets and of the internet never become a prefix.
fn literal(range: IpRange, is_ipset: bool) -> Literal {
    let src_text: Arc<str> = Arc::from(range.to_string());
    let dst_text = if is_ipset && !range.is_host() {
        Arc::from(format!("{}-{}", addr_text(range.first()), addr_text(range.last())))
    } else {
        Arc::clone(&src_text)
    };
    Literal { range, src_text, dst_text }
}

/// A group of equal destinations of an ACL (policy.md §8.2).
struct AclGroup<'a> {
    alias: &'a Alias,
    ports: Vec<Ports>,
}

impl Builder {
    fn allow_all(&mut self) {
        let any = Alias {
            selector: Selector::Wildcard,
            written: "*".to_owned(),
            span: crate::error::Span::default(),
        };
        let set = self.set(std::slice::from_ref(&any), None);
        let dst = self.dst(&[any], false);
        let net = Net { protocol: None, ports: vec![Ports::ANY] };
        self.piece(RuleRef::Default, set, PieceKind::Net(net), dst);
    }

    fn grant(&mut self, rule: RuleRef, grant: &Grant) {
        if grant.src.is_empty() || grant.dst.is_empty() {
            return;
        }
        let mut nets: Vec<Net> = Vec::new();
        for item in &grant.ip {
            match nets.iter_mut().find(|net| net.protocol == item.protocol) {
                Some(net) => net.ports.extend(&item.ports),
                None => nets.push(Net { protocol: item.protocol, ports: item.ports.clone() }),
            }
        }
        let app: Option<Arc<CapMap>> = (!grant.app.is_empty()).then(|| {
            Arc::new(grant.app.iter().map(|(name, value)| (name.text.clone(), value.clone())).collect())
        });
        let set = self.set(&grant.src, grant.posture.as_ref());
        if !grant.via.is_empty() {
            self.via(rule, grant, set, nets);
            return;
        }
        let is_self = |alias: &&Alias| alias.selector == Selector::Autogroup(Autogroup::SelfNodes);
        let others: Vec<Alias> = grant.dst.iter().filter(|alias| !is_self(alias)).cloned().collect();
        if !others.is_empty() {
            for net in &nets {
                let dst = self.dst(&others, false);
                self.piece(rule, set, PieceKind::Net(net.clone()), dst);
            }
            if let Some(app) = &app {
                let dst = self.dst(&others, true);
                self.piece(rule, set, PieceKind::App(Arc::clone(app)), dst);
                for (_, companion) in COMPANIONS.iter().filter(|(cap, _)| app.contains_key(*cap)) {
                    let reverse = self.joined_set(&others);
                    let kind = PieceKind::Companion { cap: companion, origin: set };
                    self.piece(rule, reverse, kind, Vec::new());
                }
            }
        }
        if grant.dst.iter().any(|alias| is_self(&alias)) {
            for net in nets {
                self.piece(rule, set, PieceKind::SelfNet(net), Vec::new());
            }
            if let Some(app) = &app {
                self.piece(rule, set, PieceKind::SelfApp(Arc::clone(app)), Vec::new());
                for (_, companion) in COMPANIONS.iter().filter(|(cap, _)| app.contains_key(*cap)) {
                    self.piece(rule, set, PieceKind::SelfCompanion { cap: companion }, Vec::new());
                }
            }
        }
    }

    fn via(&mut self, rule: RuleRef, grant: &Grant, set: SetId, nets: Vec<Net>) {
        let tags: Arc<[String]> = grant.via.iter().map(|alias| alias.written.clone()).collect();
        let is_self = |alias: &Alias| alias.selector == Selector::Autogroup(Autogroup::SelfNodes);
        let others: Vec<Alias> = grant.dst.iter().filter(|alias| !is_self(alias)).cloned().collect();
        if nets.is_empty() {
            let dst = self.dst(&others, false);
            self.piece(rule, set, PieceKind::Via { tags, net: None }, dst);
            return;
        }
        for net in nets {
            let dst = self.dst(&others, false);
            self.piece(rule, set, PieceKind::Via { tags: Arc::clone(&tags), net: Some(net) }, dst);
        }
    }

    fn acl(&mut self, rule: RuleRef, acl: &Acl) {
        if acl.src.is_empty() || acl.dst.is_empty() {
            return;
        }
        let set = self.set(&acl.src, acl.posture.as_ref());
        for group in ordered(&acl.dst) {
            let net = Net { protocol: acl.protocol, ports: group.ports };
            if group.alias.selector == Selector::Autogroup(Autogroup::SelfNodes) {
                self.piece(rule, set, PieceKind::SelfNet(net), Vec::new());
            } else {
                let dst = self.dst(std::slice::from_ref(group.alias), false);
                self.piece(rule, set, PieceKind::Net(net), dst);
            }
        }
    }

    fn ssh(&mut self, policy: &Policy, at: usize) {
        let Some(rule) = policy.ssh.get(at) else { return };
        let set = self.set(&rule.src, rule.posture.as_ref());
        let is_self = |alias: &Alias| alias.selector == Selector::Autogroup(Autogroup::SelfNodes);
        let others: Vec<Alias> = rule.dst.iter().filter(|alias| !is_self(alias)).cloned().collect();
        let plan = SshPlan {
            rule: at,
            set,
            dst: self.dst(&others, false),
            has_self: rule.dst.iter().any(is_self),
            counts_tags: rule
                .src
                .iter()
                .any(|alias| alias.selector == Selector::Autogroup(Autogroup::Tagged)),
        };
        self.plan.ssh.push(plan);
    }

    fn attrs(&mut self, policy: &Policy, at: usize) {
        let Some(entry) = policy.node_attrs.get(at) else { return };
        let is_all = entry.target.iter().any(|alias| alias.selector == Selector::Wildcard);
        let targets = self.dst(&entry.target, false);
        self.plan.attrs.push(AttrPlan { entry: at, is_all, targets });
    }

    fn piece(&mut self, rule: RuleRef, set: SetId, kind: PieceKind, dst: Vec<SelId>) -> PieceId {
        let id = number(self.plan.pieces.len());
        self.plan.pieces.push(Piece { rule, set, kind, dst });
        id
    }

    fn dst(&mut self, aliases: &[Alias], is_cap: bool) -> Vec<SelId> {
        aliases.iter().map(|alias| self.sel(&alias.selector, is_cap)).collect()
    }

    fn sel(&mut self, selector: &Selector, is_cap: bool) -> SelId {
        let key = match (selector, is_cap) {
            (Selector::Wildcard, false) => Key::AnyNet,
            (Selector::Wildcard, true) => Key::AnyCap,
            (named, _) => Key::Named(named.clone()),
        };
        if let Some(known) = self.sels.get(&key) {
            return *known;
        }
        let id = number(self.plan.sels.len());
        self.sels.insert(key, id);
        let sel = self.new_sel(selector, is_cap, id);
        self.plan.sels.push(sel);
        id
    }

    fn new_sel(&mut self, selector: &Selector, is_cap: bool, id: SelId) -> Sel {
        let policy = Arc::clone(&self.plan.policy);
        let plan = &mut self.plan;
        match selector {
            Selector::Wildcard => {
                plan.always.push(id);
                if is_cap { Sel::AnyCap } else { Sel::AnyNet }
            }
            Selector::Range(range) => self.literal(id, &[*range], false),
            Selector::Host(name) => self.literal(id, policy.hosts.get(name).as_slice(), false),
            Selector::Ipset(name) => {
                let ranges = policy.ipsets.get(name).map(|set| set.ranges().to_vec()).unwrap_or_default();
                self.literal(id, &ranges, true)
            }
            Selector::Autogroup(Autogroup::Internet) => {
                plan.internet = Some(id);
                Sel::Internet
            }
            Selector::User(token) => {
                plan.by_token.entry(token.clone()).or_default().push(id);
                Sel::Nodes
            }
            Selector::DomainUsers(domain) => {
                plan.by_domain.entry(domain.to_lowercase()).or_default().push(id);
                Sel::Nodes
            }
            Selector::Group(name) => {
                for member in policy.groups.get(name).iter().flat_map(|group| &group.members) {
                    let sels = if let Selector::User(token) = &member.selector {
                        plan.by_token.entry(token.clone()).or_default()
                    } else if let Selector::DomainUsers(domain) = &member.selector {
                        plan.by_domain.entry(domain.to_lowercase()).or_default()
                    } else {
                        continue;
                    };
                    if sels.last() != Some(&id) {
                        sels.push(id);
                    }
                }
                Sel::Nodes
            }
            Selector::Tag(name) => {
                plan.by_tag.entry(name.clone()).or_default().push(id);
                Sel::Nodes
            }
            Selector::Autogroup(Autogroup::Member) => {
                plan.member = Some(id);
                Sel::Nodes
            }
            Selector::Autogroup(Autogroup::Tagged) => {
                plan.tagged = Some(id);
                Sel::Nodes
            }
            Selector::Autogroup(Autogroup::Role(role)) => {
                plan.by_role.push((*role, id));
                Sel::Nodes
            }
            // Machines shared into the network and services do not exist here: they resolve to nothing.
            Selector::Autogroup(
                Autogroup::SelfNodes | Autogroup::DangerAll | Autogroup::Shared | Autogroup::NonRoot,
            )
            | Selector::Service(_) => Sel::Nodes,
        }
    }

    fn literal(&mut self, id: SelId, ranges: &[impl std::borrow::Borrow<IpRange>], is_ipset: bool) -> Sel {
        self.plan.literals.push(id);
        Sel::Addresses(ranges.iter().map(|range| literal(*range.borrow(), is_ipset)).collect())
    }

    /// Returns the number of a source set; `posture` of `None` means the default posture.
    fn set(&mut self, src: &[Alias], posture: Option<&Vec<PostureRef>>) -> SetId {
        let spec = self.spec(src, posture);
        self.intern(spec)
    }

    /// Returns the number of the set of these destinations as the sources of a companion.
    fn joined_set(&mut self, dst: &[Alias]) -> SetId {
        let spec = SetSpec { is_joined: true, ..self.spec(dst, Some(&Vec::new())) };
        self.intern(spec)
    }

    fn spec(&mut self, src: &[Alias], posture: Option<&Vec<PostureRef>>) -> SetSpec {
        let policy = Arc::clone(&self.plan.policy);
        let posture = self.posture(posture.unwrap_or(&policy.default_src_posture));
        let mut spec = SetSpec {
            nodes: Vec::new(),
            addresses: Vec::new(),
            is_any: false,
            is_any_passing: false,
            is_everything: false,
            is_joined: false,
            posture,
        };
        for alias in src {
            match &alias.selector {
                Selector::Wildcard if posture.is_some() => spec.is_any_passing = true,
                Selector::Wildcard => spec.is_any = true,
                Selector::Autogroup(Autogroup::DangerAll) => spec.is_everything = true,
                Selector::Range(_) | Selector::Host(_) | Selector::Ipset(_) => {
                    spec.addresses.push(self.sel(&alias.selector, false));
                }
                Selector::User(_)
                | Selector::DomainUsers(_)
                | Selector::Group(_)
                | Selector::Tag(_)
                | Selector::Autogroup(_)
                | Selector::Service(_) => spec.nodes.push(self.sel(&alias.selector, false)),
            }
        }
        spec.nodes.sort_unstable();
        spec.nodes.dedup();
        spec.addresses.sort_unstable();
        spec.addresses.dedup();
        spec
    }

    fn intern(&mut self, spec: SetSpec) -> SetId {
        if let Some(known) = self.sets.get(&spec) {
            return *known;
        }
        let id = number(self.plan.sets.len());
        self.sets.insert(spec.clone(), id);
        self.plan.sets.push(spec);
        id
    }

    fn posture(&mut self, refs: &[PostureRef]) -> Option<u32> {
        if refs.is_empty() {
            return None;
        }
        let same = |known: &Vec<PostureRef>| {
            known.len() == refs.len()
                && known.iter().zip(refs).all(|pair| match pair {
                    (PostureRef::Named(a), PostureRef::Named(b)) => a.text == b.text,
                    (PostureRef::Inline(a), PostureRef::Inline(b)) => a == b,
                    (PostureRef::Named(_), PostureRef::Inline(_))
                    | (PostureRef::Inline(_), PostureRef::Named(_)) => false,
                })
        };
        if let Some(known) = self.plan.postures.iter().position(same) {
            return Some(number(known));
        }
        self.plan.postures.push(refs.to_vec());
        Some(number(self.plan.postures.len() - 1))
    }

    fn finish(self) -> Plan {
        let mut plan = self.plan;
        plan.sel_sets = vec![Vec::new(); plan.sels.len()];
        plan.uses = vec![Vec::new(); plan.sels.len()];
        plan.companions = vec![Vec::new(); plan.sets.len()];
        plan.reach = vec![BitSet::default(); plan.sets.len()];
        for (at, spec) in plan.sets.iter().enumerate() {
            let set = number(at);
            if spec.is_any || spec.is_everything {
                plan.any_sets.push(set);
            }
            if spec.is_any_passing {
                plan.any_passing_sets.push(set);
            }
            for sel in spec.nodes.iter().chain(&spec.addresses) {
                if let Some(sets) = plan.sel_sets.get_mut(*sel as usize) {
                    sets.push(set);
                }
            }
        }
        plan.posture_hosts = posture_hosts(&plan);
        index_pieces(&mut plan);
        plan.internet_sels = internet_sels(&plan);
        plan
    }
}

fn posture_hosts(plan: &Plan) -> Vec<(SetId, IpRange)> {
    let mut found = Vec::new();
    for (at, spec) in plan.sets.iter().enumerate().filter(|(_, spec)| spec.posture.is_some()) {
        let literals = spec.addresses.iter().flat_map(|sel| plan.ranges(*sel));
        let hosts = literals.filter(|literal| literal.range.is_host());
        found.extend(hosts.map(|literal| (number(at), literal.range)));
    }
    found
}

fn index_pieces(plan: &mut Plan) {
    for (at, piece) in plan.pieces.iter().enumerate() {
        let id = number(at);
        match &piece.kind {
            PieceKind::Net(_) | PieceKind::App(_) => {
                for (order, sel) in piece.dst.iter().enumerate() {
                    if let Some(uses) = plan.uses.get_mut(*sel as usize) {
                        uses.push(Use { piece: id, order: number(order) });
                    }
                    if let Some(reach) = plan.reach.get_mut(piece.set as usize) {
                        reach.insert(*sel);
                    }
                }
            }
            PieceKind::Companion { origin, .. } => {
                if let Some(companions) = plan.companions.get_mut(*origin as usize) {
                    companions.push(id);
                }
                if plan.sets.get(piece.set as usize).is_some_and(|set| set.is_any) {
                    plan.route_sets.insert(*origin);
                }
            }
            PieceKind::SelfNet(_) | PieceKind::SelfApp(_) => {
                plan.reaches_self.insert(piece.set);
                plan.self_pieces.push(id);
            }
            PieceKind::SelfCompanion { .. } => plan.self_pieces.push(id),
            PieceKind::Via { .. } => plan.via_pieces.push(id),
        }
    }
}

/// The selectors through which a source may use exit nodes.
fn internet_sels(plan: &Plan) -> BitSet {
    let mut found = BitSet::default();
    for (at, sel) in plan.sels.iter().enumerate() {
        let is_internet = match sel {
            Sel::Internet | Sel::AnyNet => true,
            Sel::Nodes | Sel::AnyCap => false,
            Sel::Addresses(ranges) => covers_internet(ranges.iter().map(|literal| literal.range)),
        };
        if is_internet {
            found.insert(number(at));
        }
    }
    found
}

/// Reports whether ranges hold all of the internet, or a default route (policy.md §11.1).
pub(crate) fn covers_internet(ranges: impl Iterator<Item = IpRange>) -> bool {
    let set: RangeSet = ranges.collect();
    let is_default = |range: &IpRange| range.as_prefix().is_some_and(|net| is_default_route(&net));
    set.ranges().iter().any(is_default) || internet().iter().all(|range| set.covers(*range))
}

/// Groups the destinations of an ACL by alias and puts them in order (policy.md §8.2).
fn ordered(dst: &[AclDst]) -> Vec<AclGroup<'_>> {
    let mut groups: Vec<AclGroup<'_>> = Vec::new();
    let mut by_alias: BTreeMap<&str, usize> = BTreeMap::new();
    for one in dst {
        match by_alias.get(one.alias.written.as_str()).and_then(|at| groups.get_mut(*at)) {
            Some(group) => group.ports.extend(&one.ports),
            None => {
                by_alias.insert(&one.alias.written, groups.len());
                groups.push(AclGroup { alias: &one.alias, ports: one.ports.clone() });
            }
        }
    }
    let all_autogroups = groups.iter().all(|group| matches!(group.alias.selector, Selector::Autogroup(_)));
    groups.sort_by_key(|group| match &group.alias.selector {
        Selector::Wildcard => 0,
        Selector::User(_) | Selector::DomainUsers(_) => 1,
        Selector::Autogroup(Autogroup::SelfNodes) if !all_autogroups => 3,
        Selector::Autogroup(_)
        | Selector::Range(_)
        | Selector::Group(_)
        | Selector::Tag(_)
        | Selector::Ipset(_)
        | Selector::Service(_)
        | Selector::Host(_) => 2,
    });
    groups
}
