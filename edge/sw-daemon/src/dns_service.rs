//! The resolver at 100.100.100.100 and fd7a:115c:a1e0::53: answers packets that the data plane hands over, and asks
//! others for what it does not know (node-services.md §1, §2.3, §2.6).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use sw_dataplane::Device;
use sw_node::resolve::{Answer, Resolver, Upstream};
use sw_proto::ip::{self, IpProto, IpView, Transport};
use tokio::net::UdpSocket;
use tokio::sync::Semaphore;

use crate::sockets::SocketFactory;

const DNS_PORT: u16 = 53;
/// Questions in flight to others; the next one is not answered (node-services.md §2.3).
const FORWARDS_MAX: usize = 256;
/// How long upstreams are given.
const UPSTREAM_MAX: Duration = Duration::from_secs(5);
/// An unanswered question is sent once more after this time.
const UPSTREAM_RETRY: Duration = Duration::from_millis(1500);
const ANSWER_BYTES_MAX: usize = 65_535;
const ICMP_ECHO_REPLY: u8 = 0;
const ICMPV6_ECHO_REPLY: u8 = 129;
const UDP_HEADER_BYTES: usize = 8;
const HOP_LIMIT: u8 = 64;

/// Answers packets to the service addresses.
#[derive(Debug)]
pub(crate) struct DnsService {
    resolver: Arc<ArcSwap<Resolver>>,
    sockets: SocketFactory,
    forwards: Arc<Semaphore>,
}

impl DnsService {
    pub(crate) fn new(resolver: Arc<ArcSwap<Resolver>>, sockets: SocketFactory) -> Self {
        Self { resolver, sockets, forwards: Arc::new(Semaphore::new(FORWARDS_MAX)) }
    }

    /// Handles one packet to a service address; answers are handed to `device` at once or later.
    pub(crate) fn on_packet(&self, packet: &[u8], device: &Arc<Device>) {
        let Ok(view) = IpView::parse(packet) else { return };
        match view.transport() {
            Transport::Udp(udp) if udp.dst_port() == DNS_PORT => {
                let reply = ReplyTo { from: view.dst(), to: view.src(), port: udp.src_port() };
                let query = udp.payload().unwrap_or_default().to_vec();
                self.on_query(query, reply, device);
            }
            Transport::Icmp(icmp) if icmp.is_echo_request() => {
                if let Some(reply) = echo_reply(&view) {
                    device.inject_inbound(&reply);
                }
            }
            // Swallowed: nothing else is served here.
            Transport::Tcp(_)
            | Transport::Udp(_)
            | Transport::Icmp(_)
            | Transport::Sctp(_)
            | Transport::Later(_)
            | Transport::Other(_) => {}
        }
    }

    /// Answers a question of a peer, as for programs on this machine.
    pub(crate) async fn resolve(&self, query: &[u8]) -> Option<Vec<u8>> {
        let answer = self.resolver.load().answer(query, unix_seconds());
        match answer {
            Answer::Reply(answer) => Some(answer),
            Answer::Silence => None,
            Answer::Forward(upstreams) => {
                let _permit = Arc::clone(&self.forwards).try_acquire_owned().ok()?;
                ask(query, upstreams, &self.sockets).await.or_else(|| Resolver::failure(query))
            }
        }
    }

    /// Who would be asked; nobody for what is answered here.
    pub(crate) fn upstreams(&self, query: &[u8]) -> Vec<String> {
        let Answer::Forward(upstreams) = self.resolver.load().answer(query, unix_seconds()) else {
            return Vec::new();
        };
        let text = |upstream| match upstream {
            Upstream::Plain(address) => address.to_string(),
            Upstream::Http(url) => url,
        };
        upstreams.into_iter().map(text).collect()
    }

    /// Asks one resolver.
    pub(crate) async fn ask_one(&self, query: &[u8], server: IpAddr) -> Option<Vec<u8>> {
        let upstream = vec![Upstream::Plain(SocketAddr::new(server, DNS_PORT))];
        let _permit = Arc::clone(&self.forwards).try_acquire_owned().ok()?;
        ask(query, upstream, &self.sockets).await.or_else(|| Resolver::failure(query))
    }

    fn on_query(&self, query: Vec<u8>, reply: ReplyTo, device: &Arc<Device>) {
        match self.resolver.load().answer(&query, unix_seconds()) {
            Answer::Reply(answer) => reply.send(&Resolver::fit_udp(&query, answer), device),
            Answer::Silence => {}
            Answer::Forward(upstreams) => {
                let Ok(permit) = Arc::clone(&self.forwards).try_acquire_owned() else { return };
                let (sockets, device) = (self.sockets.clone(), Arc::clone(device));
                tokio::spawn(async move {
                    let answer = ask(&query, upstreams, &sockets).await.or_else(|| Resolver::failure(&query));
                    if let Some(answer) = answer {
                        reply.send(&Resolver::fit_udp(&query, answer), &device);
                    }
                    drop(permit);
                });
            }
        }
    }
}

/// Where an answer goes.
#[derive(Debug, Clone, Copy)]
struct ReplyTo {
    from: IpAddr,
    to: IpAddr,
    port: u16,
}

impl ReplyTo {
    fn send(self, answer: &[u8], device: &Device) {
        let Some(packet) = udp_packet((self.from, DNS_PORT), (self.to, self.port), answer) else { return };
        device.inject_inbound(&packet);
    }
}

/// Asks all upstreams at once; the first good answer counts.
async fn ask(query: &[u8], upstreams: Vec<Upstream>, sockets: &SocketFactory) -> Option<Vec<u8>> {
    let mut tasks = tokio::task::JoinSet::new();
    for upstream in upstreams {
        let Upstream::Plain(server) = upstream else { continue };
        let (query, sockets) = (query.to_vec(), sockets.clone());
        tasks.spawn(async move { ask_plain(&query, server, &sockets).await });
    }
    let mut worst = None;
    let racing = async {
        while let Some(result) = tasks.join_next().await {
            let Ok(Some(answer)) = result else { continue };
            match rcode(&answer) {
                2 | 5 => worst = Some(answer), // SERVFAIL, REFUSED: only if nobody does better
                _ => return Some(answer),
            }
        }
        None
    };
    match tokio::time::timeout(UPSTREAM_MAX, racing).await {
        Ok(Some(answer)) => Some(answer),
        Ok(None) | Err(_) => worst,
    }
}

async fn ask_plain(query: &[u8], server: SocketAddr, sockets: &SocketFactory) -> Option<Vec<u8>> {
    let socket: UdpSocket = sockets.udp(server).ok()?;
    socket.connect(server).await.ok()?;
    // A fresh id, so that a guessed answer does not fit; the asker's own is put back.
    let [a, b, ..] = crate::random();
    let mut asked = query.to_vec();
    asked.get_mut(..2)?.copy_from_slice(&[a, b]);
    let mut buffer = vec![0; ANSWER_BYTES_MAX];
    loop {
        socket.send(&asked).await.ok()?;
        let receive = tokio::time::timeout(UPSTREAM_RETRY, socket.recv(&mut buffer));
        let Ok(received) = receive.await else { continue };
        let mut answer = buffer.get(..received.ok()?)?.to_vec();
        let is_ours = answer.len() >= 12 && answer[..2] == [a, b] && answer[2] & 0x80 != 0;
        let echoes = question_of(&answer) == question_of(query);
        if is_ours && echoes {
            answer[..2].copy_from_slice(&query[..2]);
            return Some(answer);
        }
    }
}

/// The question's bytes in lower case, for comparison.
fn question_of(message: &[u8]) -> Option<Vec<u8>> {
    let mut at = 12;
    while *message.get(at)? != 0 {
        at += 1 + usize::from(*message.get(at)?);
    }
    Some(message.get(12..at + 5)?.to_ascii_lowercase())
}

fn rcode(answer: &[u8]) -> u8 {
    answer.get(3).map_or(2, |flags| flags & 0x0f)
}

fn unix_seconds() -> u32 {
    u32::try_from(sw_os::clock::now().wall.as_secs()).unwrap_or(u32::MAX)
}

/// A whole UDP packet with checksums.
pub(crate) fn udp_packet(from: (IpAddr, u16), to: (IpAddr, u16), payload: &[u8]) -> Option<Vec<u8>> {
    let length = u16::try_from(UDP_HEADER_BYTES + payload.len()).ok()?;
    let mut datagram = Vec::with_capacity(usize::from(length));
    for word in [from.1, to.1, length, 0] {
        datagram.extend_from_slice(&word.to_be_bytes());
    }
    datagram.extend_from_slice(payload);
    ip_packet(from.0, to.0, IpProto::UDP, &datagram)
}

/// Answers an echo request by its own payload.
fn echo_reply(view: &IpView<'_>) -> Option<Vec<u8>> {
    let mut message = view.payload().to_vec();
    *message.first_mut()? = if view.proto() == IpProto::ICMP { ICMP_ECHO_REPLY } else { ICMPV6_ECHO_REPLY };
    message.get_mut(2..4)?.fill(0);
    ip_packet(view.dst(), view.src(), view.proto(), &message)
}

/// A whole packet with checksums; `None` for addresses of different families.
pub(crate) fn ip_packet(from: IpAddr, to: IpAddr, proto: IpProto, payload: &[u8]) -> Option<Vec<u8>> {
    let mut packet = Vec::with_capacity(40 + payload.len());
    match (from, to) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => write_v4(&mut packet, src, dst, proto, payload),
        (IpAddr::V6(src), IpAddr::V6(dst)) => write_v6(&mut packet, src, dst, proto, payload),
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return None,
    }
    ip::set_transport_checksum(&mut packet).ok()?;
    Some(packet)
}

fn write_v4(packet: &mut Vec<u8>, src: Ipv4Addr, dst: Ipv4Addr, proto: IpProto, payload: &[u8]) {
    ip::write_ipv4(packet, &ip::Ipv4Header { src, dst, proto, ttl: HOP_LIMIT, id: 0 }, payload);
}

fn write_v6(packet: &mut Vec<u8>, src: Ipv6Addr, dst: Ipv6Addr, proto: IpProto, payload: &[u8]) {
    ip::write_ipv6(packet, &ip::Ipv6Header { src, dst, proto, hop_limit: HOP_LIMIT }, payload);
}
