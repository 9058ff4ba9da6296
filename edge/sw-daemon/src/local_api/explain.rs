//! `explain`: the node's own facts, one try, and what the server's policy says (ux.md §2.5).

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sw_netstack::DialError;

use crate::core::{CoreHandle, Stopped, joining};
use crate::{dialer, ping};

/// How long the server may take to say what its policy says.
const POLICY_MAX: Duration = Duration::from_secs(3);
/// How long a port may take to answer.
const PORT_MAX: Duration = Duration::from_secs(3);

/// Puts the facts of an address together; `None` without a network.
pub(super) async fn explain(
    core: &CoreHandle,
    ip: IpAddr,
    port: Option<u16>,
) -> Result<Option<Value>, Stopped> {
    let Some(before) = core.call(move |core| core.explain(ip)).await? else { return Ok(None) };
    let kind = before["route"]["kind"].as_str().unwrap_or_default().to_owned();
    let is_there = matches!(kind.as_str(), "machine" | "subnet" | "exit");
    let asks_policy = !matches!(kind.as_str(), "self" | "none");
    let question = json!({ "dst": ip, "port": port }).to_string().into_bytes();
    let policy = async {
        if !asks_policy {
            return Value::Null;
        }
        match tokio::time::timeout(POLICY_MAX, joining::ask_server(core, "explain", question)).await {
            Ok(Ok(Ok(answer))) => serde_json::from_slice(&answer).unwrap_or_default(),
            // Another server, or none within reach: not told.
            Ok(Ok(Err(_)) | Err(_)) | Err(_) => Value::Null,
        }
    };
    let reaching = async {
        // A path is found by using it; the ping also tells whether the peer answers.
        let answer = if is_there { Some(ping::disco(core, ip, 0).await) } else { None };
        let answers = answer.map(|answer| answer.err.is_empty());
        let port = match port.filter(|_| is_there && answers == Some(true)) {
            Some(port) => Some(try_port(core, SocketAddr::new(ip, port)).await),
            None => None,
        };
        (answers, port)
    };
    let (policy, (answers, port)) = tokio::join!(policy, reaching);
    let Some(mut facts) = core.call(move |core| core.explain(ip)).await? else { return Ok(None) };
    if let Some(facts) = facts.as_object_mut() {
        facts.insert("policy".to_owned(), policy);
        facts.insert("answers".to_owned(), json!(answers));
        facts.insert("port".to_owned(), json!(port));
    }
    Ok(Some(facts))
}

async fn try_port(core: &CoreHandle, to: SocketAddr) -> Value {
    let begin = Instant::now();
    let how = match dialer::dial_within(core, to, PORT_MAX).await {
        Ok(_) => "open",
        Err(DialError::Refused) => "refused",
        Err(DialError::Unreachable | DialError::NoSuchName | DialError::NotAllowed) => "silent",
    };
    json!({ "number": to.port(), "how": how, "ms": begin.elapsed().as_secs_f64() * 1e3 })
}
