//! Why one machine may reach another, or why not, in words and with line numbers.

use std::fmt::Write as _;

use serde::Serialize;
use sw_types::NodeId;

use crate::alias::{Ports, Selector, protocol_name};
use crate::compiled::Compiled;
use crate::compiled::endpoint::Endpoint;
use crate::diff::label;
use crate::model::Alias;
use crate::plan::{Net, Piece, PieceKind, RuleRef};
use crate::range::IpRange;
use crate::world::World;

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

/// The answer.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    pub allowed: bool,
    pub src: String,
    pub dst: String,
    /// The port, or `any port`.
    pub port: String,
    /// The rule that allows it, or of those that do not the nearest one.
    pub rule: Option<RuleView>,
    /// Why it is denied.
    pub why: Option<String>,
    /// A grant that would allow it.
    pub add: Option<String>,
}

/// A rule of the policy.
#[derive(Clone, Debug, Serialize)]
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

/// A side of the question that names nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("nothing is called {0:?}")]
pub struct Unknown(pub String);

struct Side {
    name: String,
    endpoints: Vec<Endpoint>,
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
    let src = side(compiled, world, question.src)?;
    let dst = side(compiled, world, question.dst)?;
    let pairs: Vec<(Endpoint, Endpoint)> = src
        .endpoints
        .iter()
        .flat_map(|from| dst.endpoints.iter().map(|to| (*from, *to)))
        .filter(|(from, to)| from.range.is_v6() == to.range.is_v6())
        .collect();
    let explainer = Explainer { compiled, world, question };
    let mut explanation = Explanation {
        allowed: false,
        src: src.name,
        dst: dst.name,
        port: question.port.map_or_else(|| "any port".to_owned(), |port| format!("port {port}")),
        rule: None,
        why: None,
        add: None,
    };
    let found = pairs.iter().find_map(|pair| explainer.allowing(*pair).map(|piece| (pair, piece)));
    if let Some((pair, piece)) = found {
        explanation.allowed = true;
        explanation.rule = Some(explainer.view(piece, *pair));
        return Ok(explanation);
    }
    let nearest =
        pairs.iter().filter_map(|pair| explainer.nearest(*pair)).min_by_key(|(miss, at, _)| (*miss, *at));
    explanation.why = Some(match &nearest {
        None => "no rule names either side".to_owned(),
        Some((Miss::Posture, _, _)) => "the rule wants a posture that this machine does not meet".to_owned(),
        Some((Miss::Ports, at, _)) => {
            format!("no rule matches; the nearest allows {}", explainer.ports_of(*at))
        }
        Some((Miss::Source, _, _)) => "no rule matches; the nearest has other sources".to_owned(),
        Some((Miss::Destination, _, _)) => "no rule matches; the nearest has other destinations".to_owned(),
    });
    explanation.rule = nearest.map(|(_, at, pair)| explainer.view(compiled.piece(at), pair));
    explanation.add = pairs.first().map(|pair| explainer.grant(*pair));
    Ok(explanation)
}

fn side(compiled: &Compiled, world: &World, written: &str) -> Result<Side, Unknown> {
    let by_name = world.nodes.values().find(|node| node.name.eq_ignore_ascii_case(written));
    if let Some(node) = by_name {
        return Ok(Side { name: node.name.clone(), endpoints: compiled.machine(node.id) });
    }
    let unknown = || Unknown(written.to_owned());
    let selector = Selector::parse(written).map_err(|_| unknown())?;
    let endpoints = compiled.resolve(&selector).filter(|found| !found.is_empty()).ok_or_else(unknown)?;
    let machine = endpoints.first().and_then(|endpoint| endpoint.node);
    let Some(node) = machine.and_then(|id| world.nodes.get(&id)) else {
        return Ok(Side { name: written.to_owned(), endpoints });
    };
    // A word for several machines is answered for the first of them.
    let name = if matches!(selector, Selector::Range(_)) {
        format!("{written} ({})", node.name)
    } else {
        format!("{} ({written})", node.name)
    };
    Ok(Side { name, endpoints: compiled.machine(node.id) })
}

struct Explainer<'e> {
    compiled: &'e Compiled,
    world: &'e World,
    question: &'e Question<'e>,
}

impl Explainer<'_> {
    fn allowing(&self, (src, dst): (Endpoint, Endpoint)) -> Option<&Piece> {
        let (protocol, port) = (self.question.protocol, self.question.port);
        let ordinary = self.compiled.first_allowing(src, dst, protocol, port, None);
        let own = || dst.node.and_then(|node| self.compiled.first_self_allowing(src, node, protocol, port));
        let via = || self.compiled.first_via_allowing(src, dst, protocol, port);
        ordinary.or_else(own).or_else(via).map(|id| self.compiled.piece(id))
    }

    fn nearest(&self, pair: (Endpoint, Endpoint)) -> Option<(Miss, u32, (Endpoint, Endpoint))> {
        let (src, dst) = pair;
        let mut best: Option<(Miss, u32)> = None;
        for (at, piece) in self.compiled.pieces() {
            let (PieceKind::Net(net) | PieceKind::Via { net: Some(net), .. }) = &piece.kind else { continue };
            let has_src = self.compiled.set_has(piece.set, src, None);
            let has_dst = piece.dst.iter().any(|sel| self.compiled.sel_has(*sel, dst));
            let has_ports = net.allows(self.question.protocol, self.question.port);
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
        let ports = self.question.port.map_or_else(|| "*".to_owned(), |port| port.to_string());
        let ip = self
            .question
            .protocol
            .map_or(ports.clone(), |number| format!("{}:{ports}", protocol_name(number)));
        format!("{{\"src\": [{:?}], \"dst\": [{:?}], \"ip\": [{ip:?}]}}", word(src), word(dst))
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

impl Explanation {
    /// Prints the answer for a person to read.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = String::new();
        let verdict = if self.allowed { "allowed" } else { "denied" };
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{} to {}, {}: {verdict}.\n", self.src, self.dst, self.port);
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
        out
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
