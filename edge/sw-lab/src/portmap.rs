//! The port mapping service of a lab's router: PCP, NAT-PMP and UPnP, opening ports by nftables.
//!
//! It is written apart from the clients it serves in tests, so that both cannot share one misunderstanding.

mod pcp;
mod ports;
mod upnp;

use std::io::{BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::Args;

use crate::LabError;
use crate::topology::PortMapping;
use ports::Ports;

/// UDP port of PCP and NAT-PMP (RFC 6887 §19.1).
const PCP_PORT: u16 = 5351;

/// UDP port of SSDP, by which UPnP routers are found.
const SSDP_PORT: u16 = 1900;

/// Multicast group of SSDP.
const SSDP_GROUP: Ipv4Addr = Ipv4Addr::new(239, 255, 255, 250);

/// Longest time a slow UPnP client may take.
const HTTP_PATIENCE: Duration = Duration::from_secs(2);

/// Words of the hidden verb that serves a router.
#[derive(Debug, Args)]
pub(crate) struct PortMapperArgs {
    /// The router's outside address
    #[arg(long)]
    outside: Ipv4Addr,
    /// The router's address inside
    #[arg(long)]
    inside: Ipv4Addr,
    /// TCP port of UPnP
    #[arg(long)]
    upnp_port: u16,
    /// A protocol to serve
    #[arg(long = "protocol", required = true, value_parser = parse_protocol)]
    protocols: Vec<PortMapping>,
}

fn parse_protocol(word: &str) -> Result<PortMapping, String> {
    let all = [PortMapping::Pcp, PortMapping::NatPmp, PortMapping::Upnp];
    all.into_iter().find(|p| p.word() == word).ok_or_else(|| "must be pcp, nat-pmp or upnp".into())
}

/// Serves until the process is ended.
///
/// # Errors
/// A port of the router is taken.
pub(crate) fn run(args: &PortMapperArgs) -> Result<(), LabError> {
    let failed = |e: std::io::Error| {
        LabError::new("lab-port-mapper", "the port mapping service did not start.").why(e.to_string())
    };
    let ports = Arc::new(Mutex::new(Ports::new()));
    let serves = |p| args.protocols.contains(&p);
    let mut threads = Vec::new();
    if serves(PortMapping::Pcp) || serves(PortMapping::NatPmp) {
        let socket = UdpSocket::bind((args.inside, PCP_PORT)).map_err(failed)?;
        let service = pcp::Service {
            outside: args.outside,
            serves_pcp: serves(PortMapping::Pcp),
            serves_nat_pmp: serves(PortMapping::NatPmp),
            start: Instant::now(),
        };
        let ports = Arc::clone(&ports);
        threads.push(std::thread::spawn(move || serve_pcp(&socket, &service, &ports)));
    }
    if serves(PortMapping::Upnp) {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, SSDP_PORT)).map_err(failed)?;
        socket.join_multicast_v4(&SSDP_GROUP, &args.inside).map_err(failed)?;
        let listener = TcpListener::bind((args.inside, args.upnp_port)).map_err(failed)?;
        let (inside, outside, port) = (args.inside, args.outside, args.upnp_port);
        let ports = Arc::clone(&ports);
        threads.push(std::thread::spawn(move || serve_ssdp(&socket, inside, port)));
        threads.push(std::thread::spawn(move || serve_upnp(&listener, outside, &ports)));
    }
    loop {
        std::thread::sleep(Duration::from_secs(1));
        with(&ports, |p| p.expire(Instant::now()));
        if threads.iter().any(std::thread::JoinHandle::is_finished) {
            return Err(LabError::new("lab-port-mapper", "the port mapping service lost a socket."));
        }
    }
}

fn with<T>(ports: &Mutex<Ports>, act: impl FnOnce(&mut Ports) -> T) -> T {
    act(&mut ports.lock().unwrap_or_else(PoisonError::into_inner))
}

fn serve_pcp(socket: &UdpSocket, service: &pcp::Service, ports: &Mutex<Ports>) {
    let mut buffer = [0; 1100];
    while let Ok((len, from)) = socket.recv_from(&mut buffer) {
        let SocketAddr::V4(client) = from else { continue };
        let request = buffer.get(..len).unwrap_or_default();
        let answer = with(ports, |p| service.answer(request, *client.ip(), p, Instant::now()));
        if let Some(answer) = answer {
            // A lost answer is asked for again.
            let _lost = socket.send_to(&answer, from);
        }
    }
}

fn serve_ssdp(socket: &UdpSocket, inside: Ipv4Addr, port: u16) {
    let mut buffer = [0; 2048];
    while let Ok((len, from)) = socket.recv_from(&mut buffer) {
        if let Some(answer) = upnp::answer_search(buffer.get(..len).unwrap_or_default(), inside, port) {
            // A lost answer is asked for again.
            let _lost = socket.send_to(answer.as_bytes(), from);
        }
    }
}

fn serve_upnp(listener: &TcpListener, outside: Ipv4Addr, ports: &Mutex<Ports>) {
    for stream in listener.incoming() {
        let Ok(mut stream) = stream else { return };
        let Ok(SocketAddr::V4(client)) = stream.peer_addr() else { continue };
        if stream.set_read_timeout(Some(HTTP_PATIENCE)).is_err() {
            continue;
        }
        let Some(request) = upnp::Request::read(&mut BufReader::new(&stream)) else { continue };
        let answer = with(ports, |p| upnp::answer(&request, *client.ip(), outside, p, Instant::now()));
        // A client that hangs up early needs no answer.
        let _gone = stream.write_all(answer.as_bytes());
    }
}
