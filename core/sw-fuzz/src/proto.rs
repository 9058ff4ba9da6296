//! Bytes of the data path: `sw-proto`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

use sw_proto::derp::{
    ClientInfo, ServerInfo, open_client_info, open_server_info, split_client_frame, split_server_frame,
};
use sw_proto::disco::{self, Message};
use sw_proto::ip::{self, IpView};
use sw_proto::nacl::{BoxKey, Nonce};
use sw_proto::{geneve as geneve_header, natpmp, pcp, stun as stun_message, tsmp as tsmp_message};
use sw_types::{DiscoPrivate, NodeKey, SharedSecret};

static SECRET: LazyLock<SharedSecret> = LazyLock::new(|| {
    let peer = DiscoPrivate::generate([2; 32]).public();
    DiscoPrivate::generate([1; 32]).shared_secret(&peer).expect("a good key")
});
static SHARED: LazyLock<BoxKey> = LazyLock::new(|| BoxKey::new(&SECRET));

pub(crate) fn derp_client_frame(data: &[u8]) {
    let mut rest = data;
    while let Ok(Some((frame, after))) = split_client_frame(rest) {
        let mut wire = Vec::new();
        frame.encode(&mut wire);
        let again = split_client_frame(&wire).expect("our own frame").expect("a whole one");
        assert_eq!(again, (frame, &b""[..]));
        rest = after;
    }
}

pub(crate) fn derp_server_frame(data: &[u8]) {
    let mut rest = data;
    while let Ok(Some((frame, after))) = split_server_frame(rest) {
        let mut wire = Vec::new();
        frame.encode(&mut wire);
        let again = split_server_frame(&wire).expect("our own frame").expect("a whole one");
        assert_eq!(again, (frame, &b""[..]));
        rest = after;
    }
}

pub(crate) fn derp_login(data: &[u8]) {
    if let Ok(info) = ClientInfo::from_json(data) {
        let again = ClientInfo::from_json(&info.to_json()).expect("our own JSON");
        assert_eq!(again.to_json(), info.to_json());
    }
    if let Ok(info) = ServerInfo::from_json(data) {
        assert_eq!(ServerInfo::from_json(&info.to_json()), Ok(info));
    }
    assert!(open_client_info(data, |_: NodeKey| Some(BoxKey::new(&SECRET))).is_err(), "nobody else can seal");
    assert!(open_server_info(data, &SHARED).is_err(), "nobody else can seal");
}

pub(crate) fn disco_message(data: &[u8]) {
    if let Ok(message) = Message::parse(data) {
        let mut plain = Vec::new();
        message.encode(&mut plain);
        assert_eq!(Message::parse(&plain).as_ref(), Ok(&message));
        // The padding of a ping is the one part whose length comes from outside.
        assert!(plain.len() <= data.len().max(64) + 64);
    }
}

pub(crate) fn disco_datagram(data: &[u8]) {
    assert_eq!(disco::looks_like(data), disco::looks_like(data) && disco::sender(data).is_some());
    assert!(disco::open(data, &SHARED).is_err(), "nobody else can seal");
    // What we seal opens, and no changed byte of it does.
    if let Ok(message) = Message::parse(data) {
        let from = DiscoPrivate::generate([1; 32]).public();
        let datagram = disco::seal(&message, from, &SHARED, &Nonce([7; 24]));
        match disco::open(&datagram, &SHARED) {
            Ok(opened) => assert_eq!(opened, message),
            Err(error) => assert!(datagram.len() > disco::DATAGRAM_MAX, "{error:?}"),
        }
        let mut changed = datagram;
        let place = data.iter().map(|byte| usize::from(*byte)).sum::<usize>() % changed.len();
        changed[place] ^= 1;
        // The sender's key is not covered by the box: the receiver picks the box by it.
        assert!((6..38).contains(&place) || disco::open(&changed, &SHARED).is_err());
    }
}

pub(crate) fn stun(data: &[u8]) {
    let from = (Ipv4Addr::LOCALHOST, 7).into();
    if let Ok(response) = stun_message::answer(data, from) {
        let tx = stun_message::parse_request(data).expect("it was answered");
        assert_eq!(stun_message::parse_response(response.as_bytes()), Ok((tx, from)));
        assert!(response.as_bytes().len() <= data.len() + 12, "an answer must not amplify");
    }
    if let Ok((tx, seen)) = stun_message::parse_response(data) {
        let again = stun_message::Response::new(tx, seen);
        let seen = std::net::SocketAddr::new(seen.ip().to_canonical(), seen.port());
        assert_eq!(stun_message::parse_response(again.as_bytes()), Ok((tx, seen)));
    }
}

pub(crate) fn geneve(data: &[u8]) {
    if let Some((header, rest)) = geneve_header::Header::split(data) {
        assert_eq!([&header.encode()[..], rest].concat(), data);
    }
}

pub(crate) fn port_mapping(data: &[u8]) {
    let _ = natpmp::Response::parse(data);
    let _ = pcp::Response::parse(data);
}

pub(crate) fn tsmp(data: &[u8]) {
    if let Some(message) = tsmp_message::Message::parse(data) {
        assert_eq!(tsmp_message::Message::parse(&message.encode()), Some(message));
        let packet =
            message.packet(Ipv4Addr::LOCALHOST.into(), Ipv4Addr::BROADCAST.into()).expect("one family");
        let view = IpView::parse(&packet).expect("our own packet");
        assert_eq!(tsmp_message::Message::parse(view.payload()), Some(message));
    }
}

pub(crate) fn ip_packet(data: &[u8]) {
    let Ok(view) = IpView::parse(data) else {
        let mut packet = data.to_vec();
        assert!(ip::set_transport_checksum(&mut packet).is_err());
        assert_eq!(packet, data, "a packet that does not parse is left alone");
        return;
    };
    assert!(view.packet().len() <= data.len() && view.transport_at() <= view.packet().len());
    assert_eq!(ip::addresses(data), Some((view.src(), view.dst())));
    let _ = (view.ports(), view.header_checksum_holds(), view.transport());
    if let Some(tcp) = view.tcp() {
        let _ = (tcp.header_len(), tcp.payload(), tcp.is_opening(), tcp.seq(), tcp.ack());
    }
    if let Some(udp) = view.udp() {
        let _ = udp.payload();
    }
    if let Some(icmp) = view.icmp() {
        let _ = (icmp.echo(), icmp.is_error(), icmp.quoted(), icmp.payload());
    }
    drop(tsmp_message::rejection_of(&view, tsmp_message::RejectReason::Acl));
    rewritten(data, &view);
}

/// A packet whose addresses are replaced and put back is the packet from before.
fn rewritten(data: &[u8], view: &IpView<'_>) {
    let (src, dst) = (view.src(), view.dst());
    let mut packet = data.to_vec();
    ip::set_transport_checksum(&mut packet).expect("it parses");
    let summed = packet.clone();
    let (new_src, new_dst): (IpAddr, IpAddr) = match src {
        IpAddr::V4(_) => (Ipv4Addr::new(100, 64, 0, 1).into(), Ipv4Addr::new(100, 64, 0, 2).into()),
        IpAddr::V6(_) => (Ipv6Addr::LOCALHOST.into(), Ipv6Addr::UNSPECIFIED.into()),
    };
    ip::rewrite_source(&mut packet, new_src).expect("it parses");
    ip::rewrite_destination(&mut packet, new_dst).expect("it parses");
    assert_eq!(ip::addresses(&packet), Some((new_src, new_dst)));
    let incremental = packet.clone();
    ip::set_transport_checksum(&mut packet).expect("it parses");
    assert_eq!(
        IpView::parse(&packet).map(|v| v.payload().to_vec()),
        IpView::parse(&incremental).map(|v| v.payload().to_vec())
    );
    ip::rewrite_source(&mut packet, src).expect("it parses");
    ip::rewrite_destination(&mut packet, dst).expect("it parses");
    let (back, before) = (&packet[view.transport_at()..], &summed[view.transport_at()..]);
    assert!(same_but_for_zero(back, before), "{back:02x?} {before:02x?}");
}

/// Equal, or different in one checksum alone that is 0000 here and ffff there: both are zero in one's complement.
fn same_but_for_zero(left: &[u8], right: &[u8]) -> bool {
    let different: Vec<usize> =
        (0..left.len().min(right.len())).filter(|at| left[*at] != right[*at]).collect();
    let all_are = |bytes: &[u8], value: u8| different.iter().all(|at| bytes[*at] == value);
    let opposite = all_are(left, 0) && all_are(right, 0xff) || all_are(left, 0xff) && all_are(right, 0);
    left.len() == right.len() && (different.is_empty() || different.len() == 2 && opposite)
}
