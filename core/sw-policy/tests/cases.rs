//! Every case of `policy-cases.json` through the conformance interface.

use serde_json::{Map, Value};

#[test]
fn every_case_gives_what_it_expects() {
    let cases: Value = serde_json::from_str(include_str!("policy-cases.json")).unwrap();
    let mut failures = Vec::new();
    let all = cases["cases"].as_array().unwrap();
    assert_eq!(all.len(), 78, "the file holds all cases");
    for case in all {
        let mut input: Map<String, Value> = case["input"].as_object().unwrap().clone();
        for part in ["users", "nodes"] {
            input.entry(part).or_insert_with(|| cases["defaults"][part].clone());
        }
        let document = serde_json::to_string(&input).unwrap();
        let output = sw_policy::conform::answer(&document).unwrap();
        let output: Value = serde_json::to_value(output).unwrap();
        if let Err(why) = compare(&case["expect"], &output) {
            failures.push(format!("{}: {why}", case["name"]));
        }
    }
    assert!(failures.is_empty(), "{} cases fail:\n{}", failures.len(), failures.join("\n"));
}

fn compare(expect: &Value, output: &Value) -> Result<(), String> {
    match expect.get("error") {
        Some(error) => {
            let message = output["error"]["message"].as_str().unwrap_or_default();
            if output["error"]["kind"] != error["kind"]
                || !message.contains(error["contains"].as_str().expect("a text"))
            {
                return Err(format!("expected {error}, got {}", output["error"]));
            }
        }
        None if !output["error"].is_null() => return Err(format!("unexpected {}", output["error"])),
        None => {}
    }
    let Some(nodes) = expect.get("nodes").and_then(Value::as_object) else { return Ok(()) };
    for (node, fields) in nodes {
        for (field, wanted) in fields.as_object().expect("fields of a node") {
            let got = &output["nodes"][node][field];
            if got != wanted {
                return Err(format!("{node}.{field}:\n  wanted {wanted}\n  got    {got}"));
            }
        }
    }
    Ok(())
}
