//! Pings: those of users through the LocalAPI, and those that the server asks for (control.md §5.15).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::Method;
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use sw_path::{PingOutcome, Via};
use sw_tailcfg::PingRequest;
use sw_types::local::PingResult;

use crate::control::{ControlClient, ServerUrl};
use crate::core::{CoreHandle, PingTarget};

/// Limit of a request to a peer's API (node-services.md §3.3).
const PEER_API_MAX: Duration = Duration::from_secs(10);
/// Limit of one ping.
const PING_MAX: Duration = Duration::from_secs(5);
const HTTP_OK_HEAD: &str = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n";
const HTTP_BAD_REQUEST: &str = "HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n";

/// By what a user pings (localapi-cli.md §A3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PingKind {
    Disco,
    Tsmp,
    Icmp,
    PeerApi,
}

impl PingKind {
    /// Reads the parameter `type`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "disco" | "" => Self::Disco,
            "TSMP" => Self::Tsmp,
            "ICMP" => Self::Icmp,
            "peerapi" => Self::PeerApi,
            _ => return None,
        })
    }
}

/// Pings an address.
pub(crate) async fn ping(core: &CoreHandle, ip: IpAddr, kind: PingKind, size: u16) -> PingResult {
    match kind {
        PingKind::Disco => disco(core, ip, size).await,
        PingKind::Tsmp | PingKind::Icmp => through_tunnel(core, ip, kind).await,
        PingKind::PeerApi => peer_api(core, ip).await,
    }
}

/// The peer with an address, or what is to be said instead.
async fn target(core: &CoreHandle, ip: IpAddr) -> Result<PingResult, PingResult> {
    let mut result = PingResult { ip: ip.to_string(), ..PingResult::default() };
    match core.call(move |core| core.ping_target(ip)).await {
        Ok(PingTarget::Peer { name, ip, .. }) => {
            result.node_name = name;
            result.node_ip = ip.to_string();
            Ok(result)
        }
        Ok(PingTarget::Own { name }) => {
            let err = format!("{ip} is local Tailscale IP");
            Err(PingResult { err, is_local_ip: true, node_name: name, ..result })
        }
        Ok(PingTarget::Unknown) => Err(PingResult { err: "no matching peer".to_owned(), ..result }),
        Err(stopped) => Err(PingResult { err: stopped.to_string(), ..result }),
    }
}

/// Pings by a packet inside the tunnel, which the peer's daemon (TSMP) or its host (ICMP) answers.
async fn through_tunnel(core: &CoreHandle, ip: IpAddr, kind: PingKind) -> PingResult {
    let mut result = match target(core, ip).await {
        Ok(result) => result,
        Err(result) => return result,
    };
    let begin = Instant::now();
    let sent = core.call(move |core| match kind {
        PingKind::Tsmp => core.ping_tsmp(ip),
        PingKind::Icmp | PingKind::Disco | PingKind::PeerApi => core.ping_icmp(ip),
    });
    let Ok(Some(answer)) = sent.await else {
        "this node has no address of that family".clone_into(&mut result.err);
        return result;
    };
    match tokio::time::timeout(PING_MAX, answer).await {
        Ok(Ok(port)) => {
            result.latency_seconds = begin.elapsed().as_secs_f64();
            result.peer_api_port = port.unwrap_or_default();
        }
        Ok(Err(_)) | Err(_) => "timeout waiting for ping reply".clone_into(&mut result.err),
    }
    result
}

/// Asks the peer's API for its first page.
async fn peer_api(core: &CoreHandle, ip: IpAddr) -> PingResult {
    let mut result = match target(core, ip).await {
        Ok(result) => result,
        Err(result) => return result,
    };
    let Ok(Some(url)) = core.call(move |core| core.peer_api_url(ip)).await else {
        "no peerapi base found".clone_into(&mut result.err);
        return result;
    };
    let begin = Instant::now();
    match tokio::time::timeout(PEER_API_MAX, head(core, &url)).await {
        Ok(Ok(())) => {
            result.latency_seconds = begin.elapsed().as_secs_f64();
            result.peer_api_url = url;
        }
        Ok(Err(why)) => result.err = why,
        Err(_) => "timeout waiting for the peerapi".clone_into(&mut result.err),
    }
    result
}

async fn head(core: &CoreHandle, url: &str) -> Result<(), String> {
    let told = |error: &dyn std::fmt::Display| error.to_string();
    let authority = url.trim_start_matches("http://");
    let to = authority.parse().map_err(|_| "no peerapi base found".to_owned())?;
    let stream = crate::dialer::dial(core, to).await.map_err(|error| told(&error))?;
    let connected = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = connected.map_err(|error| told(&error))?;
    let driver = tokio::spawn(connection);
    let request = http::Request::head("/").header(http::header::HOST, authority);
    let request = request.body(Empty::<bytes::Bytes>::new()).map_err(|error| told(&error))?;
    let response = sender.send_request(request).await.map_err(|error| told(&error));
    driver.abort();
    match response?.status() {
        http::StatusCode::OK => Ok(()),
        status => Err(format!("HTTP status {}", status.as_u16())),
    }
}

/// Pings the path of a peer, by disco.
pub(crate) async fn disco(core: &CoreHandle, ip: IpAddr, size: u16) -> PingResult {
    let mut result = PingResult { ip: ip.to_string(), ..PingResult::default() };
    let started = core
        .call(move |core| match core.ping_target(ip) {
            PingTarget::Peer { key, name, ip } => Ok((core.ping_path(&key, size), name, ip)),
            PingTarget::Own { name } => Err((true, name)),
            PingTarget::Unknown => Err((false, String::new())),
        })
        .await;
    let answer = match started {
        Ok(Ok((answer, name, node_ip))) => {
            result.node_name = name;
            result.node_ip = node_ip.to_string();
            answer
        }
        Ok(Err((true, name))) => {
            result.err = format!("{ip} is local Tailscale IP");
            result.is_local_ip = true;
            result.node_name = name;
            return result;
        }
        Ok(Err((false, _))) => {
            result.err = "no matching peer".to_owned();
            return result;
        }
        Err(stopped) => {
            result.err = stopped.to_string();
            return result;
        }
    };
    match tokio::time::timeout(PING_MAX, answer).await {
        Ok(Ok(PingOutcome::Pong { via, rtt })) => {
            result.latency_seconds = rtt.as_secs_f64();
            match via {
                Via::Direct(address) => result.endpoint = address.to_string(),
                Via::PeerRelay { server, vni } => result.peer_relay = format!("{server}:vni:{vni}"),
                Via::Relay(region) => {
                    result.derp_region_id = region.0;
                    result.derp_region_code =
                        core.call(move |core| core.region_code(region)).await.unwrap_or_default();
                }
            }
        }
        Ok(Ok(PingOutcome::UnknownPeer)) => result.err = "no matching peer".to_owned(),
        Ok(Ok(PingOutcome::TimedOut) | Err(_)) | Err(_) => {
            result.err = "timeout waiting for ping reply".to_owned();
        }
    }
    result
}

/// Answers a ping request of the server: a plain one by `HEAD`, `c2n` by the answer to the request inside.
pub(crate) fn answer_server(client: Arc<ControlClient>, request: PingRequest) {
    tokio::spawn(async move {
        let Ok(uri) = request.url.parse::<http::Uri>() else { return };
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        let result = if request.types == "c2n" {
            let answer = c2n(&request.payload.0);
            client.exchange(Method::POST, &path, answer, &[]).await
        } else if request.types.is_empty() && (request.url_is_noise || is_same_server(&request.url, &client))
        {
            client.exchange(Method::HEAD, &path, Vec::new(), &[]).await
        } else {
            return;
        };
        if let Err(error) = result {
            tracing::debug!(%error, "the answer to a ping request");
        }
    });
}

fn is_same_server(url: &str, client: &ControlClient) -> bool {
    url.parse::<ServerUrl>().is_ok_and(|url| url.authority() == client.authority())
}

/// The requests of control that every node answers (node-services.md §15).
fn c2n(request: &[u8]) -> Vec<u8> {
    let split = request.windows(4).position(|window| window == b"\r\n\r\n");
    let (head, body) = match split {
        Some(at) => (&request[..at], &request[at + 4..]),
        None => (request, &[][..]),
    };
    let target = head.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
    match target {
        b"/echo" => [HTTP_OK_HEAD.as_bytes(), body].concat(),
        b"/update" => [
            HTTP_OK_HEAD.as_bytes(),
            br#"{"Err":"unsupported","Enabled":false,"Supported":false,"Started":false}"#,
        ]
        .concat(),
        b"/debug/health" => [HTTP_OK_HEAD.as_bytes(), b"{}"].concat(),
        _ => HTTP_BAD_REQUEST.as_bytes().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_echo_returns_the_body_and_rubbish_is_refused() {
        let answer = c2n(b"POST /echo HTTP/1.1\r\nHost: x\r\n\r\nhello");
        assert!(answer.starts_with(b"HTTP/1.1 200 OK") && answer.ends_with(b"hello"));
        assert!(c2n(b"\xff\xff").starts_with(b"HTTP/1.1 400"));
    }
}
