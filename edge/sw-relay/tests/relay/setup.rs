//! A relay on a free port, and clients of it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use sw_net::derp_client::{DerpClient, DerpConfig, DerpEvent, Received};
use sw_net::front::{Front, FrontLimits};
use sw_net::tls::{CertHash, CertStore, Identity, server_config};
use sw_relay::{Relay, RelayConfig};
use sw_types::{CertCheck, DerpPrivate, NodeKey, NodePrivate, RegionId, RelayAddr, RelayNode, RelayRegion};
use tokio::sync::mpsc;

pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Running {
    pub(crate) relay: Relay,
    // Holds the listener's tasks.
    _front: Front,
    pub(crate) address: SocketAddr,
    pub(crate) hash: CertHash,
}

pub(crate) fn config(seed: u8) -> RelayConfig {
    RelayConfig::new(Arc::new(DerpPrivate::generate([seed; 32])))
}

/// Both plain and TLS on one port.
pub(crate) fn start(config: RelayConfig) -> Running {
    start_with(config, &Identity::self_signed(&["127.0.0.1".to_owned()]).unwrap())
}

/// With a certificate of the caller's.
pub(crate) fn start_with(mut config: RelayConfig, identity: &Identity) -> Running {
    config.plain_http = true;
    let relay = Relay::new(config).unwrap();
    let store = CertStore::new();
    store.set_default(identity);
    store.set_meta(&relay.meta_cert().unwrap());
    let listener = sw_net::socket::listen_tcp("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let front = Front::new(relay.router(), FrontLimits::default());
    front.listen(listener, Some(server_config(store)));
    Running { relay, _front: front, address, hash: identity.hash() }
}

pub(crate) fn region(address: SocketAddr, cert: CertCheck) -> RelayRegion {
    let SocketAddr::V4(v4) = address else { panic!("an IPv4 address") };
    let node = RelayNode {
        name: "900a".to_owned(),
        host_name: v4.ip().to_string(),
        cert,
        ipv4: RelayAddr::Fixed(*v4.ip()),
        ipv6: RelayAddr::Disabled,
        stun_port: None,
        stun_only: false,
        derp_port: v4.port(),
        insecure_for_tests: false,
        stun_test_ip: None,
        can_port_80: false,
    };
    RelayRegion {
        id: RegionId(900),
        code: "test".to_owned(),
        name: "test".to_owned(),
        no_measure_no_home: false,
        nodes: vec![node],
    }
}

pub(crate) struct Peer {
    pub(crate) client: DerpClient,
    pub(crate) key: NodeKey,
    events: mpsc::Receiver<(RegionId, DerpEvent)>,
    packets: std::collections::VecDeque<Received>,
}

impl Peer {
    /// Connects as home and waits for the login.
    pub(crate) async fn connect(address: SocketAddr, cert: Option<CertCheck>, seed: u8) -> Self {
        let key = Arc::new(NodePrivate::generate([seed; 32]));
        let public = key.public();
        let plain = cert.is_none();
        let mut config = DerpConfig::new(region(address, cert.unwrap_or(CertCheck::HostName)), key);
        config.plain_http = plain;
        config.queue_packets = 1024;
        let (sender, events) = mpsc::channel(64);
        let client = DerpClient::spawn(config, sender);
        client.set_home(true);
        let mut peer = Self { client, key: public, events, packets: std::collections::VecDeque::new() };
        peer.until(|event| matches!(event, DerpEvent::Connected { .. })).await;
        peer
    }

    pub(crate) async fn plain(running: &Running, seed: u8) -> Self {
        Self::connect(running.address, None, seed).await
    }

    pub(crate) async fn tls(running: &Running, seed: u8) -> Self {
        Self::connect(running.address, Some(CertCheck::Sha256(running.hash.0)), seed).await
    }

    /// The next event that fits; packets met on the way are kept.
    pub(crate) async fn until(&mut self, fits: impl Fn(&DerpEvent) -> bool) -> DerpEvent {
        let waiting = async {
            loop {
                let (_, event) = self.events.recv().await.expect("the client's task lives");
                if fits(&event) {
                    return event;
                }
                if let DerpEvent::Packets(packets) = event {
                    self.packets.extend(packets);
                }
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.expect("the event comes")
    }

    pub(crate) async fn packet(&mut self) -> Received {
        while self.packets.is_empty() {
            let DerpEvent::Packets(packets) = self.until(|e| matches!(e, DerpEvent::Packets(_))).await else {
                panic!("asked for packets")
            };
            self.packets.extend(packets);
        }
        self.packets.pop_front().unwrap()
    }
}

/// A disco-like packet: long enough and with the magic.
pub(crate) fn disco_packet() -> Vec<u8> {
    let mut packet = sw_proto::disco::MAGIC.to_vec();
    packet.resize(100, 7);
    packet
}

/// Waits until something of the relay is so.
pub(crate) async fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("never: {what}"));
}
