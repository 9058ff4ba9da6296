//! The requests of peers: who may ask what (node-services.md §3.2, §3.3).

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use sw_node::grants;

use super::put;
use crate::core::{CAP_FILES, Core, CoreHandle};
use crate::inner::Arrival;
use crate::local_api::{ResponseBody, text, unescape};

/// Where files are sent to.
const PUT: &str = "/v0/put/";
/// Longest DNS question (node-services.md §3.4).
const QUESTION_MAX: usize = 256 << 10;
/// Limit of an answer to it.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// A client that sends no whole head by then is gone.
const HEAD_MAX: Duration = Duration::from_secs(30);
/// The policy lets the peer send files to this node.
const CAP_FILE_SEND: &str = "https://tailscale.com/cap/file-send";
const DNS_MESSAGE: &str = "application/dns-message";

/// Who asks.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub(super) name: String,
    /// Its stable id.
    pub(super) id: String,
    pub(super) may_send_files: bool,
    ip: IpAddr,
    /// Of the same person as this node.
    is_own_user: bool,
    /// The policy lets it use this node's way to the Internet.
    may_use_exit: bool,
    /// Not signed for the network's lock: it gets nothing.
    is_unsigned: bool,
}

impl Core {
    /// The peer with this address; `None` for strangers.
    fn peer_asking(&self, ip: IpAddr) -> Option<Peer> {
        let netmap = self.node.netmap()?;
        let node = netmap.node_by_address(ip)?;
        let own = &netmap.self_node;
        let offers_exit = self.node.prefs().advertises_exit_node();
        let holds = |name: &str| node.cap_map.contains_key(name);
        let rules = netmap.filter_rules();
        let is_own_user = node.user == own.user && node.tags.is_empty() && own.tags.is_empty();
        let own_address = own.addresses.iter().map(|net| net.addr()).find(|to| to.is_ipv4() == ip.is_ipv4());
        let granted = own_address.map(|to| grants::granted(&rules, ip, to, holds)).unwrap_or_default();
        let may_send = is_own_user || granted.contains_key(CAP_FILE_SEND);
        Some(Peer {
            id: node.stable_id.to_string(),
            may_send_files: may_send && !node.unsigned_peer_api_only && own.cap_map.contains_key(CAP_FILES),
            name: node.name.split('.').next().unwrap_or_default().to_owned(),
            ip,
            is_own_user,
            may_use_exit: offers_exit && grants::may_use_exit(&rules, ip, holds),
            is_unsigned: node.unsigned_peer_api_only,
        })
    }
}

/// Serves one connection.
pub(super) async fn serve(core: CoreHandle, arrival: Arrival) {
    let Arrival { stream, peer, own } = arrival;
    let ip = peer.ip().to_canonical();
    let Ok(Some(peer)) = core.call(move |core| core.peer_asking(ip)).await else { return };
    let service = service_fn(move |request: Request<Incoming>| {
        let (core, peer) = (core.clone(), peer.clone());
        async move { Ok::<_, Infallible>(answer(&core, &peer, own, request).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_MAX)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        tracing::trace!(%error, "a peer's request");
    }
}

async fn answer(
    core: &CoreHandle,
    peer: &Peer,
    own: SocketAddr,
    request: Request<Incoming>,
) -> Response<ResponseBody> {
    let headers = request.headers();
    let is_from_page = headers.contains_key(header::ORIGIN) || headers.contains_key(header::REFERER);
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    if is_from_page || !(host == "peer" || host == own.to_string()) {
        return text(StatusCode::FORBIDDEN, "invalid request");
    }
    match (request.method().clone(), request.uri().path()) {
        (_, "/") => hello(peer),
        (_, path) if path.starts_with(PUT) => {
            let name = unescape(&path[PUT.len()..]);
            match core.call(|core| core.inbox.clone()).await {
                Ok(inbox) => put::answer(inbox, peer, &name, request).await,
                Err(stopped) => text(StatusCode::SERVICE_UNAVAILABLE, stopped.to_string()),
            }
        }
        (Method::GET | Method::POST, "/dns-query") => dns_query(core, peer, request).await,
        _ => text(StatusCode::NOT_FOUND, "not found"),
    }
}

fn hello(peer: &Peer) -> Response<ResponseBody> {
    // A machine's name is a DNS label: nothing in it is markup.
    let body =
        format!("<html><body><h1>samewire</h1><p>Hello, {} ({}).</p></body></html>\n", peer.name, peer.ip);
    let mut response = Response::new(Full::new(Bytes::from(body)).boxed_unsync());
    let headers = response.headers_mut();
    for (name, value) in [
        ("content-type", "text/html; charset=utf-8"),
        ("content-security-policy", "default-src 'none'; frame-ancestors 'none'; script-src 'none'"),
        ("x-frame-options", "DENY"),
        ("x-content-type-options", "nosniff"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// DNS over HTTP for those who use this node's way to the Internet (RFC 8484, node-services.md §2.8).
async fn dns_query(core: &CoreHandle, peer: &Peer, request: Request<Incoming>) -> Response<ResponseBody> {
    if peer.is_unsigned || !(peer.is_own_user || peer.may_use_exit) {
        return text(StatusCode::FORBIDDEN, "denied");
    }
    let question = if request.method() == Method::GET {
        let query = request.uri().query().unwrap_or_default();
        let encoded = query.split('&').find_map(|pair| pair.strip_prefix("dns="));
        encoded.and_then(|text| URL_SAFE_NO_PAD.decode(text).ok())
    } else {
        let kind = request.headers().get(header::CONTENT_TYPE);
        if kind.is_none_or(|kind| kind != DNS_MESSAGE) {
            return text(StatusCode::BAD_REQUEST, "the body is no DNS message");
        }
        Limited::new(request.into_body(), QUESTION_MAX)
            .collect()
            .await
            .ok()
            .map(|body| body.to_bytes().to_vec())
    };
    let Some(question) = question.filter(|question| question.len() <= QUESTION_MAX) else {
        return text(StatusCode::BAD_REQUEST, "the question cannot be read");
    };
    let asked = core.call(|core| {
        let base =
            core.dns_facts().base_nameservers.into_iter().find(|server| !sw_types::is_tailnet_ip(*server));
        (std::sync::Arc::clone(&core.dns), base)
    });
    let Ok((dns, server)) = asked.await else { return text(StatusCode::SERVICE_UNAVAILABLE, "stopping") };
    // What this host asks; its own rules for names only where it has no resolver.
    let answered = async {
        match server {
            Some(server) => dns.ask_one(&question, server).await,
            None => dns.resolve(&question).await,
        }
    };
    match tokio::time::timeout(ANSWER_MAX, answered).await {
        Ok(Some(answer)) => {
            let mut response = Response::new(Full::new(Bytes::from(answer)).boxed_unsync());
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(DNS_MESSAGE));
            response
        }
        Ok(None) | Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "no answer"),
    }
}
