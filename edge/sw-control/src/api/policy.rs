//! The policy text, its versions guarded by what the writer saw.

use http::header::{CONTENT_TYPE, ETAG, IF_MATCH};
use http::{HeaderValue, Method, StatusCode};
use sw_tailnet::{Command, PolicyVersion, policy_world};

use super::{Answer, Ask, Problem, no_such_path, ok};
use crate::public::text;

pub(crate) async fn handle(ask: &Ask<'_>) -> Answer {
    ask.may("policy_file")?;
    match *ask.method() {
        Method::GET => {
            let policy = ask.shared.control.read(|tailnet| tailnet.state().policy().cloned()).await?;
            shown(policy)
        }
        Method::PUT | Method::POST => {
            let body = std::str::from_utf8(ask.body);
            let body = body.map_err(|_| Problem::new(StatusCode::BAD_REQUEST, "the policy is not UTF-8"))?;
            let text = (!body.trim().is_empty()).then(|| body.to_owned());
            let command = Command::SetPolicy { text, expect: expected(ask)? };
            ask.shared.control.execute(&ask.caller.name, command).await?;
            let policy = ask.shared.control.read(|tailnet| tailnet.state().policy().cloned()).await?;
            shown(policy)
        }
        _ => Err(no_such_path()),
    }
}

/// Versions, the way back to one, and what a policy is applied to.
pub(crate) async fn more(ask: &Ask<'_>, path: &[&str]) -> Answer {
    ask.may("policy_file")?;
    match (ask.method(), path) {
        (&Method::GET, ["history"]) => history(ask).await,
        (&Method::GET, ["versions", version]) => {
            let found = version_of(ask, version).await?;
            shown(Some(found))
        }
        (&Method::POST, ["rollback"]) => rollback(ask).await,
        (&Method::GET, ["world"]) => {
            let world = ask.shared.control.read(|tailnet| {
                let offline = tailnet.world().nodes.keys().filter(|id| !tailnet.is_online(**id));
                policy_world(tailnet.world(), offline.copied().collect())
            });
            ok(&world.await?)
        }
        _ => Err(no_such_path()),
    }
}

async fn history(ask: &Ask<'_>) -> Answer {
    let current = ask.shared.control.read(|tailnet| tailnet.state().policy().map(|policy| policy.version));
    let current = current.await?;
    let versions = ask.shared.control.policy_versions().await?;
    let line = |policy: &PolicyVersion| {
        serde_json::json!({
            "version": policy.version, "author": policy.author, "at": policy.at,
            "lines": policy.text.lines().count(), "inForce": Some(policy.version) == current,
        })
    };
    ok(&versions.iter().map(line).collect::<Vec<_>>())
}

async fn version_of(ask: &Ask<'_>, version: &str) -> Result<PolicyVersion, Problem> {
    let versions = ask.shared.control.policy_versions().await?;
    let wanted: Option<u64> = version.parse().ok();
    let found = versions.into_iter().find(|policy| Some(policy.version) == wanted);
    found.ok_or_else(|| Problem::not_found("policy version", version))
}

#[derive(serde::Deserialize)]
struct RollbackInput {
    version: u64,
}

/// Puts the text of an old version in force as a new version; its own tests must hold today.
async fn rollback(ask: &Ask<'_>) -> Answer {
    let input: RollbackInput = ask.input()?;
    let old = version_of(ask, &input.version.to_string()).await?;
    let command = Command::SetPolicy { text: Some(old.text), expect: expected(ask)? };
    ask.shared.control.execute(&ask.caller.name, command).await?;
    let version = ask.shared.control.read(|tailnet| tailnet.state().policy().map(|policy| policy.version));
    ok(&serde_json::json!({ "version": version.await?, "from": input.version }))
}

/// The version in `If-Match`; `*` and none take any.
fn expected(ask: &Ask<'_>) -> Result<Option<u64>, Problem> {
    let Some(value) = ask.parts.headers.get(IF_MATCH).and_then(|value| value.to_str().ok()) else {
        return Ok(None);
    };
    match value.trim().trim_matches('"') {
        "*" => Ok(None),
        "ts-default" => Ok(Some(0)),
        version => match u64::from_str_radix(version, 16) {
            Ok(version) => Ok(Some(version)),
            Err(_) => Err(Problem::new(StatusCode::PRECONDITION_FAILED, "the policy changed meanwhile")),
        },
    }
}

fn shown(policy: Option<PolicyVersion>) -> Answer {
    let version = policy.as_ref().map_or(0, |policy| policy.version);
    let mut response = text(StatusCode::OK, policy.map(|policy| policy.text).unwrap_or_default());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/hujson"));
    if let Ok(etag) = HeaderValue::from_str(&format!("\"{version:016x}\"")) {
        headers.insert(ETAG, etag);
    }
    Ok(response)
}
