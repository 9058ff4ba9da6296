//! One device with a thousand peers that all talk at once.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};
use sw_dataplane::{Device, DeviceConfig, PacketIo, PeerConfig, Roaming, SocketOptions};
use sw_types::{NodeKey, NodePrivate, Now, UnixTime};
use sw_wg::{
    Activity, DATA_HEADER_LEN, DATA_OVERHEAD, DataHeader, Directory, Output, PeerParams, Session, Source,
    TAG_LEN, WireGuard,
};

const PEERS: usize = 1000;
const HUB_IP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const INNER_LEN: usize = 128;
const TALK: Duration = Duration::from_secs(4);

/// The one peer that each client knows.
struct Hub(NodeKey, Arc<Activity>);

impl Directory for Hub {
    fn peer(&self, key: &NodeKey) -> Option<PeerParams> {
        (*key == self.0).then(|| PeerParams {
            psk: zeroize::Zeroizing::new([0; 32]),
            keepalive: None,
            activity: self.1.clone(),
        })
    }
}

struct Client {
    machine: WireGuard<Hub>,
    session: Option<Arc<Session>>,
    ip: Ipv4Addr,
    received: u32,
}

/// All clients on one socket, driven by one thread.
struct Crowd {
    clients: Vec<Client>,
    by_index: HashMap<u32, usize>,
    socket: UdpSocket,
    hub: SocketAddr,
    start: Instant,
}

#[test]
fn a_thousand_active_peers_are_served_alike() {
    let (io, mut inner) = PacketIo::channel();
    let sockets = SocketOptions { address: Some(Ipv4Addr::LOCALHOST.into()), ..SocketOptions::default() };
    let (device, _events) = Device::start(DeviceConfig { io, port: 0, sockets, mtu: 1420 }).unwrap();
    let hub = NodePrivate::from_bytes([200; 32]);
    let mut crowd = Crowd::new(hub.public(), device.local_port());
    for (n, client) in crowd.clients.iter().enumerate() {
        device.upsert_peer(PeerConfig {
            key: NodeKey::from_bytes(client.machine.public_key().unwrap()),
            psk: None,
            keepalive: None,
            allowed: vec![ipnet::Ipv4Net::from(client_ip(n)).into()],
            path: None,
            roaming: Roaming::FollowPackets,
        });
    }
    device.set_private_key(Some(hub));
    crowd.connect();

    // The hub answers each packet to whom it came from.
    let from_clients = std::thread::spawn(move || {
        let mut counts = HashMap::<Ipv4Addr, u32>::new();
        while let Some(mut packet) = inner.from_network.blocking_recv() {
            let source = Ipv4Addr::from(*packet[12..].first_chunk::<4>().unwrap());
            if packet[20] == 1 {
                return counts;
            }
            *counts.entry(source).or_default() += 1;
            packet.copy_within(12..16, 16);
            packet[12..16].copy_from_slice(&HUB_IP.octets());
            inner.to_network.blocking_send(packet).unwrap();
        }
        counts
    });
    let start = Instant::now();
    while start.elapsed() < TALK {
        for n in 0..PEERS {
            crowd.send(n, 0);
            crowd.receive();
        }
    }
    while !from_clients.is_finished() {
        crowd.send(0, 1);
        crowd.receive();
    }
    let counts = from_clients.join().unwrap();
    let heard: Vec<u32> = (0..PEERS).map(|n| counts.get(&client_ip(n)).copied().unwrap_or(0)).collect();
    let answered: Vec<u32> = crowd.clients.iter().map(|client| client.received).collect();
    for counts in [heard, answered] {
        let mean = counts.iter().sum::<u32>() / PEERS as u32;
        let slowest = *counts.iter().min().unwrap();
        assert!(mean > 10 && slowest >= mean / 2, "slowest {slowest}, mean {mean}");
    }
}

fn client_ip(n: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 1, (n / 250) as u8, (n % 250) as u8 + 1)
}

impl Crowd {
    fn new(hub: NodeKey, port: u16) -> Self {
        let clients = (0..PEERS)
            .map(|n| {
                let mut private = [7; 32];
                private[1..9].copy_from_slice(&(n as u64).to_le_bytes());
                let mut machine = WireGuard::new(Hub(hub, Arc::default()), private);
                machine.set_private_key(Some(&NodePrivate::from_bytes(private)));
                Client { machine, session: None, ip: client_ip(n), received: 0 }
            })
            .collect();
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        socket.set_nonblocking(true).unwrap();
        let hub = (Ipv4Addr::LOCALHOST, port).into();
        Self { clients, by_index: HashMap::new(), socket, hub, start: Instant::now() }
    }

    fn now(&self) -> Now {
        let nanos = 1_000_000_000 + self.start.elapsed().as_nanos() as u64;
        Now {
            mono: sw_types::Instant::from_nanos(nanos),
            wall: UnixTime::from_nanos(1_700_000_000_000_000_000 + i128::from(nanos)),
        }
    }

    /// Handshakes of all, the first one's retries included.
    fn connect(&mut self) {
        let hub = self.clients[0].machine_hub();
        for n in 0..PEERS {
            let now = self.now();
            self.clients[n].machine.on_session_wanted(&hub, now);
            self.perform(n);
            self.receive();
        }
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.clients.iter().any(|client| client.session.is_none()) {
            assert!(Instant::now() < deadline, "handshakes");
            self.receive();
            for n in 0..PEERS {
                let now = self.now();
                self.clients[n].machine.on_deadline(now);
                self.perform(n);
            }
        }
    }

    fn perform(&mut self, n: usize) {
        while let Some(output) = self.clients[n].machine.poll_output() {
            match output {
                Output::Send { message, .. } => {
                    // The index of an initiation is how its answer finds the client.
                    let index = u32::from_le_bytes(*message[4..].first_chunk().unwrap());
                    self.by_index.insert(index, n);
                    self.socket.send_to(&message, self.hub).unwrap();
                }
                Output::Sessions { sessions, .. } => self.clients[n].session = sessions.current,
                Output::Flush { .. } => self.send(n, 0),
                Output::Keepalive { .. }
                | Output::GaveUp { .. }
                | Output::Heard { .. }
                | Output::Established { .. } => {}
            }
        }
    }

    /// One inner packet from client `n`; `mark` 1 ends the talk.
    fn send(&mut self, n: usize, mark: u8) {
        let now = self.now().mono;
        let client = &self.clients[n];
        let Some(session) = &client.session else { return };
        let counter = session.take_counters(1, now).unwrap().start;
        let mut datagram = vec![0; INNER_LEN + DATA_OVERHEAD];
        DataHeader { receiver: session.remote_index, counter }.write(datagram.first_chunk_mut().unwrap());
        let inner = &mut datagram[DATA_HEADER_LEN..DATA_HEADER_LEN + INNER_LEN];
        inner[..10].copy_from_slice(&[0x45, 0, 0, INNER_LEN as u8, 0, 0, 0x40, 0, 64, 253]);
        inner[12..16].copy_from_slice(&client.ip.octets());
        inner[16..20].copy_from_slice(&HUB_IP.octets());
        inner[20] = mark;
        session.send.seal(counter, &mut datagram[DATA_HEADER_LEN..]);
        // A full socket loses packets, as networks do.
        let _is_sent = self.socket.send_to(&datagram, self.hub);
    }

    fn receive(&mut self) {
        let mut buffer = [0; 2048];
        while let Ok((len, from)) = self.socket.recv_from(&mut buffer) {
            let datagram = &mut buffer[..len];
            let at = if datagram[0] == 4 { 4 } else { 8 };
            let index = u32::from_le_bytes(*datagram[at..].first_chunk().unwrap());
            let Some(n) = self.by_index.get(&index).copied() else { continue };
            if let Some(header) = DataHeader::parse(datagram) {
                let client = &mut self.clients[n];
                let session = client.session.as_ref().unwrap();
                assert!(session.receive.open(header.counter, &mut datagram[DATA_HEADER_LEN..]));
                client.received += u32::from(len > DATA_HEADER_LEN + TAG_LEN);
            } else {
                let now = self.now();
                let _refused = self.clients[n].machine.on_datagram(Source::Udp(from), datagram, now);
                self.perform(n);
            }
        }
    }
}

impl Client {
    fn machine_hub(&self) -> NodeKey {
        NodePrivate::from_bytes([200; 32]).public()
    }
}
