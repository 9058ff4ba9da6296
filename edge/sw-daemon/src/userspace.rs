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
    BoxedStream, DatagramFuture, Datagrams, Dial, DialError, Netstack, NetstackConfig, NetstackError,
    PacketSource, Target, TcpListener, UdpSocket, forward_to_loopback, serve_proxy,
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
                let addresses = self.addresses_of(&name, port).await;
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

    /// What a name stands for: in the network, else as this host resolves it. Empty when nobody knows.
    async fn addresses_of(&self, name: &str, port: u16) -> Vec<IpAddr> {
        let known = self.resolver.load().lookup(name).map(<[IpAddr]>::to_vec);
        match known {
            Some(addresses) => addresses,
            None => match tokio::net::lookup_host((name, port)).await {
                Ok(found) => found.map(|address| address.ip()).collect(),
                Err(_) => Vec::new(),
            },
        }
    }

    fn is_inside(&self, ip: IpAddr) -> bool {
        let is_routed = self.device.upgrade().is_some_and(|device| device.owner(ip).is_some());
        is_routed || sw_types::is_tailnet_ip(ip)
    }

    pub(crate) async fn dial_address(&self, ip: IpAddr, port: u16) -> Result<BoxedStream, DialError> {
        let to = SocketAddr::new(ip, port);
        if self.is_inside(ip) {
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

/// A socket inside and one outside; the target decides which one sends.
struct Association {
    inside: UdpSocket,
    outside: [Option<tokio::net::UdpSocket>; 2],
    network: Network,
}

impl Datagrams for Association {
    fn send<'d>(&'d self, target: Target, data: &'d [u8]) -> DatagramFuture<'d, ()> {
        Box::pin(async move {
            let to = match target {
                Target::Address(ip, port) => SocketAddr::new(ip, port),
                Target::Name(name, port) => {
                    let addresses = self.network.addresses_of(&name, port).await;
                    let ip = *addresses.first().ok_or(std::io::ErrorKind::NotFound)?;
                    SocketAddr::new(ip, port)
                }
            };
            if self.network.is_inside(to.ip()) {
                return self.inside.send_to(data, to).await;
            }
            let outside = self.outside.get(usize::from(to.is_ipv6())).and_then(Option::as_ref);
            outside.ok_or(std::io::ErrorKind::AddrNotAvailable)?.send_to(data, to).await.map(|_| ())
        })
    }

    fn receive(&self) -> DatagramFuture<'_, (Vec<u8>, SocketAddr)> {
        Box::pin(async {
            let [v4, v6] = &self.outside;
            tokio::select! {
                received = self.inside.recv_from() => received,
                received = receive_from(v4.as_ref()) => received,
                received = receive_from(v6.as_ref()) => received,
            }
        })
    }
}

async fn receive_from(socket: Option<&tokio::net::UdpSocket>) -> std::io::Result<(Vec<u8>, SocketAddr)> {
    let Some(socket) = socket else { return std::future::pending().await };
    socket.readable().await?;
    let mut buffer = vec![0; 65_535];
    let (len, from) = socket.recv_from(&mut buffer).await?;
    buffer.truncate(len);
    Ok((buffer, from))
}

impl Dial for Network {
    fn datagrams(&self) -> Result<Box<dyn Datagrams>, DialError> {
        let open = |address: &str| {
            let socket = std::net::UdpSocket::bind(address).ok()?;
            socket.set_nonblocking(true).ok()?;
            tokio::net::UdpSocket::from_std(socket).ok()
        };
        let inside = self.stack.bind_udp(0).map_err(|_| DialError::Unreachable)?;
        Ok(Box::new(Association {
            inside,
            outside: [open("0.0.0.0:0"), open("[::]:0")],
            network: self.clone(),
        }))
    }

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
