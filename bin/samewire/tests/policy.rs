//! `samewire policy` as others run it: the conformance interface, and the verbs against a server.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Map, Value};

fn samewire(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_samewire"));
    command.args(words).env_remove("SAMEWIRE_API_KEY").stdin(Stdio::piped()).stdout(Stdio::piped());
    command.stderr(Stdio::piped());
    command
}

fn ask(words: &[&str], input: &str) -> Output {
    let mut child = samewire(words).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

/// The documents of `policy-cases.json`, with what is expected.
fn cases() -> Vec<(String, String, Value)> {
    let file: Value =
        serde_json::from_str(include_str!("../../../core/sw-policy/tests/policy-cases.json")).unwrap();
    let one = |case: &Value| {
        let mut input: Map<String, Value> = case["input"].as_object().unwrap().clone();
        for part in ["users", "nodes"] {
            input.entry(part).or_insert_with(|| file["defaults"][part].clone());
        }
        (case["name"].to_string(), Value::Object(input).to_string(), case["expect"].clone())
    };
    file["cases"].as_array().unwrap().iter().map(one).collect()
}

/// Every field that is expected is there, arrays in order.
fn differs(expect: &Value, answer: &Value) -> Option<String> {
    let (wanted, got) = (&expect["error"], &answer["error"]);
    let says = |part: &str| got["message"].as_str().is_some_and(|message| message.contains(part));
    match wanted["contains"].as_str() {
        Some(part) if wanted["kind"] != got["kind"] || !says(part) => {
            return Some(format!("{wanted} is not {got}"));
        }
        None if !got.is_null() => return Some(format!("unexpected {got}")),
        Some(_) | None => {}
    }
    for (node, fields) in expect["nodes"].as_object().into_iter().flatten() {
        for (field, wanted) in fields.as_object().unwrap() {
            let got = &answer["nodes"][node][field];
            if wanted != got {
                return Some(format!("{node}.{field}: {wanted} is not {got}"));
            }
        }
    }
    None
}

#[test]
fn every_case_passes_through_the_program_one_by_one() {
    let mut failed = Vec::new();
    for (name, document, expect) in cases() {
        let output = ask(&["policy", "compile", "--stdin-json"], &document);
        assert!(output.status.success(), "{name}");
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
        failed.extend(differs(&expect, &answer).map(|why| format!("{name}: {why}")));
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn every_case_passes_through_one_program_line_by_line() {
    let mut child = samewire(&["policy", "compile", "--jsonl"]).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let mut answers = BufReader::new(child.stdout.take().unwrap()).lines();
    let cases = cases();
    assert_eq!(cases.len(), 78);
    for (name, document, expect) in cases {
        // Each answer comes before the next question is asked.
        writeln!(input, "{document}").unwrap();
        let answer: Value = serde_json::from_str(&answers.next().unwrap().unwrap()).unwrap();
        assert_eq!(differs(&expect, &answer), None, "{name}");
    }
    drop(input);
    assert!(child.wait().unwrap().success());
}

#[test]
fn what_is_no_document_is_refused_and_a_wrong_policy_is_answered() {
    let refused = ask(&["policy", "compile", "--stdin-json"], "{\"policy\": ");
    assert_eq!(refused.status.code(), Some(2));
    assert!(refused.stdout.is_empty() && !refused.stderr.is_empty());
    let answered =
        ask(&["policy", "compile", "--stdin-json"], r#"{"policy": "{]", "users": [], "nodes": []}"#);
    assert_eq!(answered.status.code(), Some(0));
    let answer: Value = serde_json::from_slice(&answered.stdout).unwrap();
    assert_eq!(answer["error"]["kind"], "hujson_syntax");
    assert_eq!(answer["nodes"], serde_json::json!({}));
}

struct Server {
    child: Child,
    state: tempfile::TempDir,
    url: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Server {
    fn start() -> Self {
        let state = tempfile::tempdir().unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let url = format!("http://127.0.0.1:{port}");
        let mut command = Command::new(env!("CARGO_BIN_EXE_samewire"));
        command.args([
            "control",
            "serve",
            "--no-relay",
            "--url",
            &url,
            "--listen",
            &format!("127.0.0.1:{port}"),
        ]);
        command.arg("--state").arg(state.path()).stdout(Stdio::null()).stderr(Stdio::null());
        let server = Self { child: command.spawn().unwrap(), state, url };
        let began = Instant::now();
        while server.run(&["control", "health"], "").status.code() != Some(0) {
            assert!(began.elapsed() < Duration::from_secs(60), "the server does not start");
            std::thread::sleep(Duration::from_millis(50));
        }
        server
    }

    /// Runs a verb against this server by its state directory.
    fn run(&self, words: &[&str], input: &str) -> Output {
        let state = self.state.path().to_str().unwrap();
        ask(&[words, &["--state", state]].concat(), input)
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

const FIRST: &str = r#"{
  "tagOwners": {"tag:web": []},
  "grants": [{"src": ["ada@example.com"], "dst": ["tag:web"], "ip": ["tcp:443"]}],
}
"#;

fn write(directory: &Path, name: &str, text: &str) -> String {
    let path = directory.join(name);
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_server_keeps_versions_and_goes_back_to_one() {
    let server = Server::start();
    let files = tempfile::tempdir().unwrap();
    let first = write(files.path(), "first.hujson", FIRST);
    let second = write(files.path(), "second.hujson", &FIRST.replace("443", "22"));
    let wrong =
        write(files.path(), "wrong.hujson", &FIRST.replace("[\"tag:web\"], \"ip\"", "[\"tag:wep\"], \"ip\""));
    for file in [&first, &second] {
        let output = server.run(&["policy", "set", file], "");
        assert!(output.status.success(), "{}", said(&output));
    }
    let refused = server.run(&["policy", "set", &wrong], "");
    assert_eq!(refused.status.code(), Some(1));
    assert!(said(&refused).contains("fix: did you mean \"tag:web\"?"), "{}", said(&refused));
    assert!(said(&refused).contains("line 3, column 51: tag not found: \"tag:wep\""), "{}", said(&refused));

    let versions = |output: Output| -> Vec<(u64, String, bool)> {
        let list: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
        let one = |v: &Value| {
            (v["version"].as_u64().unwrap(), v["author"].as_str().unwrap().to_owned(), v["inForce"] == true)
        };
        list.iter().map(one).collect()
    };
    let root = || "root".to_owned();
    let history = server.run(&["policy", "history", "--json"], "");
    assert_eq!(versions(history), [(2, root(), true), (1, root(), false)]);
    let back = server.run(&["policy", "rollback", "1"], "");
    assert_eq!(said(&back), "version 1 is in force again, as version 3.\n");
    assert_eq!(server.run(&["policy", "get"], "").stdout, FIRST.as_bytes());
    let unknown = server.run(&["policy", "rollback", "9"], "");
    assert_eq!(unknown.status.code(), Some(1));

    // The same from anywhere, with a key.
    let key = said(&server.run(&["control", "apikeys", "create"], ""));
    let there = ["--server", server.url.as_str(), "--api-key", key.trim(), "--json"];
    let history = ask(&[&["policy", "history"][..], &there].concat(), "");
    assert_eq!(versions(history).len(), 3);
    let wrong_key = ask(&["policy", "history", "--server", &server.url, "--api-key", "wrong"], "");
    assert_eq!(wrong_key.status.code(), Some(7), "{}", said(&wrong_key));
    let no_key = ask(&["policy", "history", "--server", &server.url], "");
    assert_eq!(no_key.status.code(), Some(2), "{}", said(&no_key));

    // Questions about the policy in force, and about one to come.
    let check = server.run(&["policy", "check"], "");
    assert_eq!(said(&check), "The policy is valid, and its tests hold.\n");
    assert_eq!(server.run(&["policy", "check", &wrong], "").status.code(), Some(1));
    let explain = server.run(&["policy", "explain", "ada@example.com", "tag:web:443"], "");
    assert!(
        said(&explain).contains("\"ada@example.com\" has no machine in this network"),
        "{}",
        said(&explain)
    );
}
