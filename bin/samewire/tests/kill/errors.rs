//! What scripts read when a verb of `samewire control` fails: one JSON object on standard error, nothing on standard
//! output, and the exit code.

use std::path::Path;

use serde_json::Value;
use tokio::process::Command;

use crate::server::{ControlServer, Host};

pub(crate) async fn refused(state: &Path, words: &[&str]) -> (Option<i32>, Value) {
    let mut control = Command::new(env!("CARGO_BIN_EXE_samewire"));
    let output =
        control.arg("control").args(words).arg("--json").arg("--state").arg(state).output().await.unwrap();
    assert_eq!(output.stdout, b"", "{words:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    let error: Value = serde_json::from_str(&said).unwrap_or_else(|e| panic!("{words:?}: {e}: {said}"));
    (output.status.code(), error["error"].clone())
}

#[tokio::test]
async fn an_error_is_json_for_scripts() {
    let host = Host::new();
    let (code, error) = refused(host.state(), &["users", "list"]).await;
    assert_eq!(code, Some(3), "nothing runs there");
    assert!(error["fix"].as_str().unwrap().contains("samewire control serve"), "{error}");

    let server = ControlServer::start(&host).await;
    let (code, error) = refused(host.state(), &["nodes", "delete", "nobody"]).await;
    assert_eq!(code, Some(1));
    assert!(error["what"].as_str().unwrap().contains("nobody"), "{error}");
    server.kill().await;
}
