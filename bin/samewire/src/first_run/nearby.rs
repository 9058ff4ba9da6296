//! Listens for another samewire server in the same LAN, before a second network is started there by mistake.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use serde_json::Value;
use sw_proto::stun::{self, TxId};
use sw_types::local::Problem;
use sw_types::problem::Slug;
use sw_types::{HTTPS_PORT, STUN_PORT};

/// Neighbours answer in milliseconds; a machine alone should not wait for nothing.
const PATIENCE: Duration = Duration::from_millis(300);
/// The ports that a first machine takes before it takes any.
const SERVER_PORTS: [u16; 2] = [HTTPS_PORT, 8443];
/// Longest answer that is read.
const ANSWER_MAX: u64 = 16 << 10;

/// The network that was heard, as what the user reads; `None` when nobody answers.
///
/// A samewire server answers STUN on all its addresses, so one broadcast per link asks the whole LAN. What answers may
/// be any STUN server: only one that says the name of a network counts.
pub(crate) fn look() -> Option<Problem> {
    let heard = ask_links();
    heard.into_iter().find_map(|ip| {
        let said = SERVER_PORTS.iter().find_map(|port| version(SocketAddr::new(ip, *port)))?;
        let (network, name) = (said["network"].as_str()?, said["machine"].as_str()?);
        Some(Slug::NetworkNearby.problem(&[("network", network), ("name", name), ("ip", &ip.to_string())]))
    })
}

/// The addresses that answered, without our own.
fn ask_links() -> Vec<IpAddr> {
    let links = sw_os::Interfaces::read().unwrap_or_default();
    let own = links.local_addresses("");
    let Ok(socket) = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)) else { return Vec::new() };
    let Ok(()) = socket.set_broadcast(true) else { return Vec::new() };
    let request = stun::request(TxId(sw_control::clock::random()));
    for link in links.interfaces.iter().filter(|link| link.is_up && !link.is_loopback) {
        for network in &link.addresses {
            if let IpAddr::V4(everybody) = network.broadcast() {
                // A link without neighbours refuses; the others are asked all the same.
                let _refused = socket.send_to(&request, (everybody, STUN_PORT));
            }
        }
    }
    let end = Instant::now() + PATIENCE;
    let mut heard = Vec::new();
    let mut buffer = [0; 512];
    while heard.len() < 8
        && let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
        && socket.set_read_timeout(Some(left)).is_ok()
        && let Ok((length, from)) = socket.recv_from(&mut buffer)
    {
        let is_answer = stun::parse_response(buffer.get(..length).unwrap_or_default()).is_ok();
        if is_answer && !own.contains(&from.ip()) && !heard.contains(&from.ip()) {
            heard.push(from.ip());
        }
    }
    heard
}

/// What a server says of itself to its neighbours.
fn version(server: SocketAddr) -> Option<Value> {
    let mut stream = TcpStream::connect_timeout(&server, PATIENCE).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    let request = format!("GET /version HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", server.ip());
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = Vec::new();
    stream.take(ANSWER_MAX).read_to_end(&mut answer).ok()?;
    let text = String::from_utf8(answer).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    if head.split(' ').nth(1)? != "200" {
        return None;
    }
    serde_json::from_str(body).ok()
}
