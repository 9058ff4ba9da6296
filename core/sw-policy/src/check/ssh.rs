//! Checks of the `ssh` section and the shape of `sshTests` (policy.md §5.8, §6.2, §14).

use super::{Checker, Place};
use crate::alias::{Autogroup, Selector, go_duration};
use crate::error::Kind;
use crate::model::{Alias, CheckPeriod, SshAction, SshRule, SshTest, SshUserKind};
use crate::range::IpRange;

/// One week, the longest time for which a check of the person may hold.
const CHECK_PERIOD_MAX_NS: i128 = 168 * 3_600 * 1_000_000_000;

impl Checker<'_> {
    pub(super) fn ssh_rule(&mut self, rule: &SshRule) {
        if rule.action == SshAction::Missing {
            let fix = "write \"action\": \"accept\" or \"action\": \"check\"";
            self.add(Kind::SshActionMissing, rule.span, "action must be specified", fix);
        }
        for alias in &rule.src {
            self.ssh_src(alias);
        }
        for alias in &rule.dst {
            self.ssh_dst(alias);
        }
        for alias in &rule.recorders {
            self.reference(alias, Place::Other, "");
        }
        self.ssh_combination(rule);
        self.ssh_users(rule);
        self.check_period(rule);
        for value in rule.accept_env.iter().filter(|value| value.text.is_empty()) {
            let fix = "name a variable, with * and ? as wildcards";
            self.add(Kind::SshAcceptEnvEmpty, value.span, "acceptEnv values cannot be empty", fix);
        }
        self.postures(rule.posture.as_deref());
    }

    fn ssh_src(&mut self, alias: &Alias) {
        match &alias.selector {
            Selector::Autogroup(Autogroup::SelfNodes) => {
                let message = "\"autogroup:self\" not valid on the src side of a rule";
                let fix = "write \"autogroup:member\" in src and \"autogroup:self\" in dst";
                self.add(Kind::AutogroupSelfSrc, alias.span, message, fix);
            }
            Selector::Autogroup(Autogroup::Member | Autogroup::Tagged | Autogroup::Role(_)) => {}
            Selector::Autogroup(_) => {
                let message = format!("{:?} cannot be a source of SSH", alias.written);
                let fix = "use autogroup:member or autogroup:tagged";
                self.add(Kind::AutogroupNotAllowed, alias.span, message, fix);
            }
            Selector::User(_) | Selector::DomainUsers(_) | Selector::Group(_) | Selector::Tag(_) => {
                self.reference(alias, Place::Other, "[ssh] ");
            }
            // Decoding refused these.
            Selector::Wildcard
            | Selector::Range(_)
            | Selector::Ipset(_)
            | Selector::Service(_)
            | Selector::Host(_) => {}
        }
    }

    fn ssh_dst(&mut self, alias: &Alias) {
        match &alias.selector {
            Selector::Autogroup(Autogroup::Member | Autogroup::Tagged | Autogroup::SelfNodes) => {}
            Selector::Autogroup(_) => {
                let message = format!("{:?} cannot be a destination of SSH", alias.written);
                let fix = "use autogroup:self, autogroup:member, autogroup:tagged or a tag";
                self.add(Kind::AutogroupNotAllowed, alias.span, message, fix);
            }
            Selector::User(_) | Selector::DomainUsers(_) | Selector::Tag(_) => {
                self.reference(alias, Place::Other, "[ssh] ");
            }
            // Decoding refused these.
            Selector::Wildcard
            | Selector::Range(_)
            | Selector::Group(_)
            | Selector::Ipset(_)
            | Selector::Service(_)
            | Selector::Host(_) => {}
        }
    }

    fn ssh_combination(&mut self, rule: &SshRule) {
        let is_tagged = |alias: &&Alias| {
            matches!(alias.selector, Selector::Tag(_) | Selector::Autogroup(Autogroup::Tagged))
        };
        let tagged = rule.src.iter().find(is_tagged);
        for dst in &rule.dst {
            let (message, fix) = match (&dst.selector, tagged) {
                (Selector::User(_), Some(_)) => (
                    "tags in SSH source cannot access user-owned devices".to_owned(),
                    "write a tag in dst, or people in src".to_owned(),
                ),
                (Selector::User(_), None) if !is_only(&rule.src, dst) => (
                    format!("user destination requires source to contain only that same user {:?}", dst.written),
                    format!("write \"src\": [{:?}], or \"dst\": [\"autogroup:self\"]", dst.written),
                ),
                (Selector::Autogroup(Autogroup::SelfNodes), Some(_)) => (
                    "autogroup:self destination requires source to contain only users or groups, not tags or \
                     autogroup:tagged"
                        .to_owned(),
                    "write people, groups or \"autogroup:member\" in src".to_owned(),
                ),
                (Selector::Autogroup(Autogroup::Member), Some(_)) => (
                    "tags in SSH source cannot access autogroup:member (user-owned devices)".to_owned(),
                    "write a tag in dst, or people in src".to_owned(),
                ),
                _ => continue,
            };
            self.add(Kind::SshSrcDstCombination, dst.span, message, fix);
        }
    }

    fn ssh_users(&mut self, rule: &SshRule) {
        if rule.users.is_empty() {
            let fix = "write \"users\": [\"autogroup:nonroot\"], or name the logins";
            self.add(Kind::SshUsersMissing, rule.users_span, "users must be specified", fix);
        }
        for user in &rule.users {
            match &user.kind {
                SshUserKind::Literal(name) if name.is_empty() || name == "*" => {
                    let fix = "write \"autogroup:nonroot\" for every login but root";
                    self.add(Kind::SshUserInvalid, user.span, format!("user {name:?} is not valid"), fix);
                }
                SshUserKind::LocalpartOf(domain) => self.domain(domain, user.span, ""),
                SshUserKind::Root | SshUserKind::NonRoot | SshUserKind::Literal(_) => {}
            }
        }
    }

    fn check_period(&mut self, rule: &SshRule) {
        let Some((period, span)) = rule.check_period else { return };
        if rule.action == SshAction::Accept {
            let message = "checkPeriod is only valid with action \"check\"";
            self.add(
                Kind::SshCheckPeriod,
                span,
                message,
                "write \"action\": \"check\", or remove checkPeriod",
            );
            return;
        }
        let CheckPeriod::Nanoseconds(period) = period else { return };
        let printed = go_duration(period);
        if period < 0 {
            let message = format!("checkPeriod {printed} must be a positive duration");
            self.add(Kind::SshCheckPeriod, span, message, "write a time up to \"168h\", or \"always\"");
        } else if period > CHECK_PERIOD_MAX_NS {
            let message = format!("checkPeriod {printed} is above the max (168h)");
            self.add(Kind::SshCheckPeriod, span, message, "write a time up to \"168h\", or \"always\"");
        }
    }

    /// The part of an SSH test's shape that is a mistake of the policy; the rest fails as a test.
    pub(super) fn ssh_test(&mut self, test: &SshTest) {
        for dst in &test.dst {
            let written = dst.text.trim();
            let is_many = |range: &IpRange| !range.is_host();
            match Selector::parse(written) {
                Ok(Selector::Tag(tag)) if !self.policy.tag_owners.contains_key(&tag) => {
                    let message = format!("SSH tests dst contains unknown tag {written:?}");
                    let fix = self.tag_fix(&tag);
                    self.add(Kind::SshTestBadDst, dst.span, message, fix);
                }
                Ok(Selector::Host(host)) if self.policy.hosts.get(&host).is_some_and(is_many) => {
                    self.disallowed_dst(written, dst.span);
                }
                Ok(Selector::Range(range)) if is_many(&range) => self.disallowed_dst(written, dst.span),
                Ok(
                    Selector::Autogroup(
                        Autogroup::Internet | Autogroup::DangerAll | Autogroup::Shared | Autogroup::NonRoot,
                    )
                    | Selector::Wildcard
                    | Selector::Ipset(_)
                    | Selector::Service(_),
                ) => self.disallowed_dst(written, dst.span),
                Ok(
                    Selector::Tag(_)
                    | Selector::Host(_)
                    | Selector::Range(_)
                    | Selector::User(_)
                    | Selector::DomainUsers(_)
                    | Selector::Group(_)
                    | Selector::Autogroup(_),
                )
                | Err(_) => {}
            }
        }
    }

    fn disallowed_dst(&mut self, written: &str, span: crate::error::Span) {
        let message = format!("SSH tests dst contains disallowed element {written:?}");
        self.add(Kind::SshTestBadDst, span, message, "name a tag, a person or one machine's address");
    }
}

fn is_only(src: &[Alias], user: &Alias) -> bool {
    matches!(src, [only] if only.selector == user.selector)
}
