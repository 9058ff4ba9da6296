//! The admin API: who asks, what they may, and where the answer is (threat-model.md §9).
//!
//! `/api/v2` has the hosted service's shape (localapi-cli.md part D), `/api/samewire/v1` is our own
//! and what the command line uses.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sw_net::front::{Body, Conn};
use sw_tailnet::Refusal;
use sw_types::{SecretText, TokenKind, UserId};

use crate::clock;
use crate::public::{json, text};
use crate::server::Shared;
use crate::task::Failure;

mod checks;
mod health;
mod invites;
mod keys;
mod nodes;
mod own;
mod policy;
mod settings;
mod users;
mod v2;

pub(crate) use health::health_response;

/// Largest body: a policy text (threat-model.md §4).
pub(crate) const BODY_MAX: usize = 4 << 20;

/// Who asks.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    /// For the audit log.
    pub name: String,
    /// `all`, `devices:core:read`, …
    scopes: Vec<String>,
    /// The person, when it is one.
    pub user: Option<UserId>,
}

impl Caller {
    /// Somebody at the admin socket: root or the server's own user.
    pub(crate) fn local() -> Self {
        Self { name: "root".to_owned(), scopes: vec!["all".to_owned()], user: None }
    }

    /// An owner or admin at one of their machines.
    pub(crate) fn person(user: &sw_tailnet::User) -> Self {
        Self { name: user.login_name().to_owned(), scopes: vec!["all".to_owned()], user: Some(user.id) }
    }

    /// Checks that the caller may do something of `scope`; reading needs less.
    pub(crate) fn may(&self, scope: &str, method: &Method) -> Result<(), Problem> {
        let reading = *method == Method::GET || *method == Method::HEAD;
        let covers = |held: &String| {
            let (held, read_only) =
                held.strip_suffix(":read").map_or((held.as_str(), false), |held| (held, true));
            (held == "all" || held == scope) && (reading || !read_only)
        };
        if self.scopes.iter().any(covers) {
            return Ok(());
        }
        Err(Problem::new(StatusCode::FORBIDDEN, format!("this key lacks the scope {scope}")))
    }
}

/// Why a request was not done.
#[derive(Debug)]
pub(crate) struct Problem {
    status: StatusCode,
    message: String,
    errors: Vec<String>,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), errors: Vec::new() }
    }

    pub(crate) fn not_found(what: &'static str, word: &str) -> Self {
        Failure::from(Refusal::NotFound { what, word: word.to_owned() }).into()
    }

    fn into_response(self) -> Response<Body> {
        // The shape of localapi-cli.md part D.
        let data = if self.errors.is_empty() {
            serde_json::json!({ "message": self.message, "status": self.status.as_u16() })
        } else {
            let data = serde_json::json!([{ "user": "", "errors": self.errors }]);
            serde_json::json!({ "message": self.message, "data": data, "status": self.status.as_u16() })
        };
        json(self.status, data.to_string())
    }
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        let status = match &failure {
            Failure::Refused(Refusal::NotFound { .. }) => StatusCode::NOT_FOUND,
            Failure::Refused(Refusal::Taken { .. }) => StatusCode::CONFLICT,
            Failure::Refused(Refusal::Moved { .. }) => StatusCode::PRECONDITION_FAILED,
            Failure::Refused(Refusal::Unfit { .. } | Refusal::Forbidden(_) | Refusal::Policy(_)) => {
                StatusCode::BAD_REQUEST
            }
            Failure::DiskFull(_) => StatusCode::INSUFFICIENT_STORAGE,
            Failure::Storage(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Failure::Stopping => StatusCode::SERVICE_UNAVAILABLE,
        };
        let errors = match &failure {
            Failure::Refused(Refusal::Policy(error)) if error.report.is_empty() => vec![error.to_string()],
            Failure::Refused(Refusal::Policy(error)) => vec![error.report.clone()],
            Failure::Refused(_) | Failure::Storage(_) | Failure::DiskFull(_) | Failure::Stopping => {
                Vec::new()
            }
        };
        Self { status, message: failure.to_string(), errors }
    }
}

/// An answer, or why not.
pub(crate) type Answer = Result<Response<Body>, Problem>;

/// One request, with what a handler needs of it.
pub(crate) struct Ask<'a> {
    pub shared: &'a Shared,
    pub caller: &'a Caller,
    pub parts: &'a Parts,
    pub body: &'a Bytes,
    /// The path below the API's prefix, percent-decoding not needed for our words.
    pub path: Vec<&'a str>,
}

impl Ask<'_> {
    pub(crate) fn method(&self) -> &Method {
        &self.parts.method
    }

    pub(crate) fn may(&self, scope: &str) -> Result<(), Problem> {
        self.caller.may(scope, self.method())
    }

    /// The body as JSON; an empty one is `{}`.
    pub(crate) fn input<T: DeserializeOwned>(&self) -> Result<T, Problem> {
        let body: &[u8] = if self.body.is_empty() { b"{}" } else { self.body };
        serde_json::from_slice(body)
            .map_err(|error| Problem::new(StatusCode::BAD_REQUEST, format!("the body: {error}")))
    }

    pub(crate) fn query(&self, name: &str) -> Option<String> {
        crate::ts2021::query_value(self.parts.uri.query()?, name)
    }
}

pub(crate) fn ok(value: &impl Serialize) -> Answer {
    match serde_json::to_vec(value) {
        Ok(body) => Ok(json(StatusCode::OK, body)),
        Err(error) => Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())),
    }
}

pub(crate) fn no_such_path() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "there is nothing at this path")
}

pub(crate) fn too_long() -> Response<Body> {
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "the body is too long").into_response()
}

/// A request from the public listener: by key, over TLS or from this machine.
pub(crate) async fn public(shared: Arc<Shared>, request: Request<Incoming>, conn: &Conn) -> Response<Body> {
    let (parts, body) = request.into_parts();
    if parts.uri.path() == "/api/openapi.json" {
        return v2::openapi().unwrap_or_else(Problem::into_response);
    }
    let now = clock::now();
    if let Some(wait) = shared.throttle.address_wait(conn.peer.ip(), now.mono) {
        let mut response = text(StatusCode::TOO_MANY_REQUESTS, "too many failed attempts\n".to_owned());
        response.headers_mut().insert(http::header::RETRY_AFTER, wait.as_secs().clamp(1, 3_600).into());
        return response;
    }
    let secret = bearer(&parts);
    if secret.is_some() && !conn.is_tls() && !conn.peer.ip().is_loopback() {
        tracing::warn!("an API key came over plain HTTP; it should be replaced");
        let why = "API keys are taken over TLS or from this machine only; replace the key, it was readable on its way";
        return Problem::new(StatusCode::FORBIDDEN, why).into_response();
    }
    let caller = match secret {
        Some(secret) => authenticate(&shared, secret, now.wall).await,
        None => None,
    };
    let Some(caller) = caller else {
        shared.throttle.address_failed(conn.peer.ip(), now.mono);
        let mut response = Problem::new(StatusCode::UNAUTHORIZED, "an API key is needed").into_response();
        response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer, Basic"));
        return response;
    };
    conn.authenticated();
    match Limited::new(body, BODY_MAX).collect().await {
        Ok(body) => handle(&shared, &caller, &parts, body.to_bytes()).await,
        Err(_) => too_long(),
    }
}

/// The key of a request: a bearer token, or the user of Basic as the hosted service takes it.
fn bearer(parts: &Parts) -> Option<String> {
    use base64::Engine as _;
    let value = parts.headers.get(AUTHORIZATION)?.to_str().ok()?;
    if let Some(token) = value.strip_prefix("Bearer ") {
        return Some(token.trim().to_owned());
    }
    let basic =
        base64::engine::general_purpose::STANDARD.decode(value.strip_prefix("Basic ")?.trim()).ok()?;
    let pair = String::from_utf8(basic).ok()?;
    pair.split_once(':').map(|(user, _)| user.to_owned())
}

async fn authenticate(shared: &Shared, secret: String, now: sw_types::UnixTime) -> Option<Caller> {
    let parsed: SecretText = secret.parse().ok()?;
    if parsed.kind() != TokenKind::ApiKey {
        return None;
    }
    let id = parsed.id().to_string();
    let look = move |tailnet: &sw_tailnet::Tailnet| {
        let key = tailnet.state().api_key(&id)?;
        let good = key.hash.matches(&secret) && key.expires.is_none_or(|expires| expires > now);
        good.then(|| Caller { name: format!("api key {}", key.id), scopes: key.scopes.clone(), user: None })
    };
    shared.control.read(look).await.ok()?
}

/// Answers a caller who is known.
pub(crate) async fn handle(shared: &Shared, caller: &Caller, parts: &Parts, body: Bytes) -> Response<Body> {
    shared.metrics.api_requests.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let path = parts.uri.path();
    let segments =
        |rest: &'_ str| rest.split('/').filter(|s| !s.is_empty()).map(str::to_owned).collect::<Vec<_>>();
    let answer = if let Some(rest) = path.strip_prefix("/api/samewire/v1/") {
        let owned = segments(rest);
        let path = owned.iter().map(String::as_str).collect();
        own::handle(Ask { shared, caller, parts, body: &body, path }).await
    } else if let Some(rest) = path.strip_prefix("/api/v2/") {
        let owned = segments(rest);
        let path = owned.iter().map(String::as_str).collect();
        v2::handle(Ask { shared, caller, parts, body: &body, path }).await
    } else {
        match path {
            "/metrics" | "/health" => {
                let path = vec![path.trim_start_matches('/')];
                own::handle(Ask { shared, caller, parts, body: &body, path }).await
            }
            "/api/openapi.json" => v2::openapi(),
            _ => Err(no_such_path()),
        }
    };
    answer.unwrap_or_else(Problem::into_response)
}
