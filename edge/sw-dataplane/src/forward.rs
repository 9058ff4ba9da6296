//! Tunnels of our own peer relay: what comes from one leg goes out to the other, unchanged (disco.md §6). The owner
//! says which tunnels there are; nothing here is opened or remembered but when a leg was last heard.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arc_swap::ArcSwap;
use sw_proto::geneve;
use sw_types::{Instant, Vni};

/// The tunnels, read for every datagram that may belong to one.
#[derive(Debug, Default)]
pub(crate) struct Forwards {
    /// Spares machines that relay for nobody the look-up.
    is_any: AtomicBool,
    tunnels: ArcSwap<HashMap<Vni, Arc<Tunnel>>>,
}

#[derive(Debug)]
struct Tunnel {
    legs: [SocketAddr; 2],
    heard: [AtomicU64; 2],
}

/// Datagrams at the begin of a buffer that go on alike.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Forward {
    pub(crate) to: SocketAddr,
    /// How many bytes, all datagrams together.
    pub(crate) len: usize,
    pub(crate) count: usize,
}

impl Forwards {
    /// Begins, moves or ends (`None`) a tunnel. The owner alone calls this.
    pub(crate) fn set(&self, vni: Vni, legs: Option<[SocketAddr; 2]>, now: Instant) {
        let mut tunnels = HashMap::clone(&self.tunnels.load());
        match legs {
            Some(legs) => {
                let heard = [now.as_nanos(), now.as_nanos()].map(AtomicU64::new);
                tunnels.insert(vni, Arc::new(Tunnel { legs, heard }));
            }
            None => drop(tunnels.remove(&vni)),
        }
        let is_any = !tunnels.is_empty();
        self.tunnels.store(Arc::new(tunnels));
        self.is_any.store(is_any, Ordering::Release);
    }

    /// When the legs of each tunnel were last heard.
    pub(crate) fn heard(&self) -> Vec<(Vni, [Instant; 2])> {
        let at = |cell: &AtomicU64| Instant::from_nanos(cell.load(Ordering::Relaxed));
        self.tunnels.load().iter().map(|(vni, own)| (*vni, own.heard.each_ref().map(at))).collect()
    }

    /// Returns what of `buffer`, datagrams of `segment` bytes but the last, goes on from its begin; `None`: it is ours.
    #[inline]
    pub(crate) fn find(
        &self,
        buffer: &[u8],
        segment: usize,
        from: SocketAddr,
        now: Instant,
    ) -> Option<Forward> {
        if buffer.first() != Some(&0) || !self.is_any.load(Ordering::Acquire) {
            return None;
        }
        self.look_up(buffer, segment, from, now)
    }

    fn look_up(&self, buffer: &[u8], segment: usize, from: SocketAddr, now: Instant) -> Option<Forward> {
        let (header, _) = geneve::Header::split(buffer).filter(|(header, _)| !header.control)?;
        let tunnels = self.tunnels.load();
        let tunnel = tunnels.get(&header.vni)?;
        let leg = tunnel.legs.iter().position(|leg| *leg == from)?;
        tunnel.heard.get(leg)?.store(now.as_nanos(), Ordering::Relaxed);
        let head = buffer.get(..geneve::HEADER_LEN)?;
        let run = buffer.chunks(segment.max(1)).take_while(|datagram| datagram.starts_with(head));
        let (count, len) = run.fold((0, 0), |(count, len), datagram| (count + 1, len + datagram.len()));
        Some(Forward { to: *tunnel.legs.get(1 - leg)?, len, count })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Instant = Instant::from_nanos(5_000_000_000);

    fn legs() -> [SocketAddr; 2] {
        [1, 2].map(|n| SocketAddr::from(([198, 51, 100, n], 1000)))
    }

    fn datagram(vni: u32, payload: geneve::Payload, body: &[u8]) -> Vec<u8> {
        let header = geneve::Header::data(payload, Vni::new(vni).expect("24 bits"));
        [&header.encode()[..], body].concat()
    }

    #[test]
    fn a_run_goes_on_to_the_other_leg_and_the_rest_is_looked_at_anew() {
        let forwards = Forwards::default();
        let vni = Vni::new(7).expect("24 bits");
        forwards.set(vni, Some(legs()), Instant::ZERO);
        let [a, b] = legs();
        let two = [
            datagram(7, geneve::Payload::WireGuard, &[1; 92]),
            datagram(7, geneve::Payload::WireGuard, &[2; 92]),
        ];
        let buffer = [two.concat(), datagram(7, geneve::Payload::Disco, &[3; 40])].concat();
        assert_eq!(forwards.find(&buffer, 100, a, NOW), Some(Forward { to: b, len: 200, count: 2 }));
        assert_eq!(forwards.heard(), [(vni, [NOW, Instant::ZERO])]);
        assert_eq!(forwards.find(&buffer[200..], 100, b, NOW), Some(Forward { to: a, len: 48, count: 1 }));
    }

    #[test]
    fn only_legs_of_a_living_tunnel_are_served() {
        let forwards = Forwards::default();
        let vni = Vni::new(7).expect("24 bits");
        let data = datagram(7, geneve::Payload::WireGuard, &[1; 92]);
        let [a, b] = legs();
        assert_eq!(forwards.find(&data, data.len(), a, NOW), None);
        forwards.set(vni, Some([a, b]), NOW);
        let stranger = SocketAddr::from(([198, 51, 100, 9], 1000));
        assert_eq!(forwards.find(&data, data.len(), stranger, NOW), None);
        let other = datagram(8, geneve::Payload::WireGuard, &[1; 92]);
        assert_eq!(forwards.find(&other, other.len(), a, NOW), None);
        let control = [&geneve::Header::control(vni).encode()[..], &[1; 92]].concat();
        assert_eq!(forwards.find(&control, control.len(), a, NOW), None, "the handshake is the owner's");
        forwards.set(vni, None, NOW);
        assert_eq!(forwards.find(&data, data.len(), a, NOW), None);
    }
}
