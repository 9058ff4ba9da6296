//! Our relay for other machines: tunnels between two clients, each bound to the address that it proved. The data is
//! forwarded where it arrives, by the legs that are told here.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use blake2::Blake2sMac256;
use blake2::digest::{KeyInit as _, Mac as _};
use sw_proto::disco::{self, BindHandshake, Message, RelayEndpoint};
use sw_proto::nacl::{BoxKey, Nonce};
use sw_types::{DiscoKey, DiscoPrivate, Instant, Rng, Vni};

use crate::rate::Rate;

/// A tunnel without both legs lives this long.
const BIND_LIFETIME: Duration = Duration::from_secs(30);
/// A tunnel with a silent leg lives this long.
const STEADY_LIFETIME: Duration = Duration::from_secs(300);
/// How often dead tunnels are looked for.
const CLEAN_UP: Duration = Duration::from_secs(30);
/// Challenges are made with a new secret this often; those of the one before still count.
const SECRET_LIFETIME: Duration = Duration::from_secs(120);
/// Tunnels in all, and those that one client may have asked for.
const TUNNELS_MAX: usize = 2048;
const TUNNELS_OF_ONE_MAX: usize = 128;
/// Handshake messages of one tunnel that are opened in a second.
const CONTROL_PER_S: u32 = 40;
const NO_CHALLENGE: [u8; 32] = [0; 32];

/// What a handshake message leads to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Control {
    /// Send this back to where the message came from, behind a control header.
    Reply(Vec<u8>),
    /// Both legs are proven: forward between them.
    Bound([SocketAddr; 2]),
}

/// Serves tunnels under a key of its own, which no netmap names and which dies with it.
#[derive(Debug)]
pub(crate) struct Server {
    disco: DiscoPrivate,
    secrets: [[u8; 32]; 2],
    rotate_at: Instant,
    tunnels: BTreeMap<Vni, Tunnel>,
    by_pair: BTreeMap<[DiscoKey; 2], Vni>,
    last_vni: Vni,
    lamport: u64,
    clean_up_at: Option<Instant>,
}

#[derive(Debug)]
struct Tunnel {
    ends: [End; 2],
    /// Who asked for it.
    owner: DiscoKey,
    lamport: u64,
    born: Instant,
    rate: Rate,
}

/// One client of a tunnel.
#[derive(Debug)]
struct End {
    disco: DiscoKey,
    key: BoxKey,
    /// The proven address and when it was last heard.
    leg: Option<(SocketAddr, Instant)>,
}

impl Tunnel {
    fn legs(&self) -> Option<[SocketAddr; 2]> {
        let [a, b] = &self.ends;
        Some([a.leg?.0, b.leg?.0])
    }

    fn is_dead(&self, now: Instant) -> bool {
        let silent = |end: &End| end.leg.is_none_or(|(_, heard)| heard + STEADY_LIFETIME <= now);
        match self.legs() {
            Some(_) => self.ends.iter().any(silent),
            None => self.born + BIND_LIFETIME <= now,
        }
    }
}

impl Server {
    pub(crate) fn new(rng: &mut Rng, now: Instant) -> Self {
        Self {
            disco: DiscoPrivate::generate(rng.bytes()),
            secrets: [rng.bytes(), rng.bytes()],
            rotate_at: now + SECRET_LIFETIME,
            tunnels: BTreeMap::new(),
            by_pair: BTreeMap::new(),
            last_vni: Vni::from_bytes([0; 3]),
            lamport: 0,
            clean_up_at: None,
        }
    }

    /// Returns the tunnel of two clients, made for `owner` if they have none. Refused: a pair of one, keys that allow
    /// no agreement, too many tunnels.
    pub(crate) fn allocate(
        &mut self,
        owner: DiscoKey,
        mut clients: [DiscoKey; 2],
        addresses: Vec<SocketAddr>,
        now: Instant,
    ) -> Option<RelayEndpoint> {
        clients.sort_unstable();
        let vni = match self.by_pair.get(&clients) {
            Some(vni) => *vni,
            None => self.make(owner, clients, now)?,
        };
        let tunnel = self.tunnels.get(&vni)?;
        Some(RelayEndpoint {
            server: self.disco.public(),
            clients,
            lamport: tunnel.lamport,
            vni,
            bind_lifetime: BIND_LIFETIME,
            steady_lifetime: STEADY_LIFETIME,
            addresses,
        })
    }

    fn make(&mut self, owner: DiscoKey, clients: [DiscoKey; 2], now: Instant) -> Option<Vni> {
        let own = self.tunnels.values().filter(|tunnel| tunnel.owner == owner).count();
        let is_full = self.tunnels.len() >= TUNNELS_MAX || own >= TUNNELS_OF_ONE_MAX;
        if clients[0] == clients[1] || is_full {
            return None;
        }
        let end = |disco: DiscoKey| {
            let key = BoxKey::new(&self.disco.shared_secret(&disco).ok()?);
            Some(End { disco, key, leg: None })
        };
        let ends = [end(clients[0])?, end(clients[1])?];
        let vni = self.free_vni()?;
        self.lamport += 1;
        self.last_vni = vni;
        let tunnel = Tunnel { ends, owner, lamport: self.lamport, born: now, rate: Rate::default() };
        self.tunnels.insert(vni, tunnel);
        self.by_pair.insert(clients, vni);
        self.clean_up_at.get_or_insert(now + CLEAN_UP);
        Some(vni)
    }

    /// Numbers are given one after the other, from 1.
    fn free_vni(&self) -> Option<Vni> {
        let next = |vni: Vni| Vni::new(vni.get() + 1).unwrap_or_else(|| Vni::from_bytes([0, 0, 1]));
        std::iter::successors(Some(next(self.last_vni)), |vni| Some(next(*vni)))
            .take(TUNNELS_MAX + 1)
            .find(|vni| !self.tunnels.contains_key(vni))
    }

    /// Takes a handshake message that came from `from` in tunnel `vni`.
    pub(crate) fn on_control(
        &mut self,
        (from, vni): (SocketAddr, Vni),
        datagram: &[u8],
        rng: &mut Rng,
        now: Instant,
    ) -> Option<Control> {
        self.rotate(rng, now);
        let sender = disco::sender(datagram)?;
        let tunnel = self.tunnels.get_mut(&vni)?;
        let at = tunnel.ends.iter().position(|end| end.disco == sender)?;
        if !tunnel.rate.allows(CONTROL_PER_S, now) {
            return None;
        }
        let (end, other) = (tunnel.ends.get(at)?, tunnel.ends.get(1 - at)?);
        let is_right =
            |body: &BindHandshake| body.vni == vni && body.generation != 0 && body.remote == other.disco;
        match disco::open(datagram, &end.key).ok()? {
            Message::Bind(body) if is_right(&body) && body.challenge == NO_CHALLENGE => {
                let [secret, _] = &self.secrets;
                let challenge = challenge(secret, &body, from).finalize().into_bytes().into();
                let message = Message::BindChallenge(BindHandshake { challenge, ..body });
                Some(Control::Reply(disco::seal(
                    &message,
                    self.disco.public(),
                    &end.key,
                    &Nonce(rng.bytes()),
                )))
            }
            Message::BindAnswer(body) if is_right(&body) => {
                let is_ours = |secret| challenge(secret, &body, from).verify_slice(&body.challenge).is_ok();
                if !self.secrets.iter().any(is_ours) {
                    return None;
                }
                tunnel.ends.get_mut(at)?.leg = Some((from, now));
                tunnel.legs().map(Control::Bound)
            }
            Message::Bind(_)
            | Message::BindAnswer(_)
            | Message::Ping(_)
            | Message::Pong { .. }
            | Message::CallMeMaybe(_)
            | Message::BindChallenge(_)
            | Message::CallMeMaybeVia(_)
            | Message::AllocateRequest { .. }
            | Message::AllocateResponse { .. } => None,
        }
    }

    fn rotate(&mut self, rng: &mut Rng, now: Instant) {
        if self.rotate_at <= now {
            self.secrets = [rng.bytes(), self.secrets[0]];
            self.rotate_at = now + SECRET_LIFETIME;
        }
    }

    /// When the legs of a tunnel were last heard, as whoever forwards has seen.
    pub(crate) fn on_forwarded(&mut self, vni: Vni, heard: [Instant; 2]) {
        let Some(tunnel) = self.tunnels.get_mut(&vni) else { return };
        for (end, at) in tunnel.ends.iter_mut().zip(heard) {
            if let Some((_, heard)) = &mut end.leg {
                *heard = at.max(*heard);
            }
        }
    }

    /// Removes dead tunnels and returns those that were forwarded.
    pub(crate) fn clean_up(&mut self, now: Instant) -> Vec<Vni> {
        if self.clean_up_at.is_none_or(|at| at > now) {
            return Vec::new();
        }
        let mut forwarded = Vec::new();
        self.tunnels.retain(|vni, tunnel| {
            let is_dead = tunnel.is_dead(now);
            if is_dead && tunnel.legs().is_some() {
                forwarded.push(*vni);
            }
            !is_dead
        });
        self.by_pair.retain(|_, vni| self.tunnels.contains_key(vni));
        self.clean_up_at = (!self.tunnels.is_empty()).then(|| now + CLEAN_UP);
        forwarded
    }

    /// The tunnels that are forwarded.
    pub(crate) fn forwarded(&self) -> impl Iterator<Item = Vni> {
        self.tunnels.iter().filter(|(_, tunnel)| tunnel.legs().is_some()).map(|(vni, _)| *vni)
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.clean_up_at
    }
}

/// What only somebody at `from` who saw our challenge can know; we remember nothing for it.
fn challenge(secret: &[u8; 32], body: &BindHandshake, from: SocketAddr) -> Blake2sMac256 {
    let ip = match from.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    let mut mac = Blake2sMac256::new(secret.into());
    mac.update(&body.vni.get().to_be_bytes());
    mac.update(&body.generation.to_be_bytes());
    mac.update(body.remote.as_bytes());
    mac.update(&ip.octets());
    mac.update(&from.port().to_be_bytes());
    mac
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Instant = Instant::from_nanos(1_000_000_000);

    /// A client's end of a tunnel, as strict or as sloppy as a test wants it.
    struct Guest {
        disco: DiscoPrivate,
        key: BoxKey,
        remote: DiscoKey,
        addr: SocketAddr,
    }

    struct Scene {
        server: Server,
        rng: Rng,
        vni: Vni,
        guests: [Guest; 2],
    }

    impl Scene {
        fn new() -> Self {
            let mut rng = Rng::new([1; 32]);
            let mut server = Server::new(&mut rng, NOW);
            let keys = [2, 3].map(|n| DiscoPrivate::generate([n; 32]));
            let clients = [keys[0].public(), keys[1].public()];
            let here = vec!["203.0.113.9:41641".parse().expect("an address")];
            let tunnel = server.allocate(clients[0], clients, here, NOW).expect("room");
            let guest = |n: usize| Guest {
                key: BoxKey::new(&keys[n].shared_secret(&tunnel.server).expect("an agreement")),
                disco: DiscoPrivate::generate([n as u8 + 2; 32]),
                remote: clients[1 - n],
                addr: SocketAddr::from(([198, 51, 100, n as u8 + 1], 1000)),
            };
            Self { guests: [guest(0), guest(1)], vni: tunnel.vni, server, rng }
        }

        fn say(&mut self, n: usize, message: &Message, from: SocketAddr, now: Instant) -> Option<Control> {
            let guest = &self.guests[n];
            let datagram = disco::seal(message, guest.disco.public(), &guest.key, &Nonce(self.rng.bytes()));
            self.server.on_control((from, self.vni), &datagram, &mut self.rng, now)
        }

        fn body(&self, n: usize) -> BindHandshake {
            let remote = self.guests[n].remote;
            BindHandshake { vni: self.vni, generation: 7, remote, challenge: NO_CHALLENGE }
        }

        fn challenge(&mut self, n: usize) -> BindHandshake {
            let (body, from) = (self.body(n), self.guests[n].addr);
            let Some(Control::Reply(reply)) = self.say(n, &Message::Bind(body), from, NOW) else {
                panic!("no challenge")
            };
            let message = disco::open(&reply, &self.guests[n].key);
            let Ok(Message::BindChallenge(body)) = message else { panic!("{message:?}") };
            body
        }

        fn bind(&mut self, n: usize) -> Option<Control> {
            let (answer, from) = (self.challenge(n), self.guests[n].addr);
            self.say(n, &Message::BindAnswer(answer), from, NOW)
        }
    }

    #[test]
    fn two_proven_clients_are_forwarded_until_one_is_silent() {
        let mut scene = Scene::new();
        assert_eq!(scene.bind(0), None, "one leg is no tunnel");
        let legs = scene.guests.each_ref().map(|guest| guest.addr);
        // The legs stand in the order of the sorted keys.
        let Some(Control::Bound(mut bound)) = scene.bind(1) else { panic!("both are proven") };
        bound.sort_unstable();
        assert_eq!(bound, legs);
        let later = NOW + STEADY_LIFETIME - Duration::from_secs(1);
        assert!(scene.server.clean_up(later).is_empty());
        scene.server.on_forwarded(scene.vni, [later, later]);
        let silent = later + STEADY_LIFETIME;
        assert!(scene.server.clean_up(silent - Duration::from_secs(1)).is_empty());
        assert_eq!(scene.server.clean_up(silent + CLEAN_UP), [scene.vni]);
        assert_eq!(scene.server.next_deadline(), None);
    }

    #[test]
    fn a_pair_has_one_tunnel_and_an_unbound_one_dies() {
        let mut scene = Scene::new();
        let clients = scene.guests.each_ref().map(|guest| guest.disco.public());
        let again = scene.server.allocate(clients[1], [clients[1], clients[0]], Vec::new(), NOW).expect("it");
        assert_eq!((again.vni, again.lamport), (scene.vni, 1));
        assert!(scene.server.clean_up(NOW + CLEAN_UP).is_empty(), "nothing was forwarded");
        let new = scene.server.allocate(clients[0], clients, Vec::new(), NOW + CLEAN_UP).expect("another");
        assert_eq!((new.vni.get(), new.lamport), (2, 2));
    }

    #[test]
    fn an_address_is_bound_only_by_its_own_fresh_challenge() {
        let mut scene = Scene::new();
        let answer = scene.challenge(0);
        let elsewhere: SocketAddr = "198.51.100.77:5".parse().expect("an address");
        assert_eq!(scene.say(0, &Message::BindAnswer(answer), elsewhere, NOW), None);
        let other = BindHandshake { generation: 8, ..answer };
        let own = scene.guests[0].addr;
        assert_eq!(scene.say(0, &Message::BindAnswer(other), own, NOW), None);
        assert_eq!(scene.server.tunnels[&scene.vni].ends.iter().filter(|end| end.leg.is_some()).count(), 0);
        // One change of the secret is survived, two are not.
        let mut late = Scene::new();
        let (answer, own) = (late.challenge(0), late.guests[0].addr);
        late.say(0, &Message::Bind(late.body(0)), own, NOW + SECRET_LIFETIME);
        late.say(0, &Message::Bind(late.body(0)), own, NOW + SECRET_LIFETIME * 2);
        late.say(0, &Message::BindAnswer(answer), own, NOW + SECRET_LIFETIME * 2);
        assert!(late.server.tunnels[&late.vni].ends.iter().all(|end| end.leg.is_none()));
    }

    #[test]
    fn wrong_partners_and_strangers_are_not_answered() {
        let mut scene = Scene::new();
        let own = scene.guests[0].addr;
        let wrong = BindHandshake { remote: scene.guests[0].disco.public(), ..scene.body(0) };
        assert_eq!(scene.say(0, &Message::Bind(wrong), own, NOW), None);
        let zero = BindHandshake { generation: 0, ..scene.body(0) };
        assert_eq!(scene.say(0, &Message::Bind(zero), own, NOW), None);
        scene.guests[0].disco = DiscoPrivate::generate([9; 32]);
        assert_eq!(scene.say(0, &Message::Bind(scene.body(0)), own, NOW), None);
    }

    #[test]
    fn one_client_cannot_take_all_tunnels() {
        let mut rng = Rng::new([5; 32]);
        let mut server = Server::new(&mut rng, NOW);
        let owner = DiscoPrivate::generate([1; 32]).public();
        let mut given = 0;
        for n in 0..200_u8 {
            let other = DiscoPrivate::generate([n; 32]).public();
            given += usize::from(server.allocate(owner, [owner, other], Vec::new(), NOW).is_some());
        }
        assert_eq!(given, TUNNELS_OF_ONE_MAX);
    }
}
