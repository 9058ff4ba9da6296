//! Decodes the sections that name things: groups, hosts, ipsets, tags, postures, approvers, attributes.

use std::collections::BTreeMap;

use ipnet::IpNet;

use super::{Decoder, Fields};
use crate::alias::{Autogroup, Selector};
use crate::error::{Kind, Span};
use crate::hujson::{Json, Member, Value};
use crate::model::{Alias, AutoApprovers, Group, NodeAttrs, Policy, Switches, TagOwners, Text};
use crate::posture::Assertion;
use crate::range::{IpRange, RangeSet, internet, parse_prefix};

impl Decoder {
    pub(super) fn groups(&mut self, fields: &Fields<'_>, policy: &mut Policy) {
        let Some(members) = fields.get("groups").and_then(|value| self.problems.object(value, "groups"))
        else {
            return;
        };
        for member in members {
            if !member.name.starts_with("group:") {
                let message = format!("group names must start with \"group:\", got: {:?}", member.name);
                let fix = format!("write {:?}", format!("group:{}", member.name));
                self.problems.add(Kind::BadGroup, member.name_span, message, fix);
            }
            let people = self.group_members(member);
            policy.groups.insert(member.name.clone(), Group { members: people });
        }
    }

    fn group_members(&mut self, group: &Member) -> Vec<Alias> {
        let items = match &group.value.json {
            Json::Array(items) => items,
            Json::Null => return Vec::new(),
            Json::Bool(_) | Json::Number(_) | Json::String(_) | Json::Object(_) => {
                let message = format!("groups[{:?}]: group value must be an array of users", group.name);
                let fix = "write an array of people: [\"alice@example.com\"]";
                self.problems.add(Kind::BadGroup, group.value.span, message, fix);
                return Vec::new();
            }
        };
        let mut people = Vec::new();
        for item in items {
            let Json::String(written) = &item.json else {
                let message = format!("groups[{:?}]: group value must be an array of users", group.name);
                self.problems.add(Kind::BadGroup, item.span, message, "write people as strings");
                continue;
            };
            if written.starts_with("group:") && !written.contains('@') {
                let message =
                    format!("groups[{:?}]: {written:?}: group members cannot be recursive", group.name);
                let fix = format!("list the members of {written:?} here, or name both groups in the rules");
                self.problems.add(Kind::RecursiveGroup, item.span, message, fix);
                continue;
            }
            if !written.contains('@') {
                let message = format!("groups[{:?}]: username must contain @, got: {written:?}", group.name);
                let fix =
                    format!("write the login, or {:?} for a person without an e-mail", format!("{written}@"));
                self.problems.add(Kind::BadUser, item.span, message, fix);
                continue;
            }
            people.extend(self.alias(&Text { text: written.clone(), span: item.span }));
        }
        people
    }

    pub(super) fn hosts(&mut self, fields: &Fields<'_>, policy: &mut Policy) {
        let Some(members) = fields.get("hosts").and_then(|value| self.problems.object(value, "hosts")) else {
            return;
        };
        for member in members {
            let Some(value) = self.problems.string(&member.value, "the address of a host") else { continue };
            if member.name.contains(['@', ':']) {
                let message = format!("host names contain no @ and no colon: {:?}", member.name);
                self.problems.add(Kind::BadHost, member.name_span, message, "choose a plain name");
                continue;
            }
            match parse_prefix(value.text.trim()) {
                Some(net) => {
                    policy.hosts.insert(member.name.clone(), IpRange::prefix(net));
                }
                None => {
                    let message = format!(
                        "hostname contains invalid IP address: hostname {:?} address {:?}",
                        member.name, value.text
                    );
                    let fix = "write one address or one prefix, for example 10.0.0.7 or 10.0.0.0/24";
                    self.problems.add(Kind::BadHost, value.span, message, fix);
                }
            }
        }
    }

    pub(super) fn ipsets(&mut self, fields: &Fields<'_>, policy: &mut Policy) {
        let Some(members) = fields.get("ipsets").and_then(|value| self.problems.object(value, "ipsets"))
        else {
            return;
        };
        let mut defined = BTreeMap::new();
        for member in members {
            if !member.name.starts_with("ipset:") {
                let message = format!("ipset names must start with \"ipset:\", got: {:?}", member.name);
                let fix = format!("write {:?}", format!("ipset:{}", member.name));
                self.problems.add(Kind::BadIpset, member.name_span, message, fix);
            }
            defined.insert(member.name.as_str(), self.strings(Some(&member.value), "an ipset"));
        }
        let names: Vec<&str> = defined.keys().copied().collect();
        for name in names {
            let mut open = Vec::new();
            self.ipset(name, &defined, policy, &mut open);
        }
    }

    fn ipset<'n>(
        &mut self,
        name: &'n str,
        defined: &BTreeMap<&'n str, Vec<Text>>,
        policy: &mut Policy,
        open: &mut Vec<&'n str>,
    ) -> RangeSet {
        if let Some(done) = policy.ipsets.get(name) {
            return done.clone();
        }
        let mut set = RangeSet::default();
        open.push(name);
        for entry in defined.get(name).map_or(&[][..], Vec::as_slice) {
            let written = entry.text.trim();
            let (is_add, target) = match written.split_once(' ') {
                Some(("add", target)) => (true, target.trim()),
                Some(("remove", target)) => (false, target.trim()),
                Some(_) | None => (true, written),
            };
            let inner = match defined.get_key_value(target) {
                Some((inner, _)) if open.contains(inner) => {
                    let message = format!("{name:?} contains itself through {inner:?}");
                    self.problem_once(Kind::BadIpset, entry.span, message, "break the circle of ipsets");
                    continue;
                }
                Some((inner, _)) => self.ipset(inner, defined, policy, open).ranges().to_vec(),
                None => self.ipset_target(name, target, entry.span, &policy.hosts),
            };
            for range in inner {
                if is_add {
                    set.add(range);
                } else {
                    set.remove(range);
                }
            }
        }
        open.pop();
        policy.ipsets.insert(name.to_owned(), set.clone());
        set
    }

    fn problem_once(&mut self, kind: Kind, span: Span, message: String, fix: &str) {
        if !self.problems.0.iter().any(|known| known.span == span && known.kind == kind) {
            self.problems.add(kind, span, message, fix);
        }
    }

    fn ipset_target(
        &mut self,
        set: &str,
        target: &str,
        span: Span,
        hosts: &BTreeMap<String, IpRange>,
    ) -> Vec<IpRange> {
        let fix = "write \"add TARGET\" or \"remove TARGET\"; a target is an address, prefix, range, host, \
                   autogroup:internet or another ipset";
        match Selector::parse(target) {
            Ok(Selector::Range(range)) => return vec![range],
            Ok(Selector::Autogroup(Autogroup::Internet)) => return internet().to_vec(),
            Ok(Selector::Host(host)) => match hosts.get(&host) {
                Some(range) => return vec![*range],
                None => {
                    let message = format!("host not defined in policy: {host:?}");
                    self.problem_once(Kind::UndefinedHost, span, message, "add it to \"hosts\"");
                }
            },
            Ok(Selector::Ipset(ipset)) => {
                let message = format!("ipset not defined in policy: {ipset:?}");
                self.problem_once(Kind::UndefinedIpset, span, message, "add it to \"ipsets\"");
            }
            Ok(
                Selector::Wildcard
                | Selector::User(_)
                | Selector::DomainUsers(_)
                | Selector::Group(_)
                | Selector::Tag(_)
                | Selector::Autogroup(_)
                | Selector::Service(_),
            )
            | Err(_) => {
                self.problem_once(Kind::BadIpset, span, format!("{set:?} cannot contain {target:?}"), fix);
            }
        }
        Vec::new()
    }

    pub(super) fn tag_owners(&mut self, fields: &Fields<'_>, policy: &mut Policy) {
        let Some(members) =
            fields.get("tagOwners").and_then(|value| self.problems.object(value, "tagOwners"))
        else {
            return;
        };
        for member in members {
            if !is_tag_name(&member.name) {
                let message =
                    format!("tagOwners[{:?}]: tag names must start with a letter, after 'tag:'", member.name);
                let fix = "write \"tag:NAME\"; the name has letters, digits and dashes";
                self.problems.add(Kind::BadTagName, member.name_span, message, fix);
            }
            let owners = self.aliases(Some(&member.value), "the owners of a tag");
            policy.tag_owners.insert(member.name.clone(), TagOwners { owners });
        }
    }

    pub(super) fn postures(&mut self, fields: &Fields<'_>, policy: &mut Policy) {
        let members = fields.get("postures").and_then(|value| self.problems.object(value, "postures"));
        for member in members.unwrap_or(&[]) {
            if !member.name.starts_with("posture:") {
                let message = format!("posture names must start with \"posture:\", got: {:?}", member.name);
                let fix = format!("write {:?}", format!("posture:{}", member.name));
                self.problems.add(Kind::BadPosture, member.name_span, message, fix);
            }
            let mut assertions = Vec::new();
            for text in self.strings(Some(&member.value), "a posture") {
                match Assertion::parse(&text.text) {
                    Ok(assertion) => assertions.push(assertion),
                    Err(malformed) => self.problems.malformed(text.span, malformed),
                }
            }
            policy.postures.insert(member.name.clone(), assertions);
        }
        policy.default_src_posture =
            self.posture_refs(fields.get("defaultSrcPosture"), "defaultSrcPosture").unwrap_or_default();
    }

    pub(super) fn auto_approvers(&mut self, fields: &Fields<'_>, policy: &mut Policy) {
        let Some(value) = fields.get("autoApprovers") else { return };
        let fields = self.problems.fields(value, "autoApprovers", &["routes", "exitNode", "services"]);
        let mut approvers = AutoApprovers {
            exit_node: self.aliases(fields.get("exitNode"), "exitNode"),
            ..AutoApprovers::default()
        };
        let routes = fields.get("routes").and_then(|value| self.problems.object(value, "routes"));
        for member in routes.unwrap_or(&[]) {
            let who = self.aliases(Some(&member.value), "the approvers of a route");
            match parse_prefix(&member.name) {
                Some(net) => approvers.routes.push((net.trunc(), who)),
                None => {
                    let message = format!("autoApprovers: invalid route {:?}", member.name);
                    let fix = "write a prefix, for example \"10.0.0.0/8\"";
                    self.problems.add(Kind::InvalidAlias, member.name_span, message, fix);
                }
            }
        }
        let services = fields.get("services").and_then(|value| self.problems.object(value, "services"));
        for member in services.unwrap_or(&[]) {
            let who = self.aliases(Some(&member.value), "the approvers of a service");
            if !member.name.starts_with("svc:") && !member.name.starts_with("tag:") {
                let message = format!("autoApprovers: invalid service {:?}", member.name);
                self.problems.add(
                    Kind::InvalidAlias,
                    member.name_span,
                    message,
                    "write \"svc:NAME\" or \"tag:NAME\"",
                );
            }
            approvers.services.push((Text { text: member.name.clone(), span: member.name_span }, who));
        }
        policy.auto_approvers = approvers;
    }

    pub(super) fn node_attrs(&mut self, value: &Value) -> Option<NodeAttrs> {
        let fields = self.problems.fields(value, "a nodeAttrs entry", &["target", "attr", "app", "ipPool"]);
        let targets = self.strings(fields.get("target"), "target");
        let mut target = Vec::new();
        for text in &targets {
            match Selector::parse(&text.text) {
                Ok(selector) => {
                    target.push(Alias { selector, written: text.text.trim().to_owned(), span: text.span });
                }
                Err(mut malformed) => {
                    if malformed.kind == Kind::InvalidAlias {
                        malformed.message = format!("{:?}: invalid address", text.text);
                    }
                    self.problems.malformed(text.span, malformed);
                }
            }
        }
        let mut ip_pool = Vec::new();
        for text in self.strings(fields.get("ipPool"), "ipPool") {
            match parse_prefix(&text.text).filter(|net| matches!(net, IpNet::V4(_))) {
                Some(net) => ip_pool.push((text, net.trunc())),
                None => {
                    let message = format!("IPPool({}): not an IPv4 network", text.text);
                    self.problems.add(
                        Kind::NodeAttrPool,
                        text.span,
                        message,
                        "write a part of 100.64.0.0/10",
                    );
                }
            }
        }
        Some(NodeAttrs {
            target,
            attr: self.strings(fields.get("attr"), "attr"),
            app: self.app(fields.get("app")),
            ip_pool,
        })
    }

    pub(super) fn switches(&mut self, fields: &Fields<'_>, policy: &mut Policy) {
        let mut flag = |name| fields.get(name).is_some_and(|value| self.problems.flag(value, name));
        let randomize_client_port = flag("randomizeClientPort");
        let disable_ipv4 = flag("disableIPv4");
        let one_cgnat = fields.get("OneCGNATRoute").and_then(|value| {
            let text = self.problems.string(value, "OneCGNATRoute")?;
            match text.text.as_str() {
                "" => None,
                "mac-always" => Some(true),
                "mac-never" => Some(false),
                other => {
                    let message = format!("OneCGNATRoute: unknown value {other:?}");
                    let fix = "write \"mac-always\", \"mac-never\" or \"\"";
                    self.problems.add(Kind::TypeMismatch, text.span, message, fix);
                    None
                }
            }
        });
        policy.switches = Switches { randomize_client_port, disable_ipv4, one_cgnat };
    }

    pub(super) fn derp_map(&mut self, fields: &Fields<'_>, policy: &mut Policy) {
        let Some(value) = fields.get("derpMap") else { return };
        let map = self.problems.fields(value, "derpMap", &["OmitDefaultRegions", "Regions"]);
        if let Some(flag) = map.get("OmitDefaultRegions") {
            self.problems.flag(flag, "OmitDefaultRegions");
        }
        let regions = map.get("Regions").and_then(|value| self.problems.object(value, "Regions"));
        for member in regions.unwrap_or(&[]) {
            self.derp_region(member);
        }
        policy.derp_map = Some((value.to_json(), value.span));
    }

    fn derp_region(&mut self, member: &Member) {
        const REGION: &[&str] = &[
            "RegionID",
            "RegionCode",
            "RegionName",
            "Latitude",
            "Longitude",
            "Avoid",
            "NoMeasureNoHome",
            "Nodes",
        ];
        const NODE: &[&str] = &[
            "Name",
            "RegionID",
            "HostName",
            "CertName",
            "IPv4",
            "IPv6",
            "STUNPort",
            "STUNOnly",
            "DERPPort",
            "InsecureForTests",
            "STUNTestIP",
            "CanPort80",
        ];
        if member.name.parse::<u32>().is_err() {
            let message = format!("derpMap: the region {:?} is not a number", member.name);
            self.problems.add(
                Kind::TypeMismatch,
                member.name_span,
                message,
                "number your regions 900 to 999",
            );
        }
        if member.value.json == Json::Null {
            return;
        }
        let region = self.problems.fields(&member.value, "a region", REGION);
        let nodes = region.get("Nodes").and_then(|value| self.problems.array(value, "Nodes"));
        for node in nodes.unwrap_or(&[]) {
            self.problems.fields(node, "a relay", NODE);
        }
    }
}

fn is_tag_name(name: &str) -> bool {
    let Some(name) = name.strip_prefix("tag:") else { return false };
    name.starts_with(|first: char| first.is_ascii_alphabetic())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}
