//! From HuJSON values to the sections of a policy (policy.md §3 to §5); every mistake found is kept.

mod fields;
mod rules;
mod sections;

use std::collections::BTreeMap;
use std::sync::Arc;

use fields::{Fields, Problems};

use crate::alias::Selector;
use crate::error::{Kind, Lines, Problem, Span};
use crate::hujson::{Json, Value, parse};
use crate::model::{Alias, AutoApprovers, Policy, PostureRef, Switches, Text};
use crate::posture::Assertion;

const SECTIONS: &[&str] = &[
    "groups",
    "hosts",
    "ipsets",
    "tagOwners",
    "acls",
    "grants",
    "autoApprovers",
    "ssh",
    "nodeAttrs",
    "postures",
    "defaultSrcPosture",
    "tests",
    "sshTests",
    "randomizeClientPort",
    "disableIPv4",
    "OneCGNATRoute",
    "derpMap",
];

/// Decodes a policy text; an empty text is the default policy.
pub(crate) fn decode(text: &str) -> Result<Policy, Vec<Problem>> {
    let mut policy = Policy {
        text: Arc::from(text),
        lines: Lines::new(text),
        groups: BTreeMap::new(),
        hosts: BTreeMap::new(),
        ipsets: BTreeMap::new(),
        tag_owners: BTreeMap::new(),
        acls: None,
        grants: None,
        auto_approvers: AutoApprovers::default(),
        ssh: Vec::new(),
        node_attrs: Vec::new(),
        postures: BTreeMap::new(),
        default_src_posture: Vec::new(),
        tests: Vec::new(),
        ssh_tests: Vec::new(),
        switches: Switches::default(),
        derp_map: None,
    };
    if text.is_empty() {
        return Ok(policy);
    }
    let root = parse(text)?;
    let mut decoder = Decoder { problems: Problems::default() };
    decoder.policy(&root, &mut policy);
    let mut problems = decoder.problems.0;
    if problems.is_empty() {
        return Ok(policy);
    }
    problems.sort_by_key(|problem| problem.span.start);
    Err(problems)
}

struct Decoder {
    problems: Problems,
}

impl Decoder {
    fn policy(&mut self, root: &Value, policy: &mut Policy) {
        let fields = self.problems.fields(root, "the policy", SECTIONS);
        if root.json == Json::Null {
            return;
        }
        self.groups(&fields, policy);
        self.hosts(&fields, policy);
        self.ipsets(&fields, policy);
        self.tag_owners(&fields, policy);
        self.postures(&fields, policy);
        policy.acls = self.rules(&fields, "acls", Self::acl);
        policy.grants = self.rules(&fields, "grants", Self::grant);
        policy.ssh = self.rules(&fields, "ssh", Self::ssh_rule).unwrap_or_default();
        policy.node_attrs = self.rules(&fields, "nodeAttrs", Self::node_attrs).unwrap_or_default();
        policy.tests = self.rules(&fields, "tests", Self::test).unwrap_or_default();
        policy.ssh_tests = self.rules(&fields, "sshTests", Self::ssh_test).unwrap_or_default();
        self.auto_approvers(&fields, policy);
        self.switches(&fields, policy);
        self.derp_map(&fields, policy);
    }

    fn rules<T>(
        &mut self,
        fields: &Fields<'_>,
        name: &'static str,
        mut one: impl FnMut(&mut Self, &Value) -> Option<T>,
    ) -> Option<Vec<T>> {
        let items = self.problems.array(fields.get(name)?, name)?;
        Some(items.iter().filter_map(|item| one(self, item)).collect())
    }

    fn alias(&mut self, text: &Text) -> Option<Alias> {
        match Selector::parse(&text.text) {
            Ok(selector) => Some(Alias { selector, written: text.text.trim().to_owned(), span: text.span }),
            Err(malformed) => {
                self.problems.malformed(text.span, malformed);
                None
            }
        }
    }

    fn aliases(&mut self, value: Option<&Value>, field: &str) -> Vec<Alias> {
        let Some(value) = value else { return Vec::new() };
        let texts = self.problems.strings(value, field);
        texts.iter().filter_map(|text| self.alias(text)).collect()
    }

    fn strings(&mut self, value: Option<&Value>, field: &str) -> Vec<Text> {
        value.map(|value| self.problems.strings(value, field)).unwrap_or_default()
    }

    fn posture_refs(&mut self, value: Option<&Value>, field: &str) -> Option<Vec<PostureRef>> {
        let texts = self.strings(Some(value?), field);
        let mut refs = Vec::new();
        for text in texts {
            if text.text.starts_with("posture:") {
                refs.push(PostureRef::Named(text));
                continue;
            }
            match Assertion::parse(&text.text) {
                Ok(assertion) => refs.push(PostureRef::Inline(assertion)),
                Err(malformed) => self.problems.malformed(text.span, malformed),
            }
        }
        Some(refs)
    }

    fn app(&mut self, value: Option<&Value>) -> Vec<(Text, serde_json::Value)> {
        let Some(members) = value.and_then(|value| self.problems.object(value, "app")) else {
            return Vec::new();
        };
        let mut app = Vec::new();
        for member in members {
            let name = Text { text: member.name.clone(), span: member.name_span };
            match &member.value.json {
                Json::Array(_) | Json::Null => app.push((name, member.value.to_json())),
                Json::Bool(_) | Json::Number(_) | Json::String(_) | Json::Object(_) => {
                    let message = format!("the value of {:?} must be an array", member.name);
                    let fix = "put the value in brackets: [ … ]";
                    self.problems.add(Kind::TypeMismatch, member.value.span, message, fix);
                }
            }
        }
        app
    }
}

/// Returns the span of a field, or of the whole rule when the field is absent.
fn span_of(value: Option<&Value>, rule: Span) -> Span {
    value.map_or(rule, |value| value.span)
}
