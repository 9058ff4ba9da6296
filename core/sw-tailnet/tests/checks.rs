//! Check mode: a person is asked before an SSH session of theirs begins, once in a period, and nobody else can answer.
#![expect(clippy::unwrap_used, reason = "tests, in their helpers too")]

mod common;

use std::sync::Arc;
use std::time::Duration;

use sw_tailcfg::{Hostinfo, RegisterAuth, RegisterRequest};
use sw_tailnet::{
    CheckAnswer, CheckDecision, Command, Done, NewAuthKey, Output, PolicyEngine, Refusal, Registered,
    SshSession, Tailnet,
};
use sw_types::{CapVer, MachineKey, NodeId, NodeKey, Now, Secret, UserId};

use common::{URL, network, start};

const POLICY: &str = r#"{
    "tagOwners": {"tag:web": []},
    "grants": [{"src": ["*"], "dst": ["*"], "ip": ["*"]}],
    "ssh": [
        {"action": "check", "src": ["ada@example.com"], "dst": ["tag:web"], "users": ["root"], "checkPeriod": "1h"},
        {"action": "check", "src": ["ada@example.com"], "dst": ["tag:web"], "users": ["vault"], "checkPeriod": "always"},
    ],
}"#;

const LAPTOP: u8 = 1;
const WEB: u8 = 2;
const BENS: u8 = 3;

struct Stage {
    tailnet: Tailnet,
    now: Now,
    ticket: u64,
}

impl Stage {
    fn new() -> Self {
        let tailnet = network(Arc::new(PolicyEngine::new(URL)), &["ada", "ben"]);
        let mut stage = Self { tailnet, now: start(), ticket: 0 };
        stage.execute(Command::SetPolicy { text: Some(POLICY.to_owned()), expect: None }).unwrap();
        stage.join(LAPTOP, Some(UserId(1)), &[]);
        stage.join(WEB, None, &["tag:web"]);
        stage.join(BENS, Some(UserId(2)), &[]);
        stage
    }

    fn execute(&mut self, command: Command) -> Result<Done, Refusal> {
        let done = self.tailnet.execute("test", command, self.now);
        self.commit();
        done
    }

    fn commit(&mut self) {
        drop(self.tailnet.take_uncommitted());
        self.tailnet.committed();
    }

    fn join(&mut self, n: u8, user: Option<UserId>, tags: &[&str]) {
        let tags = tags.iter().map(|tag| (*tag).to_owned()).collect();
        let key = NewAuthKey { user, tags, preapproved: true, ..NewAuthKey::default() };
        let Done::Secret { text, .. } = self.execute(Command::CreateAuthKey(key)).unwrap() else {
            panic!("a key is a secret");
        };
        let request = RegisterRequest {
            version: CapVer(130),
            node_key: NodeKey::from_bytes([n; 32]),
            auth: Some(RegisterAuth { auth_key: Secret::new(text.expose().clone()) }),
            hostinfo: Some(Arc::new(Hostinfo { hostname: format!("m{n}"), ..Hostinfo::default() })),
            ..RegisterRequest::default()
        };
        let Registered::Now(answer) = self.tailnet.on_register(machine(n), &request, 0, self.now) else {
            panic!("a key decides at once");
        };
        assert!(answer.machine_authorized, "{}", answer.error);
        self.commit();
    }

    fn ask(&mut self, asker: u8, src: u8, login: &str, waiting: Option<&str>) -> CheckDecision {
        self.ticket += 1;
        let session =
            SshSession { src: NodeId(src.into()), dst: NodeId(WEB.into()), login: login.to_owned() };
        self.tailnet.on_ssh_check(machine(asker), session, waiting, self.ticket, self.now)
    }

    /// The check that a session must wait for.
    fn asked(&mut self, login: &str) -> String {
        match self.ask(WEB, LAPTOP, login, None) {
            CheckDecision::Ask(id) => id,
            CheckDecision::Accept | CheckDecision::Refuse(_) | CheckDecision::Later => panic!("it must ask"),
        }
    }

    fn answer(&mut self, check: &str, by: i64, allowed: bool) -> Result<Done, Refusal> {
        self.execute(Command::AnswerCheck(CheckAnswer {
            check: check.to_owned(),
            by: Some(UserId(by)),
            allowed,
        }))
    }

    fn heard(&mut self) -> Vec<(u64, bool)> {
        let outputs = std::iter::from_fn(|| self.tailnet.poll_output(self.now));
        let checked = |output| match output {
            Output::Checked { ticket, allowed } => Some((ticket, allowed)),
            Output::Map { .. } | Output::End { .. } | Output::Registered { .. } => None,
        };
        outputs.filter_map(checked).collect()
    }

    fn later(&mut self, seconds: u64) {
        self.now = self.now.after(Duration::from_secs(seconds));
        self.tailnet.on_deadline(self.now);
    }
}

fn machine(n: u8) -> MachineKey {
    MachineKey::from_bytes([n; 32])
}

#[test]
fn a_person_is_asked_once_in_a_period() {
    let mut stage = Stage::new();
    let check = stage.asked("root");
    assert_eq!(stage.asked("root"), check, "the same session, the same question");
    assert_eq!(stage.ask(WEB, LAPTOP, "root", Some(&check)), CheckDecision::Later);
    assert!(stage.heard().is_empty());
    stage.answer(&check, 1, true).unwrap();
    assert_eq!(stage.heard(), [(stage.ticket, true)]);

    stage.later(3_599);
    assert_eq!(stage.ask(WEB, LAPTOP, "root", None), CheckDecision::Accept);
    stage.later(2);
    assert_ne!(stage.asked("root"), check);
}

#[test]
fn a_rule_that_always_asks_takes_each_answer_once() {
    let mut stage = Stage::new();
    let check = stage.asked("vault");
    stage.answer(&check, 1, true).unwrap();
    assert_eq!(stage.ask(WEB, LAPTOP, "vault", Some(&check)), CheckDecision::Accept);
    let next = stage.asked("vault");
    assert_ne!(next, check);
    assert_eq!(stage.ask(WEB, LAPTOP, "vault", Some(&next)), CheckDecision::Later);
    stage.answer(&next, 1, true).unwrap();
    assert_eq!(stage.heard(), [(stage.ticket, true)]);
    let third = stage.ask(WEB, LAPTOP, "vault", Some(&next));
    assert!(matches!(&third, CheckDecision::Ask(id) if *id != next), "{third:?}");
}

#[test]
fn only_the_person_can_answer_and_only_the_machine_can_ask() {
    let mut stage = Stage::new();
    let check = stage.asked("root");
    assert!(matches!(stage.answer(&check, 2, true), Err(Refusal::Forbidden(_))));
    assert!(matches!(stage.answer("another", 1, true), Err(Refusal::NotFound { .. })));
    let refused = |decision| matches!(decision, CheckDecision::Refuse(_));
    assert!(refused(stage.ask(BENS, LAPTOP, "root", None)), "another machine asks");
    assert!(refused(stage.ask(WEB, BENS, "root", None)), "no rule lets ben in");
    assert!(refused(stage.ask(WEB, WEB, "root", None)), "nobody stands behind a tagged machine");
    assert!(refused(stage.ask(WEB, LAPTOP, "vault", Some(&check))), "an answer about another session");
    stage.answer(&check, 1, false).unwrap();
    assert!(refused(stage.ask(WEB, LAPTOP, "root", Some(&check))));
    assert!(matches!(stage.ask(WEB, LAPTOP, "root", None), CheckDecision::Ask(_)), "a no is not for ever");
}

#[test]
fn an_answer_that_cannot_be_kept_is_none_and_a_question_ends_by_itself() {
    let mut stage = Stage::new();
    let check = stage.asked("root");
    assert_eq!(stage.ask(WEB, LAPTOP, "root", Some(&check)), CheckDecision::Later);
    let yes = Command::AnswerCheck(CheckAnswer { check: check.clone(), by: None, allowed: true });
    stage.tailnet.execute("test", yes, stage.now).unwrap();
    drop(stage.tailnet.take_uncommitted());
    stage.tailnet.rolled_back(stage.now);
    assert!(stage.heard().is_empty());
    assert_eq!(stage.ask(WEB, LAPTOP, "root", Some(&check)), CheckDecision::Later);
    stage.later(30 * 60);
    assert_eq!(stage.heard(), [(stage.ticket, false)]);
    assert!(stage.tailnet.check(&check).is_none());
}
