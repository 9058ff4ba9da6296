//! WireGuard datagrams: `sw-wg`.

use std::net::Ipv4Addr;

use sw_noise::primitives::{hash, keyed_mac};
use sw_types::{Instant, NodeKey, NodePrivate, Now, UnixTime};
use sw_wg::{
    COOKIE_REPLY_LEN, DATA_HEADER_LEN, DataHeader, Directory, INITIATION_LEN, Message, PeerParams,
    RESPONSE_LEN, Source, WireGuard,
};

/// Nobody is a peer.
#[derive(Debug)]
struct Empty;

impl Directory for Empty {
    fn peer(&self, _: &NodeKey) -> Option<PeerParams> {
        None
    }
}

pub(crate) fn datagram(data: &[u8]) {
    match Message::parse(data) {
        Some(Message::Initiation(message)) => assert_eq!(message.len(), INITIATION_LEN),
        Some(Message::Response(message)) => assert_eq!(message.len(), RESPONSE_LEN),
        Some(Message::CookieReply(message)) => assert_eq!(message.len(), COOKIE_REPLY_LEN),
        Some(Message::Data(header)) => {
            let mut written = [0; DATA_HEADER_LEN];
            header.write(&mut written);
            assert_eq!(written, data[..DATA_HEADER_LEN]);
            assert!(DataHeader::parse(data).is_some());
            return;
        }
        None => return,
    }
    let now = Now { mono: Instant::from_nanos(1 << 40), wall: UnixTime::from_secs(1_700_000_000) };
    let private = NodePrivate::generate([5; 32]);
    let mut machine = WireGuard::new(Empty, [6; 32]);
    machine.set_private_key(Some(&private));
    let from = Source::Udp((Ipv4Addr::LOCALHOST, 41641).into());
    assert!(machine.on_datagram(from, data, now).is_err(), "nobody is a peer");

    // With the MAC put right, which needs no secret, the message gets as far as it can.
    let mut message = data.to_vec();
    if let Some((mac1, mac_place)) = mac1(&message, &private.public()) {
        message[mac_place..mac_place + 16].copy_from_slice(&mac1);
        assert!(machine.on_datagram(from, &message, now).is_err(), "nobody is a peer");
        machine.on_backlog(1000, now);
        assert!(machine.on_datagram(from, &message, now).is_err(), "nobody is a peer");
    }
    assert_eq!(machine.live_peers(), 0, "no state for strangers");
}

/// WireGuard's `mac1` over a handshake message, and where it stands.
fn mac1(message: &[u8], responder: &NodeKey) -> Option<([u8; 16], usize)> {
    let place = message.len().checked_sub(32)?;
    let is_handshake = message.len() == INITIATION_LEN || message.len() == RESPONSE_LEN;
    let key = hash(&[b"mac1----", responder.as_bytes()]);
    is_handshake.then(|| (keyed_mac(&key, &[&message[..place]]), place))
}
