//! Every kind of bad policy: what people see. The answers stand in `bad_policies.snap`.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;

use sw_policy::{Compiled, Context, Kind, Policy, Rejection, Role, User, World, policy_tests};
use sw_types::UserId;

const HEAD: &str = r#""groups": {"group:dev": ["ada@x.example"]}, "tagOwners": {"tag:web": []}, "hosts": {"lan": "10.0.0.0/8"}"#;

/// A rule in place of `…`, inside a policy that is otherwise good.
const RULES: &[(&str, &[&str])] = &[
    (
        "acls",
        &[
            r#"{"action": "deny", "src": ["*"], "dst": ["*:*"]}"#,
            r#"{"src": ["*"], "dst": ["*:*"]}"#,
            r#"{"action": "accept", "src": ["tag:wep"], "dst": ["group:def:*", "tag:nope:1", "lam:*"]}"#,
            r#"{"action": "accept", "src": ["x:y"], "dst": ["lan"]}"#,
            r#"{"action": "accept", "src": ["*"], "dst": [":22", "lan:"]}"#,
            r#"{"action": "accept", "src": ["*"], "dst": ["[10.0.0.1]:22"]}"#,
            r#"{"action": "accept", "src": ["*"], "dst": ["autogroup:self", "tag:web"]}"#,
            r#"{"action": "accept", "src": ["*"], "dst": ["lan:90-80", "lan:70000", "lan:0", "lan:1-2-3", "lan:ssh"]}"#,
            r#"{"action": "accept", "src": ["*"], "dst": ["*:*"], "proto": "*"}"#,
            r#"{"action": "accept", "src": ["*"], "dst": ["*:*"], "proto": "06"}"#,
            r#"{"action": "accept", "src": ["*"], "dst": ["*:*"], "proto": "300"}"#,
            r#"{"action": "accept", "src": ["*"], "dst": ["*:*"], "proto": "quic"}"#,
            r#"{"action": "accept", "src": ["*"], "dst": ["*:22"], "proto": "icmp"}"#,
            r#"{"action": "accept", "src": ["autogroup:self"], "dst": ["*:*"]}"#,
            r#"{"action": "accept", "src": ["autogroup:internet"], "dst": ["autogroup:danger-all:*"]}"#,
            r#"{"action": "accept", "src": ["autogroup:robots"], "dst": ["*:*"]}"#,
            r#"{"action": "accept", "src": ["tag:web"], "dst": ["autogroup:self:*"]}"#,
            r#"{"action": "accept", "src": ["ipset:x"], "dst": ["*:*"], "srcPosture": ["posture:x"]}"#,
            r#"{"action": "accept", "src": ["*"], "users": ["*"], "dst": ["*:*"], "color": 1}"#,
            r#"{"action": "accept", "src": "*", "dst": [22]}"#,
        ],
    ),
    (
        "grants",
        &[
            r#"{"src": ["*"], "dst": ["*"]}"#,
            r#"{"src": ["*"], "dst": ["*"], "ip": ["icmp", "tcp:1:2", "tcp:0"]}"#,
            r#"{"src": ["*"], "dst": ["0.0.0.0/0"], "ip": ["*"]}"#,
            r#"{"src": ["*"], "dst": ["autogroup:internet"], "app": {"x.example/cap/a": []}}"#,
            r#"{"src": ["*"], "dst": ["*"], "app": {"https://x.example/a": [], "tailscale.com/cap/magic": [], "plain": []}}"#,
            r#"{"src": ["*"], "dst": ["lan"], "ip": ["*"], "via": ["ada@x.example"]}"#,
            r#"{"src": ["*"], "dst": ["lan"], "ip": ["*"], "via": ["tag:gone"]}"#,
            r#"{"src": ["*"], "dst": ["autogroup:self"], "ip": ["*"]}"#,
            r#"{"src": ["twin@"], "dst": ["*"], "ip": ["*"]}"#,
            r#"{"src": ["user:*@other.example"], "dst": ["*"], "ip": ["*"]}"#,
        ],
    ),
    (
        "ssh",
        &[
            r#"{"src": ["group:dev"], "dst": ["tag:web"], "users": ["root"]}"#,
            r#"{"action": "allow", "src": ["group:dev"], "dst": ["tag:web"], "users": ["root"]}"#,
            r#"{"action": "accept", "src": ["*"], "dst": ["*", "lan"], "users": ["root"]}"#,
            r#"{"action": "accept", "src": ["group:dev"], "dst": ["tag:web"]}"#,
            r#"{"action": "accept", "src": ["group:dev"], "dst": ["tag:web"], "users": ["*", ""]}"#,
            r#"{"action": "accept", "src": ["group:dev"], "dst": ["tag:web"], "users": ["root"], "acceptEnv": [""]}"#,
            r#"{"action": "accept", "src": ["group:dev"], "dst": ["tag:web"], "users": ["root"], "checkPeriod": "1h"}"#,
            r#"{"action": "check", "src": ["group:dev"], "dst": ["tag:web"], "users": ["root"], "checkPeriod": "169h"}"#,
            r#"{"action": "check", "src": ["group:dev"], "dst": ["tag:web"], "users": ["root"], "checkPeriod": "-1m"}"#,
            r#"{"action": "check", "src": ["group:dev"], "dst": ["tag:web"], "users": ["root"], "checkPeriod": "soon"}"#,
            r#"{"action": "accept", "src": ["tag:web"], "dst": ["ada@x.example", "autogroup:self"], "users": ["root"]}"#,
            r#"{"action": "accept", "src": ["group:dev"], "dst": ["ada@x.example"], "users": ["root"]}"#,
            r#"{"action": "accept", "src": ["group:dev"], "dst": ["tag:web"], "users": ["localpart:*@other.example"]}"#,
        ],
    ),
    (
        "nodeAttrs",
        &[
            r#"{"target": ["x:y", "autogroup:self"], "attr": ["a"]}"#,
            r#"{"target": ["*"], "ipPool": ["10.0.0.0/8", "100.100.100.0/28", "fd7a::/48"]}"#,
        ],
    ),
    (
        "tests",
        &[r#"{"src": "ada@x.example", "accept": ["lan:22"]}"#, r#"{"src": "", "deny": ["10.0.0.1:22"]}"#],
    ),
    (
        "sshTests",
        &[r#"{"src": "ada@x.example", "dst": ["autogroup:internet", "tag:gone"], "accept": ["root"]}"#],
    ),
];

/// Whole policies.
const POLICIES: &[&str] = &[
    "",
    " ",
    "{\"acls\": [",
    "{\"acls\": [1 2]}",
    "{'acls': []}",
    "{acls: []}",
    "# no\n{}",
    "{\"acls\": [,]}",
    "{\"acls\": []} x",
    "{\"acls\": [], \"ACLs\": []}",
    "{\"groups\": {}, \"groups\": {}}",
    "{\"hosts\": {\"a\": \"\\x\"}}",
    "{/* open",
    "{\"aclz\": []}",
    "{\"extraDNSRecords\": []}",
    "{\"randomizeClientPort\": 1}",
    "{\"groups\": {\"dev\": [], \"group:a\": \"ada@x.example\", \"group:b\": [\"ada\", \"group:a\"]}}",
    "{\"hosts\": {\"a@b\": \"10.0.0.1\", \"c\": \"10.0.0.300\"}}",
    "{\"tagOwners\": {\"tag:1\": [], \"web\": [], \"tag:a\": [\"tag:gone\", \"*\", \"group:gone\"]}}",
    "{\"ipsets\": {\"x\": [], \"ipset:a\": [\"add ipset:b\"], \"ipset:b\": [\"ipset:a\", \"tag:x\", \"ipset:c\", \"h\"]}}",
    "{\"postures\": {\"x\": [], \"posture:a\": [\"node:os = 'linux'\"]}, \"defaultSrcPosture\": [\"posture:b\"]}",
    "{\"autoApprovers\": {\"routes\": {\"x\": [\"*\"]}, \"exitNode\": [\"autogroup:tagged\"], \"services\": {\"a\": []}}}",
    "{\"autoApprovers\": {\"routes\": {\"10.0.0.0/8\": [\"autogroup:tagged\", \"tag:gone\"]}}}",
    "{\"derpMap\": {\"Regions\": {\"home\": {\"Zone\": 1}}}, \"OneCGNATRoute\": \"always\"}",
];

fn refuse(text: &str, world: &World) -> Option<Rejection> {
    let domains = ["x.example".to_owned()];
    let policy = match Policy::parse(text, Context { world, domains: Some(&domains) }) {
        Ok(policy) => policy,
        Err(rejection) => return Some(rejection),
    };
    let failed = policy_tests::run(&Compiled::new(&Arc::new(policy), world));
    (!failed.is_empty()).then(|| Rejection::new(text, failed))
}

#[test]
fn every_kind_of_mistake_says_where_what_and_the_way_out() {
    let mut world = World::default();
    for id in 1..=2 {
        let user = User {
            id: UserId(id),
            name: "twin".to_owned(),
            email: format!("twin{id}@x.example"),
            provider: String::new(),
            role: Role::Member,
            groups: Vec::new(),
        };
        world.users.insert(user.id, Arc::new(user));
    }
    let wrapped = RULES.iter().flat_map(|(section, rules)| {
        rules.iter().map(move |rule| format!("{{\n  {HEAD},\n  \"{section}\": [\n    {rule},\n  ],\n}}"))
    });
    let mut report = String::new();
    let mut kinds = BTreeSet::new();
    for text in POLICIES.iter().map(|text| (*text).to_owned()).chain(wrapped) {
        let Some(rejection) = refuse(&text, &world) else {
            writeln!(report, "== {text:?}\nvalid\n").unwrap();
            continue;
        };
        kinds.extend(rejection.problems().iter().map(|problem| problem.kind));
        assert!(rejection.problems().iter().all(|problem| !problem.fix.is_empty()), "{text}");
        let names: Vec<&str> = rejection.problems().iter().map(|problem| problem.kind.name()).collect();
        writeln!(report, "== {}\n{}", names.join(", "), rejection.report()).unwrap();
    }
    let missing: Vec<&Kind> = Kind::ALL.iter().filter(|kind| !kinds.contains(kind)).collect();
    assert!(missing.is_empty(), "no bad policy shows {missing:?}");
    insta::with_settings!({omit_expression => true, prepend_module_to_snapshot => false, snapshot_path => "."}, {
        insta::assert_snapshot!("bad_policies", report);
    });
}

#[test]
fn any_text_as_a_policy_gives_an_answer() {
    let pieces = [
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\"acls\"",
        "\"grants\"",
        "\"src\"",
        "\"dst\"",
        "\"ssh\"",
        "\"groups\"",
        "\"group:a\"",
        "\"tagOwners\"",
        "\"tag:a\"",
        "\"ipsets\"",
        "\"ipset:a\"",
        "\"autogroup:self\"",
        "\"*\"",
        "\"a@b\"",
        "\"10.0.0.0/8\"",
        "\"1.1.1.1-1.1.1.9\"",
        "\"tests\"",
        "\"accept\"",
        "\"users\"",
        "\"action\"",
        "1",
        "null",
        "true",
        "\"postures\"",
        "\"posture:a\"",
        "\"node:os == 'x'\"",
        "\"nodeAttrs\"",
        "\"target\"",
        "\"ip\"",
    ];
    let world = World::default();
    arbtest::arbtest(|u| {
        let mut text = String::new();
        for _ in 0..u.int_in_range(0..=60)? {
            text.push_str(u.choose(&pieces)?);
        }
        for text in [text, u.arbitrary::<String>()?] {
            if let Some(rejection) = refuse(&text, &world) {
                assert!(!rejection.report().is_empty());
            }
        }
        Ok(())
    });
}
