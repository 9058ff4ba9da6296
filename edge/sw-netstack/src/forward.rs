//! In userspace mode a connection to the node's own address reaches the service of that port on this host.

use crate::stack::Netstack;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;
use tokio::io::copy_bidirectional;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

const DIAL_TIMEOUT: Duration = Duration::from_secs(5);

/// Forwards every connection to a port that nobody in the stack listens on to the same port on loopback.
/// Runs until the stack stops; a connection to a port without a service is closed.
///
/// The packet filter has already decided who may reach which port; only the node's own address leads here.
pub async fn forward_to_loopback(stack: Netstack) {
    let mut listener = stack.listen_on_the_rest();
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Some(mut inside) = accepted else { return };
                let Some(local) = inside.local_addr() else { continue };
                connections.spawn(async move {
                    if let Some(mut service) = dial(local.port()).await {
                        // Either side going away ends both; that is not an error worth a line.
                        if let Err(error) = copy_bidirectional(&mut inside, &mut service).await {
                            tracing::trace!(%error, port = local.port(), "forwarded connection ended");
                        }
                    }
                });
            }
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
        }
    }
}

/// The service may listen on either family.
async fn dial(port: u16) -> Option<TcpStream> {
    for ip in [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()] {
        let connect = TcpStream::connect(SocketAddr::new(ip, port));
        if let Ok(Ok(stream)) = tokio::time::timeout(DIAL_TIMEOUT, connect).await {
            return Some(stream);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stack::NetstackConfig;
    use std::net::IpAddr;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn a_service_on_loopback_is_reached_through_the_stack() {
        let service = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = service.local_addr().expect("bound").port();
        tokio::spawn(async move {
            let (mut stream, _) = service.accept().await.expect("somebody connects");
            stream.write_all(b"hello").await.expect("writes");
        });
        let address = |last| vec![IpAddr::from([100, 64, 0, last])];
        let (client, mut from_client) =
            Netstack::start(&NetstackConfig { addresses: address(1), mtu: 1_280 });
        let (node, mut from_node) = Netstack::start(&NetstackConfig { addresses: address(2), mtu: 1_280 });
        let (to_client, to_node) = (client.clone(), node.clone());
        tokio::spawn(async move {
            while let Some(p) = from_client.recv().await {
                to_node.inject(p);
            }
        });
        tokio::spawn(async move {
            while let Some(p) = from_node.recv().await {
                to_client.inject(p);
            }
        });
        tokio::spawn(forward_to_loopback(node.clone()));
        // The forwarder takes the rest of the ports as soon as it first runs.
        tokio::task::yield_now().await;
        let to = SocketAddr::new(IpAddr::from([100, 64, 0, 2]), port);
        let mut stream = client.connect(to, Duration::from_secs(5)).await.expect("connects");
        let mut text = String::new();
        stream.read_to_string(&mut text).await.expect("reads");
        assert_eq!(text, "hello");
    }
}
