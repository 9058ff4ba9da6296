//! The STUN socket: tells clients the address they are seen at. Answers exact requests alone (stun-netcheck.md §2).

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use sw_proto::stun::{self, StunError};
use sw_relay_core::SourceLimiter;
use tokio::net::UdpSocket;
use tracing::debug;

use crate::hub::Hub;

/// Requests per second of one source, and in all (threat-model.md §4).
const PER_SOURCE: u16 = 50;
const IN_ALL: u32 = 5000;

/// What happened to datagrams.
#[derive(Debug, Default)]
pub(crate) struct StunCounters {
    success_v4: AtomicU64,
    success_v6: AtomicU64,
    not_stun: AtomicU64,
    refused: AtomicU64,
    over_rate: AtomicU64,
    read_error: AtomicU64,
    write_error: AtomicU64,
}

impl StunCounters {
    /// What became of requests, by label.
    pub(crate) fn requests(&self) -> [(&'static str, u64); 6] {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        [
            ("disposition=\"success\"", of(&self.success_v4) + of(&self.success_v6)),
            ("disposition=\"not_stun\"", of(&self.not_stun)),
            ("disposition=\"refused\"", of(&self.refused)),
            ("disposition=\"over_rate\"", of(&self.over_rate)),
            ("disposition=\"read_error\"", of(&self.read_error)),
            ("disposition=\"write_error\"", of(&self.write_error)),
        ]
    }

    /// Answers by address family.
    pub(crate) fn families(&self) -> [(&'static str, u64); 2] {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        [("family=\"ipv4\"", of(&self.success_v4)), ("family=\"ipv6\"", of(&self.success_v6))]
    }
}

fn one(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Serves one socket until its task is dropped.
pub(crate) async fn serve(hub: Arc<Hub>, socket: UdpSocket, seed: [u8; 16]) {
    let mut limiter = SourceLimiter::new(PER_SOURCE, IN_ALL, seed, hub.now());
    // A request has 40 bytes; whatever is longer than this is none, and reading it whole would be for nothing.
    let mut buffer = [0u8; 512];
    loop {
        let (len, from) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                // For example an ICMP error of an earlier answer.
                debug!(%error, "STUN socket");
                one(&hub.stun.read_error);
                continue;
            }
        };
        if !limiter.allows(from.ip(), hub.now()) {
            one(&hub.stun.over_rate);
            continue;
        }
        let datagram = buffer.get(..len).unwrap_or_default();
        respond(&hub, &socket, datagram, from).await;
    }
}

/// Answers requests that came in at a socket of somebody else in this process.
pub struct Answerer {
    hub: Arc<Hub>,
    limiter: Mutex<SourceLimiter>,
}

impl std::fmt::Debug for Answerer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Answerer")
    }
}

impl Answerer {
    pub(crate) fn new(hub: Arc<Hub>, seed: [u8; 16]) -> Self {
        let limiter = Mutex::new(SourceLimiter::new(PER_SOURCE, IN_ALL, seed, hub.now()));
        Self { hub, limiter }
    }

    /// The answer to an exact request within the limits.
    #[must_use]
    pub fn answer(&self, datagram: &[u8], from: SocketAddr) -> Option<Vec<u8>> {
        let counters = &self.hub.stun;
        let mut limiter = self.limiter.lock().unwrap_or_else(PoisonError::into_inner);
        if !limiter.allows(from.ip(), self.hub.now()) {
            one(&counters.over_rate);
            return None;
        }
        match stun::answer(datagram, from) {
            Ok(response) => {
                let is_v4 = from.ip().to_canonical().is_ipv4();
                one(if is_v4 { &counters.success_v4 } else { &counters.success_v6 });
                Some(response.as_bytes().to_vec())
            }
            Err(StunError::NotStun) => {
                one(&counters.not_stun);
                None
            }
            Err(
                StunError::Malformed | StunError::Software | StunError::Fingerprint | StunError::NoAddress,
            ) => {
                one(&counters.refused);
                None
            }
        }
    }
}

async fn respond(hub: &Hub, socket: &UdpSocket, datagram: &[u8], from: SocketAddr) {
    let counters = &hub.stun;
    match stun::answer(datagram, from) {
        Ok(response) => match socket.send_to(response.as_bytes(), from).await {
            Ok(_) if from.ip().to_canonical().is_ipv4() => one(&counters.success_v4),
            Ok(_) => one(&counters.success_v6),
            Err(_) => one(&counters.write_error),
        },
        Err(StunError::NotStun) => one(&counters.not_stun),
        Err(StunError::Malformed | StunError::Software | StunError::Fingerprint | StunError::NoAddress) => {
            one(&counters.refused);
        }
    }
}
