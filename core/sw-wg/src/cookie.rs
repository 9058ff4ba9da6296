//! mac1, mac2 and cookies (WireGuard paper §5.3, §5.4.4, §5.4.7), and the limit per source that holds under load.

use crate::Source;
use crate::message::{COOKIE_REPLY_LEN, Macs, field};
use crate::primitives::{hash, mac, open_cookie, seal_cookie};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;
use subtle::ConstantTimeEq;
use sw_types::Instant;

/// How long a cookie, and the secret it is made with, are good for.
const COOKIE_LIFETIME: Duration = Duration::from_secs(120);
/// Handshake messages of one source under load: 20 in a second, 5 at once (threat-model.md §4).
const COST_PER_MESSAGE: Duration = Duration::from_millis(50);
const BURST: u32 = 5;
/// Sources remembered; past that the oldest entries give way.
const SOURCES_MAX: usize = 4096;

/// Checks mac1 of handshake messages sent to one public key. Stateless, so that a data thread can drop what was not
/// meant for us before it queues anything.
#[derive(Clone, Debug)]
pub struct MacCheck {
    key: [u8; 32],
}

impl MacCheck {
    pub fn new(public_key: &[u8; 32]) -> Self {
        Self { key: hash(&[b"mac1----", public_key]) }
    }

    /// Whether `message` is an initiation or a response with the right mac1.
    pub fn is_right(&self, message: &[u8]) -> bool {
        Macs::split(message).is_some_and(|macs| bool::from(self.of(macs.under_mac1).ct_eq(&macs.mac1)))
    }

    fn of(&self, covered: &[u8]) -> [u8; 16] {
        mac(&self.key, &[covered])
    }
}

/// The receiver's side: hands out cookies under load.
#[derive(Debug)]
pub(crate) struct CookieIssuer {
    encryption_key: [u8; 32],
    secret: [u8; 32],
    secret_since: Option<Instant>,
    limiter: Limiter,
}

impl CookieIssuer {
    pub(crate) fn new(public_key: &[u8; 32]) -> Self {
        Self {
            encryption_key: hash(&[b"cookie--", public_key]),
            secret: [0; 32],
            secret_since: None,
            limiter: Limiter::default(),
        }
    }

    /// Whether mac2 of `message` proves that its sender receives at `from`, with the present secret.
    pub(crate) fn is_proven(&self, message: &[u8], from: &Source, now: Instant) -> bool {
        if self.secret_since.is_none_or(|since| now >= since + COOKIE_LIFETIME) {
            return false;
        }
        let cookie = self.cookie(from);
        Macs::split(message)
            .is_some_and(|macs| bool::from(mac(&cookie, &[macs.under_mac2]).ct_eq(&macs.mac2)))
    }

    /// Takes one message from the source's allowance.
    pub(crate) fn admit(&mut self, from: &Source, now: Instant) -> bool {
        self.limiter.admit(from, now)
    }

    /// Makes the reply to `message`; `random` gives a fresh secret (when the old one is due) and the nonce.
    pub(crate) fn reply(
        &mut self,
        message: &[u8],
        from: &Source,
        mut random: impl FnMut(&mut [u8]),
        now: Instant,
    ) -> Option<[u8; COOKIE_REPLY_LEN]> {
        let Macs { mac1, .. } = Macs::split(message)?;
        if self.secret_since.is_none_or(|since| now >= since + COOKIE_LIFETIME) {
            random(&mut self.secret);
            self.secret_since = Some(now);
        }
        let mut nonce = [0; 24];
        random(&mut nonce);
        let sealed = seal_cookie(&self.encryption_key, &nonce, &mac1, &self.cookie(from));
        let mut reply = [0; COOKIE_REPLY_LEN];
        reply[0] = 3;
        reply[4..8].copy_from_slice(&field::<4>(message, 4));
        reply[8..32].copy_from_slice(&nonce);
        reply[32..].copy_from_slice(&sealed);
        Some(reply)
    }

    /// The cookie binds address and port, or for relays the region and the claimed sender.
    fn cookie(&self, from: &Source) -> [u8; 16] {
        mac(&self.secret, &[&from.cookie_bytes()])
    }
}

/// The sender's side: mac1 and mac2 of what goes to one peer.
#[derive(Debug)]
pub(crate) struct CookieJar {
    mac1: MacCheck,
    encryption_key: [u8; 32],
    cookie: Option<([u8; 16], Instant)>,
    last_mac1: Option<[u8; 16]>,
}

impl CookieJar {
    pub(crate) fn new(peer_key: &[u8; 32]) -> Self {
        Self {
            mac1: MacCheck::new(peer_key),
            encryption_key: hash(&[b"cookie--", peer_key]),
            cookie: None,
            last_mac1: None,
        }
    }

    /// Fills both MACs at the end of a handshake message.
    pub(crate) fn stamp(&mut self, message: &mut [u8], now: Instant) {
        let (mac1_at, mac2_at) = (message.len() - 32, message.len() - 16);
        let mac1 = self.mac1.of(&message[..mac1_at]);
        message[mac1_at..mac2_at].copy_from_slice(&mac1);
        self.last_mac1 = Some(mac1);
        if let Some((cookie, _)) = self.cookie.filter(|(_, since)| now < *since + COOKIE_LIFETIME) {
            let mac2 = mac(&cookie, &[&message[..mac2_at]]);
            message[mac2_at..].copy_from_slice(&mac2);
        }
    }

    /// Takes a cookie from a reply to our last message; false when it is not one.
    pub(crate) fn on_reply(&mut self, reply: &[u8; COOKIE_REPLY_LEN], now: Instant) -> bool {
        let Some(mac1) = self.last_mac1 else { return false };
        let (nonce, sealed) = (field(reply, 8), field(reply, 32));
        let Some(cookie) = open_cookie(&self.encryption_key, &nonce, &mac1, &sealed) else {
            return false;
        };
        // One reply per message: a second one would be a replay.
        self.last_mac1 = None;
        self.cookie = Some((cookie, now));
        true
    }
}

/// A token bucket per source address, kept as the moment at which the bucket is full again.
#[derive(Debug, Default)]
struct Limiter {
    full_at: BTreeMap<[u8; 16], Instant>,
}

impl Limiter {
    fn admit(&mut self, from: &Source, now: Instant) -> bool {
        let key = from.limit_key();
        let full_at = self.full_at.get(&key).copied().unwrap_or(now).max(now);
        if full_at + COST_PER_MESSAGE > now + COST_PER_MESSAGE * BURST {
            return false;
        }
        if self.full_at.len() >= SOURCES_MAX && !self.full_at.contains_key(&key) {
            self.full_at.retain(|_, at| *at > now);
            if self.full_at.len() >= SOURCES_MAX {
                // Every source proved its address with a cookie to come here, so this is a very large crowd:
                // forget all rather than lock a newcomer out.
                self.full_at.clear();
            }
        }
        self.full_at.insert(key, full_at + COST_PER_MESSAGE);
        true
    }
}

impl Source {
    fn cookie_bytes(&self) -> Vec<u8> {
        match self {
            Self::Udp(addr) => address_bytes(addr.ip(), addr.port()),
            Self::PeerRelay { via, vni } => {
                let mut bytes = address_bytes(via.ip(), via.port());
                bytes.extend_from_slice(&vni.to_bytes());
                bytes
            }
            Self::Derp { region, from } => {
                let mut bytes = from.as_bytes().to_vec();
                bytes.extend_from_slice(&region.0.to_be_bytes());
                bytes
            }
        }
    }

    /// What shares one allowance: an IPv4 address, an IPv6 /64, or a key that comes through a relay.
    fn limit_key(&self) -> [u8; 16] {
        let ip = match self {
            Self::Udp(addr) => addr.ip(),
            Self::PeerRelay { via, .. } => via.ip(),
            Self::Derp { from, .. } => return field(from.as_bytes(), 0),
        };
        match ip.to_canonical() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            IpAddr::V6(v6) => {
                let mut network = v6.octets();
                network[8..].fill(0);
                network
            }
        }
    }
}

fn address_bytes(ip: IpAddr, port: u16) -> Vec<u8> {
    let mut bytes = match ip {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    bytes.extend_from_slice(&port.to_be_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::INITIATION_LEN;

    fn udp(port: u16) -> Source {
        Source::Udp(([192, 0, 2, 1], port).into())
    }

    fn message(jar: &mut CookieJar, now: Instant) -> [u8; INITIATION_LEN] {
        let mut message = [5; INITIATION_LEN];
        message[INITIATION_LEN - 32..].fill(0);
        jar.stamp(&mut message, now);
        message
    }

    #[test]
    fn a_cookie_binds_address_and_port_and_dies() {
        let (mut issuer, mut jar) = (CookieIssuer::new(&[1; 32]), CookieJar::new(&[1; 32]));
        let start = Instant::from_nanos(1);
        let first = message(&mut jar, start);
        assert!(MacCheck::new(&[1; 32]).is_right(&first));
        assert!(!issuer.is_proven(&first, &udp(7), start));
        let reply = issuer.reply(&first, &udp(7), |b| b.fill(9), start).unwrap();
        let mut forged = reply;
        forged[40] ^= 1;
        assert!(!jar.on_reply(&forged, start));
        assert!(jar.on_reply(&reply, start));
        assert!(!jar.on_reply(&reply, start), "a replay");
        let second = message(&mut jar, start);
        assert!(issuer.is_proven(&second, &udp(7), start));
        assert!(!issuer.is_proven(&second, &udp(8), start), "another port");
        let other = Source::Udp(([192, 0, 2, 2], 7).into());
        assert!(!issuer.is_proven(&second, &other, start), "another address");
        let later = start + COOKIE_LIFETIME;
        assert!(!issuer.is_proven(&second, &udp(7), later));
        assert_eq!(message(&mut jar, later)[INITIATION_LEN - 16..], [0; 16], "an old cookie is not used");
    }

    #[test]
    fn mac1_is_for_one_key() {
        let mut jar = CookieJar::new(&[1; 32]);
        let sent = message(&mut jar, Instant::from_nanos(1));
        assert!(!MacCheck::new(&[2; 32]).is_right(&sent));
        assert!(!MacCheck::new(&[1; 32]).is_right(&sent[1..]));
    }

    #[test]
    fn the_limit_is_per_source_and_locks_nobody_else_out() {
        let mut limiter = Limiter::default();
        let start = Instant::from_nanos(1);
        let admitted = (0..100).filter(|_| limiter.admit(&udp(1), start)).count();
        assert_eq!(admitted, BURST as usize);
        assert!(limiter.admit(&Source::Udp(([192, 0, 2, 9], 1).into()), start));
        let second =
            (1..=100u64).filter(|i| limiter.admit(&udp(1), start + Duration::from_millis(10 * i))).count();
        assert!((19..=21).contains(&second), "{second} in one second");
        for i in 0..3 * SOURCES_MAX as u32 {
            assert!(limiter.admit(&Source::Udp((i.to_be_bytes(), 1).into()), start));
        }
        assert!(limiter.full_at.len() <= SOURCES_MAX);
        let v6 = |host| Source::Udp((std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, host), 1).into());
        let one_network = (0..100).filter(|i| limiter.admit(&v6(*i), start)).count();
        assert_eq!(one_network, BURST as usize, "one /64 is one source");
    }
}
