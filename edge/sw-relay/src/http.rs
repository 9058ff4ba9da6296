//! The other paths of a relay (derp.md §4.4).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http::header::{ACCESS_CONTROL_ALLOW_ORIGIN, ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, UPGRADE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use sw_net::derp_client::DerpStream;
use sw_net::front::{Body, Conn, empty, full};
use sw_net::ws::derive_accept_key;
use tokio::net::lookup_host;
use tracing::debug;

use crate::accept::{self, Asked, Caller};
use crate::counters::Counters;
use crate::hub::Hub;
use crate::metrics;

/// Longest challenge of a captive-portal check that is echoed (derp.md §4.4).
const CHALLENGE_MAX: usize = 64;

/// How long the addresses of bootstrap names are kept (derp.md §4.5).
pub(crate) const BOOTSTRAP_REFRESH: Duration = Duration::from_secs(600);

const NO_CACHE: HeaderValue =
    HeaderValue::from_static("no-cache, no-store, must-revalidate, no-transform, max-age=0");

/// Whether a path belongs to the relay when it shares a listener with the control server (architecture.md §10.2).
pub(crate) fn is_relay_path(path: &str) -> bool {
    matches!(path, "/derp" | "/derp/probe" | "/derp/latency-check" | "/generate_204" | "/bootstrap-dns")
}

/// Answers one request.
pub(crate) fn route(
    hub: &Arc<Hub>,
    names: &BootstrapNames,
    request: Request<Incoming>,
    conn: &Arc<Conn>,
) -> Response<Body> {
    let encrypted_or_allowed = conn.is_tls() || hub.config.plain_http;
    let is_read = request.method() == Method::GET || request.method() == Method::HEAD;
    match request.uri().path() {
        "/derp" if encrypted_or_allowed => upgrade(hub, request, conn),
        "/derp/probe" | "/derp/latency-check" if encrypted_or_allowed => match is_read {
            true => {
                let mut response = answer(StatusCode::OK, empty());
                response.headers_mut().insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
                response
            }
            false => not_allowed(),
        },
        "/generate_204" => no_captive_portal(&request),
        "/bootstrap-dns" if encrypted_or_allowed => names.answer(request.uri().query()),
        "/robots.txt" => plain_text("User-agent: *\nDisallow: /\n"),
        "/" => plain_text(
            "This is a samewire relay (DERP and STUN). It forwards sealed packets and reads none.\n",
        ),
        // Only for whoever is on this machine.
        "/metrics" | "/debug/varz" if conn.peer.ip().is_loopback() => plain_text(&metrics::text(hub)),
        _ => answer(StatusCode::NOT_FOUND, full("not found\n")),
    }
}

/// DERP asked for behind another request of the same connection, so through the HTTP library.
fn upgrade(hub: &Arc<Hub>, mut request: Request<Incoming>, conn: &Arc<Conn>) -> Response<Body> {
    let asked = Asked::of(&request);
    let caller = Caller::of(request.headers(), conn.peer);
    let (name, accept) = match asked {
        None => {
            let text = "DERP requires connection upgrade\n";
            return answer(StatusCode::UPGRADE_REQUIRED, full(text));
        }
        // Fast start gets no answer at all, which is too late here.
        Some(Asked::Derp { fast_start: true }) => {
            return answer(StatusCode::BAD_REQUEST, full("fast start must be the first request\n"));
        }
        Some(Asked::WebSocket { is_derp: false, .. }) => {
            return answer(StatusCode::BAD_REQUEST, full("the derp subprotocol is needed\n"));
        }
        Some(Asked::Derp { fast_start: false }) => ("DERP", None),
        Some(Asked::WebSocket { key, .. }) => ("websocket", Some(derive_accept_key(key.as_bytes()))),
    };
    Counters::one(&hub.counters.accepts);
    let is_websocket = accept.is_some();
    let (owned, conn) = (Arc::clone(hub), Arc::clone(conn));
    let upgrading = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        match upgrading.await {
            Ok(upgraded) => {
                let stream: Box<dyn DerpStream> = Box::new(TokioIo::new(upgraded));
                if is_websocket {
                    accept::serve_websocket(owned, stream, true, caller, Some(&conn)).await;
                } else {
                    let input = bytes::BytesMut::new();
                    accept::serve(owned, stream, input, Vec::new(), caller, Some(&conn)).await;
                }
            }
            Err(error) => debug!(%error, "upgrade came to nothing"),
        }
    });
    let mut response = answer(StatusCode::SWITCHING_PROTOCOLS, empty());
    let headers = response.headers_mut();
    headers.insert(UPGRADE, HeaderValue::from_static(name));
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    if let Some(value) = accept.and_then(|accept| HeaderValue::from_str(&accept).ok()) {
        headers.insert("Sec-WebSocket-Accept", value);
        headers.insert("Sec-WebSocket-Protocol", HeaderValue::from_static("derp"));
    }
    response
}

/// Answers the captive-portal check, with proof that it reached us and not a portal (derp.md §4.4).
fn no_captive_portal(request: &Request<Incoming>) -> Response<Body> {
    let mut response = answer(StatusCode::NO_CONTENT, empty());
    response.headers_mut().insert(CACHE_CONTROL, NO_CACHE);
    let challenge = request.headers().get("x-tailscale-challenge").and_then(|value| value.to_str().ok());
    if let Some(challenge) = challenge.filter(|text| is_challenge(text))
        && let Ok(value) = HeaderValue::from_str(&format!("response {challenge}"))
    {
        response.headers_mut().insert("X-Tailscale-Response", value);
    }
    response
}

fn is_challenge(text: &str) -> bool {
    let is_good = |byte: u8| byte.is_ascii_alphanumeric() || b".:_-".contains(&byte);
    text.len() <= CHALLENGE_MAX && text.bytes().all(is_good)
}

fn answer(status: StatusCode, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
}

fn plain_text(text: &str) -> Response<Body> {
    let mut response = answer(StatusCode::OK, full(text.to_owned()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

fn not_allowed() -> Response<Body> {
    let mut response = answer(StatusCode::METHOD_NOT_ALLOWED, empty());
    response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    response
}

/// Addresses of names that clients without working DNS may ask for (derp.md §4.5).
#[derive(Debug, Default)]
pub(crate) struct BootstrapNames {
    known: Mutex<BTreeMap<String, Vec<IpAddr>>>,
}

impl BootstrapNames {
    /// Looks all names up; a name that does not resolve keeps what was known of it.
    pub(crate) async fn refresh(&self, names: &[String]) {
        for name in names {
            let found = lookup_host((name.as_str(), 443)).await;
            match found {
                Ok(addresses) => {
                    let addresses = addresses.map(|address| address.ip()).collect();
                    self.known().insert(name.clone(), addresses);
                }
                Err(error) => debug!(%name, %error, "bootstrap name does not resolve"),
            }
        }
    }

    fn known(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Vec<IpAddr>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, query: Option<&str>) -> Response<Body> {
        let asked = query.unwrap_or_default().split('&').find_map(|pair| pair.strip_prefix("q="));
        let known = self.known();
        // A name asked for is told alone; without one, or with one that is not known, all are.
        let one = asked.and_then(|name| known.get_key_value(name)).map(|pair| BTreeMap::from([pair]));
        let all = || known.iter().collect();
        let json = serde_json::to_vec(&one.unwrap_or_else(all)).unwrap_or_else(|_| b"{}".to_vec());
        let mut response = answer(StatusCode::OK, full(json));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_echoed_only_if_harmless() {
        assert!(is_challenge("ts_relay.example.com:443") && is_challenge(&"a".repeat(64)));
        assert!(!is_challenge(&"a".repeat(65)) && !is_challenge("a b") && !is_challenge("<x>"));
    }
}
