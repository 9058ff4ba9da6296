//! Passing requests on to a program of this machine, with who asks (node-services.md §8.2).

use std::io;
use std::net::IpAddr;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName};
use http::{HeaderValue, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use sw_net::tls::{Trust, client_config, server_name};
use sw_netstack::BoxedStream;
use sw_node::grants;
use sw_types::local::{HttpHandler, Upstream, UpstreamKind};
use tokio::io::copy_bidirectional;

use super::tcp::connect;
use super::web::{Body, plain};
use crate::core::{Core, CoreHandle};

/// What concerns one connection and is not passed on (RFC 9110 §7.6.1).
const HOP_BY_HOP: [&str; 7] = [
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
];
/// What says who asks: only this daemon may.
const OURS: [&str; 9] = [
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-forwarded-for",
    "tailscale-user-login",
    "tailscale-user-name",
    "tailscale-user-profile-pic",
    "tailscale-funnel-request",
    "tailscale-app-capabilities",
    "tailscale-headers-info",
];

/// The person behind a request.
#[derive(Debug, Default)]
struct Asker {
    login: String,
    name: String,
    picture: String,
    /// What the policy grants of the capabilities that the handler accepts, as JSON.
    capabilities: String,
}

impl Core {
    /// Who asks from this address; nobody for tagged machines.
    fn asker(&self, from: IpAddr, accepted: &[String]) -> Asker {
        let Some(netmap) = self.node.netmap() else { return Asker::default() };
        let Some(node) = netmap.node_by_address(from) else { return Asker::default() };
        let own = netmap.self_node.addresses.iter().map(|net| net.addr());
        let holds = |name: &str| node.cap_map.contains_key(name);
        let mut capabilities = String::new();
        if !accepted.is_empty()
            && let Some(to) = own.into_iter().find(|to| to.is_ipv4() == from.is_ipv4())
        {
            let mut granted = grants::granted(&netmap.filter_rules(), from, to, holds);
            granted.retain(|name, _| accepted.iter().any(|one| one == name));
            capabilities = serde_json::to_string(&granted).unwrap_or_default();
        }
        let profile = netmap.user_profiles.get(&node.user).filter(|_| node.tags.is_empty());
        match profile {
            Some(profile) => Asker {
                login: profile.login_name.clone(),
                name: profile.display_name.clone(),
                picture: profile.profile_pic_url.clone(),
                capabilities,
            },
            None => Asker { capabilities, ..Asker::default() },
        }
    }
}

/// Passes a request on and its answer back.
pub(super) async fn pass(
    core: &CoreHandle,
    handler: &HttpHandler,
    (mount, from): (&str, IpAddr),
    mut request: Request<Incoming>,
) -> Response<Body> {
    let Some(upstream) = Upstream::parse(&handler.proxy) else {
        return plain(StatusCode::BAD_GATEWAY, "the target of this mount is none\n");
    };
    let accepted = handler.accept_app_caps.clone();
    let asker = core.call(move |core| core.asker(from, &accepted)).await.unwrap_or_default();
    let upgrade = request.headers().get(header::UPGRADE).cloned();
    let client = upgrade.is_some().then(|| hyper::upgrade::on(&mut request));
    let request = rewritten(request, &upstream, mount, from, &asker, upgrade.as_ref());
    let mut response = match send(&upstream, request).await {
        Ok(response) => response,
        Err(error) => {
            let text = format!("{} does not answer: {error}\n", handler.proxy);
            return plain(StatusCode::BAD_GATEWAY, text);
        }
    };
    if response.status() == StatusCode::SWITCHING_PROTOCOLS
        && let Some(client) = client
    {
        let behind = hyper::upgrade::on(&mut response);
        tokio::spawn(async move {
            if let (Ok(client), Ok(behind)) = (client.await, behind.await) {
                let (mut client, mut behind) = (TokioIo::new(client), TokioIo::new(behind));
                let _ended = copy_bidirectional(&mut client, &mut behind).await;
            }
        });
        return response.map(|_| Empty::<Bytes>::new().map_err(|never| match never {}).boxed_unsync());
    }
    strip(response.headers_mut());
    response.map(|body| body.map_err(io::Error::other).boxed_unsync())
}

/// The request as the program behind gets it.
fn rewritten(
    request: Request<Incoming>,
    upstream: &Upstream,
    mount: &str,
    from: IpAddr,
    asker: &Asker,
    upgrade: Option<&HeaderValue>,
) -> Request<Incoming> {
    let (mut parts, body) = request.into_parts();
    parts.uri = uri_behind(&parts.uri, &upstream.base, mount);
    parts.version = http::Version::HTTP_11;
    let headers = &mut parts.headers;
    strip(headers);
    for name in OURS {
        headers.remove(name);
    }
    if let Some(protocol) = upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, protocol.clone());
    }
    let mut set = |name: &'static str, value: &str| {
        if !value.is_empty()
            && let Ok(value) = HeaderValue::from_str(&encoded(value))
        {
            headers.insert(HeaderName::from_static(name), value);
        }
    };
    set("x-forwarded-proto", "http");
    set("x-forwarded-for", &from.to_string());
    set("tailscale-user-login", &asker.login);
    set("tailscale-user-name", &asker.name);
    set("tailscale-user-profile-pic", &asker.picture);
    set("tailscale-app-capabilities", &asker.capabilities);
    if !asker.login.is_empty() {
        set("tailscale-headers-info", "https://tailscale.com/s/serve-headers");
    }
    if let Some(host) = headers.get(header::HOST).cloned() {
        headers.insert(HeaderName::from_static("x-forwarded-host"), host);
    } else {
        headers.insert(header::HOST, HeaderValue::from_static("localhost"));
    }
    Request::from_parts(parts, body)
}

/// The path of the program behind: the mount's is taken off, the target's own put in front.
fn uri_behind(uri: &Uri, base: &str, mount: &str) -> Uri {
    let inside = uri.path().strip_prefix(mount.trim_end_matches('/')).unwrap_or(uri.path());
    let slash = if inside.starts_with('/') { "" } else { "/" };
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    format!("{base}{slash}{inside}{query}").parse().unwrap_or_else(|_| Uri::from_static("/"))
}

/// Takes off what concerns one connection, and what its `Connection` names.
fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
    headers.remove(header::CONNECTION);
    headers.remove(header::UPGRADE);
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
}

/// A header's value as ASCII: other texts in the Q encoding of RFC 2047.
fn encoded(text: &str) -> String {
    if text.bytes().all(|byte| (0x20..0x7f).contains(&byte)) {
        return text.to_owned();
    }
    let mut out = String::from("=?utf-8?q?");
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("={byte:02X}"));
        }
    }
    out + "?="
}

async fn send(upstream: &Upstream, request: Request<Incoming>) -> io::Result<Response<Incoming>> {
    let stream: BoxedStream = match &upstream.kind {
        UpstreamKind::Http { host, port } => connect(&authority(host, *port)).await?,
        UpstreamKind::Unix(path) => connect(&format!("unix:{path}")).await?,
        UpstreamKind::Https { host, port, is_verified } => {
            let trust = if *is_verified { Trust::Roots } else { Trust::Anything };
            let config = client_config(&trust, &[b"http/1.1"]).map_err(io::Error::other)?;
            let name = server_name(host).map_err(io::Error::other)?;
            let stream = connect(&authority(host, *port)).await?;
            Box::new(tokio_rustls::TlsConnector::from(config).connect(name, stream).await?)
        }
    };
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::trace!(%error, "what is served");
        }
    });
    sender.send_request(request).await.map_err(io::Error::other)
}

fn authority(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_is_taken_off_and_the_base_put_in_front() {
        let behind = |uri: &str, base: &str, mount: &str| {
            uri_behind(&uri.parse().expect("a URI"), base, mount).to_string()
        };
        assert_eq!(behind("/a/b?c=d", "", "/"), "/a/b?c=d");
        assert_eq!(behind("/app/x", "", "/app/"), "/x");
        assert_eq!(behind("/app", "/base", "/app"), "/base/");
        assert_eq!(behind("/", "/base", "/"), "/base/");
    }

    #[test]
    fn names_that_are_no_ascii_are_encoded() {
        assert_eq!(encoded("Ada Lovelace"), "Ada Lovelace");
        assert_eq!(encoded("Jürgen"), "=?utf-8?q?J=C3=BCrgen?=");
        assert_eq!(encoded("a\r\nb"), "=?utf-8?q?a=0D=0Ab?=");
    }

    #[test]
    fn what_concerns_one_connection_is_not_passed_on() {
        let mut headers = HeaderMap::new();
        for (name, value) in
            [("connection", "close, x-own"), ("x-own", "1"), ("te", "trailers"), ("accept", "*/*")]
        {
            headers.insert(name, HeaderValue::from_static(value));
        }
        strip(&mut headers);
        assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["accept"]);
    }
}
