//! Every vector of `tests/data/datapath-vectors.json`: encode gives its bytes, decode gives its values.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use serde_json::Value;
use sw_proto::derp::{
    self, ClientFrame, ClientInfo, PeerGone, PeerPresent, PresentFlags, ServerFrame, ServerInfo,
};
use sw_proto::disco::{self, BindHandshake, Message, Ping, RelayEndpoint};
use sw_proto::nacl::{BoxKey, Nonce};
use sw_proto::portmap::Transport;
use sw_proto::{geneve, ip, natpmp, pcp, stun, tsmp};
use sw_types::{DerpKey, DerpPrivate, DiscoKey, DiscoPrivate, MeshKey, NodeKey, NodePrivate, Vni};

struct Vectors(Value);

impl Vectors {
    fn load() -> Self {
        Self(serde_json::from_str(include_str!("../data/datapath-vectors.json")).unwrap())
    }

    fn text(&self, pointer: &str) -> String {
        self.0
            .pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or_else(|| panic!("no vector {pointer}"))
            .to_owned()
    }

    fn bytes(&self, pointer: &str) -> Vec<u8> {
        hex::decode(self.text(pointer)).unwrap()
    }

    fn array<const N: usize>(&self, pointer: &str) -> [u8; N] {
        self.bytes(pointer).try_into().unwrap()
    }

    fn private(&self, name: &str) -> [u8; 32] {
        self.array(&format!("/keys/{name}/private"))
    }

    fn public(&self, name: &str) -> [u8; 32] {
        self.array(&format!("/keys/{name}/public"))
    }

    fn disco_private(&self, name: &str) -> DiscoPrivate {
        DiscoPrivate::from_bytes(self.private(name))
    }

    fn disco(&self, name: &str) -> DiscoKey {
        DiscoKey::from_bytes(self.public(name))
    }

    fn node(&self, name: &str) -> NodeKey {
        NodeKey::from_bytes(self.public(name))
    }

    fn nonce(&self) -> Nonce {
        Nonce(self.array("/nonce"))
    }

    fn box_key(&self, from: &str, to: &str) -> BoxKey {
        BoxKey::new(&self.disco_private(from).shared_secret(&self.disco(to)).unwrap())
    }
}

#[test]
fn keys_and_their_agreement() {
    let v = Vectors::load();
    for name in ["A", "B", "S", "N", "R"] {
        assert_eq!(v.disco_private(name).public(), v.disco(name), "{name}");
    }
    let shared = v.disco_private("A").shared_secret(&v.disco("B")).unwrap();
    assert_eq!(shared.expose(), &v.array::<32>("/x25519_AB"));
    let sealed = BoxKey::new(&shared).seal(&v.nonce(), b"text");
    assert_eq!(
        BoxKey::from_precomputed(v.array("/box_precomputed_AB")).open(&v.nonce(), &sealed).unwrap(),
        b"text"
    );
}

#[test]
fn derp_frames_of_clients() {
    let v = Vectors::load();
    let (a, b) = (v.node("A"), v.node("B"));
    let cases = [
        ("send_to_B_hello", ClientFrame::SendPacket { to: b, packet: b"hello" }),
        ("forward_A_B_hello", ClientFrame::ForwardPacket { from: a, to: b, packet: b"hello" }),
        ("note_preferred_true", ClientFrame::NotePreferred(true)),
        ("watch_conns", ClientFrame::WatchConns),
        ("close_peer_A", ClientFrame::ClosePeer(a)),
        ("ping_0102030405060708", ClientFrame::Ping([1, 2, 3, 4, 5, 6, 7, 8])),
        ("pong_0102030405060708", ClientFrame::Pong([1, 2, 3, 4, 5, 6, 7, 8])),
    ];
    for (name, frame) in cases {
        let want = v.bytes(&format!("/derp/{name}"));
        let mut got = Vec::new();
        frame.encode(&mut got);
        assert_eq!(got, want, "{name}");
        assert_eq!(derp::split_client_frame(&want).unwrap(), Some((frame, &[][..])), "{name}");
    }
}

#[test]
fn derp_frames_of_relays() {
    let v = Vectors::load();
    let a = v.node("A");
    let present =
        PeerPresent { key: a, from: "203.0.113.7:50000".parse().ok(), flags: PresentFlags::REGULAR };
    let restarting = ServerFrame::Restarting {
        reconnect_in: Duration::from_millis(1500),
        try_for: Duration::from_secs(10),
    };
    let cases = [
        ("server_key_S", ServerFrame::ServerKey(DerpKey::from_bytes(v.public("S")))),
        ("recv_from_A_hello", ServerFrame::RecvPacket { from: a, packet: b"hello" }),
        ("keepalive", ServerFrame::KeepAlive),
        ("peer_gone_A_disconnected", ServerFrame::PeerGone { key: a, reason: PeerGone::Disconnected }),
        ("peer_gone_A_not_here", ServerFrame::PeerGone { key: a, reason: PeerGone::NotHere }),
        ("peer_present_A_203.0.113.7:50000_regular", ServerFrame::PeerPresent(present)),
        ("ping_0102030405060708", ServerFrame::Ping([1, 2, 3, 4, 5, 6, 7, 8])),
        ("pong_0102030405060708", ServerFrame::Pong([1, 2, 3, 4, 5, 6, 7, 8])),
        ("health_dup", ServerFrame::Health(b"dup")),
        ("restarting_1500_10000", restarting),
    ];
    for (name, frame) in cases {
        let want = v.bytes(&format!("/derp/{name}"));
        let mut got = Vec::new();
        frame.encode(&mut got);
        assert_eq!(got, want, "{name}");
        assert_eq!(derp::split_server_frame(&want).unwrap(), Some((frame, &[][..])), "{name}");
    }
    let mut sent = v.bytes("/derp/send_to_B_hello");
    derp::rewrite_send_to_recv(&mut sent, &a);
    assert_eq!(sent, v.bytes("/derp/recv_from_A_hello"));
}

#[test]
fn derp_logins() {
    let v = Vectors::load();
    let (server, client) = (DerpPrivate::from_bytes(v.private("S")), NodePrivate::from_bytes(v.private("N")));
    let to_server = BoxKey::new(&client.shared_secret(&server.public()).unwrap());
    let to_client = |key: NodeKey| server.shared_secret(&key).ok().map(|shared| BoxKey::new(&shared));
    let mesh = ClientInfo {
        mesh_key: Some(MeshKey::from_bytes(v.private("A"))),
        can_ack_pings: false,
        ..ClientInfo::node()
    };
    for (name, info) in [("client_info_N_to_S", ClientInfo::node()), ("client_info_mesh_N_to_S", mesh)] {
        assert_eq!(String::from_utf8(info.to_json()).unwrap(), v.text(&format!("/derp/{name}/json")));
        let want = v.bytes(&format!("/derp/{name}/frame"));
        let body = derp::seal_client_info(client.public(), &to_server, &v.nonce(), &info);
        let mut got = Vec::new();
        ClientFrame::ClientInfo(&body).encode(&mut got);
        assert_eq!(got, want, "{name}");
        let (key, opened, _) = derp::open_client_info(&want[5..], to_client).unwrap();
        assert_eq!(key, client.public());
        assert_eq!(opened.to_json(), info.to_json());
    }
    let info = ServerInfo { version: 2, ..ServerInfo::default() };
    let want = v.bytes("/derp/server_info_S_to_N/frame");
    assert_eq!(String::from_utf8(info.to_json()).unwrap(), v.text("/derp/server_info_S_to_N/json"));
    let body = derp::seal_server_info(&to_client(client.public()).unwrap(), &v.nonce(), &info);
    let mut got = Vec::new();
    ServerFrame::ServerInfo(&body).encode(&mut got);
    assert_eq!(got, want);
    assert_eq!(derp::open_server_info(&want[5..], &to_server), Ok(info));
}

fn endpoint(v: &Vectors) -> RelayEndpoint {
    RelayEndpoint {
        server: v.disco("R"),
        clients: [v.disco("B"), v.disco("A")],
        lamport: 123,
        vni: Vni::new(456).unwrap(),
        bind_lifetime: Duration::from_secs(30),
        steady_lifetime: Duration::from_secs(300),
        addresses: vec!["198.51.100.9:7777".parse().unwrap()],
    }
}

#[test]
fn disco_messages_in_clear() {
    let v = Vectors::load();
    let ping = Ping { tx: disco::TxId(v.array("/txid")), node_key: Some(v.node("N")), padding: 0 };
    let clients = [v.disco("B"), v.disco("A")];
    let addresses = ["203.0.113.7:41641", "[2001:db8::1]:41641"].map(|text| text.parse().unwrap()).to_vec();
    let bind =
        BindHandshake { vni: Vni::new(1).unwrap(), generation: 2, remote: v.disco("B"), challenge: [0; 32] };
    let cases = [
        ("ping_A_to_B_nodekey_N", Message::Ping(ping)),
        (
            "pong_B_to_A_src_192.0.2.10:41641",
            Message::Pong { tx: ping.tx, seen: "192.0.2.10:41641".parse().unwrap() },
        ),
        ("call_me_maybe_A_to_B_203.0.113.7:41641_[2001:db8::1]:41641", Message::CallMeMaybe(addresses)),
        ("bind_A_to_R_vni1_gen2_remoteB", Message::Bind(bind)),
        ("allocate_request_AB_gen7", Message::AllocateRequest { clients, generation: 7 }),
        (
            "allocate_response_R_lamport123_vni456_30s_300s_198.51.100.9:7777_gen7",
            Message::AllocateResponse { generation: 7, endpoint: endpoint(&v) },
        ),
        ("call_me_maybe_via_same_endpoint", Message::CallMeMaybeVia(endpoint(&v))),
    ];
    for (name, message) in cases {
        let want = v.0["disco"][name]["plain"].as_str().unwrap().to_owned();
        let mut got = Vec::new();
        message.encode(&mut got);
        assert_eq!(hex::encode(&got), want, "{name}");
        assert_eq!(Message::parse(&got), Ok(message), "{name}");
    }
}

#[test]
fn disco_messages_sealed() {
    let v = Vectors::load();
    let cases = [
        ("ping_A_to_B_nodekey_N", "A", "B"),
        ("pong_B_to_A_src_192.0.2.10:41641", "B", "A"),
        ("call_me_maybe_A_to_B_203.0.113.7:41641_[2001:db8::1]:41641", "A", "B"),
    ];
    for (name, from, to) in cases {
        let vector = &v.0["disco"][name];
        let want = hex::decode(vector["packet"].as_str().unwrap()).unwrap();
        let message = Message::parse(&hex::decode(vector["plain"].as_str().unwrap()).unwrap()).unwrap();
        assert!(disco::looks_like(&want));
        assert_eq!(disco::sender(&want), Some(v.disco(from)));
        assert_eq!(disco::seal(&message, v.disco(from), &v.box_key(from, to), &v.nonce()), want, "{name}");
        assert_eq!(disco::open(&want, &v.box_key(to, from)), Ok(message), "{name}");
    }
    let want = v.bytes("/disco/bind_A_to_R_vni1_gen2_remoteB/packet_with_geneve");
    let (header, datagram) = geneve::Header::split(&want).unwrap();
    assert_eq!(header, geneve::Header::control(Vni::new(1).unwrap()));
    let message = disco::open(datagram, &v.box_key("R", "A")).unwrap();
    let sealed = disco::seal(&message, v.disco("A"), &v.box_key("A", "R"), &v.nonce());
    assert_eq!([&header.encode()[..], &sealed].concat(), want);
}

#[test]
fn geneve_headers() {
    let v = Vectors::load();
    let vni = |number| Vni::new(number).unwrap();
    let cases = [
        ("control_disco_vni_1", geneve::Header::control(vni(1))),
        ("disco_vni_1", geneve::Header::data(geneve::Payload::Disco, vni(1))),
        ("wireguard_vni_0x123456", geneve::Header::data(geneve::Payload::WireGuard, vni(0x12_3456))),
        ("control_disco_vni_0xffffff", geneve::Header::control(Vni::MAX)),
    ];
    for (name, header) in cases {
        let want = v.bytes(&format!("/geneve/{name}"));
        assert_eq!(header.encode(), want[..], "{name}");
        assert_eq!(geneve::Header::split(&want), Some((header, &[][..])), "{name}");
    }
}

#[test]
fn tsmp_disco_advertisement() {
    let v = Vectors::load();
    let (src, dst) = (IpAddr::from([100, 64, 0, 1]), IpAddr::from([100, 64, 0, 2]));
    let message = tsmp::Message::DiscoKey(v.disco("A"));
    let want = v.bytes("/tsmp/disco_advert_A_100.64.0.1_to_100.64.0.2");
    assert_eq!(message.packet(src, dst), Some(want.clone()));
    let view = ip::IpView::parse(&want).unwrap();
    assert_eq!((view.src(), view.dst(), view.proto()), (src, dst, ip::IpProto::TSMP));
    assert!(view.header_checksum_holds());
    assert_eq!(tsmp::Message::parse(view.payload()), Some(message));
}

#[test]
fn stun_messages() {
    let v = Vectors::load();
    let tx = stun::TxId(v.array("/txid"));
    let request = stun::request(tx);
    assert_eq!(request[..], v.bytes("/stun/request"));
    assert_eq!(request[36..], v.bytes("/stun/fingerprint"));
    for address in ["203.0.113.7:41641", "[2001:db8::1]:41641"] {
        let seen: SocketAddr = address.parse().unwrap();
        let want = v.bytes(&format!("/stun/response_{address}"));
        assert_eq!(stun::answer(&request, seen).unwrap().as_bytes(), want);
        assert_eq!(stun::parse_response(&want), Ok((tx, seen)));
    }
}

#[test]
fn port_mapping_messages() {
    let v = Vectors::load();
    let of = |name: &str| v.bytes(&format!("/portmap/{name}"));
    assert_eq!(natpmp::EXTERNAL_REQUEST[..], of("pmp_external_request"));
    assert_eq!(natpmp::map_request(Transport::Udp, 41641, 0, 7200)[..], of("pmp_map_41641_any_7200"));
    assert_eq!(natpmp::map_request(Transport::Udp, 41641, 50000, 0)[..], of("pmp_delete_41641_50000"));
    assert_eq!(
        natpmp::Response::parse(&of("pmp_external_response_epoch1000_203.0.113.7")),
        Ok(natpmp::Response::External { epoch_secs: 1000, ip: Some(Ipv4Addr::new(203, 0, 113, 7)) })
    );
    assert_eq!(
        natpmp::Response::parse(&of("pmp_map_response_epoch1000_ext50000")),
        Ok(natpmp::Response::Mapped {
            epoch_secs: 1000,
            transport: Transport::Udp,
            internal_port: 41641,
            external_port: 50000,
            lifetime_secs: 7200,
        })
    );
    let client = Ipv4Addr::new(192, 168, 1, 5);
    assert_eq!(pcp::announce(client)[..], of("pcp_announce_192.168.1.5"));
    let request = pcp::MapRequest {
        client,
        nonce: pcp::Nonce(v.array("/txid")),
        transport: Transport::Udp,
        internal_port: 41641,
        external_port: 0,
        external_ip: Ipv4Addr::UNSPECIFIED,
        lifetime_secs: 7200,
    };
    assert_eq!(request.encode()[..], of("pcp_map_nonce_txid_41641_7200"));
    let want = of("pcp_map_response_135.180.175.246:1234");
    let pcp::Response::Mapped { epoch_secs, external, lifetime_secs, .. } =
        pcp::Response::parse(&want).unwrap()
    else {
        panic!("not a mapping")
    };
    assert_eq!((epoch_secs, lifetime_secs), (170_989, 7200));
    assert_eq!(external, "135.180.175.246:1234".parse().unwrap());
}

/// No vector may be left unread: changing a byte of any of them has to fail a test above.
#[test]
fn every_vector_is_known_to_these_tests() {
    let v = Vectors::load();
    let count = |name: &str| v.0[name].as_object().map_or(0, serde_json::Map::len);
    let counts = ["keys", "derp", "disco", "geneve", "tsmp", "stun", "portmap"].map(count);
    assert_eq!(counts, [5, 18, 7, 4, 1, 4, 8]);
}
