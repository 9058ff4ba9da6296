//! The stack itself and the task that polls it.

use crate::device::QueueDevice;
use crate::tcp::{TcpListener, TcpStream};
use crate::udp::UdpSocket;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::socket::tcp;
use smoltcp::time::Instant as SmolInstant;
use smoltcp::wire::{
    HardwareAddress, IpCidr, IpEndpoint, IpListenEndpoint, IpProtocol, Ipv4Packet, Ipv6Packet, TcpPacket,
};
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, mpsc};

/// Flows of all peers together (threat-model.md §4).
const FLOWS_MAX: usize = 4_096;
/// Flows of one peer (threat-model.md §4).
const FLOWS_PER_PEER_MAX: usize = 512;
/// Bytes of each of a stream's two buffers.
const TCP_BUFFER: usize = 256 * 1_024;
/// Connections that wait to be accepted, per listener; more are reset.
const BACKLOG: usize = 64;
/// Packets that wait for the stack; beyond it the newest is dropped.
const INBOUND_MAX: usize = 1_024;
/// Packets that wait for the data plane; beyond it the newest is dropped, as a full card does.
const OUTBOUND_MAX: usize = 1_024;
/// Packets taken in before the stack is polled.
const BATCH: usize = 64;

/// Addresses and size of packets.
#[derive(Clone, Debug)]
pub struct NetstackConfig {
    /// The node's own addresses.
    pub addresses: Vec<IpAddr>,
    /// Largest IP packet, bytes.
    pub mtu: usize,
}

/// Why a connection or a listener did not come about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetstackError {
    #[error("this node has no address of the family of {0}")]
    NoSourceAddress(IpAddr),
    #[error("too many connections are open ({FLOWS_MAX} at most)")]
    TooManyFlows,
    #[error("port {0} is already listened on")]
    PortTaken(u16),
    #[error("the other side refused the connection")]
    Refused,
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    #[error("the stack has stopped")]
    Stopped,
}

/// A handle; clones are the same stack. The stack stops when the task's `PacketSource` and all handles are gone.
#[derive(Clone)]
pub struct Netstack {
    pub(crate) shared: Arc<Shared>,
    inbound: mpsc::Sender<Vec<u8>>,
}

/// Packets that the stack sends.
#[derive(Debug)]
pub struct PacketSource(mpsc::Receiver<Vec<u8>>);

impl PacketSource {
    /// The next packet; `None` after the stack stopped. Cancel safe.
    pub async fn recv(&mut self) -> Option<Vec<u8>> {
        self.0.recv().await
    }

    /// The next packet if one waits.
    pub fn try_recv(&mut self) -> Option<Vec<u8>> {
        self.0.try_recv().ok()
    }
}

impl fmt::Debug for Netstack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Netstack").finish_non_exhaustive()
    }
}

/// What streams, sockets and the polling task share.
pub(crate) struct Shared {
    inner: Mutex<Inner>,
    /// Something was written, read or closed: poll soon.
    pub(crate) poll_soon: Notify,
}

pub(crate) struct Inner {
    pub(crate) iface: Interface,
    pub(crate) sockets: SocketSet<'static>,
    device: QueueDevice,
    begun: Instant,
    addresses: Vec<IpAddr>,
    /// Port → where accepted connections go.
    listeners: BTreeMap<u16, mpsc::Sender<SocketHandle>>,
    /// Takes connections to ports that nobody listens on.
    forward: Option<mpsc::Sender<SocketHandle>>,
    /// Sockets in the handshake, and the port's owner they go to.
    embryos: Vec<SocketHandle>,
    /// Sockets whose stream is gone; removed once closed.
    closing: Vec<SocketHandle>,
    next_port: u16,
}

impl Netstack {
    /// Starts the stack's task on the current runtime.
    pub fn start(config: &NetstackConfig) -> (Self, PacketSource) {
        let (inbound, inbound_rx) = mpsc::channel(INBOUND_MAX);
        let (outbound, outbound_rx) = mpsc::channel(OUTBOUND_MAX);
        let shared = Arc::new(Shared { inner: Mutex::new(Inner::new(config)), poll_soon: Notify::new() });
        tokio::spawn(run(Arc::clone(&shared), inbound_rx, outbound));
        (Self { shared, inbound }, PacketSource(outbound_rx))
    }

    /// Hands a packet from the network to the stack; false when it was dropped because the stack is behind.
    pub fn inject(&self, packet: Vec<u8>) -> bool {
        self.inbound.try_send(packet).is_ok()
    }

    /// Replaces the node's addresses; connections on addresses that go away are reset by their peers.
    pub fn set_addresses(&self, addresses: &[IpAddr]) {
        self.shared.lock().set_addresses(addresses);
        self.shared.poll_soon.notify_one();
    }

    /// Opens a connection.
    ///
    /// # Errors
    /// No address of that family, too many flows, refused, or no answer within `timeout`.
    pub async fn connect(&self, to: SocketAddr, timeout: Duration) -> Result<TcpStream, NetstackError> {
        let handle = self.shared.lock().connect(to)?;
        self.shared.poll_soon.notify_one();
        let stream = TcpStream::new(Arc::clone(&self.shared), handle);
        match tokio::time::timeout(timeout, stream.established()).await {
            Ok(Ok(())) => Ok(stream),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(NetstackError::TimedOut(timeout)),
        }
    }

    /// Listens on a port of every own address.
    ///
    /// # Errors
    /// The port is taken.
    pub fn listen(&self, port: u16) -> Result<TcpListener, NetstackError> {
        let (sender, receiver) = mpsc::channel(BACKLOG);
        let mut inner = self.shared.lock();
        if inner.listeners.get(&port).is_some_and(|old| !old.is_closed()) {
            return Err(NetstackError::PortTaken(port));
        }
        inner.listeners.insert(port, sender);
        Ok(TcpListener::new(Arc::clone(&self.shared), receiver, port))
    }

    /// Takes every connection to a port that nobody listens on; a second call replaces the first.
    pub fn listen_on_the_rest(&self) -> TcpListener {
        let (sender, receiver) = mpsc::channel(BACKLOG);
        self.shared.lock().forward = Some(sender);
        TcpListener::new(Arc::clone(&self.shared), receiver, 0)
    }

    /// Binds a UDP port of every own address; 0 takes a free one.
    ///
    /// # Errors
    /// The port is taken.
    pub fn bind_udp(&self, port: u16) -> Result<UdpSocket, NetstackError> {
        UdpSocket::bind(Arc::clone(&self.shared), port)
    }
}

impl Shared {
    /// Streams hold the lock for one copy only; a poisoned lock means a panic in smoltcp, after which the state is
    /// still whole enough to close connections.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a socket up: closed politely, removed once that is done.
    pub(crate) fn release(&self, handle: SocketHandle) {
        let mut inner = self.lock();
        inner.sockets.get_mut::<tcp::Socket<'_>>(handle).close();
        inner.closing.push(handle);
        drop(inner);
        self.poll_soon.notify_one();
    }
}

impl Inner {
    fn new(config: &NetstackConfig) -> Self {
        let mut device = QueueDevice::new(config.mtu);
        let mut iface_config = Config::new(HardwareAddress::Ip);
        iface_config.random_seed = random_u64();
        let iface = Interface::new(iface_config, &mut device, SmolInstant::ZERO);
        let mut inner = Self {
            iface,
            sockets: SocketSet::new(Vec::new()),
            device,
            begun: Instant::now(),
            addresses: Vec::new(),
            listeners: BTreeMap::new(),
            forward: None,
            embryos: Vec::new(),
            closing: Vec::new(),
            next_port: 32_768 + (random_u64() % 28_000) as u16,
        };
        inner.set_addresses(&config.addresses);
        inner
    }

    fn set_addresses(&mut self, addresses: &[IpAddr]) {
        self.addresses = addresses.to_vec();
        self.iface.update_ip_addrs(|list| {
            list.clear();
            for &address in addresses {
                let bits = if address.is_ipv4() { 32 } else { 128 };
                if list.push(IpCidr::new(address.into(), bits)).is_err() {
                    tracing::warn!(
                        "more own addresses than the userspace stack holds; the rest is not answered"
                    );
                    break;
                }
            }
        });
        // Every destination is one hop away: the data plane.
        let (v4, v6) =
            (Ipv4Addr::new(100, 100, 100, 100), Ipv6Addr::new(0xfd7a, 0x115c, 0xa1e0, 0, 0, 0, 0, 0x53));
        self.iface.routes_mut().add_default_ipv4_route(v4).expect("the table has room for two routes");
        self.iface.routes_mut().add_default_ipv6_route(v6).expect("the table has room for two routes");
    }

    pub(crate) fn source_for(&self, to: IpAddr) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|own| own.is_ipv4() == to.is_ipv4())
    }

    pub(crate) fn free_port(&mut self) -> u16 {
        self.next_port = if self.next_port >= 60_999 { 32_768 } else { self.next_port + 1 };
        self.next_port
    }

    fn new_tcp_socket() -> tcp::Socket<'static> {
        let buffer = || tcp::SocketBuffer::new(vec![0; TCP_BUFFER]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        socket.set_nagle_enabled(false);
        socket.set_congestion_control(tcp::CongestionControl::Cubic);
        socket.set_timeout(Some(smoltcp::time::Duration::from_secs(120)));
        socket.set_keep_alive(Some(smoltcp::time::Duration::from_secs(45)));
        socket
    }

    fn connect(&mut self, to: SocketAddr) -> Result<SocketHandle, NetstackError> {
        let source = self.source_for(to.ip()).ok_or(NetstackError::NoSourceAddress(to.ip()))?;
        if self.sockets.iter().count() >= FLOWS_MAX {
            return Err(NetstackError::TooManyFlows);
        }
        let local = IpListenEndpoint { addr: Some(source.into()), port: self.free_port() };
        let mut socket = Self::new_tcp_socket();
        socket
            .connect(self.iface.context(), IpEndpoint::from(to), local)
            .map_err(|_| NetstackError::Refused)?;
        Ok(self.sockets.add(socket))
    }

    /// A SYN for a port that somebody takes gets a socket of its own before the stack sees the packet.
    fn before_inject(&mut self, packet: &[u8]) {
        let Some((from, to)) = opening(packet) else { return };
        let is_own = self.addresses.contains(&to.ip()) || self.iface.any_ip();
        let owner = self.owner(to.port());
        if !is_own || owner.is_none() || self.is_known(from, to) || !self.has_room_for(from.ip()) {
            return;
        }
        let mut socket = Self::new_tcp_socket();
        let endpoint = IpListenEndpoint { addr: Some(to.ip().into()), port: to.port() };
        if socket.listen(endpoint).is_ok() {
            self.embryos.push(self.sockets.add(socket));
        }
    }

    fn owner(&self, port: u16) -> Option<&mpsc::Sender<SocketHandle>> {
        let listener = self.listeners.get(&port).filter(|sender| !sender.is_closed());
        listener.or_else(|| self.forward.as_ref().filter(|sender| !sender.is_closed()))
    }

    fn is_known(&self, from: SocketAddr, to: SocketAddr) -> bool {
        let (from, to) = (Some(IpEndpoint::from(from)), Some(IpEndpoint::from(to)));
        self.tcp_sockets().any(|socket| socket.remote_endpoint() == from && socket.local_endpoint() == to)
    }

    fn has_room_for(&self, peer: IpAddr) -> bool {
        let peer: smoltcp::wire::IpAddress = peer.into();
        let of_peer =
            self.tcp_sockets().filter(|s| s.remote_endpoint().is_some_and(|e| e.addr == peer)).count();
        of_peer < FLOWS_PER_PEER_MAX && self.sockets.iter().count() < FLOWS_MAX
    }

    fn tcp_sockets(&self) -> impl Iterator<Item = &tcp::Socket<'static>> {
        self.sockets.iter().filter_map(|(_, socket)| match socket {
            smoltcp::socket::Socket::Tcp(socket) => Some(socket),
            smoltcp::socket::Socket::Udp(_) | smoltcp::socket::Socket::Icmp(_) => None,
        })
    }

    /// Runs the stack once; returns what it sends and when it wants to run again.
    fn poll(&mut self) -> (Vec<Vec<u8>>, Option<Duration>) {
        let now =
            SmolInstant::from_micros(i64::try_from(self.begun.elapsed().as_micros()).unwrap_or(i64::MAX));
        self.iface.poll(now, &mut self.device, &mut self.sockets);
        self.deliver_embryos();
        self.bury();
        let delay =
            self.iface.poll_delay(now, &self.sockets).map(|d| Duration::from_micros(d.total_micros()));
        (std::mem::take(&mut self.device.tx), delay)
    }

    /// Connections that are through the handshake go to their listener; refused ones are reset.
    fn deliver_embryos(&mut self) {
        let mut waiting = Vec::new();
        for handle in std::mem::take(&mut self.embryos) {
            let socket = self.sockets.get::<tcp::Socket<'_>>(handle);
            match socket.state() {
                tcp::State::SynReceived => waiting.push(handle),
                tcp::State::Established | tcp::State::CloseWait => {
                    let port = socket.local_endpoint().map_or(0, |local| local.port);
                    let taken = self.owner(port).is_some_and(|sender| sender.try_send(handle).is_ok());
                    if !taken {
                        self.sockets.get_mut::<tcp::Socket<'_>>(handle).abort();
                        self.closing.push(handle);
                    }
                }
                tcp::State::Closed
                | tcp::State::Listen
                | tcp::State::SynSent
                | tcp::State::FinWait1
                | tcp::State::FinWait2
                | tcp::State::Closing
                | tcp::State::LastAck
                | tcp::State::TimeWait => {
                    self.sockets.remove(handle);
                }
            }
        }
        self.embryos = waiting;
    }

    fn bury(&mut self) {
        let sockets = &mut self.sockets;
        self.closing.retain(|&handle| {
            let state = sockets.get::<tcp::Socket<'_>>(handle).state();
            let is_over = matches!(state, tcp::State::Closed | tcp::State::TimeWait | tcp::State::Listen);
            if is_over {
                sockets.remove(handle);
            }
            !is_over
        });
    }
}

async fn run(shared: Arc<Shared>, mut inbound: mpsc::Receiver<Vec<u8>>, outbound: mpsc::Sender<Vec<u8>>) {
    loop {
        let (packets, delay) = shared.lock().poll();
        let again_at_once = packets.len() >= BATCH;
        for packet in packets {
            // Full: dropped, as a full card does; TCP sends again.
            if let Err(mpsc::error::TrySendError::Closed(_)) = outbound.try_send(packet) {
                return;
            }
        }
        if again_at_once {
            tokio::task::yield_now().await;
            continue;
        }
        let sleep = tokio::time::sleep(delay.unwrap_or(Duration::from_secs(3_600)));
        let mut batch = Vec::new();
        tokio::select! {
            () = shared.poll_soon.notified() => {}
            () = sleep => {}
            taken = inbound.recv_many(&mut batch, BATCH) => if taken == 0 { return },
            () = outbound.closed() => return,
        }
        let mut inner = shared.lock();
        for packet in batch {
            inner.before_inject(&packet);
            inner.device.rx.push_back(packet);
        }
    }
}

/// Source and destination of a packet that opens a TCP connection.
fn opening(packet: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let (from, to, payload): (IpAddr, IpAddr, &[u8]) = match packet.first()? >> 4 {
        4 => {
            let ip = Ipv4Packet::new_checked(packet).ok()?;
            (ip.next_header() == IpProtocol::Tcp && ip.frag_offset() == 0).then(|| {
                (
                    ip.src_addr().into(),
                    ip.dst_addr().into(),
                    &packet[ip.header_len() as usize..ip.total_len() as usize],
                )
            })?
        }
        6 => {
            let ip = Ipv6Packet::new_checked(packet).ok()?;
            (ip.next_header() == IpProtocol::Tcp)
                .then(|| (ip.src_addr().into(), ip.dst_addr().into(), &packet[40..]))?
        }
        _ => return None,
    };
    let tcp = TcpPacket::new_checked(payload).ok()?;
    (tcp.syn() && !tcp.ack())
        .then(|| (SocketAddr::new(from, tcp.src_port()), SocketAddr::new(to, tcp.dst_port())))
}

fn random_u64() -> u64 {
    getrandom::u64().expect("the operating system's random source does not fail")
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// Two stacks joined by a wire that loses every `lossy`-th packet (0: none).
    fn joined(lossy: usize) -> (Netstack, Netstack) {
        let config = |last| NetstackConfig { addresses: vec![IpAddr::from([100, 64, 0, last])], mtu: 1_280 };
        let (a, mut from_a) = Netstack::start(&config(1));
        let (b, mut from_b) = Netstack::start(&config(2));
        let (to_a, to_b) = (a.clone(), b.clone());
        tokio::spawn(async move {
            let mut n = 0_usize;
            loop {
                n += 1;
                let lose = lossy > 0 && n.is_multiple_of(lossy);
                tokio::select! {
                    packet = from_a.recv() => match packet { Some(p) if !lose => { to_b.inject(p); }, Some(_) => {}, None => return },
                    packet = from_b.recv() => match packet { Some(p) if !lose => { to_a.inject(p); }, Some(_) => {}, None => return },
                }
            }
        });
        (a, b)
    }

    async fn transfer(lossy: usize, len: usize) {
        let (a, b) = joined(lossy);
        let mut listener = b.listen(80).expect("free");
        let sent: Vec<u8> = (0..len).map(|i| (i * 31 % 251) as u8).collect();
        let expected = sent.clone();
        let server = tokio::spawn(async move {
            let mut stream = listener.accept().await.expect("somebody connects");
            let mut got = Vec::new();
            stream.read_to_end(&mut got).await.expect("reads");
            stream.write_all(b"thanks").await.expect("writes");
            stream.shutdown().await.expect("closes");
            got
        });
        let mut stream = a
            .connect("100.64.0.2:80".parse().expect("valid"), Duration::from_secs(5))
            .await
            .expect("connects");
        stream.write_all(&sent).await.expect("writes");
        stream.shutdown().await.expect("closes");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.expect("reads");
        assert_eq!(answer, b"thanks");
        assert!(server.await.expect("no panic") == expected, "bytes differ");
    }

    #[tokio::test]
    async fn a_megabyte_arrives_whole() {
        transfer(0, 1 << 20).await;
    }

    #[tokio::test]
    async fn loss_is_repaired() {
        transfer(29, 60_000).await;
    }

    #[tokio::test]
    async fn a_port_without_listener_refuses() {
        let (a, _b) = joined(0);
        let error = a
            .connect("100.64.0.2:81".parse().expect("valid"), Duration::from_secs(5))
            .await
            .expect_err("refused");
        assert_eq!(error, NetstackError::Refused);
    }

    #[tokio::test]
    async fn one_peer_cannot_take_all_flows() {
        let (a, b) = joined(0);
        let mut listener = b.listen(80).expect("free");
        let mut open = Vec::new();
        for _ in 0..FLOWS_PER_PEER_MAX {
            open.push(
                a.connect("100.64.0.2:80".parse().expect("valid"), Duration::from_secs(5))
                    .await
                    .expect("within the limit"),
            );
            open.push(listener.accept().await.expect("accepted"));
        }
        let one_more = a.connect("100.64.0.2:80".parse().expect("valid"), Duration::from_millis(500)).await;
        assert!(one_more.is_err(), "one past the limit is not let in");
    }

    #[tokio::test]
    async fn datagrams_cross() {
        let (a, b) = joined(0);
        let server = b.bind_udp(53).expect("free");
        let client = a.bind_udp(0).expect("free");
        client.send_to(b"question", "100.64.0.2:53".parse().expect("valid")).await.expect("sent");
        let (bytes, from) = server.recv_from().await.expect("received");
        assert_eq!(bytes, b"question");
        server.send_to(b"answer", from).await.expect("sent");
        assert_eq!(client.recv_from().await.expect("received").0, b"answer");
    }
}
