//! Names that DNS does not tell: relays, whose addresses the map has, tell those of the control server (derp.md §4.5).
//! What a relay says is not believed for more than where to connect: the server proves its key itself.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use sw_types::RelayNode;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_rustls::TlsConnector;
use tracing::{debug, info};

use crate::dial::{self, DialOptions};
use crate::tls::client_config;

/// For one relay.
const LIMIT: Duration = Duration::from_secs(3);

/// Relays asked before giving up.
const RELAYS_MAX: usize = 3;

const ANSWER_MAX: u64 = 64 << 10;

/// The relays that may be asked; clones share them.
#[derive(Clone, Debug, Default)]
pub struct BootstrapRelays(Arc<ArcSwap<Vec<RelayNode>>>);

impl BootstrapRelays {
    /// Takes the relays of a map; those whose address is not known without DNS are of no use.
    pub fn set(&self, nodes: impl IntoIterator<Item = RelayNode>) {
        let has_address = |node: &RelayNode| node.ipv4.fixed().is_some() || node.ipv6.fixed().is_some();
        self.0
            .store(Arc::new(nodes.into_iter().filter(|node| !node.stun_only && has_address(node)).collect()));
    }

    /// Asks relays in turn; `None` when none of them knows the name.
    pub(crate) async fn resolve(&self, options: &DialOptions, host: &str) -> Option<Vec<IpAddr>> {
        for node in self.0.load().iter().filter(|node| node.host_name != host).take(RELAYS_MAX) {
            match tokio::time::timeout(LIMIT, ask(options, node, host)).await {
                Ok(Ok(addresses)) if !addresses.is_empty() => {
                    info!(host, relay = node.name, "DNS does not tell the name, a relay does");
                    return Some(addresses);
                }
                Ok(Ok(_)) => {}
                Ok(Err(error)) => debug!(%error, relay = node.name, "no answer about a name"),
                Err(_) => debug!(relay = node.name, "no answer about a name in time"),
            }
        }
        None
    }
}

async fn ask(options: &DialOptions, node: &RelayNode, host: &str) -> io::Result<Vec<IpAddr>> {
    // Without this map: a relay is found by its address alone.
    let options = DialOptions { bootstrap: BootstrapRelays::default(), ..options.clone() };
    let tcp = dial::connect_node(&options, node).await.map_err(io::Error::other)?;
    let (trust, name) = crate::derp_client::trust_of(node).map_err(io::Error::other)?;
    let config = client_config(&trust, &[b"http/1.1"]).map_err(io::Error::other)?;
    exchange(TlsConnector::from(config).connect(name, tcp).await?, node, host).await
}

async fn exchange<S>(mut stream: S, node: &RelayNode, host: &str) -> io::Result<Vec<IpAddr>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let relay = dial::join_host_port(&node.host_name, node.derp_port);
    let head = format!("GET /bootstrap-dns?q={host} HTTP/1.1\r\nHost: {relay}\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    stream.flush().await?;
    let mut answer = Vec::new();
    stream.take(ANSWER_MAX).read_to_end(&mut answer).await?;
    Ok(addresses(&answer, host))
}

/// Reads the addresses of a name out of an answer; whatever is no such answer names none.
fn addresses(answer: &[u8], host: &str) -> Vec<IpAddr> {
    let text = String::from_utf8_lossy(answer);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return Vec::new() };
    if !head.starts_with("HTTP/1.1 200") {
        return Vec::new();
    }
    // A server that sends in chunks puts their lengths around the object.
    let object = body.find('{').zip(body.rfind('}')).and_then(|(first, last)| body.get(first..=last));
    let names: Option<BTreeMap<String, Vec<IpAddr>>> =
        object.and_then(|text| serde_json::from_str(text).ok());
    names.and_then(|mut names| names.remove(host)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_for_the_name_that_was_asked() {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{\"vpn.example\":[\"192.0.2.1\",\"2001:db8::1\"]}";
        let found = addresses(answer, "vpn.example");
        assert_eq!(found, ["192.0.2.1".parse::<IpAddr>().unwrap(), "2001:db8::1".parse().unwrap()]);
        assert!(addresses(answer, "other.example").is_empty());
        for bad in
            ["", "HTTP/1.1 404 x\r\n\r\n{}", "HTTP/1.1 200 OK\r\n\r\n}{", "HTTP/1.1 200 OK\r\n\r\n{\"a\":1}"]
        {
            assert!(addresses(bad.as_bytes(), "a").is_empty(), "{bad}");
        }
    }
}
