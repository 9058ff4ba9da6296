//! Why one machine may reach another, or why not, in words and with line numbers.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::Serialize;
use sw_types::NodeId;

use crate::alias::{Ports, Selector, protocol_name};
use crate::compiled::Compiled;
use crate::compiled::endpoint::{Endpoint, Traffic};
use crate::diff::label;
use crate::model::Alias;
use crate::plan::{Net, Piece, PieceKind, RuleRef};
use crate::range::IpRange;
use crate::world::{Node, World};

/// What is asked.
#[derive(Clone, Debug)]
pub struct Question<'q> {
    /// A machine, an address, or a word of the policy.
    pub src: &'q str,
    pub dst: &'q str,
    /// `None` asks for any port.
    pub port: Option<u16>,
    /// `None` asks for the default set.
    pub protocol: Option<u8>,
}

/// The answer: one part for each group of machines that are treated alike.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    pub verdict: Verdict,
    pub src: String,
    pub dst: String,
    /// The port, or `any port`.
    pub port: String,
    pub parts: Vec<Part>,
    /// How many machines of either side were not looked at, because there are too many.
    #[serde(skip_serializing_if = "is_zero")]
    pub left_out: usize,
}

/// Whether all that was asked may pass, some of it, or nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Allowed,
    Partly,
    Denied,
}

/// Pairs of machines for which the same rule decides in the same way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Part {
    pub allowed: bool,
    /// Machines, or addresses that are no machine's.
    pub from: Vec<String>,
    pub to: Vec<String>,
    /// `IPv4` or `IPv6` when the other family is treated differently.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub only: Option<&'static str>,
    /// The rule that allows it, or of those that do not the nearest one.
    pub rule: Option<RuleView>,
    /// Why it is denied.
    pub why: Option<String>,
    /// A grant that would allow it.
    pub add: Option<String>,
}

/// A rule of the policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleView {
    /// Line of the policy; 0 for the default policy.
    pub line: usize,
    pub section: &'static str,
    pub text: String,
    /// Through what the source matches.
    pub from: Option<String>,
    /// Through what the destination matches.
    pub to: Option<String>,
}

/// A side of the question that cannot be looked at.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unknown {
    /// No machine and no word of the policy.
    #[error("nothing is called {0:?}")]
    Name(String),
    /// A person, tag or group without machines.
    #[error("{0:?} has no machine in this network")]
    NoMachine(String),
    /// A word that stands for where packets go.
    #[error("{0:?} is a destination alone; nothing comes from there")]
    NoSource(String),
}

/// Machines of one side that are looked at; a word for more is answered for the first of them.
const MACHINES_MAX: usize = 100;

struct Side {
    name: String,
    /// The machines, each with its addresses; addresses that are no machine's stand alone.
    members: Vec<(String, Vec<Endpoint>)>,
    left_out: usize,
}

/// How near a rule comes to allowing something; the smallest is the nearest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Miss {
    Posture,
    Ports,
    Source,
    Destination,
}

/// Explains whether a packet may pass.
///
/// # Errors
/// When a side is neither a machine nor an address nor a word that names a machine.
pub fn explain(compiled: &Compiled, world: &World, question: &Question<'_>) -> Result<Explanation, Unknown> {
    if [SELF, INTERNET].contains(&question.src) {
        return Err(Unknown::NoSource(question.src.to_owned()));
    }
    let src = side(compiled, world, question.src)?;
    let dst = destination(compiled, world, question.dst)?;
    let traffic = Traffic { protocol: question.protocol, port: question.port, is_test: false };
    let word = [SELF, INTERNET].into_iter().find(|word| *word == question.dst);
    let explainer = Explainer { compiled, world, traffic, word };
    let mut parts: Vec<Part> = Vec::new();
    for (from, sources) in &src.members {
        let mut of_one: Vec<Part> = Vec::new();
        let own = (question.dst == SELF).then(|| own_machines(compiled, world, sources));
        if let Some(Err(why)) = &own {
            of_one.push(Part { why: Some(why.clone()), ..denied((from, SELF)) });
        }
        let own = own.and_then(Result::ok);
        for (to, destinations) in own.as_ref().unwrap_or(&dst.members) {
            // Two words for one machine ask about others, unless nothing else was asked.
            if from == to && src.members.len() + dst.members.len() > 2 {
                continue;
            }
            for part in explainer.pair((from, sources), (to, destinations)) {
                match of_one.iter_mut().find(|known| known.is_like(&part)) {
                    Some(known) => known.to.extend(part.to),
                    None => of_one.push(part),
                }
            }
        }
        for part in of_one {
            match parts.iter_mut().find(|known| known.is_like(&part) && known.to == part.to) {
                Some(known) => known.from.extend(part.from),
                None => parts.push(part),
            }
        }
    }
    let some = |allowed| parts.iter().any(|part| part.allowed == allowed);
    let verdict = match (some(true), some(false)) {
        (true, false) => Verdict::Allowed,
        (true, true) => Verdict::Partly,
        (false, _) => Verdict::Denied,
    };
    let port = question.port.map_or_else(|| "any port".to_owned(), |port| format!("port {port}"));
    let left_out = src.left_out + dst.left_out;
    Ok(Explanation { verdict, src: src.name, dst: dst.name, port, parts, left_out })
}

/// The two words that stand for no fixed machines.
const SELF: &str = "autogroup:self";
const INTERNET: &str = "autogroup:internet";
/// Two well-known addresses that are in everybody's Internet (policy.md §6).
const OF_THE_INTERNET: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(1, 1, 1, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2606, 0x4700, 0x4700, 0, 0, 0, 0, 0x1111)),
];

/// A destination; the Internet stands for itself, and one's own machines are other ones for each source.
fn destination(compiled: &Compiled, world: &World, written: &str) -> Result<Side, Unknown> {
    match written {
        SELF => Ok(Side { name: "their own other machines".to_owned(), members: Vec::new(), left_out: 0 }),
        INTERNET => {
            let all = OF_THE_INTERNET.into_iter().filter_map(|address| IpRange::new(address, address));
            let all = all.map(|range| Endpoint { range, node: None }).collect();
            let name = "the Internet".to_owned();
            Ok(Side { name: name.clone(), members: vec![(name, all)], left_out: 0 })
        }
        written => side(compiled, world, written),
    }
}

/// The other machines of whoever owns this one, or why there are none.
fn own_machines(
    compiled: &Compiled,
    world: &World,
    source: &[Endpoint],
) -> Result<Vec<(String, Vec<Endpoint>)>, String> {
    let node = source.iter().find_map(|endpoint| endpoint.node).and_then(|id| world.nodes.get(&id));
    let Some(node) = node else {
        return Err("these addresses are no machine's, so nobody owns them".to_owned());
    };
    let Some(owner) = node.owner() else {
        return Err(format!("{} carries tags, so nobody owns it", node.name));
    };
    let others = world.nodes.values().filter(|other| other.id != node.id && other.owner() == Some(owner));
    let all: Vec<_> =
        others.map(|other| (other.name.clone(), compiled.machine(other.id))).take(MACHINES_MAX).collect();
    if all.is_empty() { Err(format!("whoever owns {} has no other machine", node.name)) } else { Ok(all) }
}

fn is_zero(number: &usize) -> bool {
    *number == 0
}

fn side(compiled: &Compiled, world: &World, written: &str) -> Result<Side, Unknown> {
    let one = |node: &Node| (node.name.clone(), compiled.machine(node.id));
    let by_name = world.nodes.values().find(|node| node.name.eq_ignore_ascii_case(written));
    if let Some(node) = by_name {
        return Ok(Side { name: node.name.clone(), members: vec![one(node)], left_out: 0 });
    }
    let unknown = || Unknown::Name(written.to_owned());
    let selector = Selector::parse(written).map_err(|_| unknown())?;
    let endpoints = compiled.resolve(&selector).ok_or_else(unknown)?;
    if endpoints.is_empty() {
        return Err(Unknown::NoMachine(written.to_owned()));
    }
    if let (Selector::Range(_) | Selector::Host(_), [single]) = (&selector, endpoints.as_slice()) {
        // An address asks for its own family alone.
        let node = single.node.and_then(|id| world.nodes.get(&id));
        let name = node.map_or_else(|| written.to_owned(), |node| format!("{written} ({})", node.name));
        return Ok(Side { name: name.clone(), members: vec![(name, endpoints)], left_out: 0 });
    }
    let mut members: Vec<(String, Vec<Endpoint>)> = world
        .nodes
        .values()
        .filter(|node| compiled.machine_is(node.id, &selector))
        .map(|node| one(node))
        .collect();
    if members.is_empty() {
        members = endpoints.iter().map(|endpoint| (endpoint.range.to_string(), vec![*endpoint])).collect();
    }
    let name = match members.as_slice() {
        [(only, _)] if only != written => format!("{only} ({written})"),
        many if many.len() > 1 => format!("{written} ({} machines)", many.len()),
        _ => written.to_owned(),
    };
    let left_out = members.len().saturating_sub(MACHINES_MAX);
    members.truncate(MACHINES_MAX);
    Ok(Side { name, members, left_out })
}

struct Explainer<'e> {
    compiled: &'e Compiled,
    world: &'e World,
    traffic: Traffic,
    /// The destination, where it was asked for by a word that a rule can say too.
    word: Option<&'static str>,
}

impl Explainer<'_> {
    /// Explains one machine to another: one part, or two when IPv4 and IPv6 differ.
    fn pair(&self, src: (&str, &[Endpoint]), dst: (&str, &[Endpoint])) -> Vec<Part> {
        let mut parts: Vec<Part> = Vec::new();
        for is_v6 in [false, true] {
            let pairs: Vec<(Endpoint, Endpoint)> = src
                .1
                .iter()
                .flat_map(|from| dst.1.iter().map(|to| (*from, *to)))
                .filter(|(from, to)| from.range.is_v6() == is_v6 && to.range.is_v6() == is_v6)
                .collect();
            if pairs.is_empty() {
                continue;
            }
            let mut part = self.part(&pairs, (src.0, dst.0));
            match parts.last_mut() {
                Some(other) if other.allowed == part.allowed => continue,
                Some(other) => {
                    other.only = Some("IPv4");
                    part.only = Some("IPv6");
                }
                None => {}
            }
            parts.push(part);
        }
        if parts.is_empty() {
            let why = "one side has IPv4 addresses alone, the other IPv6".to_owned();
            parts.push(Part { why: Some(why), ..denied((src.0, dst.0)) });
        }
        parts
    }

    fn part(&self, pairs: &[(Endpoint, Endpoint)], names: (&str, &str)) -> Part {
        let found = pairs.iter().find_map(|pair| self.allowing(*pair).map(|piece| (pair, piece)));
        if let Some((pair, piece)) = found {
            return Part { allowed: true, rule: Some(self.view(piece, *pair)), ..denied(names) };
        }
        let nearest =
            pairs.iter().filter_map(|pair| self.nearest(*pair)).min_by_key(|(miss, at, _)| (*miss, *at));
        let why = match &nearest {
            None => "no rule names either side".to_owned(),
            Some((Miss::Posture, at, pair)) => self.posture_words(*at, pair.0),
            Some((Miss::Ports, at, _)) => {
                format!("no rule matches; the nearest allows {}", self.ports_of(*at))
            }
            Some((Miss::Source, _, _)) => "no rule matches; the nearest has other sources".to_owned(),
            Some((Miss::Destination, _, _)) => {
                "no rule matches; the nearest has other destinations".to_owned()
            }
        };
        // A grant does not help where a machine fails a posture.
        let is_posture = matches!(nearest, Some((Miss::Posture, ..)));
        let add = pairs.first().filter(|_| !is_posture).map(|pair| self.grant(*pair));
        let rule = nearest.map(|(_, at, pair)| self.view(self.compiled.piece(at), pair));
        Part { rule, why: Some(why), add, ..denied(names) }
    }

    /// Says which postures a rule wants and what of them the machine does not meet.
    fn posture_words(&self, piece: u32, src: Endpoint) -> String {
        let node = src.node.and_then(|id| self.world.nodes.get(&id));
        let Some(node) = node else { return "the rule wants a posture".to_owned() };
        let failed = self.compiled.failed_assertions(self.compiled.piece(piece).set, &node.posture);
        let one = |(assertion, value): &(String, Option<String>)| match value {
            Some(value) => format!("{assertion} (it has {value})"),
            None => format!("{assertion} (it has none)"),
        };
        let failed: Vec<String> = failed.iter().map(one).collect();
        format!("the rule wants a posture that {} does not meet: {}", node.name, failed.join(", "))
    }

    fn allowing(&self, (src, dst): (Endpoint, Endpoint)) -> Option<&Piece> {
        let ordinary = self.compiled.first_allowing(src, dst, self.traffic, None);
        let own = || dst.node.and_then(|node| self.compiled.first_self_allowing(src, node, self.traffic));
        let via = || self.compiled.first_via_allowing(src, dst, self.traffic);
        ordinary.or_else(own).or_else(via).map(|id| self.compiled.piece(id))
    }

    fn nearest(&self, pair: (Endpoint, Endpoint)) -> Option<(Miss, u32, (Endpoint, Endpoint))> {
        let (src, dst) = pair;
        let mut best: Option<(Miss, u32)> = None;
        for (at, piece) in self.compiled.pieces() {
            let (PieceKind::Net(net) | PieceKind::Via { net: Some(net), .. }) = &piece.kind else { continue };
            let has_src = self.compiled.set_has(piece.set, src, None);
            let has_dst = piece.dst.iter().any(|sel| self.compiled.sel_has(*sel, dst));
            let has_ports = net.allows(self.traffic);
            let miss = match (has_src, has_dst, has_ports) {
                (true, true, _) => Miss::Ports,
                (false, true, true) if self.compiled.set_has_without_posture(piece.set, src) => Miss::Posture,
                (false, true, true) => Miss::Source,
                (true, false, true) => Miss::Destination,
                _ => continue,
            };
            if best.is_none_or(|(known, _)| miss < known) {
                best = Some((miss, at));
            }
        }
        best.map(|(miss, at)| (miss, at, pair))
    }

    fn ports_of(&self, piece: u32) -> String {
        match &self.compiled.piece(piece).kind {
            PieceKind::Net(net) | PieceKind::SelfNet(net) | PieceKind::Via { net: Some(net), .. } => {
                ports_text(net)
            }
            PieceKind::App(_)
            | PieceKind::Companion { .. }
            | PieceKind::SelfApp(_)
            | PieceKind::SelfCompanion { .. }
            | PieceKind::Via { net: None, .. } => "capabilities alone".to_owned(),
        }
    }

    fn view(&self, piece: &Piece, (src, dst): (Endpoint, Endpoint)) -> RuleView {
        let policy = self.compiled.policy();
        let (section, from, to): (_, Vec<&Alias>, Vec<&Alias>) = match piece.rule {
            RuleRef::Default => ("default", Vec::new(), Vec::new()),
            RuleRef::Grant(at) => match policy.grants.as_ref().and_then(|grants| grants.get(at)) {
                Some(grant) => ("grants", grant.src.iter().collect(), grant.dst.iter().collect()),
                None => ("grants", Vec::new(), Vec::new()),
            },
            RuleRef::Acl(at) => match policy.acls.as_ref().and_then(|acls| acls.get(at)) {
                Some(acl) => {
                    ("acls", acl.src.iter().collect(), acl.dst.iter().map(|dst| &dst.alias).collect())
                }
                None => ("acls", Vec::new(), Vec::new()),
            },
        };
        let span = self.compiled.rule_span(piece.rule);
        let text = span.and_then(|span| policy.text.get(span.start..span.end));
        let text = text.map_or("there are no rules, so everything is allowed".to_owned(), one_line);
        RuleView {
            line: span.map_or(0, |span| policy.lines.line(span.start)),
            section,
            text,
            from: from.iter().find_map(|alias| self.matched(alias, src)),
            to: to.iter().find_map(|alias| self.matched(alias, dst)),
        }
    }

    /// Says through what an endpoint is meant by a selector; `None` when it is not.
    fn matched(&self, alias: &Alias, endpoint: Endpoint) -> Option<String> {
        let written = &alias.written;
        let node = endpoint.node.and_then(|id| self.world.nodes.get(&id));
        let name = node.map_or_else(|| endpoint.range.to_string(), |node| node.name.clone());
        let person = node.map(|node| label(node, self.world)).unwrap_or_default();
        let is_node = || endpoint.node.is_some_and(|id| self.compiled.machine_is(id, &alias.selector));
        let policy = self.compiled.policy();
        match &alias.selector {
            Selector::Wildcard => Some(format!("*, which is every machine and so {name}")),
            Selector::Range(range) => range.overlaps(endpoint.range).then(|| match range.is_host() {
                true => format!("{written}, the address of {name}"),
                false => format!("{written}, in which {} lies", endpoint.range),
            }),
            Selector::Host(host) => policy
                .hosts
                .get(host)
                .filter(|range| range.overlaps(endpoint.range))
                .map(|range| format!("{written}, which \"hosts\" says is {range}")),
            Selector::Ipset(set) => {
                let holds = policy.ipsets.get(set).is_some_and(|set| set.overlaps(endpoint.range));
                holds.then(|| format!("{written}, which holds {}", endpoint.range))
            }
            Selector::User(word) if word.starts_with("group:") => {
                is_node().then(|| format!("{written}, whose member {person} owns {name}"))
            }
            Selector::User(_) => is_node().then(|| format!("{written}, who owns {name}")),
            Selector::DomainUsers(_) => {
                is_node().then(|| format!("{written}, among them {person}, who owns {name}"))
            }
            Selector::Group(_) => is_node().then(|| format!("{written}, whose member {person} owns {name}")),
            Selector::Tag(_) => is_node().then(|| format!("{written}, which {name} carries")),
            Selector::Autogroup(crate::alias::Autogroup::SelfNodes) => {
                Some(format!("{written}: {name} belongs to {person} too"))
            }
            Selector::Autogroup(crate::alias::Autogroup::Internet) => {
                Some(format!("{written}: {} is a public address", endpoint.range))
            }
            Selector::Autogroup(crate::alias::Autogroup::DangerAll) => {
                Some(format!("{written}: every address"))
            }
            Selector::Autogroup(crate::alias::Autogroup::Tagged) => {
                is_node().then(|| format!("{written}: {name} carries {person}"))
            }
            Selector::Autogroup(_) => is_node().then(|| format!("{written}: {name} belongs to {person}")),
            Selector::Service(_) => None,
        }
    }

    /// Returns a grant that would allow what is asked.
    fn grant(&self, (src, dst): (Endpoint, Endpoint)) -> String {
        let word = |endpoint: Endpoint| {
            let node = endpoint.node.and_then(|id: NodeId| self.world.nodes.get(&id));
            match node {
                Some(node) => node.tags.first().cloned().unwrap_or_else(|| label(node, self.world)),
                None => endpoint.range.to_string(),
            }
        };
        let ports = self.traffic.port.map_or_else(|| "*".to_owned(), |port| port.to_string());
        let protocol = self.traffic.protocol;
        let to = self.word.map_or_else(|| word(dst), ToOwned::to_owned);
        let ip = protocol.map_or(ports.clone(), |number| format!("{}:{ports}", protocol_name(number)));
        format!("{{\"src\": [{:?}], \"dst\": [{:?}], \"ip\": [{ip:?}]}}", word(src), to)
    }
}

fn ports_text(net: &Net) -> String {
    let ports: Vec<String> = net.ports.iter().map(Ports::to_string).collect();
    let ports = ports.join(", ");
    match net.protocol {
        None if ports == "*" => "everything".to_owned(),
        None => format!("port {ports}"),
        Some(number) => format!("{} port {ports}", protocol_name(number)),
    }
}

/// Puts a piece of the policy on one line of at most 100 characters, comments left in.
fn one_line(text: &str) -> String {
    let joined = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if joined.chars().count() <= 100 {
        return joined;
    }
    joined.chars().take(97).chain("...".chars()).collect()
}

fn denied((from, to): (&str, &str)) -> Part {
    let (from, to) = (vec![from.to_owned()], vec![to.to_owned()]);
    Part { allowed: false, from, to, only: None, rule: None, why: None, add: None }
}

impl Explanation {
    /// Prints the answer for a person to read.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = String::new();
        let verdict = match self.verdict {
            Verdict::Allowed => "allowed",
            Verdict::Partly => "partly allowed",
            Verdict::Denied => "denied",
        };
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{} to {}, {}: {verdict}.", self.src, self.dst, self.port);
        let is_single = self.parts.len() == 1 && self.parts.iter().all(|p| p.from.len() + p.to.len() == 2);
        for part in &self.parts {
            out.push('\n');
            if !is_single {
                let word = if part.allowed { "yes" } else { "no " };
                let only = part.only.map_or_else(String::new, |only| format!(", {only} alone"));
                let _ = writeln!(out, "  {word}   {} to {}{only}", listed(&part.from), listed(&part.to));
            }
            part.print(&mut out);
        }
        if self.left_out > 0 {
            let _ = writeln!(out, "\n  {} more machines were not looked at; name fewer.", self.left_out);
        }
        out
    }
}

/// Lists names, at most six of them.
fn listed(names: &[String]) -> String {
    match names.split_at_checked(5) {
        Some((first, rest)) if rest.len() > 1 => format!("{} and {} more", first.join(", "), rest.len()),
        Some(_) | None => names.join(", "),
    }
}

impl Part {
    /// Reports whether the same rule decides in the same way.
    fn is_like(&self, other: &Self) -> bool {
        let key = |part: &Self| {
            (
                part.allowed,
                part.only,
                part.rule.as_ref().map(|rule| (rule.section, rule.line, rule.text.clone())),
            )
        };
        key(self) == key(other) && self.why == other.why
    }

    fn print(&self, out: &mut String) {
        if let Some(why) = &self.why {
            let _ = writeln!(out, "  why   {why}");
        }
        if let Some(rule) = &self.rule {
            let word = if self.allowed { "rule" } else { "near" };
            match rule.line {
                0 => _ = writeln!(out, "  {word}  {}", rule.text),
                line => _ = writeln!(out, "  {word}  line {line}, {}: {}", rule.section, rule.text),
            }
            for (word, how) in [("from", &rule.from), ("to  ", &rule.to)] {
                if let Some(how) = how {
                    let _ = writeln!(out, "  {word}  {how}");
                }
            }
        }
        if let Some(add) = &self.add {
            let _ = writeln!(out, "  fix   add to \"grants\": {add}");
        }
    }
}

/// Splits `DST[:PORT]`, also `[IPV6]:PORT`; an address without a port stays whole.
#[must_use]
pub fn split_target(written: &str) -> (String, Option<u16>) {
    if IpRange::parse(written).is_some() {
        return (written.to_owned(), None);
    }
    let split = written.rsplit_once(':').and_then(|(dst, port)| Some((dst, port.parse().ok()?)));
    match split {
        Some((dst, port)) => (dst.trim_start_matches('[').trim_end_matches(']').to_owned(), Some(port)),
        None => (written.to_owned(), None),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::check::Context;
    use crate::conform::WorldInput;
    use crate::model::Policy;

    const WORLD: &str = r#"{
        "users": [{"id": 1, "name": "ada", "email": "ada@x.io", "groups": ["eng"]}, {"id": 2, "name": "ben", "email": "ben@x.io"}],
        "nodes": [
            {"id": 1, "name": "laptop", "user": 1, "ipv4": "100.64.0.1", "ipv6": "fd7a:115c:a1e0::1", "posture": {"node:os": "linux"}},
            {"id": 2, "name": "phone", "user": 1, "ipv4": "100.64.0.2", "ipv6": "fd7a:115c:a1e0::2", "posture": {"node:os": "ios"}},
            {"id": 3, "name": "desk", "user": 2, "ipv4": "100.64.0.3", "ipv6": "fd7a:115c:a1e0::3"},
            {"id": 4, "name": "web1", "tags": ["tag:web"], "ipv4": "100.64.0.4", "ipv6": "fd7a:115c:a1e0::4"},
            {"id": 5, "name": "web2", "tags": ["tag:web"], "ipv4": "100.64.0.5", "ipv6": "fd7a:115c:a1e0::5"},
            {"id": 6, "name": "nas", "tags": ["tag:nas"], "ipv4": "100.64.0.6", "ipv6": "fd7a:115c:a1e0::6"}]}"#;

    const POLICY: &str = r#"{
  "groups": {"group:all": ["ada@x.io", "ben@x.io"]},
  "tagOwners": {"tag:web": [], "tag:nas": []},
  "hosts": {"store": "100.64.0.6"},
  "postures": {"posture:desk": ["node:os == 'linux'"]},
  "grants": [
    {"src": ["ada@x.io"], "dst": ["tag:web"], "ip": ["tcp:443"]},
    {"src": ["group:all"], "dst": ["tag:nas"], "ip": ["445"], "srcPosture": ["posture:desk"]},
    {"src": ["group:eng@x.io"], "dst": ["store"], "ip": ["22"]},
  ],
}"#;

    fn answer(src: &str, dst: &str, port: u16) -> Result<String, Unknown> {
        let input: WorldInput = serde_json::from_str(WORLD).unwrap();
        let world = input.network().world;
        let policy = Policy::parse(POLICY, Context { world: &world, domains: None }).unwrap();
        let compiled = Compiled::new(&Arc::new(policy), &world);
        let question = Question { src, dst, port: Some(port), protocol: None };
        explain(&compiled, &world, &question).map(|answer| answer.text())
    }

    #[test]
    fn a_word_for_several_machines_is_answered_for_each() {
        assert_eq!(
            answer("group:all", "tag:web", 443).unwrap(),
            r#"group:all (3 machines) to tag:web (2 machines), port 443: partly allowed.

  yes   laptop, phone to web1, web2
  rule  line 7, grants: {"src": ["ada@x.io"], "dst": ["tag:web"], "ip": ["tcp:443"]}
  from  ada@x.io, who owns laptop
  to    tag:web, which web1 carries

  no    desk to web1, web2
  why   no rule matches; the nearest has other sources
  near  line 7, grants: {"src": ["ada@x.io"], "dst": ["tag:web"], "ip": ["tcp:443"]}
  to    tag:web, which web1 carries
  fix   add to "grants": {"src": ["ben@x.io"], "dst": ["tag:web"], "ip": ["443"]}
"#
        );
    }

    #[test]
    fn a_posture_that_is_not_met_is_said() {
        let text = answer("phone", "nas", 445).unwrap();
        let why = "  why   the rule wants a posture that phone does not meet: node:os == 'linux' (it has \"ios\")\n";
        assert!(text.contains(why), "{text}");
        assert!(!text.contains("fix"), "a grant would not help: {text}");
        let text = answer("desk", "nas", 445).unwrap();
        assert!(text.contains("desk does not meet: node:os == 'linux' (it has none)"), "{text}");
    }

    #[test]
    fn families_that_differ_and_groups_of_the_provider_are_said() {
        assert_eq!(
            answer("laptop", "nas", 22).unwrap(),
            r#"laptop to nas, port 22: partly allowed.

  yes   laptop to nas, IPv4 alone
  rule  line 9, grants: {"src": ["group:eng@x.io"], "dst": ["store"], "ip": ["22"]}
  from  group:eng@x.io, whose member ada@x.io owns laptop
  to    store, which "hosts" says is 100.64.0.6

  no    laptop to nas, IPv6 alone
  why   no rule matches; the nearest allows port 445
  near  line 8, grants: {"src": ["group:all"], "dst": ["tag:nas"], "ip": ["445"], "srcPosture": ["posture:desk"]}
  from  group:all, whose member ada@x.io owns laptop
  to    tag:nas, which nas carries
  fix   add to "grants": {"src": ["ada@x.io"], "dst": ["tag:nas"], "ip": ["22"]}
"#
        );
        assert!(answer("laptop", "fd7a:115c:a1e0::6", 22).unwrap().contains("port 22: denied."));
        assert!(answer("100.64.0.1", "100.64.0.6", 22).unwrap().contains("port 22: allowed."));
    }

    #[test]
    fn the_internet_and_ones_own_machines_are_words_to_ask_about() {
        let denied = answer("desk", "autogroup:internet", 443).unwrap();
        assert!(denied.starts_with("desk to the Internet, port 443: denied.\n"), "{denied}");
        assert!(denied.contains("\"dst\": [\"autogroup:internet\"]"), "the fix says the word: {denied}");
        let own = answer("laptop", "autogroup:self", 22).unwrap();
        assert!(own.starts_with("laptop to their own other machines, port 22: denied.\n"), "{own}");
        assert!(own.contains("\"src\": [\"ada@x.io\"], \"dst\": [\"autogroup:self\"]"), "{own}");
        let none = answer("desk", "autogroup:self", 22).unwrap();
        assert!(none.contains("why   whoever owns desk has no other machine"), "{none}");
        let tagged = answer("web1", "autogroup:self", 22).unwrap();
        assert!(tagged.contains("why   web1 carries tags, so nobody owns it"), "{tagged}");
        assert_eq!(answer("autogroup:self", "nas", 22), Err(Unknown::NoSource("autogroup:self".to_owned())));
    }

    #[test]
    fn what_names_no_machine_is_no_answer() {
        assert_eq!(answer("lap", "nas", 22), Err(Unknown::Name("lap".to_owned())));
        assert_eq!(answer("cleo@x.io", "nas", 22), Err(Unknown::NoMachine("cleo@x.io".to_owned())));
        assert_eq!(
            answer("laptop", "autogroup:owner", 22),
            Err(Unknown::NoMachine("autogroup:owner".to_owned()))
        );
    }
}
