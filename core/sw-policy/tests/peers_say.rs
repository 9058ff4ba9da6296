//! What peers that are checked against the hosted service do where policy.md leaves it open.

use serde_json::{Value, json};

/// Returns what one machine gets of a policy over the machines of policy-cases.json.
fn of_machine(policy: &Value, name: &str) -> Value {
    let cases: Value = serde_json::from_str(include_str!("policy-cases.json")).expect("JSON");
    let (users, nodes) = (&cases["defaults"]["users"], &cases["defaults"]["nodes"]);
    let input = json!({"policy": policy, "users": users, "nodes": nodes}).to_string();
    let output = serde_json::to_value(sw_policy::conform::answer(&input).expect("a document")).expect("JSON");
    assert_eq!(output["error"], Value::Null);
    output["nodes"][name].clone()
}

#[test]
fn a_capability_for_everybody_reverses_without_the_subnet_routes() {
    let policy = json!({
        "tagOwners": {"tag:db": []},
        "grants": [{"src": ["*"], "dst": ["tag:db"], "app": {"tailscale.com/cap/drive": [{}]}}],
    });
    let router = of_machine(&policy, "rtr1");
    let companion = &router["packetFilter"][0]["CapGrant"][0];
    assert_eq!(companion["CapMap"], json!({"tailscale.com/cap/drive-sharer": null}));
    assert_eq!(companion["Dsts"], json!(["100.70.8.1/32", "fd7a:115c:a1e0::801/128"]));
}

#[test]
fn own_and_other_destinations_of_an_ssh_rule_are_two_parts() {
    let rules = |dst: Value| {
        let policy = json!({
            "tagOwners": {"tag:db": []},
            "ssh": [{"action": "accept", "src": ["alice@corp.example"], "dst": dst,
                     "users": ["localpart:*@corp.example"]}],
        });
        of_machine(&policy, "alice-pc")["sshPolicy"]["rules"].clone()
    };
    let one = rules(json!(["autogroup:self"]));
    assert_eq!(one.as_array().unwrap().len(), 2);
    let both = rules(json!(["autogroup:self", "tag:db"]));
    assert_eq!(
        both,
        Value::Array([one.as_array().unwrap().clone(), one.as_array().unwrap().clone()].concat())
    );
}
