//! Each limit of threat-model.md §4 that these formats have: accepted at the limit, refused one past it.

use sw_proto::derp::{self, FrameHeader, FrameType};
use sw_proto::disco::{self, Message, MessageError, OpenError, Ping, TxId};
use sw_proto::nacl::{BoxKey, Nonce};
use sw_types::{DiscoPrivate, NodeKey};

#[test]
fn derp_frame_lengths_of_clients() {
    let cases = [
        (FrameType::ClientInfo, 56, 262_144),
        (FrameType::SendPacket, 32, 32 + 65_536),
        (FrameType::ForwardPacket, 64, 64 + 65_536),
        (FrameType::NotePreferred, 1, 1),
        (FrameType::WatchConns, 0, 0),
        (FrameType::ClosePeer, 32, 32),
        (FrameType::Ping, 8, 1000),
        (FrameType::Pong, 8, 1000),
        (FrameType::Unknown(0x77), 0, 65_536),
        (FrameType::RecvPacket, 0, 65_536),
    ];
    for (kind, min, max) in cases {
        let check = |len| FrameHeader { kind, len }.check_from_client().is_ok();
        assert!(check(min) && check(max), "{kind:?}");
        assert!(!check(max + 1), "{kind:?}");
        assert!(min == 0 || !check(min - 1), "{kind:?}");
    }
}

#[test]
fn derp_frame_lengths_of_relays() {
    let cases = [
        (FrameType::ServerKey, 40, 1024),
        (FrameType::ServerInfo, 24, 24 + 1_048_576),
        (FrameType::RecvPacket, 32, 32 + 65_536),
        (FrameType::ForwardPacket, 64, 64 + 65_536),
        (FrameType::PeerGone, 32, 65_536),
        (FrameType::PeerPresent, 32, 65_536),
        (FrameType::KeepAlive, 0, 65_536),
        (FrameType::Health, 0, 65_536),
        (FrameType::Restarting, 8, 65_536),
        (FrameType::Unknown(0xff), 0, 65_536),
    ];
    for (kind, min, max) in cases {
        let check = |len| FrameHeader { kind, len }.check_from_server().is_ok();
        assert!(check(min) && check(max), "{kind:?}");
        assert!(!check(max + 1), "{kind:?}");
        assert!(min == 0 || !check(min - 1), "{kind:?}");
    }
}

#[test]
fn a_frame_is_refused_by_its_header_alone() {
    let header = FrameHeader { kind: FrameType::SendPacket, len: u32::MAX }.encode();
    assert!(derp::split_client_frame(&header).is_err());
    assert!(derp::split_server_frame(&[5, 0xff, 0xff, 0xff, 0xff]).is_err());
    assert_eq!(derp::split_client_frame(&[4, 0, 0, 0]), Ok(None));
}

fn pair() -> (DiscoPrivate, BoxKey) {
    let (us, them) = (DiscoPrivate::from_bytes([1; 32]), DiscoPrivate::from_bytes([2; 32]));
    let shared = us.shared_secret(&them.public()).unwrap();
    (us, BoxKey::new(&shared))
}

#[test]
fn disco_endpoints() {
    let (us, shared) = pair();
    let address = "192.0.2.1:1".parse().unwrap();
    let sealed = |count| {
        disco::seal(&Message::CallMeMaybe(vec![address; count]), us.public(), &shared, &Nonce([0; 24]))
    };
    assert!(disco::open(&sealed(disco::ENDPOINTS_MAX), &shared).is_ok());
    assert_eq!(
        disco::open(&sealed(disco::ENDPOINTS_MAX + 1), &shared),
        Err(OpenError::Message(MessageError::TooManyEndpoints))
    );
}

#[test]
fn disco_lengths() {
    let (us, shared) = pair();
    let ping = |len| {
        let ping = Ping {
            tx: TxId([0; 12]),
            node_key: Some(NodeKey::from_bytes([3; 32])),
            padding: disco::padding_for(len),
        };
        disco::seal(&Message::Ping(ping), us.public(), &shared, &Nonce([0; 24]))
    };
    for len in [disco::PING_LEN, 1280, 9000, disco::PROBE_MAX] {
        assert_eq!(ping(len).len(), len);
        assert!(disco::open(&ping(len), &shared).is_ok(), "{len}");
    }
    assert_eq!(disco::open(&ping(disco::PROBE_MAX + 1), &shared), Err(OpenError::TooLong));
    // A pong with junk behind it: allowed up to the limit of all that are not pings.
    let pong = |len: usize| {
        let mut out = [&disco::MAGIC[..], us.public().as_bytes(), &[0; 24], &[0; 16]].concat();
        Message::Pong { tx: TxId([0; 12]), seen: "192.0.2.1:1".parse().unwrap() }.encode(&mut out);
        out.resize(len, 0);
        shared.seal_in_place(&Nonce([0; 24]), &mut out[disco::HEADER_LEN..]);
        out
    };
    assert!(disco::open(&pong(disco::DATAGRAM_MAX), &shared).is_ok());
    assert_eq!(disco::open(&pong(disco::DATAGRAM_MAX + 1), &shared), Err(OpenError::TooLong));
}
