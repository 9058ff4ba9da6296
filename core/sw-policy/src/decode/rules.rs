//! Decodes the rules: `acls`, `grants`, `ssh`, and the tests (policy.md §5.5, §5.6, §5.8, §14).

use super::{Decoder, span_of};
use crate::alias::{Selector, parse_duration, parse_ip_item, parse_ports, parse_protocol, split_ports};
use crate::error::{Kind, Span};
use crate::hujson::{Json, Value};
use crate::model::{
    Acl, AclDst, Alias, CheckPeriod, Grant, IpItem, SshAction, SshRule, SshTest, SshUser, SshUserKind, Test,
    Text,
};

const ACL: &[&str] = &["action", "proto", "src", "dst", "srcPosture", "users", "ports"];
const GRANT: &[&str] = &["src", "dst", "ip", "app", "via", "srcPosture"];
const SSH: &[&str] = &[
    "action",
    "src",
    "dst",
    "users",
    "checkPeriod",
    "acceptEnv",
    "srcPosture",
    "recorder",
    "enforceRecorder",
];
const TEST: &[&str] = &["src", "proto", "accept", "deny", "allow", "srcPostureAttrs"];
const SSH_TEST: &[&str] = &["src", "dst", "accept", "check", "deny"];

impl Decoder {
    pub(super) fn acl(&mut self, value: &Value) -> Option<Acl> {
        let fields = self.problems.fields(value, "an acl", ACL);
        let action = fields.get("action");
        let action_text = action.and_then(|action| self.problems.string(action, "action"));
        if action.is_none() || action_text.as_ref().is_some_and(|action| action.text != "accept") {
            let written = action_text.map(|action| action.text).unwrap_or_default();
            let message = format!("action=\"{written}\" is not supported");
            let fix = "write \"action\": \"accept\"; what no rule accepts is denied";
            self.problems.add(Kind::BadAction, span_of(action, fields.span), message, fix);
        }
        let protocol_value = fields.get("proto");
        let protocol = protocol_value.and_then(|value| self.protocol(value));
        let src = self.renamed(fields.get("src"), fields.get("users"), "src", "users");
        let dst = self.renamed(fields.get("dst"), fields.get("ports"), "dst", "ports");
        let src = self.aliases(src, "src");
        let dst = self.strings(dst, "dst").iter().filter_map(|text| self.acl_dst(text)).collect();
        let posture = self.posture_refs(fields.get("srcPosture"), "srcPosture");
        let protocol_span = span_of(protocol_value, fields.span);
        Some(Acl { span: fields.span, protocol, protocol_span, src, dst, posture })
    }

    /// Returns the field under its name or under its old one, not both.
    fn renamed<'v>(
        &mut self,
        new: Option<&'v Value>,
        old: Option<&'v Value>,
        new_name: &str,
        old_name: &str,
    ) -> Option<&'v Value> {
        if let (Some(_), Some(old)) = (new, old) {
            let message = format!("{new_name:?} and its old name {old_name:?} in one rule");
            self.problems.add(Kind::InvalidJson, old.span, message, format!("keep {new_name:?} alone"));
        }
        new.or(old)
    }

    fn protocol(&mut self, value: &Value) -> Option<u8> {
        let text = match &value.json {
            Json::Number(digits) => Text { text: digits.clone(), span: value.span },
            Json::Null | Json::Bool(_) | Json::String(_) | Json::Array(_) | Json::Object(_) => {
                self.problems.string(value, "proto")?
            }
        };
        if text.text.is_empty() {
            return None;
        }
        parse_protocol(&text.text).map_err(|malformed| self.problems.malformed(text.span, malformed)).ok()
    }

    fn acl_dst(&mut self, text: &Text) -> Option<AclDst> {
        let (alias, ports_text) = split_ports(&text.text)
            .map_err(|malformed| self.problems.malformed(text.span, malformed))
            .ok()?;
        let ports = match parse_ports(ports_text) {
            Ok(ports) => ports,
            Err(mut malformed) => {
                malformed.message = format!("dst={:?}: {}", text.text, malformed.message);
                if matches!(alias.as_str(), "autogroup" | "tag" | "group" | "ipset" | "svc") {
                    malformed.fix = format!("write the ports too: {:?}", format!("{}:*", text.text));
                }
                self.problems.malformed(text.span, malformed);
                return None;
            }
        };
        let ports_text = ports_text.to_owned();
        let alias = self.alias(&Text { text: alias, span: text.span })?;
        Some(AclDst { alias, ports, ports_text })
    }

    pub(super) fn grant(&mut self, value: &Value) -> Option<Grant> {
        let fields = self.problems.fields(value, "a grant", GRANT);
        let src = self.aliases(fields.get("src"), "src");
        let dst = self.aliases(fields.get("dst"), "dst");
        let ip = self.strings(fields.get("ip"), "ip").iter().filter_map(|text| self.ip_item(text)).collect();
        let app = self.app(fields.get("app"));
        let via = self.strings(fields.get("via"), "via").iter().filter_map(|text| self.via(text)).collect();
        let posture = self.posture_refs(fields.get("srcPosture"), "srcPosture");
        Some(Grant { span: fields.span, src, dst, ip, app, via, posture })
    }

    fn ip_item(&mut self, text: &Text) -> Option<IpItem> {
        match parse_ip_item(&text.text) {
            Ok((protocol, ports)) => Some(IpItem { span: text.span, protocol, ports }),
            Err(mut malformed) => {
                if parse_protocol(&text.text).is_ok() && text.text.parse::<u8>().is_err() {
                    malformed.fix = format!("write {:?} for the whole protocol", format!("{}:*", text.text));
                }
                self.problems.malformed(text.span, malformed);
                None
            }
        }
    }

    fn via(&mut self, text: &Text) -> Option<Alias> {
        let written = text.text.trim();
        if written.starts_with("tag:") {
            let selector = Selector::Tag(written.to_owned());
            return Some(Alias { selector, written: written.to_owned(), span: text.span });
        }
        let message = format!("via can only be a tag: {written:?}");
        self.problems.add(
            Kind::BadVia,
            text.span,
            message,
            "name the tag of the routers, for example \"tag:router\"",
        );
        None
    }

    pub(super) fn ssh_rule(&mut self, value: &Value) -> Option<SshRule> {
        let fields = self.problems.fields(value, "an ssh rule", SSH);
        let action = self.ssh_action(fields.get("action"), fields.span);
        let src = self.aliases(fields.get("src"), "src");
        for alias in src.iter().filter(|alias| !may_be_ssh_src(&alias.selector)) {
            let message = format!("alias not supported for SSH source: {:?}", alias.written);
            let fix = "use people, groups, tags, autogroup:member or autogroup:tagged";
            self.problems.add(Kind::SshAliasNotAllowed, alias.span, message, fix);
        }
        let dst = self.aliases(fields.get("dst"), "dst");
        for alias in dst.iter().filter(|alias| !may_be_ssh_dst(&alias.selector)) {
            let message = if alias.selector == Selector::Wildcard {
                "wildcard (*) is not supported as SSH destination".to_owned()
            } else {
                format!("invalid dst {:?}", alias.written)
            };
            let fix = "use a tag, a person, autogroup:member, autogroup:tagged or autogroup:self";
            self.problems.add(Kind::SshAliasNotAllowed, alias.span, message, fix);
        }
        let users_value = fields.get("users");
        let users = self.strings(users_value, "users").iter().map(ssh_user).collect();
        let check_period = fields.get("checkPeriod").and_then(|value| self.check_period(value));
        Some(SshRule {
            span: fields.span,
            action,
            src,
            dst,
            users,
            users_span: span_of(users_value, fields.span),
            check_period,
            accept_env: self.strings(fields.get("acceptEnv"), "acceptEnv"),
            recorders: self.aliases(fields.get("recorder"), "recorder"),
            enforce_recorder: fields
                .get("enforceRecorder")
                .is_some_and(|value| self.problems.flag(value, "enforceRecorder")),
            posture: self.posture_refs(fields.get("srcPosture"), "srcPosture"),
        })
    }

    fn ssh_action(&mut self, value: Option<&Value>, rule: Span) -> SshAction {
        let text = value.and_then(|value| self.problems.string(value, "action"));
        match text.as_ref().map(|text| text.text.trim()) {
            None | Some("") => SshAction::Missing,
            Some("accept") => SshAction::Accept,
            Some("check") => SshAction::Check,
            Some(other) => {
                let message = format!("{other:?} is not a valid action");
                self.problems.add(
                    Kind::BadAction,
                    span_of(value, rule),
                    message,
                    "write \"accept\" or \"check\"",
                );
                SshAction::Accept
            }
        }
    }

    fn check_period(&mut self, value: &Value) -> Option<(CheckPeriod, Span)> {
        let text = self.problems.string(value, "checkPeriod")?;
        if text.text == "always" {
            return Some((CheckPeriod::Always, text.span));
        }
        let Some(nanoseconds) = parse_duration(&text.text) else {
            let message = format!("time: invalid duration {:?}", text.text);
            let fix = "write hours and minutes, for example \"12h\" or \"1h30m\", or \"always\"";
            self.problems.add(Kind::BadDuration, text.span, message, fix);
            return None;
        };
        Some((CheckPeriod::Nanoseconds(nanoseconds), text.span))
    }

    pub(super) fn test(&mut self, value: &Value) -> Option<Test> {
        let fields = self.problems.fields(value, "a test", TEST);
        let accept = self.renamed(fields.get("accept"), fields.get("allow"), "accept", "allow");
        let protocol = fields.get("proto").and_then(|value| match &value.json {
            Json::Number(digits) => Some(Text { text: digits.clone(), span: value.span }),
            Json::Null | Json::Bool(_) | Json::String(_) | Json::Array(_) | Json::Object(_) => {
                self.problems.string(value, "proto")
            }
        });
        let attributes =
            fields.get("srcPostureAttrs").and_then(|value| self.problems.object(value, "srcPostureAttrs"));
        let src_attributes = attributes
            .unwrap_or(&[])
            .iter()
            .map(|member| (member.name.clone(), member.value.to_json()))
            .collect();
        Some(Test {
            span: fields.span,
            src: fields.get("src").and_then(|value| self.problems.string(value, "src")),
            protocol,
            accept: self.strings(accept, "accept"),
            deny: self.strings(fields.get("deny"), "deny"),
            src_attributes,
        })
    }

    pub(super) fn ssh_test(&mut self, value: &Value) -> Option<SshTest> {
        let fields = self.problems.fields(value, "an ssh test", SSH_TEST);
        Some(SshTest {
            span: fields.span,
            src: fields.get("src").and_then(|value| self.problems.string(value, "src")),
            dst: self.strings(fields.get("dst"), "dst"),
            accept: self.strings(fields.get("accept"), "accept"),
            check: self.strings(fields.get("check"), "check"),
            deny: self.strings(fields.get("deny"), "deny"),
        })
    }
}

fn ssh_user(text: &Text) -> SshUser {
    let written = text.text.trim();
    let kind = match written {
        "root" => SshUserKind::Root,
        "autogroup:nonroot" => SshUserKind::NonRoot,
        other => match other.strip_prefix("localpart:*@") {
            Some(domain) => {
                let domain = domain.split_once('@').map_or(domain, |(before, _)| before);
                SshUserKind::LocalpartOf(domain.to_owned())
            }
            None => SshUserKind::Literal(other.to_owned()),
        },
    };
    SshUser { span: text.span, kind }
}

/// Which kinds of selectors decoding lets through as a source; autogroups are judged later.
fn may_be_ssh_src(selector: &Selector) -> bool {
    match selector {
        Selector::User(_)
        | Selector::DomainUsers(_)
        | Selector::Group(_)
        | Selector::Tag(_)
        | Selector::Autogroup(_) => true,
        Selector::Wildcard
        | Selector::Range(_)
        | Selector::Ipset(_)
        | Selector::Service(_)
        | Selector::Host(_) => false,
    }
}

fn may_be_ssh_dst(selector: &Selector) -> bool {
    match selector {
        Selector::User(_) | Selector::DomainUsers(_) | Selector::Tag(_) | Selector::Autogroup(_) => true,
        Selector::Wildcard
        | Selector::Range(_)
        | Selector::Group(_)
        | Selector::Ipset(_)
        | Selector::Service(_)
        | Selector::Host(_) => false,
    }
}
