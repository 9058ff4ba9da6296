//! The policy text, its versions guarded by what the writer saw.

use http::header::{CONTENT_TYPE, ETAG, IF_MATCH};
use http::{HeaderValue, Method, StatusCode};
use sw_tailnet::{Command, PolicyVersion};

use super::{Answer, Ask, Problem, no_such_path};
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
