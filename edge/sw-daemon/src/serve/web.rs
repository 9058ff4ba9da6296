//! Web servers: which handler a request is for (node-services.md §8.2).

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use sw_types::local::HttpHandler;

use super::{Port, Web, files, proxy};
use crate::core::CoreHandle;
use crate::inner::Arrival;

/// A client that sends no whole head by then is gone.
const HEAD_MAX: Duration = Duration::from_secs(60);

/// The body of an answer, which may come from a program or a file.
pub(super) type Body = UnsyncBoxBody<Bytes, io::Error>;

pub(super) async fn serve(core: CoreHandle, port: Arc<Port>, arrival: Arrival) {
    let Arrival { stream, peer, .. } = arrival;
    let from = peer.ip().to_canonical();
    let service = service_fn(move |request: Request<Incoming>| {
        let (core, port) = (core.clone(), Arc::clone(&port));
        async move { Ok::<_, Infallible>(answer(&core, &port, from, request).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    if let Err(error) = connection.await {
        tracing::trace!(%error, "a request to what is served");
    }
}

async fn answer(core: &CoreHandle, port: &Port, from: IpAddr, request: Request<Incoming>) -> Response<Body> {
    let Port::Web(web) = port else { return plain(StatusCode::NOT_FOUND, "not found") };
    let host = host_of(&request);
    let Some((mount, handler)) = web.find(&host, request.uri().path()) else {
        return plain(StatusCode::NOT_FOUND, "nothing is served here\n");
    };
    if !handler.text.is_empty() {
        plain(StatusCode::OK, handler.text.clone())
    } else if !handler.redirect.is_empty() {
        redirect(&handler.redirect, &host, request.uri())
    } else if !handler.path.is_empty() {
        files::answer(&handler.path, mount, &request).await
    } else {
        proxy::pass(core, handler, (mount, from), request).await
    }
}

/// The host that a request names, without its port.
fn host_of(request: &Request<Incoming>) -> String {
    let named = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let host = named.or(request.uri().host()).unwrap_or_default();
    let bare = match host.rsplit_once(':') {
        Some((bare, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => bare,
        Some(_) | None => host,
    };
    bare.trim_end_matches('.').to_ascii_lowercase()
}

impl Web {
    /// The handler for a path of a host, and the mount it stands at.
    fn find(&self, host: &str, path: &str) -> Option<(&str, &HttpHandler)> {
        let full = if host.contains('.') { host.to_owned() } else { format!("{host}.{}", self.suffix) };
        let handlers = self.hosts.get(&full).or_else(|| {
            // By its address this machine is itself.
            let is_address = host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
            let only = self.hosts.values().next().filter(|_| self.hosts.len() == 1);
            only.filter(|_| is_address)
        })?;
        find_mount(handlers, path)
    }
}

/// Walks up from the path to the nearest mount.
fn find_mount<'h>(
    handlers: &'h BTreeMap<String, HttpHandler>,
    path: &str,
) -> Option<(&'h str, &'h HttpHandler)> {
    let at = |mount: &str| handlers.get_key_value(mount).map(|(mount, handler)| (mount.as_str(), handler));
    if let Some(found) = at(path) {
        return Some(found);
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    loop {
        let mount = format!("/{}", parts.join("/"));
        let as_directory = if parts.is_empty() { mount.clone() } else { format!("{mount}/") };
        if let Some(found) = at(&as_directory).or_else(|| at(&mount)) {
            return Some(found);
        }
        parts.pop()?;
    }
}

/// An answer of text.
pub(super) fn plain(status: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    let mut response = whole(text);
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// An answer whose body is at hand.
pub(super) fn whole(body: impl Into<Bytes>) -> Response<Body> {
    let never = |never: Infallible| -> io::Error { match never {} };
    Response::new(Full::new(body.into()).map_err(never).boxed_unsync())
}

fn redirect(to: &str, host: &str, uri: &http::Uri) -> Response<Body> {
    let (status, to) = match to.split_once(':') {
        Some((digits, rest)) if digits.len() == 3 && digits.starts_with('3') => {
            (digits.parse().ok().and_then(|code| StatusCode::from_u16(code).ok()), rest)
        }
        Some(_) | None => (None, to),
    };
    let target = uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let to = to.replace("${HOST}", host).replace("${REQUEST_URI}", target);
    let Ok(location) = HeaderValue::from_str(&to) else {
        return plain(StatusCode::INTERNAL_SERVER_ERROR, "a redirect to no address\n");
    };
    let mut response = plain(status.unwrap_or(StatusCode::FOUND), "");
    response.headers_mut().insert(header::LOCATION, location);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn web() -> Web {
        let handler = |text: &str| HttpHandler { text: text.to_owned(), ..HttpHandler::default() };
        let mounts = [("/", "root"), ("/app/", "app"), ("/app/deep", "deep"), ("/file", "file")];
        let handlers = mounts.map(|(mount, text)| (mount.to_owned(), handler(text))).into();
        let hosts = BTreeMap::from([("nas.home.internal".to_owned(), handlers)]);
        Web { port: 80, suffix: "home.internal".to_owned(), hosts }
    }

    #[test]
    fn the_nearest_mount_answers() {
        let web = web();
        for (path, text) in [
            ("/", "root"),
            ("/else", "root"),
            ("/app", "app"),
            ("/app/x/y", "app"),
            ("/app/deep", "deep"),
            ("/app/deep/er", "deep"),
            ("/app/../file", "file"),
            ("/application", "root"),
        ] {
            assert_eq!(web.find("nas", path).map(|(_, handler)| handler.text.as_str()), Some(text), "{path}");
        }
    }

    #[test]
    fn a_host_is_known_by_its_names_and_addresses_alone() {
        let web = web();
        for host in ["nas", "nas.home.internal", "100.64.0.1", "[fd7a::1]"] {
            assert!(web.find(host, "/").is_some(), "{host}");
        }
        for host in ["", "evil.example", "nas.evil.example", "other"] {
            assert!(web.find(host, "/").is_none(), "{host}");
        }
    }
}
