//! The SSH policy of one machine (policy.md §12).

use std::collections::BTreeMap;
use std::sync::Arc;

use sw_types::{NodeId, UserId};

use super::{Compiled, NodeState};
use crate::alias::Selector;
use crate::model::{CheckPeriod, SshAction, SshRule as PolicyRule, SshUserKind};
use crate::plan::SshPlan;
use crate::rule::{Recording, Sources, SshPolicy, SshRule, SshVerdict};

/// Twelve hours, how long a check of the person holds when the rule says nothing.
const CHECK_PERIOD_DEFAULT: CheckPeriod = CheckPeriod::Nanoseconds(12 * 3_600 * 1_000_000_000);
const RECORDER_PORT: u16 = 80;

/// One policy rule as it applies to a machine.
struct Emit<'s> {
    rule: &'s PolicyRule,
    verdict: SshVerdict,
    out: &'s mut Vec<SshRule>,
}

impl Compiled {
    /// Returns the SSH policy of a machine; `base` is the server's URL, for rules that check the person.
    #[must_use]
    pub fn ssh(&self, node: NodeId, base: &str) -> SshPolicy {
        let mut checks = Vec::new();
        let mut accepts = Vec::new();
        if let Some(node) = self.node(node) {
            for plan in &self.plan.ssh {
                let Some(rule) = self.plan.policy.ssh.get(plan.rule) else { continue };
                let out = if rule.action == SshAction::Check { &mut checks } else { &mut accepts };
                self.ssh_rule(node, plan, Emit { rule, verdict: self.verdict(rule, base), out });
            }
        }
        checks.extend(accepts);
        SshPolicy { rules: checks }
    }

    fn verdict(&self, rule: &PolicyRule, base: &str) -> SshVerdict {
        if rule.action == SshAction::Check {
            return SshVerdict::Check(format!(
                "{base}/machine/ssh/action/$SRC_NODE_ID/to/$DST_NODE_ID?local_user=$LOCAL_USER"
            ));
        }
        SshVerdict::Accept(Recording {
            recorders: self.recorders(rule),
            is_enforced: rule.enforce_recorder && !rule.recorders.is_empty(),
        })
    }

    fn recorders(&self, rule: &PolicyRule) -> Vec<String> {
        let mut found = Vec::new();
        for alias in &rule.recorders {
            if let Selector::Tag(tag) = &alias.selector {
                let tagged = self.nodes.iter().filter(|node| node.facts.tags.contains(tag));
                found.extend(tagged.flat_map(|node| node.facts.addresses.iter().copied()));
            } else if let Selector::Range(range) = &alias.selector {
                found.push(range.first());
            }
        }
        found.into_iter().map(|addr| std::net::SocketAddr::new(addr, RECORDER_PORT).to_string()).collect()
    }

    fn ssh_rule(&self, node: &NodeState, plan: &SshPlan, mut emit: Emit<'_>) {
        let set = self.set(plan.set);
        if set.members.is_empty() {
            return;
        }
        let domains: Vec<&str> = emit
            .rule
            .users
            .iter()
            .filter_map(|user| match &user.kind {
                SshUserKind::LocalpartOf(domain) => Some(domain.as_str()),
                SshUserKind::Root | SshUserKind::NonRoot | SshUserKind::Literal(_) => None,
            })
            .collect();
        let owner = node.facts.owner();
        let is_self = plan.has_self && owner.is_some();
        let is_dst = plan.dst.iter().any(|sel| node.sels.binary_search(sel).is_ok());
        if let (true, Some(owner)) = (is_self, owner) {
            self.for_user(owner, plan, &domains, &mut emit);
        }
        if is_dst && domains.is_empty() {
            let principals = if plan.counts_tags {
                self.principals(set.members.iter().filter_map(|id| self.node(*id)), true)
            } else {
                Arc::clone(&set.strings)
            };
            emit.common(principals);
        } else if is_dst {
            self.for_each_source(plan, &domains, &mut emit);
        }
        let is_source = node.member_of.binary_search(&plan.set).is_ok();
        // What the rule says of others is a part of its own, which a source hears of even where it is no destination.
        let has_others = !is_self || !plan.dst.is_empty();
        if has_others && !is_dst && !domains.is_empty() && is_source {
            match owner {
                Some(owner) => self.for_user(owner, plan, &domains, &mut emit),
                None => emit.common(self.principals([node].into_iter(), plan.counts_tags)),
            }
        }
    }

    /// Emits the rules for the sources that belong to one person.
    fn for_user(&self, user: UserId, plan: &SshPlan, domains: &[&str], emit: &mut Emit<'_>) {
        let own = self.owned(user).iter().filter_map(|id| self.node(*id));
        let principals =
            self.principals(own.filter(|node| node.member_of.binary_search(&plan.set).is_ok()), false);
        if principals.is_empty() {
            return;
        }
        emit.common(Arc::clone(&principals));
        let login = self.people.users.get(&user).map(|user| user.login());
        let Some((local, domain)) = login.and_then(|login| login.rsplit_once('@')) else { return };
        if domains.iter().any(|own| own.eq_ignore_ascii_case(domain)) {
            emit.with_users(principals, BTreeMap::from([(local.to_owned(), local.to_owned())]));
        }
    }

    /// Emits the rules split by person, tagged sources last.
    fn for_each_source(&self, plan: &SshPlan, domains: &[&str], emit: &mut Emit<'_>) {
        let members = &self.set(plan.set).members;
        let sources: Vec<&NodeState> = members.iter().filter_map(|id| self.node(*id)).collect();
        let mut users: Vec<UserId> = sources.iter().filter_map(|node| node.facts.owner()).collect();
        users.sort_unstable();
        users.dedup();
        for user in users {
            self.for_user(user, plan, domains, emit);
        }
        let tagged = sources.into_iter().filter(|node| node.facts.owner().is_none());
        let principals = self.principals(tagged, plan.counts_tags);
        if !principals.is_empty() {
            emit.common(principals);
        }
    }

    fn principals<'n>(&self, nodes: impl Iterator<Item = &'n NodeState>, counts_tags: bool) -> Sources {
        let mut texts: Vec<Arc<str>> = Vec::new();
        for node in nodes {
            let times = if counts_tags { node.facts.tags.len().max(1) } else { 1 };
            for (text, _) in &node.texts {
                texts.extend(std::iter::repeat_n(text, times).cloned());
            }
        }
        texts.sort_unstable();
        Arc::new(texts)
    }

    /// Returns how long a check of the person holds for a session from `src` to `dst` as `login`, if a rule wants
    /// one: the first matching rule in the order in which the machine sees them decides.
    #[must_use]
    pub fn ssh_check(&self, src: NodeId, dst: NodeId, login: &str) -> Option<CheckPeriod> {
        let (src, dst) = (self.node(src)?, self.node(dst)?);
        for plan in &self.plan.ssh {
            let Some(rule) = self.plan.policy.ssh.get(plan.rule) else { continue };
            if rule.action != SshAction::Check {
                continue;
            }
            let mut out = Vec::new();
            self.ssh_rule(dst, plan, Emit { rule, verdict: SshVerdict::Check(String::new()), out: &mut out });
            let matches = |rule: &SshRule| {
                src.texts.iter().any(|(text, _)| rule.principals.binary_search(text).is_ok())
                    && allows_login(&rule.users, login)
            };
            if out.iter().any(matches) {
                return Some(rule.check_period.map_or(CHECK_PERIOD_DEFAULT, |(period, _)| period));
            }
        }
        None
    }
}

impl Emit<'_> {
    fn common(&mut self, principals: Sources) {
        let users = common_users(self.rule);
        self.with_users(principals, users);
    }

    fn with_users(&mut self, principals: Sources, users: BTreeMap<String, String>) {
        self.out.push(SshRule {
            principals,
            users,
            action: self.verdict.clone(),
            accept_env: self.rule.accept_env.iter().map(|text| text.text.clone()).collect(),
        });
    }
}

fn common_users(rule: &PolicyRule) -> BTreeMap<String, String> {
    let mut users = BTreeMap::from([("root".to_owned(), String::new())]);
    for user in &rule.users {
        match &user.kind {
            SshUserKind::Root => {
                users.insert("root".to_owned(), "root".to_owned());
            }
            SshUserKind::NonRoot => {
                users.insert("*".to_owned(), "=".to_owned());
            }
            SshUserKind::Literal(name) => {
                users.insert(name.clone(), name.clone());
            }
            SshUserKind::LocalpartOf(_) => {}
        }
    }
    users
}

/// Reports whether a rule lets a login in, as clients judge it: by its own key, then by `*`.
pub(crate) fn allows_login(users: &BTreeMap<String, String>, login: &str) -> bool {
    users.get(login).or_else(|| users.get("*")).is_some_and(|local| !local.is_empty())
}
