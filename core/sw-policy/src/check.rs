//! The semantic pass over a decoded policy: references, autogroups, combinations (policy.md §6.2).

mod ssh;

use crate::alias::{Autogroup, Selector, has_ports, protocol_name};
use crate::error::{Kind, Problem, Span, nearest};
use crate::model::{Acl, Alias, Grant, Policy, PostureRef};
use crate::people::Names;
use crate::range::{IpRange, is_default_route};
use crate::world::World;

/// What the checks know of the network besides the policy.
#[derive(Clone, Copy, Debug)]
pub struct Context<'w> {
    /// The people, for ambiguous names.
    pub world: &'w World,
    /// The network's own domains; `None` switches the domain check off.
    pub domains: Option<&'w [String]>,
}

/// Returns all semantic problems, in the order of policy.md §6.3.
pub(crate) fn check(policy: &Policy, context: Context<'_>) -> Vec<Problem> {
    let names = Names::new(&context.world.users);
    let mut checker = Checker { policy, context, names, problems: Vec::new() };
    for acl in policy.acls.iter().flatten() {
        checker.acl(acl);
    }
    for rule in &policy.ssh {
        checker.ssh_rule(rule);
    }
    for grant in policy.grants.iter().flatten() {
        checker.grant(grant);
    }
    checker.node_attrs();
    checker.tag_owners();
    checker.auto_approvers();
    checker.postures(Some(&policy.default_src_posture));
    for group in policy.groups.values() {
        for member in &group.members {
            checker.user(member, "");
        }
    }
    for test in &policy.ssh_tests {
        checker.ssh_test(test);
    }
    checker.problems
}

struct Checker<'p> {
    policy: &'p Policy,
    context: Context<'p>,
    names: Names,
    problems: Vec<Problem>,
}

/// Where a selector stands; the words of an undefined tag depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    RuleSrc,
    AclDst,
    Other,
}

impl Checker<'_> {
    fn add(&mut self, kind: Kind, span: Span, message: impl Into<String>, fix: impl Into<String>) {
        self.problems.push(Problem { kind, span, message: message.into(), fix: fix.into() });
    }

    fn acl(&mut self, acl: &Acl) {
        for alias in &acl.src {
            self.rule_src(alias);
        }
        for dst in &acl.dst {
            self.rule_dst(&dst.alias, Place::AclDst);
        }
        let dst = acl.dst.iter().map(|dst| &dst.alias);
        self.self_sources(dst, &acl.src, true);
        let names_ports = acl.dst.iter().any(|dst| dst.ports_text != "*");
        if !has_ports(acl.protocol) && names_ports {
            self.no_ports(acl.protocol, acl.protocol_span);
        }
        self.postures(acl.posture.as_deref());
    }

    fn no_ports(&mut self, protocol: Option<u8>, span: Span) {
        let name = protocol.map_or_else(String::new, protocol_name);
        let message = format!("protocol does not support specific ports: {name:?}, only \"*\" is allowed");
        self.add(Kind::ProtoNoPorts, span, message, "write the ports as *");
    }

    fn grant(&mut self, grant: &Grant) {
        for alias in &grant.src {
            self.rule_src(alias);
        }
        for alias in &grant.dst {
            self.rule_dst(alias, Place::Other);
        }
        self.self_sources(grant.dst.iter(), &grant.src, false);
        for item in &grant.ip {
            let is_any = item.ports.iter().all(|ports| *ports == crate::alias::Ports::ANY);
            if !has_ports(item.protocol) && !is_any {
                self.no_ports(item.protocol, item.span);
            }
        }
        if grant.ip.is_empty() && grant.app.is_empty() {
            let fix = "add \"ip\": [\"*\"] for the network, or \"app\" for a capability";
            self.add(Kind::GrantEmpty, grant.span, "ip and app can not both be empty", fix);
        }
        for (name, _) in &grant.app {
            self.capability(&name.text, name.span);
        }
        let internet = |alias: &&Alias| alias.selector == Selector::Autogroup(Autogroup::Internet);
        if let Some(alias) = grant.dst.iter().find(internet).filter(|_| !grant.app.is_empty()) {
            let fix = "put the app part in a grant of its own with other destinations";
            self.add(Kind::AppWithInternet, alias.span, "cannot use app grants with autogroup:internet", fix);
        }
        if let Some(alias) = grant.dst.iter().find(|alias| is_default_route_alias(&alias.selector)) {
            let written = &alias.written;
            let message =
                format!("dst {written:?}: to allow all IP addresses, use \"*\" or \"autogroup:internet\"");
            self.add(
                Kind::GrantDefaultRoute,
                alias.span,
                message,
                "write \"autogroup:internet\" for exit nodes",
            );
        }
        for via in &grant.via {
            if !self.policy.tag_owners.contains_key(&via.written) {
                let message = format!("via: tag {:?} not found", via.written);
                let fix = self.tag_fix(&via.written);
                self.add(Kind::UndefinedTag, via.span, message, fix);
            }
        }
        self.postures(grant.posture.as_deref());
    }

    fn capability(&mut self, name: &str, span: Span) {
        let has_form =
            name.split_once('/').is_some_and(|(domain, path)| !domain.is_empty() && !path.is_empty());
        if name.contains("://") || !has_form {
            let message = format!("{name:?}: capability name must have the form {{domain}}/{{path}}");
            self.add(Kind::BadCapName, span, message, "write for example \"example.com/cap/admin\"");
            return;
        }
        const OFFICIAL: &[&str] = &[
            "drive",
            "relay",
            "webui",
            "kubernetes",
            "tsidp",
            "secrets",
            "golink",
            "taildrop",
            "recorder",
            "tailsql",
        ];
        let Some(path) = name.strip_prefix("tailscale.com/") else { return };
        let is_known = path.strip_prefix("cap/").is_some_and(|cap| {
            OFFICIAL
                .iter()
                .any(|known| cap.strip_prefix(known).is_some_and(|r| r.is_empty() || r.starts_with('/')))
        });
        if !is_known {
            let message = format!("{name:?}: capability name must not be in the tailscale.com domain");
            let fix = "use a domain of your own; of tailscale.com/cap/ only drive, relay, webui, kubernetes, tsidp and \
                       secrets may be granted";
            self.add(Kind::BadCapName, span, message, fix);
        }
    }

    fn rule_src(&mut self, alias: &Alias) {
        let written = &alias.written;
        match &alias.selector {
            Selector::Autogroup(Autogroup::SelfNodes) => {
                let message = "\"autogroup:self\" not valid on the src side of a rule";
                let fix = "write \"autogroup:member\" in src and \"autogroup:self\" in dst";
                self.add(Kind::AutogroupSelfSrc, alias.span, message, fix);
            }
            Selector::Autogroup(Autogroup::Internet) => {
                let message = "autogroup:internet can only be used in ACL destinations";
                let fix =
                    "write \"*\" for all machines, or \"autogroup:danger-all\" for every address there is";
                self.add(Kind::AutogroupNotAllowed, alias.span, message, fix);
            }
            Selector::Autogroup(Autogroup::NonRoot) => self.nonroot(alias),
            Selector::Service(_) => {
                let message = format!("invalid alias format: {written:?}: a service cannot be a source");
                self.add(Kind::InvalidAlias, alias.span, message, "name the machines or their tag");
            }
            Selector::Wildcard
            | Selector::Range(_)
            | Selector::User(_)
            | Selector::DomainUsers(_)
            | Selector::Group(_)
            | Selector::Tag(_)
            | Selector::Autogroup(_)
            | Selector::Ipset(_)
            | Selector::Host(_) => self.reference(alias, Place::RuleSrc, ""),
        }
    }

    fn rule_dst(&mut self, alias: &Alias, place: Place) {
        match &alias.selector {
            Selector::Autogroup(Autogroup::DangerAll) => {
                let message = "cannot use autogroup:danger-all as a dst";
                self.add(Kind::AutogroupNotAllowed, alias.span, message, "write \"*\" for all destinations");
            }
            Selector::Autogroup(Autogroup::Shared) => {
                let message = "autogroup:shared can only be used in src";
                self.add(Kind::AutogroupNotAllowed, alias.span, message, "name the shared machines in dst");
            }
            Selector::Autogroup(Autogroup::NonRoot) => self.nonroot(alias),
            Selector::Wildcard
            | Selector::Range(_)
            | Selector::User(_)
            | Selector::DomainUsers(_)
            | Selector::Group(_)
            | Selector::Tag(_)
            | Selector::Autogroup(_)
            | Selector::Ipset(_)
            | Selector::Service(_)
            | Selector::Host(_) => self.reference(alias, place, ""),
        }
    }

    fn nonroot(&mut self, alias: &Alias) {
        let message = "autogroup:nonroot can only be used in the users of an ssh rule";
        self.add(Kind::AutogroupNotAllowed, alias.span, message, "write \"autogroup:member\" for all people");
    }

    /// With `autogroup:self` as a destination every source must be people (policy.md §6.2).
    fn self_sources<'a>(
        &mut self,
        dst: impl Iterator<Item = &'a Alias>,
        src: &[Alias],
        wildcard_is_fine: bool,
    ) {
        let mut dst = dst;
        if !dst.any(|alias| alias.selector == Selector::Autogroup(Autogroup::SelfNodes)) {
            return;
        }
        for alias in src {
            let is_fine = match &alias.selector {
                Selector::User(_) | Selector::DomainUsers(_) | Selector::Group(_) => true,
                Selector::Autogroup(Autogroup::Member | Autogroup::Role(_)) => true,
                // These have a message of their own.
                Selector::Autogroup(Autogroup::SelfNodes | Autogroup::Internet | Autogroup::NonRoot) => true,
                Selector::Wildcard => wildcard_is_fine,
                Selector::Autogroup(Autogroup::Tagged | Autogroup::DangerAll | Autogroup::Shared)
                | Selector::Range(_)
                | Selector::Tag(_)
                | Selector::Ipset(_)
                | Selector::Service(_)
                | Selector::Host(_) => false,
            };
            if !is_fine {
                let message = "autogroup:self can only be used with users, groups, or supported autogroups";
                let fix = "write people, groups or \"autogroup:member\" in src";
                self.add(Kind::AutogroupSelfBadSrc, alias.span, message, fix);
            }
        }
    }

    /// Checks that what a selector names is defined.
    fn reference(&mut self, alias: &Alias, place: Place, prefix: &str) {
        let written = &alias.written;
        let policy = self.policy;
        match &alias.selector {
            Selector::Group(name) if !policy.groups.contains_key(name) => {
                let fix = define_fix(name, policy.groups.keys(), "groups");
                let message = format!("group not defined in policy: {name:?}");
                self.add(Kind::UndefinedGroup, alias.span, message, fix);
            }
            Selector::Host(name) if !policy.hosts.contains_key(name) => {
                let fix = define_fix(name, policy.hosts.keys(), "hosts");
                self.add(
                    Kind::UndefinedHost,
                    alias.span,
                    format!("host not defined in policy: {name:?}"),
                    fix,
                );
            }
            Selector::Ipset(name) if !policy.ipsets.contains_key(name) => {
                let fix = define_fix(name, policy.ipsets.keys(), "ipsets");
                self.add(
                    Kind::UndefinedIpset,
                    alias.span,
                    format!("ipset not defined in policy: {name:?}"),
                    fix,
                );
            }
            Selector::Tag(name) if !policy.tag_owners.contains_key(name) => {
                let message = match place {
                    Place::RuleSrc => format!("src=tag not found: {written:?}"),
                    Place::AclDst => format!("dst={written:?}: tag not found: {written:?}"),
                    Place::Other => format!("tag not found: {written:?}"),
                };
                let fix = self.tag_fix(name);
                self.add(Kind::UndefinedTag, alias.span, message, fix);
            }
            Selector::User(_) | Selector::DomainUsers(_) => self.user(alias, prefix),
            Selector::Group(_)
            | Selector::Host(_)
            | Selector::Ipset(_)
            | Selector::Tag(_)
            | Selector::Wildcard
            | Selector::Range(_)
            | Selector::Autogroup(_)
            | Selector::Service(_) => {}
        }
    }

    fn tag_fix(&self, name: &str) -> String {
        define_fix(name, self.policy.tag_owners.keys(), "tagOwners")
    }

    /// A person may be unknown, but not ambiguous; a domain must be the network's own.
    fn user(&mut self, alias: &Alias, prefix: &str) {
        match &alias.selector {
            Selector::DomainUsers(domain) => self.domain(domain, alias.span, prefix),
            Selector::User(token) => {
                if self.names.is_ambiguous(token) {
                    let message = format!("multiple users found: {:?}", alias.written);
                    let fix = "write the e-mail of the person that is meant";
                    self.add(Kind::BadUser, alias.span, message, fix);
                }
            }
            Selector::Wildcard
            | Selector::Range(_)
            | Selector::Group(_)
            | Selector::Tag(_)
            | Selector::Autogroup(_)
            | Selector::Ipset(_)
            | Selector::Service(_)
            | Selector::Host(_) => {}
        }
    }

    fn domain(&mut self, domain: &str, span: Span, prefix: &str) {
        let Some(domains) = self.context.domains else { return };
        if domains.iter().any(|own| own == domain) {
            return;
        }
        let message = format!(
            "{prefix}{domain} is not associated with this Tailnet and cannot be used in user:*@<domain> expressions"
        );
        let fix = match domains {
            [] => "this network knows no domain: its people have logins without one".to_owned(),
            own => format!("domains of this network: {}", own.join(", ")),
        };
        self.add(Kind::DomainNotInTailnet, span, message, fix);
    }

    fn node_attrs(&mut self) {
        let policy = self.policy;
        for entry in &policy.node_attrs {
            for alias in &entry.target {
                self.attr_target(alias);
            }
            for (name, _) in &entry.app {
                if name.text.contains("://") || !name.text.contains('/') {
                    self.capability(&name.text, name.span);
                }
            }
            for (text, net) in &entry.ip_pool {
                let range = IpRange::prefix(*net);
                let inside = |outer: &str| IpRange::parse(outer).is_some_and(|outer| outer.covers(range));
                let touches = |outer: &str| IpRange::parse(outer).is_some_and(|outer| outer.overlaps(range));
                if !inside("100.64.0.0/10") || touches("100.100.100.0/24") || touches("100.115.92.0/23") {
                    let message = format!("IPPool({}): network within reserved range", text.text);
                    let fix = "choose a part of 100.64.0.0/10 without 100.100.100.0/24 and 100.115.92.0/23";
                    self.add(Kind::NodeAttrPool, text.span, message, fix);
                }
            }
        }
    }

    fn attr_target(&mut self, alias: &Alias) {
        match &alias.selector {
            Selector::Autogroup(Autogroup::Member | Autogroup::Tagged | Autogroup::Role(_)) => {}
            Selector::Autogroup(_) => {
                let message = format!("{:?} cannot be a target of nodeAttrs", alias.written);
                let fix = "use people, groups, tags, autogroup:member, autogroup:tagged or *";
                self.add(Kind::AutogroupNotAllowed, alias.span, message, fix);
            }
            Selector::Ipset(_) | Selector::Service(_) => {
                let message = format!("{:?}: invalid address", alias.written);
                self.add(
                    Kind::InvalidAlias,
                    alias.span,
                    message,
                    "name machines by person, group, tag or address",
                );
            }
            Selector::Wildcard
            | Selector::Range(_)
            | Selector::User(_)
            | Selector::DomainUsers(_)
            | Selector::Group(_)
            | Selector::Tag(_)
            | Selector::Host(_) => self.reference(alias, Place::Other, ""),
        }
    }

    fn tag_owners(&mut self) {
        let policy = self.policy;
        for (tag, entry) in &policy.tag_owners {
            for owner in &entry.owners {
                if let Selector::Tag(name) = &owner.selector
                    && !policy.tag_owners.contains_key(name)
                {
                    let message = format!("tag {tag:?} references undefined tag {name:?}");
                    let fix = self.tag_fix(name);
                    self.add(Kind::UndefinedTag, owner.span, message, fix);
                } else {
                    self.person_or_tag(owner, "own a tag");
                }
            }
        }
    }

    fn auto_approvers(&mut self) {
        let policy = self.policy;
        let approvers = &policy.auto_approvers;
        let routes = approvers.routes.iter().flat_map(|(_, who)| who);
        let services = approvers.services.iter().flat_map(|(_, who)| who);
        for approver in routes.chain(&approvers.exit_node).chain(services) {
            self.person_or_tag(approver, "approve routes");
        }
        for (service, _) in &approvers.services {
            if service.text.starts_with("tag:") && !policy.tag_owners.contains_key(&service.text) {
                let fix = self.tag_fix(&service.text);
                self.add(Kind::UndefinedTag, service.span, format!("tag not found: {:?}", service.text), fix);
            }
        }
    }

    fn person_or_tag(&mut self, alias: &Alias, act: &str) {
        match &alias.selector {
            Selector::User(_) | Selector::DomainUsers(_) | Selector::Group(_) | Selector::Tag(_) => {
                self.reference(alias, Place::Other, "");
            }
            Selector::Autogroup(Autogroup::Member | Autogroup::Role(_)) => {}
            Selector::Autogroup(_) => {
                let message = format!("{:?} cannot {act}", alias.written);
                self.add(Kind::AutogroupNotAllowed, alias.span, message, "write people, groups or tags");
            }
            Selector::Wildcard
            | Selector::Range(_)
            | Selector::Ipset(_)
            | Selector::Service(_)
            | Selector::Host(_) => {
                let message = format!("invalid alias format: {:?} cannot {act}", alias.written);
                self.add(Kind::InvalidAlias, alias.span, message, "write people, groups or tags");
            }
        }
    }

    fn postures(&mut self, refs: Option<&[PostureRef]>) {
        let policy = self.policy;
        for posture in refs.unwrap_or(&[]) {
            let PostureRef::Named(name) = posture else { continue };
            if !policy.postures.contains_key(&name.text) {
                let fix = define_fix(&name.text, policy.postures.keys(), "postures");
                let message = format!("posture not defined in policy: {:?}", name.text);
                self.add(Kind::UndefinedPosture, name.span, message, fix);
            }
        }
    }
}

fn is_default_route_alias(selector: &Selector) -> bool {
    matches!(selector, Selector::Range(range) if range.as_prefix().is_some_and(|net| is_default_route(&net)))
}

fn define_fix<'n>(name: &str, known: impl Iterator<Item = &'n String>, section: &str) -> String {
    match nearest(name, known.map(String::as_str)) {
        Some(near) => format!("did you mean {near:?}? Or add {name:?} to {section:?}"),
        None => format!("add {name:?} to {section:?}"),
    }
}
