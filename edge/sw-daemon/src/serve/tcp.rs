//! Ports that are forwarded (node-services.md §8.3).

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use sw_netstack::BoxedStream;
use sw_types::local::TcpPortHandler;
use tokio::io::{AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpStream, UnixStream};

use crate::inner::Arrival;

/// Limit for reaching the program behind.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// How the second version of the PROXY protocol begins (haproxy.org, proxy-protocol.txt §2.2).
const PROXY_MAGIC: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

pub(super) async fn forward(handler: &TcpPortHandler, arrival: Arrival) {
    let Arrival { mut stream, peer, own } = arrival;
    let target = &handler.tcp_forward;
    let mut behind = match connect(target).await {
        Ok(behind) => behind,
        Err(error) => {
            tracing::debug!(target, %error, "what is served does not answer");
            return;
        }
    };
    let header = proxy_header(handler.proxy_protocol, canonical(peer), canonical(own));
    if behind.write_all(&header).await.is_ok() {
        // Both ends may close or break off; there is nobody to tell.
        let _ended = copy_bidirectional(&mut stream, &mut behind).await;
    }
}

/// Opens a connection to `host:port` or `unix:/path`.
pub(super) async fn connect(target: &str) -> std::io::Result<BoxedStream> {
    let opened = async {
        Ok::<BoxedStream, std::io::Error>(match target.strip_prefix("unix:") {
            Some(path) => Box::new(UnixStream::connect(path).await?),
            None => {
                let stream = TcpStream::connect(target).await?;
                stream.set_nodelay(true)?;
                Box::new(stream)
            }
        })
    };
    tokio::time::timeout(CONNECT_MAX, opened)
        .await
        .unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
}

fn canonical(at: SocketAddr) -> SocketAddr {
    SocketAddr::new(at.ip().to_canonical(), at.port())
}

/// Tells the program behind who connects; nothing for version 0.
fn proxy_header(version: u8, from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    match version {
        1 => {
            let family = if from.is_ipv4() { "TCP4" } else { "TCP6" };
            format!("PROXY {family} {} {} {} {}\r\n", from.ip(), to.ip(), from.port(), to.port()).into_bytes()
        }
        2 => {
            let mut addresses = Vec::new();
            for ip in [from.ip(), to.ip()] {
                match ip {
                    IpAddr::V4(ip) => addresses.extend(ip.octets()),
                    IpAddr::V6(ip) => addresses.extend(ip.octets()),
                }
            }
            addresses.extend(from.port().to_be_bytes());
            addresses.extend(to.port().to_be_bytes());
            // Version 2 and "proxied"; the family and TCP.
            let kind = if from.is_ipv4() { 0x11 } else { 0x21 };
            let mut header = PROXY_MAGIC.to_vec();
            header.extend([0x21, kind]);
            header.extend((addresses.len() as u16).to_be_bytes());
            header.extend(addresses);
            header
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxy_headers_name_both_ends() {
        let at = |text: &str| text.parse::<SocketAddr>().expect("an address");
        let (from, to) = (at("100.64.0.1:4000"), at("100.64.0.2:80"));
        assert_eq!(proxy_header(1, from, to), b"PROXY TCP4 100.64.0.1 100.64.0.2 4000 80\r\n");
        let second = proxy_header(2, from, to);
        assert_eq!(second.len(), 28);
        assert_eq!(second[12..], [0x21, 0x11, 0, 12, 100, 64, 0, 1, 100, 64, 0, 2, 0x0f, 0xa0, 0, 80]);
        assert_eq!(proxy_header(2, at("[fd7a::1]:1"), at("[fd7a::2]:2")).len(), 52);
        assert!(proxy_header(0, from, to).is_empty());
    }
}
