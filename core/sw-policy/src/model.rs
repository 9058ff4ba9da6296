//! A decoded policy: every section of policy.md §5 with the place of each part.

use std::collections::BTreeMap;
use std::sync::Arc;

use ipnet::IpNet;

use crate::alias::{Ports, Selector};
use crate::error::{Lines, Position, Span};
use crate::posture::Assertion;
use crate::range::{IpRange, RangeSet};

/// A string of the policy and its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Text {
    pub(crate) text: String,
    pub(crate) span: Span,
}

/// A selector as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Alias {
    pub(crate) selector: Selector,
    pub(crate) written: String,
    pub(crate) span: Span,
}

/// A policy that was decoded and checked. It does not change; a new text is a new policy.
#[derive(Clone, Debug)]
pub struct Policy {
    pub(crate) text: Arc<str>,
    pub(crate) lines: Lines,
    pub(crate) groups: BTreeMap<String, Group>,
    pub(crate) hosts: BTreeMap<String, IpRange>,
    /// Declared sets, resolved.
    pub(crate) ipsets: BTreeMap<String, RangeSet>,
    pub(crate) tag_owners: BTreeMap<String, TagOwners>,
    pub(crate) acls: Option<Vec<Acl>>,
    pub(crate) grants: Option<Vec<Grant>>,
    pub(crate) auto_approvers: AutoApprovers,
    pub(crate) ssh: Vec<SshRule>,
    pub(crate) node_attrs: Vec<NodeAttrs>,
    pub(crate) postures: BTreeMap<String, Vec<Assertion>>,
    pub(crate) default_src_posture: Vec<PostureRef>,
    pub(crate) tests: Vec<Test>,
    pub(crate) ssh_tests: Vec<SshTest>,
    pub(crate) switches: Switches,
    pub(crate) derp_map: Option<(serde_json::Value, Span)>,
}

/// What the policy sets for the whole network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Switches {
    pub(crate) randomize_client_port: bool,
    pub(crate) disable_ipv4: bool,
    pub(crate) one_cgnat: Option<bool>,
}

#[derive(Clone, Debug)]
pub(crate) struct Group {
    pub(crate) members: Vec<Alias>,
}

#[derive(Clone, Debug)]
pub(crate) struct TagOwners {
    pub(crate) owners: Vec<Alias>,
}

#[derive(Clone, Debug)]
pub(crate) struct Acl {
    pub(crate) span: Span,
    pub(crate) protocol: Option<u8>,
    pub(crate) protocol_span: Span,
    pub(crate) src: Vec<Alias>,
    pub(crate) dst: Vec<AclDst>,
    pub(crate) posture: Option<Vec<PostureRef>>,
}

#[derive(Clone, Debug)]
pub(crate) struct AclDst {
    pub(crate) alias: Alias,
    pub(crate) ports: Vec<Ports>,
    pub(crate) ports_text: String,
}

#[derive(Clone, Debug)]
pub(crate) struct Grant {
    pub(crate) span: Span,
    pub(crate) src: Vec<Alias>,
    pub(crate) dst: Vec<Alias>,
    pub(crate) ip: Vec<IpItem>,
    pub(crate) app: Vec<(Text, serde_json::Value)>,
    pub(crate) via: Vec<Alias>,
    pub(crate) posture: Option<Vec<PostureRef>>,
}

#[derive(Clone, Debug)]
pub(crate) struct IpItem {
    pub(crate) span: Span,
    pub(crate) protocol: Option<u8>,
    pub(crate) ports: Vec<Ports>,
}

/// A posture by name, or an assertion in place.
#[derive(Clone, Debug)]
pub(crate) enum PostureRef {
    Named(Text),
    Inline(Assertion),
}

#[derive(Clone, Debug, Default)]
pub(crate) struct AutoApprovers {
    pub(crate) routes: Vec<(IpNet, Vec<Alias>)>,
    pub(crate) exit_node: Vec<Alias>,
    pub(crate) services: Vec<(Text, Vec<Alias>)>,
}

#[derive(Clone, Debug)]
pub(crate) struct SshRule {
    pub(crate) span: Span,
    pub(crate) action: SshAction,
    pub(crate) src: Vec<Alias>,
    pub(crate) dst: Vec<Alias>,
    pub(crate) users: Vec<SshUser>,
    pub(crate) users_span: Span,
    pub(crate) check_period: Option<(CheckPeriod, Span)>,
    pub(crate) accept_env: Vec<Text>,
    pub(crate) recorders: Vec<Alias>,
    pub(crate) enforce_recorder: bool,
    pub(crate) posture: Option<Vec<PostureRef>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SshAction {
    Missing,
    Accept,
    Check,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SshUser {
    pub(crate) span: Span,
    pub(crate) kind: SshUserKind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SshUserKind {
    Root,
    NonRoot,
    /// `localpart:*@<domain>`.
    LocalpartOf(String),
    Literal(String),
}

/// How long a check of the person holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckPeriod {
    /// Every session asks again.
    Always,
    /// Nanoseconds since the last successful check.
    Nanoseconds(i128),
}

#[derive(Clone, Debug)]
pub(crate) struct NodeAttrs {
    pub(crate) target: Vec<Alias>,
    pub(crate) attr: Vec<Text>,
    pub(crate) app: Vec<(Text, serde_json::Value)>,
    pub(crate) ip_pool: Vec<(Text, IpNet)>,
}

#[derive(Clone, Debug)]
pub(crate) struct Test {
    pub(crate) span: Span,
    pub(crate) src: Option<Text>,
    pub(crate) protocol: Option<Text>,
    pub(crate) accept: Vec<Text>,
    pub(crate) deny: Vec<Text>,
    pub(crate) src_attributes: BTreeMap<String, serde_json::Value>,
}

#[derive(Clone, Debug)]
pub(crate) struct SshTest {
    pub(crate) span: Span,
    pub(crate) src: Option<Text>,
    pub(crate) dst: Vec<Text>,
    pub(crate) accept: Vec<Text>,
    pub(crate) check: Vec<Text>,
    pub(crate) deny: Vec<Text>,
}

impl Policy {
    /// Returns the text it was made from.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Returns the custom relay map of the policy and where it stands, if it has one (policy.md §5.11).
    #[must_use]
    pub fn derp_map(&self) -> Option<(&serde_json::Value, Position)> {
        self.derp_map.as_ref().map(|(map, span)| (map, self.lines.position(&self.text, span.start)))
    }

    /// Returns the declared tags.
    pub fn tags(&self) -> impl Iterator<Item = &str> {
        self.tag_owners.keys().map(String::as_str)
    }

    /// Reports whether the policy has neither `acls` nor `grants`, so that everything is allowed (policy.md §3.2).
    #[must_use]
    pub fn is_allow_all(&self) -> bool {
        self.acls.is_none() && self.grants.is_none()
    }

    /// Reports whether the policy approves any route by itself.
    #[must_use]
    pub fn has_auto_approvers(&self) -> bool {
        !self.auto_approvers.routes.is_empty() || !self.auto_approvers.exit_node.is_empty()
    }

    /// Reports whether the policy carries tests of its own.
    #[must_use]
    pub fn has_tests(&self) -> bool {
        !self.tests.is_empty() || !self.ssh_tests.is_empty()
    }
}
