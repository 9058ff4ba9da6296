//! Encode, decode, equal; and decoding of arbitrary bytes never panics. Generators shared by all formats here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use arbitrary::{Result, Unstructured};
use sw_proto::derp::{
    self, ClientFrame, ClientInfo, PeerGone, PeerPresent, PresentFlags, ServerFrame, ServerInfo,
};
use sw_proto::disco::{self, BindHandshake, Message, Ping, RelayEndpoint, TxId};
use sw_proto::nacl::{BoxKey, Nonce};
use sw_types::{DerpKey, DiscoKey, DiscoPrivate, MeshKey, NodeKey, Vni};

fn address(u: &mut Unstructured<'_>) -> Result<SocketAddr> {
    let ip: IpAddr = if u.arbitrary()? {
        Ipv4Addr::from(u.arbitrary::<[u8; 4]>()?).into()
    } else {
        Ipv6Addr::from(u.arbitrary::<[u8; 16]>()?).to_canonical()
    };
    Ok(SocketAddr::new(ip, u.arbitrary()?))
}

fn node(u: &mut Unstructured<'_>) -> Result<NodeKey> {
    Ok(NodeKey::from_bytes(u.arbitrary()?))
}

fn disco_key(u: &mut Unstructured<'_>) -> Result<DiscoKey> {
    Ok(DiscoKey::from_bytes(u.arbitrary()?))
}

fn vni(u: &mut Unstructured<'_>) -> Result<Vni> {
    Ok(Vni::from_bytes(u.arbitrary()?))
}

fn endpoint(u: &mut Unstructured<'_>) -> Result<RelayEndpoint> {
    let count = u.int_in_range(1..=disco::ENDPOINTS_MAX)?;
    Ok(RelayEndpoint {
        server: disco_key(u)?,
        clients: [disco_key(u)?, disco_key(u)?],
        lamport: u.arbitrary()?,
        vni: vni(u)?,
        bind_lifetime: Duration::from_nanos(u.arbitrary()?),
        steady_lifetime: Duration::from_nanos(u.arbitrary()?),
        addresses: (0..count).map(|_| address(u)).collect::<Result<_>>()?,
    })
}

fn message(u: &mut Unstructured<'_>) -> Result<Message> {
    let mut bind = || {
        Ok(BindHandshake {
            vni: vni(u)?,
            generation: u.arbitrary()?,
            remote: disco_key(u)?,
            challenge: u.arbitrary()?,
        })
    };
    let bind = bind()?;
    Ok(match u.int_in_range(1..=9)? {
        1 => {
            let node_key = if u.arbitrary()? { Some(node(u)?) } else { None };
            let padding = if node_key.is_some() { u.int_in_range(0..=2000)? } else { 0 };
            Message::Ping(Ping { tx: TxId(u.arbitrary()?), node_key, padding })
        }
        2 => Message::Pong { tx: TxId(u.arbitrary()?), seen: address(u)? },
        3 => {
            let count = u.int_in_range(0..=disco::ENDPOINTS_MAX)?;
            Message::CallMeMaybe((0..count).map(|_| address(u)).collect::<Result<_>>()?)
        }
        4 => Message::Bind(bind),
        5 => Message::BindChallenge(bind),
        6 => Message::BindAnswer(bind),
        7 => Message::CallMeMaybeVia(endpoint(u)?),
        8 => Message::AllocateRequest { clients: [disco_key(u)?, disco_key(u)?], generation: u.arbitrary()? },
        _ => Message::AllocateResponse { generation: u.arbitrary()?, endpoint: endpoint(u)? },
    })
}

#[test]
fn disco() {
    let (us, them) = (DiscoPrivate::from_bytes([1; 32]), DiscoPrivate::from_bytes([2; 32]));
    let shared = BoxKey::new(&us.shared_secret(&them.public()).unwrap());
    arbtest::arbtest(|u| {
        let message = message(u)?;
        let datagram = disco::seal(&message, us.public(), &shared, &Nonce(u.arbitrary()?));
        assert_eq!(disco::sender(&datagram), Some(us.public()));
        assert_eq!(disco::open(&datagram, &shared), Ok(message.clone()));
        let mut plain = Vec::new();
        message.encode(&mut plain);
        plain.truncate(u.int_in_range(0..=plain.len())?);
        let _ = Message::parse(&plain).is_ok();
        let noise: Vec<u8> = u.arbitrary()?;
        let _ = (disco::open(&noise, &shared).is_ok(), Message::parse(&noise).is_ok());
        Ok(())
    });
}

#[test]
fn derp_of_clients() {
    arbtest::arbtest(|u| {
        let packet: Vec<u8> = u.arbitrary()?;
        let frame = match u.int_in_range(0..=7)? {
            0 if packet.len() >= 56 => ClientFrame::ClientInfo(&packet),
            0 | 1 => ClientFrame::SendPacket { to: node(u)?, packet: &packet },
            2 => ClientFrame::ForwardPacket { from: node(u)?, to: node(u)?, packet: &packet },
            3 => ClientFrame::NotePreferred(u.arbitrary()?),
            4 => ClientFrame::WatchConns,
            5 => ClientFrame::ClosePeer(node(u)?),
            6 => ClientFrame::Ping(u.arbitrary()?),
            _ => ClientFrame::Pong(u.arbitrary()?),
        };
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        assert_eq!(derp::split_client_frame(&bytes).unwrap(), Some((frame, &[][..])));
        for len in [0, bytes.len() / 2, bytes.len() - 1] {
            assert_eq!(derp::split_client_frame(&bytes[..len]), Ok(None));
        }
        if let ClientFrame::SendPacket { packet, .. } = frame {
            let from = node(u)?;
            derp::rewrite_send_to_recv(&mut bytes, &from);
            let received = ServerFrame::RecvPacket { from, packet };
            assert_eq!(derp::split_server_frame(&bytes).unwrap(), Some((received, &[][..])));
        }
        let noise: Vec<u8> = u.arbitrary()?;
        let _ = (derp::split_client_frame(&noise).is_ok(), derp::split_server_frame(&noise).is_ok());
        Ok(())
    });
}

#[test]
fn derp_of_relays() {
    arbtest::arbtest(|u| {
        let packet: Vec<u8> = u.arbitrary()?;
        let frame = match u.int_in_range(0..=9)? {
            0 => ServerFrame::ServerKey(DerpKey::from_bytes(u.arbitrary()?)),
            1 if packet.len() >= 24 => ServerFrame::ServerInfo(&packet),
            1 | 2 => ServerFrame::RecvPacket { from: node(u)?, packet: &packet },
            3 => ServerFrame::KeepAlive,
            4 => {
                let reason = *u.choose(&[PeerGone::Disconnected, PeerGone::NotHere, PeerGone::Unknown(7)])?;
                ServerFrame::PeerGone { key: node(u)?, reason }
            }
            5 => {
                let (from, flags) = if u.arbitrary()? {
                    (Some(address(u)?), PresentFlags(u.arbitrary()?))
                } else {
                    (None, PresentFlags(0))
                };
                ServerFrame::PeerPresent(PeerPresent { key: node(u)?, from, flags })
            }
            6 => ServerFrame::ForwardPacket { from: node(u)?, to: node(u)?, packet: &packet },
            7 => ServerFrame::Health(&packet),
            8 => ServerFrame::Ping(u.arbitrary()?),
            _ => ServerFrame::Restarting {
                reconnect_in: Duration::from_millis(u.arbitrary::<u32>()?.into()),
                try_for: Duration::from_millis(u.arbitrary::<u32>()?.into()),
            },
        };
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        bytes.push(9);
        assert_eq!(derp::split_server_frame(&bytes).unwrap(), Some((frame, &[9][..])));
        Ok(())
    });
}

#[test]
fn logins() {
    arbtest::arbtest(|u| {
        let info = ClientInfo {
            mesh_key: if u.arbitrary()? { Some(MeshKey::from_bytes(u.arbitrary()?)) } else { None },
            version: u.arbitrary()?,
            can_ack_pings: u.arbitrary()?,
            is_prober: u.arbitrary()?,
            app_name: u.arbitrary()?,
        };
        assert_eq!(ClientInfo::from_json(&info.to_json()).unwrap().to_json(), info.to_json());
        let info = ServerInfo {
            version: u.arbitrary()?,
            bytes_per_second: u.arbitrary()?,
            bytes_burst: u.arbitrary()?,
        };
        assert_eq!(ServerInfo::from_json(&info.to_json()), Ok(info));
        let noise: Vec<u8> = u.arbitrary()?;
        let _ = (ClientInfo::from_json(&noise).is_ok(), ServerInfo::from_json(&noise).is_ok());
        Ok(())
    });
}

#[test]
fn logins_are_read_leniently() {
    let json = br#"{"VERSION":2,"canackpings":true,"future":{"a":[1,2]},"AppName":null,"IsProber":true}"#;
    let info = ClientInfo::from_json(json).unwrap();
    assert!(info.version == 2 && info.can_ack_pings && info.is_prober && info.app_name.is_empty());
    assert!(ClientInfo::from_json(br#"{"meshKey":""}"#).is_err(), "as the official decoder");
    assert!(ClientInfo::from_json(&[b'['; 100_000]).is_err(), "depth");
}
