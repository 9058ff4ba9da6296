//! The way in while a server is not there yet, and for the authority's questions over plain HTTP (RFC 8555 §8.3).

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;

use crate::front::{Body, BoxFuture, Conn, Router, Stream, full};

const PREFIX: &str = "/.well-known/acme-challenge/";

/// Answers to HTTP-01 challenges, by token.
#[derive(Debug, Default)]
pub struct HttpProofs(RwLock<BTreeMap<String, String>>);

impl HttpProofs {
    pub(super) fn show(&self, token: &str, proof: &str) {
        let mut proofs = self.0.write().unwrap_or_else(PoisonError::into_inner);
        proofs.insert(token.to_owned(), proof.to_owned());
    }

    pub(super) fn hide(&self, token: &str) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(token);
    }

    fn get(&self, path: &str) -> Option<String> {
        let token = path.strip_prefix(PREFIX)?;
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(token).cloned()
    }
}

/// Answers challenges, and hands everything else to a router that may come later.
pub struct Entrance {
    proofs: Arc<HttpProofs>,
    inner: OnceLock<Arc<dyn Router>>,
}

impl std::fmt::Debug for Entrance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Entrance").field("is_open", &self.inner.get().is_some()).finish_non_exhaustive()
    }
}

impl Entrance {
    /// An entrance that leads nowhere yet.
    #[must_use]
    pub fn new(proofs: Arc<HttpProofs>) -> Arc<Self> {
        Arc::new(Self { proofs, inner: OnceLock::new() })
    }

    /// Leads on to `router` from now on; the first one stays.
    pub fn open(&self, router: Arc<dyn Router>) {
        self.inner.get_or_init(|| router);
    }
}

fn text(status: StatusCode, text: String) -> BoxFuture<Response<Body>> {
    let mut response = Response::new(full(text));
    *response.status_mut() = status;
    Box::pin(std::future::ready(response))
}

impl Router for Entrance {
    fn route(&self, request: Request<Incoming>, conn: Arc<Conn>) -> BoxFuture<Response<Body>> {
        let path = request.uri().path();
        match (self.proofs.get(path), self.inner.get()) {
            (Some(proof), _) => text(StatusCode::OK, proof),
            (None, Some(inner)) => inner.route(request, conn),
            (None, None) => text(StatusCode::SERVICE_UNAVAILABLE, "the server is starting\n".to_owned()),
        }
    }

    fn claims(&self, head: &Request<()>, conn: &Conn) -> bool {
        self.inner.get().is_some_and(|inner| inner.claims(head, conn))
    }

    fn take(&self, head: Request<()>, stream: Stream, conn: Arc<Conn>) -> BoxFuture<()> {
        match self.inner.get() {
            Some(inner) => inner.take(head, stream, conn),
            None => Box::pin(std::future::ready(())),
        }
    }

    fn accepts_absolute_form(&self, path: &str) -> bool {
        self.inner.get().is_some_and(|inner| inner.accepts_absolute_form(path))
    }
}
