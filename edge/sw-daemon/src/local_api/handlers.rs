//! The endpoints (localapi-cli.md §A3).

use std::collections::BTreeMap;
use std::net::IpAddr;

use base64::Engine as _;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use serde_json::json;
use sw_types::local::{DNS_TYPES, MaskedPrefs, Prefs, Problem, StartOptions};
use sw_types::{NodeId, UserId};

use super::{Caller, ResponseBody, capture, json as json_response, text, watch};
use crate::core::joining::{self, JoinRequest};
use crate::core::updating;
use crate::core::{Core, CoreHandle, Stopped};
use crate::ping::PingKind;

/// What an endpoint asks of its caller.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Needs {
    Read,
    Write,
}

fn needs(method: &Method, endpoint: &str) -> Needs {
    match endpoint {
        "status"
        | "whois"
        | "peer-by-id"
        | "user-profile"
        | "derpmap"
        | "dns-config"
        | "cert-domains"
        | "services"
        | "check-prefs"
        | "check-ip-forwarding"
        | "check-udp-gro-forwarding"
        | "check-so-mark-in-use"
        | "usermetrics"
        | "bugreport"
        | "file-targets"
        | "watch-ipn-bus"
        | "netcheck"
        | "explain"
        | "update/check"
        | "ping"
        | "query-feature"
        | "tka/status" => Needs::Read,
        "prefs" | "serve-config" if *method == Method::GET || *method == Method::HEAD => Needs::Read,
        _ => Needs::Write,
    }
}

/// Finds the endpoint and runs it.
pub(super) async fn dispatch(
    core: &CoreHandle,
    caller: Caller,
    request: &Request<Bytes>,
    endpoint: &str,
) -> Response<ResponseBody> {
    let method = request.method();
    if needs(method, endpoint) == Needs::Write && !caller.may_write(core).await {
        return text(StatusCode::FORBIDDEN, "access denied");
    }
    let query = parse_query(request.uri().query().unwrap_or_default());
    match run(core, caller, request, endpoint, &query).await {
        Ok(response) => response,
        Err(Stopped) => text(StatusCode::SERVICE_UNAVAILABLE, Stopped.to_string()),
    }
}

async fn run(
    core: &CoreHandle,
    caller: Caller,
    request: &Request<Bytes>,
    endpoint: &str,
    query: &BTreeMap<String, String>,
) -> Result<Response<ResponseBody>, Stopped> {
    let method = request.method();
    let body = request.body().clone();
    let value = |name: &str| query.get(name).cloned().unwrap_or_default();
    Ok(match (method, endpoint) {
        (_, "status") => {
            let with_peers = value("peers") != "false";
            json_response(&core.call(move |core| core.status(with_peers)).await?)
        }
        // Packets hold what people say: the operator may not read them (threat-model.md §8).
        (&Method::POST, "debug-capture") if caller.is_root => return capture::capture(core).await,
        (_, "debug-capture") => text(StatusCode::FORBIDDEN, "access denied"),
        (_, "watch-ipn-bus") => return watch::watch(core, value("mask").parse().unwrap_or(0)).await,
        (&Method::GET, "whois") => {
            let words = value("addr");
            if words.is_empty() {
                return Ok(text(StatusCode::BAD_REQUEST, "missing 'addr' parameter"));
            }
            found(core.call(move |core| core.whois(&words)).await?, "no match for IP:port")
        }
        (&Method::GET, "peer-by-id") => {
            let id = value("id").parse().map(NodeId).unwrap_or_default();
            found(core.call(move |core| core.node_by_id(id)).await?, "no such peer")
        }
        (&Method::GET, "user-profile") => {
            let id = value("id").parse().map(UserId).unwrap_or_default();
            found(core.call(move |core| core.user_profile(id)).await?, "no such user")
        }
        (&Method::GET, "derpmap") => {
            json_response(&core.call(|core| core.node.netmap().map(|netmap| netmap.derp_map.clone())).await?)
        }
        (&Method::GET, "dns-config") => {
            match core.call(|core| core.node.netmap().map(|n| n.dns.clone())).await? {
                Some(dns) => json_response(&dns),
                None => text(StatusCode::SERVICE_UNAVAILABLE, "no netmap"),
            }
        }
        (&Method::GET, "dns-query") => dns_query(core, &value("name"), &value("type")).await?,
        (&Method::GET, "cert-domains") => {
            let domains =
                core.call(|core| core.node.netmap().map(|netmap| netmap.dns.cert_domains.clone())).await?;
            json_response(&domains.unwrap_or_default())
        }
        (&Method::GET | &Method::HEAD, "prefs") => {
            json_response(&core.call(|core| core.prefs_shown()).await?)
        }
        (&Method::PATCH, "prefs") => change_prefs(core, caller, &body).await?,
        (&Method::POST, "check-prefs") => match serde_json::from_slice::<Prefs>(&body) {
            Ok(_) => json_response(&json!({})),
            Err(error) => json_response(&json!({ "Error": error.to_string() })),
        },
        (&Method::POST, "start") => match serde_json::from_slice::<StartOptions>(&body) {
            Ok(options) => {
                let started = core.call(move |core| {
                    let present = core.node.prefs();
                    if let Some(problem) =
                        options.update_prefs.as_ref().and_then(|wanted| unusable(wanted, present))
                    {
                        return Err(problem);
                    }
                    core.start_session(options);
                    Ok(())
                });
                match started.await? {
                    Ok(()) => no_content(),
                    Err(problem) => told::<()>(Err(problem)),
                }
            }
            Err(error) => text(StatusCode::BAD_REQUEST, error.to_string()),
        },
        (&Method::POST, "login-interactive") => {
            core.call(|core| core.login_interactive()).await?;
            no_content()
        }
        (&Method::POST, "logout") => {
            core.call(|core| core.log_out()).await?;
            no_content()
        }
        (&Method::POST, "join") => match serde_json::from_slice::<JoinRequest>(&body) {
            Ok(request) => told(joining::join(core, request).await?),
            Err(error) => text(StatusCode::BAD_REQUEST, error.to_string()),
        },
        (&Method::POST, "leave") => {
            let unheard = joining::leave(core).await?;
            json_response(&json!({ "serverTold": unheard.is_none(), "problem": unheard }))
        }
        (&Method::POST, path)
            if path == "admin-link" || path == "invites" || path.starts_with("invites/") =>
        {
            match joining::ask_server(core, path, body.to_vec()).await? {
                Ok(answer) => super::respond(StatusCode::OK, "application/json", answer),
                Err(problem) => told::<()>(Err(problem)),
            }
        }
        (&Method::POST, "ping") => ping(core, query).await,
        (_, "netcheck") => json_response(&core.call(|core| core.netcheck()).await?),
        (_, "explain") => match value("ip").parse::<IpAddr>() {
            Ok(ip) => {
                found(super::explain::explain(core, ip, value("port").parse().ok()).await?, "no netmap")
            }
            Err(_) => text(StatusCode::BAD_REQUEST, "'ip' is no address"),
        },
        (_, path) if path.starts_with("profiles/") => {
            profiles(core, method, &unescape(&path["profiles/".len()..])).await?
        }
        (&Method::POST, "reset-auth") => done(core.call(Core::remove_all_profiles).await?),
        (&Method::GET, "usermetrics" | "metrics") => {
            text(StatusCode::OK, core.call(crate::metrics::render).await?)
        }
        (&Method::POST, "bugreport") => {
            let random = crate::random();
            let id: String = random[..8].iter().map(|byte| format!("{byte:02x}")).collect();
            let marker = format!("BUG-{id}-{}-{id}", sw_os::clock::now().wall.as_secs());
            tracing::info!(marker, note = value("note"), "bug report");
            text(StatusCode::OK, marker)
        }
        (&Method::GET | &Method::POST, "serve-config") => {
            return super::serve::answer(core, caller, request).await;
        }
        (&Method::GET, "file-targets") => super::files::targets(core).await?,
        (_, "check-ip-forwarding") => {
            let warning = core.call(|core| core.forwarding_problem()).await?;
            json_response(&json!({ "Warning": warning.unwrap_or_default() }))
        }
        (_, "check-udp-gro-forwarding" | "set-udp-gro-forwarding") => {
            json_response(&json!({ "Warning": "" }))
        }
        (_, "check-so-mark-in-use") => json_response(&json!({ "UseSOMark": true })),
        (&Method::POST, "update/fetch") if caller.is_daemons_own() => told(updating::fetch(core).await?),
        (&Method::GET, "update/check") => json_response(&json!({ "RunningLatest": true })),
        (&Method::GET, "tka/status") => json_response(&json!({ "Enabled": false, "Head": null })),
        (&Method::POST, "debug") => debug(core, &value("action")).await?,
        _ => text(StatusCode::NOT_FOUND, "not found"),
    })
}

async fn change_prefs(
    core: &CoreHandle,
    caller: Caller,
    body: &[u8],
) -> Result<Response<ResponseBody>, Stopped> {
    let change = match serde_json::from_slice::<MaskedPrefs>(body) {
        Ok(change) => change,
        Err(error) => return Ok(prefs_error(&error)),
    };
    // Root's alone, also for an operator (threat-model.md §8).
    if !caller.is_root && ["ControlURL", "RunSSH", "OperatorUser"].iter().any(|field| change.sets(field)) {
        let own = rustix::process::geteuid().as_raw();
        if caller.uid != own {
            return Ok(text(StatusCode::FORBIDDEN, "access denied"));
        }
    }
    let changed = core.call(move |core| {
        let wanted = change.apply_to(core.node.prefs()).ok();
        match wanted.and_then(|wanted| unusable(&wanted, core.node.prefs())) {
            Some(problem) => Err(problem),
            None => Ok(core.change_prefs(&change)),
        }
    });
    Ok(match changed.await? {
        Ok(Ok(prefs)) => json_response(&prefs),
        Ok(Err(error)) => prefs_error(&error),
        Err(problem) => told::<()>(Err(problem)),
    })
}

/// What newly wanted settings ask for that cannot be.
fn unusable(wanted: &Prefs, present: &Prefs) -> Option<Problem> {
    let user = &wanted.operator_user;
    if *user != present.operator_user && !user.is_empty() && sw_os::host::user_id(user).is_none() {
        return Some(Problem::other(
            format!("there is no user {} on this machine.", sw_types::problem::quoted(user)),
            "the operator is one of its users",
            "see who there is: getent passwd",
        ));
    }
    (wanted.run_ssh && !present.run_ssh).then(|| {
        Problem::other(
            "samewire has no SSH server of its own.",
            "the setting would promise what nothing answers",
            "run the system's: the policy decides who reaches its port 22; leave --ssh out",
        )
    })
}

fn prefs_error(error: &dyn std::error::Error) -> Response<ResponseBody> {
    let mut response = json_response(&json!({ "Error": error.to_string() }));
    *response.status_mut() = StatusCode::BAD_REQUEST;
    response
}

async fn ping(core: &CoreHandle, query: &BTreeMap<String, String>) -> Response<ResponseBody> {
    let Some(Ok(ip)) = query.get("ip").map(|ip| ip.parse::<IpAddr>()) else {
        return text(StatusCode::BAD_REQUEST, "invalid 'ip' parameter");
    };
    let size = query.get("size").and_then(|size| size.parse().ok()).unwrap_or(0);
    let Some(kind) = query.get("type").map_or(Some(PingKind::Disco), |text| PingKind::parse(text)) else {
        return text(StatusCode::BAD_REQUEST, "invalid 'type' parameter");
    };
    json_response(&crate::ping::ping(core, ip, kind, size).await)
}

/// Asks the daemon's own resolver (localapi-cli.md §A3).
async fn dns_query(core: &CoreHandle, name: &str, kind: &str) -> Result<Response<ResponseBody>, Stopped> {
    // The address is what is asked for when nothing is said.
    let kind = if kind.is_empty() { "A" } else { kind };
    let kind = DNS_TYPES.iter().find(|(word, _)| word.eq_ignore_ascii_case(kind)).map(|(_, kind)| *kind);
    let bare = name.trim_end_matches('.');
    let is_name = bare.len() < 254 && bare.split('.').all(|label| (1..64).contains(&label.len()));
    let Some(question) = kind.filter(|_| is_name).map(|kind| sw_node::resolve::query(1, bare, kind)) else {
        return Ok(text(StatusCode::BAD_REQUEST, "missing or bad name or type"));
    };
    let dns = core.call(|core| std::sync::Arc::clone(&core.dns)).await?;
    let resolvers: Vec<_> =
        dns.upstreams(&question).into_iter().map(|address| json!({ "Addr": address })).collect();
    Ok(match dns.resolve(&question).await {
        Some(answer) => {
            let bytes = base64::engine::general_purpose::STANDARD.encode(answer);
            json_response(&json!({ "Bytes": bytes, "Resolvers": resolvers }))
        }
        None => text(StatusCode::INTERNAL_SERVER_ERROR, "no answer"),
    })
}

async fn debug(core: &CoreHandle, action: &str) -> Result<Response<ResponseBody>, Stopped> {
    match action {
        "rebind" | "restun" => {
            core.call(|core| {
                let now = core.now();
                core.paths.on_link_change(sw_path::LinkChange::Major, now);
            })
            .await?;
        }
        "current-netmap" => {
            return Ok(json_response(
                &core.call(|core| core.node.netmap().map(|netmap| netmap.to_json())).await?,
            ));
        }
        "statedir" => {
            return Ok(json_response(
                &core.call(|core| core.store.directory().map(ToOwned::to_owned)).await?,
            ));
        }
        "clear-netmap-cache" => core.call(|core| core.store.remove_cache()).await?,
        _ => return Ok(text(StatusCode::BAD_REQUEST, "unknown action")),
    }
    Ok(text(StatusCode::OK, "done\n"))
}

/// The profiles of this machine; `id` is empty for all of them.
async fn profiles(core: &CoreHandle, method: &Method, id: &str) -> Result<Response<ResponseBody>, Stopped> {
    let id = id.to_owned();
    Ok(match (method, id.as_str()) {
        (&Method::GET, "") => json_response(&core.call(|core| core.store.profiles()).await?),
        (&Method::PUT, "") => match core.call(|core| core.switch_profile("")).await? {
            Ok(()) => text(StatusCode::CREATED, ""),
            Err(problem) => told::<()>(Err(problem)),
        },
        (&Method::GET, "current") => json_response(&core.call(|core| core.store.current_profile()).await?),
        (&Method::GET, _) => found(core.call(move |core| core.profile(&id)).await?, "profile not found"),
        (&Method::POST, _) => done(core.call(move |core| core.switch_profile(&id)).await?),
        (&Method::DELETE, _) => done(core.call(move |core| core.remove_profile(&id)).await?),
        _ => text(StatusCode::METHOD_NOT_ALLOWED, "use GET, PUT, POST, or DELETE"),
    })
}

fn done(outcome: Result<(), Problem>) -> Response<ResponseBody> {
    match outcome {
        Ok(()) => no_content(),
        Err(problem) => told::<()>(Err(problem)),
    }
}

/// An answer, or what the user reads.
pub(super) fn told<T: serde::Serialize>(outcome: Result<T, Problem>) -> Response<ResponseBody> {
    match outcome {
        Ok(value) => json_response(&value),
        Err(problem) => {
            let mut response = json_response(&json!({ "error": problem }));
            *response.status_mut() = StatusCode::CONFLICT;
            response
        }
    }
}

fn no_content() -> Response<ResponseBody> {
    let mut response = text(StatusCode::NO_CONTENT, "");
    response.headers_mut().remove(http::header::CONTENT_TYPE);
    response
}

fn found(value: Option<impl serde::Serialize>, otherwise: &str) -> Response<ResponseBody> {
    match value {
        Some(value) => json_response(&value),
        None => text(StatusCode::NOT_FOUND, otherwise),
    }
}

pub(super) fn parse_query(query: &str) -> BTreeMap<String, String> {
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (unescape(name), unescape(value))
        })
        .collect()
}

pub(crate) fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let hex = || {
            let digits = std::str::from_utf8(tail.get(..2)?).ok()?;
            u8::from_str_radix(digits, 16).ok()
        };
        let (decoded, used) = match byte {
            b'+' => (b' ', 0),
            b'%' => hex().map_or((b'%', 0), |decoded| (decoded, 2)),
            other => (other, 0),
        };
        bytes.push(decoded);
        rest = &tail[used..];
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_unescaped() {
        let query = parse_query("addr=100.64.0.1%3A80&x&y=a+b%zz");
        assert_eq!(
            (query["addr"].as_str(), query["x"].as_str(), query["y"].as_str()),
            ("100.64.0.1:80", "", "a b%zz")
        );
    }
}
