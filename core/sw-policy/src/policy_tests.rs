//! A policy's own tests: `tests` and `sshTests` (policy.md §14).

use sw_types::NodeId;

use crate::alias::{Autogroup, Selector, parse_ports, parse_protocol, split_ports};
use crate::compiled::Compiled;
use crate::compiled::endpoint::{Endpoint, Traffic};
use crate::error::{Kind, Problem, Span};
use crate::model::{SshTest, Test, Text};
use crate::rule::{SshRule, SshVerdict};

/// Runs all tests of the policy; returns what failed, in the order of the file.
#[must_use]
pub fn run(compiled: &Compiled) -> Vec<Problem> {
    let policy = std::sync::Arc::clone(compiled.policy());
    let mut failed = Vec::new();
    for test in &policy.tests {
        Runner { compiled, failed: &mut failed }.test(test);
    }
    for test in &policy.ssh_tests {
        Runner { compiled, failed: &mut failed }.ssh_test(test);
    }
    failed
}

struct Runner<'r> {
    compiled: &'r Compiled,
    failed: &'r mut Vec<Problem>,
}

/// Who is on the far side of an assertion.
enum Target {
    Fixed(Vec<Endpoint>),
    /// The machines of the source's own person.
    OwnMachines,
}

const WRONG: &str = "correct the test, or the rules";

impl Runner<'_> {
    fn fail(&mut self, span: Span, what: impl AsRef<str>, fix: impl Into<String>) {
        let message = format!("test(s) failed: {}", what.as_ref());
        self.failed.push(Problem { kind: Kind::TestsFailed, span, message, fix: fix.into() });
    }

    fn test(&mut self, test: &Test) {
        if test.accept.is_empty() && test.deny.is_empty() {
            self.fail(test.span, "the test asserts nothing", "add \"accept\" or \"deny\" with host:port");
            return;
        }
        let Some(src) = test.src.as_ref().filter(|src| !src.text.trim().is_empty()) else {
            self.fail(test.span, "the test has no src", "name a person, group, tag or address in \"src\"");
            return;
        };
        let Some(sources) = self.sources(src) else { return };
        let protocol = match &test.protocol {
            Some(text) if !text.text.is_empty() => match parse_protocol(&text.text) {
                Ok(protocol @ (6 | 17 | 132)) => Some(protocol),
                Ok(_) | Err(_) => {
                    let what = format!("proto {:?} cannot be tested", text.text);
                    self.fail(text.span, what, "use tcp, udp or sctp, or leave proto out");
                    return;
                }
            },
            Some(_) | None => None,
        };
        for (dst, wants) in test.accept.iter().map(|d| (d, true)).chain(test.deny.iter().map(|d| (d, false)))
        {
            self.assertion(test, src, &sources, protocol, dst, wants);
        }
    }

    fn sources(&mut self, src: &Text) -> Option<Vec<Endpoint>> {
        let selector = Selector::parse(&src.text).ok();
        let found = selector.as_ref().and_then(|selector| self.compiled.resolve(selector));
        match found {
            Some(sources) if !sources.is_empty() => Some(sources),
            Some(_) => {
                let what = format!("src {:?} has no machine", src.text);
                self.fail(src.span, what, "name somebody who has a machine in the network");
                None
            }
            None => {
                let what = format!("src {:?} is not defined", src.text);
                self.fail(src.span, what, "define it, or correct the name");
                None
            }
        }
    }

    fn assertion(
        &mut self,
        test: &Test,
        src: &Text,
        sources: &[Endpoint],
        protocol: Option<u8>,
        dst: &Text,
        wants: bool,
    ) {
        let Some((target, port)) = self.target(dst) else { return };
        let attributes = (!test.src_attributes.is_empty()).then_some(&test.src_attributes);
        let traffic = Traffic { protocol, port: Some(port), is_test: true };
        let mut refused = None;
        let mut allowing = None;
        for source in sources {
            let reached = match &target {
                Target::Fixed(endpoints) => endpoints
                    .iter()
                    .find_map(|dst| self.compiled.first_allowing(*source, *dst, traffic, attributes)),
                Target::OwnMachines => {
                    let Some(own) =
                        source.node.map(|id| self.compiled.siblings(id)).filter(|own| !own.is_empty())
                    else {
                        self.fail(dst.span, format!("{:?} has no machines of its own", src.text), WRONG);
                        return;
                    };
                    own.into_iter().find_map(|id| {
                        let of_rule = self.compiled.first_self_allowing(*source, id, traffic);
                        of_rule.or_else(|| {
                            self.compiled.machine(id).into_iter().find_map(|dst| {
                                self.compiled.first_allowing(*source, dst, traffic, attributes)
                            })
                        })
                    })
                }
            };
            match reached {
                Some(piece) => allowing = allowing.or(Some(piece)),
                None => refused = refused.or(Some(source.range)),
            }
        }
        match (wants, refused) {
            (true, Some(address)) => {
                let what = format!("{:?} cannot reach {:?} (from {address})", src.text, dst.text);
                self.fail(dst.span, what, "add a rule that allows it, or correct the test");
            }
            (false, None) => {
                let line = allowing.and_then(|piece| self.compiled.rule_line(piece));
                let by = line.map_or_else(String::new, |line| format!(", by the rule of line {line}"));
                let what = format!("{:?} can reach {:?}{by}", src.text, dst.text);
                self.fail(dst.span, what, "narrow that rule, or correct the test");
            }
            (true, None) | (false, Some(_)) => {}
        }
    }

    fn target(&mut self, dst: &Text) -> Option<(Target, u16)> {
        let written = dst.text.trim();
        let split = split_ports(written).ok();
        let port = split.as_ref().and_then(|(_, ports)| {
            let is_number = ports.bytes().all(|byte| byte.is_ascii_digit());
            parse_ports(ports)
                .ok()
                .filter(|_| is_number)
                .and_then(|ports| ports.first().map(|ports| ports.first))
        });
        let (Some((alias, _)), Some(port)) = (split, port) else {
            self.fail(dst.span, format!("{written:?} does not name exactly one port"), "write host:port");
            return None;
        };
        let selector = Selector::parse(&alias).ok();
        let has_length = alias.contains('/');
        let found = match &selector {
            Some(Selector::Autogroup(Autogroup::SelfNodes)) => return Some((Target::OwnMachines, port)),
            Some(Selector::Autogroup(Autogroup::Internet)) => None,
            Some(Selector::Range(range)) if has_length || !range.is_host() => None,
            Some(Selector::Host(name)) if !self.compiled.is_single_host(name) => None,
            Some(selector) => self.compiled.resolve(selector).filter(|found| !found.is_empty()),
            None => None,
        };
        if found.is_none() {
            let what = format!("{written:?} is not one destination");
            self.fail(
                dst.span,
                what,
                "name a person, tag, group or single address that exists, and one port",
            );
        }
        found.map(|found| (Target::Fixed(found), port))
    }

    fn ssh_test(&mut self, test: &SshTest) {
        let Some(src) = test.src.as_ref().filter(|src| !src.text.trim().is_empty()) else {
            self.fail(test.span, "the SSH test has no src", "name a person, group or tag in \"src\"");
            return;
        };
        if test.dst.is_empty() {
            self.fail(
                test.span,
                "the SSH test has no dst",
                "name a tag, a person or autogroup:self in \"dst\"",
            );
            return;
        }
        if test.accept.is_empty() && test.check.is_empty() && test.deny.is_empty() {
            self.fail(
                test.span,
                "the SSH test asserts nothing",
                "add \"accept\", \"check\" or \"deny\" with logins",
            );
            return;
        }
        let Some(sources) = self.sources(src) else { return };
        for dst in &test.dst {
            let Some(targets) = self.ssh_targets(src, &sources, dst) else { continue };
            let mut each = |logins: &[Text], wants| {
                for login in logins {
                    self.ssh_assertion(src, &sources, (dst, &targets), login, wants);
                }
            };
            each(&test.accept, Wants::Accept);
            each(&test.check, Wants::Check);
            each(&test.deny, Wants::Deny);
        }
    }

    fn ssh_targets(&mut self, src: &Text, sources: &[Endpoint], dst: &Text) -> Option<Vec<NodeId>> {
        let selector = Selector::parse(dst.text.trim()).ok();
        let mut targets: Vec<NodeId> = match &selector {
            Some(Selector::Autogroup(Autogroup::SelfNodes)) => sources
                .iter()
                .filter_map(|source| source.node)
                .flat_map(|id| self.compiled.siblings(id))
                .collect(),
            Some(selector) => {
                let found = self.compiled.resolve(selector).unwrap_or_default();
                found.into_iter().filter_map(|endpoint| endpoint.node).collect()
            }
            None => Vec::new(),
        };
        targets.sort_unstable();
        targets.dedup();
        if targets.is_empty() {
            let what = format!("dst {:?} has no machine for {:?}", dst.text, src.text);
            self.fail(dst.span, what, "name a tag, a person or a machine that exists");
            return None;
        }
        Some(targets)
    }

    fn ssh_assertion(
        &mut self,
        src: &Text,
        sources: &[Endpoint],
        (dst, targets): (&Text, &[NodeId]),
        login: &Text,
        wants: Wants,
    ) {
        if login.text.is_empty() {
            self.fail(login.span, "the SSH test has an empty login", "name a login");
            return;
        }
        for target in targets {
            let policy = self.compiled.ssh(*target, "");
            for source in sources {
                let text = source.range.to_string();
                let matching = |rule: &&SshRule| {
                    rule.principals.iter().any(|own| **own == *text) && allows(rule, &login.text)
                };
                let mut found = policy.rules.iter().filter(matching);
                let is_met = match wants {
                    Wants::Accept => found.next().is_some(),
                    Wants::Check => found.any(|rule| matches!(rule.action, SshVerdict::Check(_))),
                    Wants::Deny => found.next().is_none(),
                };
                if !is_met {
                    let (verb, fix) = match wants {
                        Wants::Accept => {
                            ("cannot log in", "add an ssh rule that allows it, or correct the test")
                        }
                        Wants::Check => ("is not checked", "add an ssh rule with action \"check\""),
                        Wants::Deny => ("can log in", "narrow the ssh rules, or correct the test"),
                    };
                    let what = format!("{:?} {verb} as {:?} on {:?}", src.text, login.text, dst.text);
                    self.fail(login.span, what, fix);
                    return;
                }
            }
        }
    }
}

#[derive(Clone, Copy)]
enum Wants {
    Accept,
    Check,
    Deny,
}

/// `root` only by its own key, others by their key or `*`.
fn allows(rule: &SshRule, login: &str) -> bool {
    let local =
        if login == "root" { rule.users.get(login) } else { rule.users.get(login).or(rule.users.get("*")) };
    local.is_some_and(|local| !local.is_empty())
}
