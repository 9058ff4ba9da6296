//! SSH sessions that wait for a person (check mode: policy.md §12, control.md §5.11).
//!
//! A machine at which a session arrives asks here. If the person behind the session has not shown lately that they are
//! there, it is told of a page to send them to, and asks again until somebody has answered there. All of this may be
//! lost: after a restart people are asked once more.

use std::collections::BTreeMap;
use std::time::Duration;

use sw_types::{Instant, InviteToken, MachineKey, NodeId, Now, UnixTime, UserId};

use crate::admin::{Done, Refusal};
use crate::record::Audit;
use crate::rules::SshCheck;
use crate::tailnet::{Output, Tailnet, Ticket};

/// How long a question is open: as long as the official client waits (control.md §5.11).
const LIFETIME: Duration = Duration::from_secs(30 * 60);

/// Most open questions; beyond it the oldest give way.
const COUNT_MAX: usize = 1_000;

/// Most waiting answers of one question: a client asks again after each broken connection.
const TICKETS_MAX: usize = 4;

/// A session that wants to begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshSession {
    /// The machine it comes from.
    pub src: NodeId,
    /// The machine it goes to.
    pub dst: NodeId,
    /// The account on `dst`.
    pub login: String,
}

/// A question that is open, or was answered a moment ago.
#[derive(Debug, Clone)]
pub struct Check {
    /// The unguessable part of the page's URL.
    pub id: String,
    /// What is asked about.
    pub session: SshSession,
    /// Who must answer.
    pub person: UserId,
    /// When it was asked first.
    pub created: UnixTime,
    /// The answer, once there is one.
    pub allowed: Option<bool>,
    /// Whether a session has begun by it: an answer is good once.
    used: bool,
    until: Instant,
    tickets: Vec<Ticket>,
}

/// What a machine is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckDecision {
    /// The session may begin.
    Accept,
    /// It may not, and why.
    Refuse(&'static str),
    /// The person must answer at the page of this check.
    Ask(String),
    /// [`Output::Checked`] will come.
    Later,
}

/// What somebody answers.
#[derive(Debug, Clone)]
pub struct CheckAnswer {
    /// The check's id.
    pub check: String,
    /// The person who answers; `None` is an operator.
    pub by: Option<UserId>,
    /// Whether the session may begin.
    pub allowed: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Checks {
    by_id: BTreeMap<String, Check>,
    /// When the person at a machine last said that a session is theirs.
    passed: BTreeMap<NodeId, Instant>,
    /// Answers whose entry in the log is not yet kept.
    unkept: Vec<String>,
}

impl Checks {
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.by_id.values().map(|check| check.until).min()
    }

    /// Drops questions that are too old; whoever waits is told no.
    pub(crate) fn expire(&mut self, now: Now) -> Vec<Ticket> {
        let old = self.by_id.extract_if(.., |_, check| check.until <= now.mono);
        old.flat_map(|(_, check)| check.tickets).collect()
    }

    pub(crate) fn kept(&mut self) {
        self.unkept.clear();
    }

    /// Answers that could not be kept were none.
    pub(crate) fn rolled_back(&mut self) {
        for id in std::mem::take(&mut self.unkept) {
            if let Some(check) = self.by_id.get_mut(&id) {
                (check.allowed, check.used) = (None, false);
                self.passed.remove(&check.session.src);
            }
        }
    }

    fn is_fresh(&self, src: NodeId, period: SshCheck, now: Now) -> bool {
        match period {
            SshCheck::Always => false,
            SshCheck::For(period) => self.passed.get(&src).is_some_and(|at| now.mono - *at < period),
        }
    }

    fn insert(&mut self, check: Check) {
        while self.by_id.len() >= COUNT_MAX {
            let Some(oldest) = self.by_id.values().min_by_key(|c| c.until).map(|c| c.id.clone()) else {
                break;
            };
            self.by_id.remove(&oldest);
        }
        self.by_id.insert(check.id.clone(), check);
    }
}

impl Tailnet {
    /// The device `machine` asks whether a session may begin. `waiting` is the check it was told of, and `ticket` the
    /// name of an answer that may come later.
    pub fn on_ssh_check(
        &mut self,
        machine: MachineKey,
        session: SshSession,
        waiting: Option<&str>,
        ticket: Ticket,
        now: Now,
    ) -> CheckDecision {
        self.settle(now);
        let is_asker = self.state.node(session.dst).is_some_and(|node| node.machine_key == machine);
        if !is_asker {
            return CheckDecision::Refuse("only the machine that the session goes to may ask");
        }
        let Some(person) = self.state.node(session.src).and_then(crate::record::Node::user) else {
            return CheckDecision::Refuse("nobody stands behind the machine that the session comes from");
        };
        let Some(period) = self.ssh_check(session.src, session.dst, &session.login) else {
            return CheckDecision::Refuse("the policy does not allow this session");
        };
        if self.checks.is_fresh(session.src, period, now) {
            return CheckDecision::Accept;
        }
        if let Some(check) = waiting.and_then(|id| self.checks.by_id.get_mut(id)) {
            if check.session != session || check.person != person {
                return CheckDecision::Refuse("that question was about another session");
            }
            let Some(allowed) = check.allowed else {
                check.tickets.push(ticket);
                if check.tickets.len() > TICKETS_MAX {
                    check.tickets.remove(0);
                }
                return CheckDecision::Later;
            };
            if !std::mem::replace(&mut check.used, true) {
                return decided(allowed);
            }
        }
        let open = self.checks.by_id.values().find(|c| c.session == session && c.allowed.is_none());
        if let Some(check) = open.filter(|check| check.person == person) {
            return CheckDecision::Ask(check.id.clone());
        }
        let id = InviteToken::from_bytes(self.rng.bytes()).to_text().expose().clone();
        self.checks.insert(Check {
            id: id.clone(),
            session,
            person,
            created: now.wall,
            allowed: None,
            used: false,
            until: now.mono + LIFETIME,
            tickets: Vec::new(),
        });
        CheckDecision::Ask(id)
    }

    /// A question that is open or was answered a moment ago.
    pub fn check(&self, id: &str) -> Option<&Check> {
        self.checks.by_id.get(id)
    }

    /// All of them.
    pub fn checks(&self) -> impl Iterator<Item = &Check> {
        self.checks.by_id.values()
    }

    /// Answers a question.
    pub(crate) fn answer_check(
        &mut self,
        actor: &str,
        answer: &CheckAnswer,
        now: Now,
    ) -> Result<Done, Refusal> {
        let CheckAnswer { check: id, by, allowed } = answer;
        let (by, allowed) = (*by, *allowed);
        let check = self.checks.by_id.get_mut(id);
        let check = check.ok_or_else(|| Refusal::NotFound { what: "SSH session", word: id.clone() })?;
        if by.is_some_and(|by| by != check.person) {
            let why = "only the person whose machine the session comes from can allow it".to_owned();
            return Err(Refusal::Forbidden(why));
        }
        if check.allowed.is_some() {
            return Ok(Done::Changed);
        }
        let (session, tickets) = (check.session.clone(), std::mem::take(&mut check.tickets));
        (check.allowed, check.used) = (Some(allowed), !tickets.is_empty());
        self.checks.unkept.push(id.clone());
        if allowed {
            self.checks.passed.insert(session.src, now.mono);
        }
        self.outputs.extend(tickets.into_iter().map(|ticket| Output::Checked { ticket, allowed }));
        let label = |node: NodeId| self.state.node(node).map(|n| n.label.clone()).unwrap_or_default();
        let audit = Audit {
            what: if allowed { "ssh.allow" } else { "ssh.refuse" }.to_owned(),
            target: label(session.dst),
            old: None,
            new: Some(format!("from {} as {}", label(session.src), session.login)),
        };
        self.record(actor, vec![audit], Vec::new(), now);
        Ok(Done::Changed)
    }
}

fn decided(allowed: bool) -> CheckDecision {
    if allowed { CheckDecision::Accept } else { CheckDecision::Refuse("the person said no") }
}
