//! What the control role answers on the public listener (control.md §2.1, architecture.md §10.2).

use std::net::IpAddr;
use std::sync::Arc;

use http::header::{ACCESS_CONTROL_ALLOW_ORIGIN, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use sw_net::front::{Body, BoxFuture, Conn, Router, Stream, empty, full};
use sw_tailcfg::{DerpAdmitRequest, DerpAdmitResponse, OverTlsPublicKeyResponse};
use sw_types::{CapVer, MachineKey};

use crate::server::Shared;
use crate::{api, ts2021};

/// Largest body of `/verify`.
const VERIFY_MAX: usize = 4 * 1024;
/// Below this a client cannot speak Noise over HTTPS (control.md §1.1).
const KEY_VERSION_MIN: u16 = 39;

/// Routes the control role's paths.
pub struct PublicRouter {
    shared: Arc<Shared>,
    others: Option<Arc<dyn Router>>,
    has_pages: bool,
}

impl std::fmt::Debug for PublicRouter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PublicRouter").field("url", &self.shared.url).finish_non_exhaustive()
    }
}

impl PublicRouter {
    pub(crate) fn new(shared: Arc<Shared>, others: Option<Arc<dyn Router>>, has_pages: bool) -> Self {
        Self { shared, others, has_pages }
    }
}

/// Whether a person looks, not a program that watches.
fn is_browser(request: &Request<Incoming>) -> bool {
    let accepted = request.headers().get(http::header::ACCEPT).and_then(|value| value.to_str().ok());
    accepted.is_some_and(|accepted| accepted.contains("text/html"))
}

impl Router for PublicRouter {
    fn route(&self, request: Request<Incoming>, conn: Arc<Conn>) -> BoxFuture<Response<Body>> {
        let shared = Arc::clone(&self.shared);
        let path = request.uri().path();
        match (request.method(), path) {
            (_, ts2021::PATH) => {
                let response = ts2021::route(shared, request, conn);
                Box::pin(std::future::ready(response))
            }
            (&Method::GET, "/key") => Box::pin(std::future::ready(key(&shared, request.uri().query()))),
            (&Method::GET, "/version") => Box::pin(async move { version(&shared, &conn).await }),
            (&Method::GET, "/robots.txt") => {
                Box::pin(std::future::ready(text(StatusCode::OK, "User-agent: *\nDisallow: /\n".to_owned())))
            }
            (&Method::HEAD, "/machine/ping-response") => {
                Box::pin(std::future::ready(text(StatusCode::OK, String::new())))
            }
            (&Method::POST, "/verify") => Box::pin(async move { verify(&shared, request).await }),
            // People get the page of that name (architecture.md §10.2).
            (&Method::GET, "/health") if !(self.has_pages && is_browser(&request)) => {
                Box::pin(async move { api::health_response(&shared).await })
            }
            (_, path) if path.starts_with("/api/") => {
                Box::pin(async move { api::public(shared, request, &conn).await })
            }
            (&Method::GET, path) if path.starts_with("/register/") && !self.has_pages => {
                let id = path.trim_start_matches("/register/").to_owned();
                Box::pin(async move { login_hint(&shared, id).await })
            }
            _ => match &self.others {
                Some(others) => others.route(request, conn),
                None => Box::pin(std::future::ready(text(StatusCode::NOT_FOUND, "not found\n".to_owned()))),
            },
        }
    }

    fn claims(&self, head: &Request<()>, conn: &Conn) -> bool {
        head.uri().path() == ts2021::PATH
            || self.others.as_ref().is_some_and(|others| others.claims(head, conn))
    }

    fn take(&self, head: Request<()>, stream: Stream, conn: Arc<Conn>) -> BoxFuture<()> {
        match &self.others {
            Some(others) if head.uri().path() != ts2021::PATH => others.take(head, stream, conn),
            Some(_) | None => Box::pin(ts2021::take(Arc::clone(&self.shared), head, stream, conn)),
        }
    }

    fn accepts_absolute_form(&self, path: &str) -> bool {
        // The official Rust client sends it (control.md §8.3).
        matches!(path, "/key" | ts2021::PATH)
            || self.others.as_ref().is_some_and(|others| others.accepts_absolute_form(path))
    }
}

/// `GET /version`. Neighbours in the LAN hear the network's name too, so that nobody starts a second one there by
/// mistake.
async fn version(shared: &Shared, conn: &Conn) -> Response<Body> {
    let mut facts = serde_json::json!({ "version": env!("CARGO_PKG_VERSION") });
    let is_near = match conn.peer.ip() {
        IpAddr::V4(ip) => ip.is_private() || ip.is_loopback(),
        IpAddr::V6(ip) => ip.is_unique_local() || ip.is_loopback(),
    };
    if is_near && let Ok(network) = shared.control.read(|t| t.state().settings().base_domain.clone()).await {
        let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
        facts["network"] = network.into();
        facts["machine"] = name.split('.').next().unwrap_or_default().into();
    }
    json(StatusCode::OK, format!("{facts}\n"))
}

/// `GET /key?v=N` (control.md §1.1).
fn key(shared: &Shared, query: Option<&str>) -> Response<Body> {
    let version = query.and_then(|query| ts2021::query_value(query, "v"));
    let Some(version) = version.and_then(|text| text.parse::<u16>().ok()) else {
        return text(StatusCode::BAD_REQUEST, "name your capability version: /key?v=N\n".to_owned());
    };
    if version < KEY_VERSION_MIN {
        let why =
            format!("this client is too old: the server needs capability version {}\n", CapVer::SERVER_MIN);
        return text(StatusCode::BAD_REQUEST, why);
    }
    let public = MachineKey::from_bytes(*shared.noise_key.public().as_bytes());
    let answer = OverTlsPublicKeyResponse { legacy_public_key: MachineKey::ZERO, public_key: public };
    let mut response = json(StatusCode::OK, sw_tailcfg::encode(&answer));
    // Browser clients fetch it from other pages; the key is public (control.md §1.8).
    response.headers_mut().insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    response
}

/// `POST /verify`: whether a relay may admit a client (control.md §2.1).
async fn verify(shared: &Shared, request: Request<Incoming>) -> Response<Body> {
    let body = Limited::new(request.into_body(), VERIFY_MAX).collect().await;
    let asked =
        body.ok().and_then(|body| sw_tailcfg::decode_request::<DerpAdmitRequest>(&body.to_bytes()).ok());
    let Some(asked) = asked else {
        return text(StatusCode::BAD_REQUEST, "no admit request\n".to_owned());
    };
    let known =
        shared.control.read(move |tailnet| tailnet.state().node_by_key(&asked.node_public).is_some()).await;
    match known {
        Ok(allow) => json(StatusCode::OK, sw_tailcfg::encode(&DerpAdmitResponse { allow })),
        Err(failure) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{failure}\n")),
    }
}

/// What the login page says where no page role is built in.
async fn login_hint(shared: &Shared, id: String) -> Response<Body> {
    let asked = id.clone();
    let host = shared
        .control
        .read(move |tailnet| tailnet.login(&asked).map(|login| login.host.hostname.clone()))
        .await;
    match host {
        Ok(Some(_)) => text(
            StatusCode::OK,
            format!(
                "This machine waits to be let in. On the server:\n\n  samewire control nodes approve {id} --user NAME\n"
            ),
        ),
        Ok(None) => {
            text(StatusCode::NOT_FOUND, "This login page has expired; start the login again.\n".to_owned())
        }
        Err(failure) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{failure}\n")),
    }
}

pub(crate) fn text(status: StatusCode, text: String) -> Response<Body> {
    typed(status, "text/plain; charset=utf-8", text.into_bytes())
}

pub(crate) fn json(status: StatusCode, json: impl Into<Vec<u8>>) -> Response<Body> {
    typed(status, "application/json", json.into())
}

pub(crate) fn typed(status: StatusCode, kind: &'static str, body: Vec<u8>) -> Response<Body> {
    let mut response = Response::new(if body.is_empty() { empty() } else { full(body) });
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
