//! Userspace mode: a network stack in this process in place of a TUN interface. No privilege is needed; programs reach
//! the network through the proxies, or from inside the process through [`Network`].

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use ipnet::IpNet;
use sw_dataplane::{Device, PacketChannel};
use sw_netstack::{
    BoxedStream, Dial, DialError, Netstack, NetstackConfig, NetstackError, PacketSource, Target, TcpListener,
    UdpSocket, forward_to_loopback, serve_proxy,
};
use sw_node::resolve::Resolver;
use sw_types::local::Problem;
use tokio_util::sync::CancellationToken;

use crate::config::DaemonConfig;

/// Limit of opening a connection, inside the network or outside.
const CONNECT_MAX: Duration = Duration::from_secs(15);

/// The network as programs of this process see it. Clones are the same network.
#[derive(Clone, Debug)]
pub struct Network {
    stack: Netstack,
    // Weak: a handle that somebody keeps must not keep the node's sockets open.
    device: Weak<Device>,
    resolver: Arc<ArcSwap<Resolver>>,
}

impl Network {
    pub(crate) fn start(
        packets: PacketChannel,
        device: &Arc<Device>,
        resolver: Arc<ArcSwap<Resolver>>,
        stop: &CancellationToken,
    ) -> Self {
        let mtu = usize::try_from(sw_node::desired::MTU).expect("a small number");
        let (stack, source) = Netstack::start(&NetstackConfig { addresses: Vec::new(), mtu });
        tokio::spawn(stop.clone().run_until_cancelled_owned(carry(packets, source, stack.clone())));
        Self { stack, device: Arc::downgrade(device), resolver }
    }

    /// Opens the proxies and the way to this host's own services, as far as they are wanted.
    pub(crate) async fn serve(&self, config: &DaemonConfig, stop: &CancellationToken) -> Result<(), Problem> {
        if config.serves_host {
            tokio::spawn(stop.clone().run_until_cancelled_owned(forward_to_loopback(self.stack.clone())));
        }
        // Both kinds are told apart by their first byte, so that one address may be given for both.
        let further = config.http_proxy.iter().filter(|http| Some(*http) != config.socks5.as_ref());
        for address in config.socks5.iter().chain(further) {
            // `:1080` is what the official flags take for every address of this host.
            let bindable = if address.starts_with(':') { format!("[::]{address}") } else { address.clone() };
            let listener = tokio::net::TcpListener::bind(&bindable).await.map_err(|error| {
                Problem::other(
                    "the proxy could not be opened.",
                    format!("{address}: {error}"),
                    "give it another address: samewire daemon --socks5-server=localhost:1080",
                )
            })?;
            let serving = serve_proxy(listener, Arc::new(self.clone()));
            let stop = stop.clone();
            tokio::spawn(async move {
                if let Some(Err(error)) = stop.run_until_cancelled(serving).await {
                    tracing::error!(%error, "the proxy ended");
                }
            });
        }
        Ok(())
    }

    pub(crate) fn set_addresses(&self, nets: &[IpNet]) {
        let addresses: Vec<IpAddr> = nets.iter().map(IpNet::addr).collect();
        self.stack.set_addresses(&addresses);
    }

    /// Opens a connection: to a machine of the network by its name or address, to what is behind its routers, and
    /// to everything else as this host reaches it.
    ///
    /// # Errors
    /// Why there is no connection.
    pub async fn dial(&self, target: Target) -> Result<BoxedStream, DialError> {
        match target {
            Target::Address(ip, port) => self.dial_address(ip, port).await,
            Target::Name(name, port) => {
                let known = self.resolver.load().lookup(&name).map(<[IpAddr]>::to_vec);
                let addresses = match known {
                    Some(addresses) => addresses,
                    None => match tokio::net::lookup_host((name.as_str(), port)).await {
                        Ok(found) => found.map(|address| address.ip()).collect(),
                        Err(_) => return Err(DialError::NoSuchName),
                    },
                };
                let mut last = DialError::NoSuchName;
                for ip in addresses {
                    match self.dial_address(ip, port).await {
                        Ok(stream) => return Ok(stream),
                        Err(error) => last = error,
                    }
                }
                Err(last)
            }
        }
    }

    async fn dial_address(&self, ip: IpAddr, port: u16) -> Result<BoxedStream, DialError> {
        let to = SocketAddr::new(ip, port);
        let is_inside = self.device.upgrade().is_some_and(|device| device.owner(ip).is_some());
        if is_inside || sw_types::is_tailnet_ip(ip) {
            return match self.stack.connect(to, CONNECT_MAX).await {
                Ok(stream) => Ok(Box::new(stream)),
                Err(NetstackError::Refused) => Err(DialError::Refused),
                Err(_) => Err(DialError::Unreachable),
            };
        }
        match tokio::time::timeout(CONNECT_MAX, tokio::net::TcpStream::connect(to)).await {
            Ok(Ok(stream)) => Ok(Box::new(stream)),
            Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                Err(DialError::Refused)
            }
            Ok(Err(_)) | Err(_) => Err(DialError::Unreachable),
        }
    }

    /// Listens on a TCP port of this node's addresses.
    ///
    /// # Errors
    /// The port is taken.
    pub fn listen(&self, port: u16) -> Result<TcpListener, NetstackError> {
        self.stack.listen(port)
    }

    /// Binds a UDP port of this node's addresses; 0 takes a free one.
    ///
    /// # Errors
    /// The port is taken.
    pub fn bind_udp(&self, port: u16) -> Result<UdpSocket, NetstackError> {
        self.stack.bind_udp(port)
    }
}

impl Dial for Network {
    fn dial(
        &self,
        target: Target,
    ) -> Pin<Box<dyn Future<Output = Result<BoxedStream, DialError>> + Send + '_>> {
        Box::pin(Network::dial(self, target))
    }
}

/// Carries packets between stack and data plane until either ends.
async fn carry(mut packets: PacketChannel, mut source: PacketSource, stack: Netstack) {
    loop {
        tokio::select! {
            packet = source.recv() => {
                let Some(packet) = packet else { return };
                // Full: dropped, as a network card does; TCP slows down.
                let _dropped_or_gone = packets.to_network.try_send(packet);
            }
            packet = packets.from_network.recv() => {
                let Some(packet) = packet else { return };
                // A stack that is behind drops it; TCP sends it again.
                let _dropped = stack.inject(packet);
            }
        }
    }
}
