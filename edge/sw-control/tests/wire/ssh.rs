//! Check mode as the machine sees at which the session arrives (control.md §5.11).

use http::{Method, StatusCode};
use serde_json::Value;
use sw_tailnet::{CheckAnswer, Command};

use crate::client::Client;
use crate::stage::{ADA, Stage};

const POLICY: &str = r#"{
    "tagOwners": {"tag:web": []},
    "grants": [{"src": ["*"], "dst": ["*"], "ip": ["*"]}],
    "ssh": [{"action": "check", "src": ["ada@example.com"], "dst": ["tag:web"], "users": ["root"]}],
}"#;

async fn asked(web: &Client, path: &str) -> Value {
    let (status, body) = web.ask(Method::GET, path, Vec::new()).await;
    assert_eq!(status, StatusCode::OK, "{}", String::from_utf8_lossy(&body));
    serde_json::from_slice(&body).unwrap()
}

#[tokio::test]
async fn a_session_waits_for_its_person() {
    let stage = Stage::new().await;
    stage.execute(Command::SetPolicy { text: Some(POLICY.to_owned()), expect: None }).await;
    let laptop = stage.joined(1).await;
    let web = stage.client(2).await;
    web.join(&stage.auth_key(None, &["tag:web"]).await).await;

    // The rule that the machine holds says where to ask.
    let policy = web.map(web.map_request()).await["SSHPolicy"].clone();
    let delegate =
        policy["rules"][0]["action"]["holdAndDelegate"].as_str().expect("a rule that asks").to_owned();
    let path = delegate.strip_prefix(&stage.url()).expect("a path of ours");
    let path = path.replace("$SRC_NODE_ID", "1").replace("$DST_NODE_ID", "2").replace("$LOCAL_USER", "root");

    // Another machine may not ask for this one.
    let refused = asked(&laptop, &path).await;
    assert_eq!(refused["reject"], true, "{refused}");

    for (allow, answer) in [(false, "reject"), (true, "accept")] {
        let held = asked(&web, &path).await;
        let message = held["message"].as_str().unwrap();
        let (_, check) = message.trim().split_once(&format!("{}/check/", stage.url())).expect("a page");
        let waits = held["holdAndDelegate"].as_str().unwrap().strip_prefix("https://unused").unwrap();
        let decision =
            Command::AnswerCheck(CheckAnswer { check: check.to_owned(), by: Some(ADA), allowed: allow });
        let (heard, _) = tokio::join!(asked(&web, waits), stage.execute(decision));
        assert_eq!(heard[answer], true, "{heard}");
    }
    // Within the period nobody is asked again.
    assert_eq!(asked(&web, &path).await["accept"], true);

    for bad in ["/machine/ssh/action/x/to/2?local_user=root", "/machine/ssh/action/1/to/2"] {
        assert_eq!(web.ask(Method::GET, bad, Vec::new()).await.0, StatusCode::BAD_REQUEST, "{bad}");
    }
}
