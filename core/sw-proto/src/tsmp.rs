//! TSMP, IP protocol 99: messages of nodes to one another inside the tunnel (node-services.md §13.3, disco.md §7).

use std::net::IpAddr;

use sw_types::DiscoKey;

use crate::ip::{IpProto, IpView, Ipv4Header, Ipv6Header, write_ipv4, write_ipv6};

/// Why a node refused a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RejectReason {
    /// `A`: no rule lets it in.
    Acl,
    /// `S`: shields up.
    ShieldsUp,
    /// `F`: the router does not forward.
    IpForwarding,
    /// `W`: the host's own firewall.
    HostFirewall,
    /// `T`: unknown transit address.
    UnknownTransit,
    /// Any other.
    Unknown(u8),
}

impl RejectReason {
    const fn from_wire(byte: u8) -> Self {
        match byte {
            b'A' => Self::Acl,
            b'S' => Self::ShieldsUp,
            b'F' => Self::IpForwarding,
            b'W' => Self::HostFirewall,
            b'T' => Self::UnknownTransit,
            byte => Self::Unknown(byte),
        }
    }

    const fn to_wire(self) -> u8 {
        match self {
            Self::Acl => b'A',
            Self::ShieldsUp => b'S',
            Self::IpForwarding => b'F',
            Self::HostFirewall => b'W',
            Self::UnknownTransit => b'T',
            Self::Unknown(byte) => byte,
        }
    }
}

/// A refused flow. The packet goes from the refusing node to the initiator; the flow is the other way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// Protocol of the flow.
    pub proto: IpProto,
    /// Why.
    pub reason: RejectReason,
    /// The initiator's port.
    pub src_port: u16,
    /// The port it asked for.
    pub dst_port: u16,
    /// The refusal may come from a broken configuration.
    pub maybe_broken: bool,
}

/// One message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// `!`: a connection was refused.
    Rejected(Rejected),
    /// `p`: echo request.
    Ping([u8; 8]),
    /// `o`: echo answer.
    Pong {
        /// The bytes of the request.
        data: [u8; 8],
        /// Where the answering node's PeerAPI listens; absent from old nodes.
        peer_api_port: Option<u16>,
    },
    /// `a`: the sender's disco key; never zero.
    DiscoKey(DiscoKey),
}

impl Message {
    /// Reads the payload of an IP packet of protocol 99; `None` for unknown, cut off or refused ones (a zero key).
    #[must_use]
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let (kind, body) = payload.split_first()?;
        match kind {
            b'!' => {
                let (&[proto, reason, s0, s1, d0, d1], rest) = body.split_first_chunk()?;
                Some(Self::Rejected(Rejected {
                    proto: IpProto(proto),
                    reason: RejectReason::from_wire(reason),
                    src_port: u16::from_be_bytes([s0, s1]),
                    dst_port: u16::from_be_bytes([d0, d1]),
                    maybe_broken: rest.first().is_some_and(|flags| flags & 1 != 0),
                }))
            }
            b'p' => Some(Self::Ping(*body.first_chunk()?)),
            b'o' => {
                let (data, rest) = body.split_first_chunk()?;
                let peer_api_port = rest.first_chunk().map(|port| u16::from_be_bytes(*port));
                Some(Self::Pong { data: *data, peer_api_port })
            }
            b'a' => {
                let key = DiscoKey::from_bytes(*body.first_chunk()?);
                (!key.is_zero()).then_some(Self::DiscoKey(key))
            }
            _ => None,
        }
    }

    /// The payload bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Rejected(rejected) => {
                let [s0, s1] = rejected.src_port.to_be_bytes();
                let [d0, d1] = rejected.dst_port.to_be_bytes();
                let mut out = vec![b'!', rejected.proto.0, rejected.reason.to_wire(), s0, s1, d0, d1];
                if rejected.maybe_broken {
                    out.push(1);
                }
                out
            }
            Self::Ping(data) => [&[b'p'][..], data].concat(),
            Self::Pong { data, peer_api_port } => {
                let mut out = [&[b'o'][..], data].concat();
                if let Some(port) = peer_api_port {
                    out.extend_from_slice(&port.to_be_bytes());
                }
                out
            }
            Self::DiscoKey(key) => [&[b'a'][..], key.as_bytes()].concat(),
        }
    }

    /// The whole IP packet; `None` when the addresses are of different families.
    #[must_use]
    pub fn packet(&self, src: IpAddr, dst: IpAddr) -> Option<Vec<u8>> {
        let mut out = Vec::with_capacity(80);
        let payload = self.encode();
        match (src, dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                write_ipv4(
                    &mut out,
                    &Ipv4Header { src, dst, proto: IpProto::TSMP, ttl: 64, id: 0 },
                    &payload,
                );
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                write_ipv6(&mut out, &Ipv6Header { src, dst, proto: IpProto::TSMP, hop_limit: 64 }, &payload);
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return None,
        }
        Some(out)
    }
}

/// The answer to a refused packet, if it gets one: only an opening TCP segment over IPv4 does (node-services.md §13.3).
#[must_use]
pub fn rejection_of(refused: &IpView<'_>, reason: RejectReason) -> Option<Vec<u8>> {
    if !refused.src().is_ipv4() || !refused.tcp()?.is_opening() {
        return None;
    }
    let (src_port, dst_port) = refused.ports();
    let rejected = Rejected { proto: IpProto::TCP, reason, src_port, dst_port, maybe_broken: false };
    Message::Rejected(rejected).packet(refused.dst(), refused.src())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_the_round_trip_and_bytes_never_panic() {
        arbtest::arbtest(|u| {
            let message = match u.int_in_range(0..=3)? {
                0 => Message::Rejected(Rejected {
                    proto: IpProto(u.arbitrary()?),
                    reason: RejectReason::from_wire(u.arbitrary()?),
                    src_port: u.arbitrary()?,
                    dst_port: u.arbitrary()?,
                    maybe_broken: u.arbitrary()?,
                }),
                1 => Message::Ping(u.arbitrary()?),
                2 => Message::Pong { data: u.arbitrary()?, peer_api_port: u.arbitrary()? },
                _ => Message::DiscoKey(DiscoKey::from_bytes([u.int_in_range(1..=255)?; 32])),
            };
            assert_eq!(Message::parse(&message.encode()), Some(message));
            let _ = Message::parse(&u.arbitrary::<Vec<u8>>()?);
            Ok(())
        });
    }

    #[test]
    fn a_zero_disco_key_is_refused() {
        assert_eq!(Message::parse(&[&b"a"[..], &[0; 32]].concat()), None);
    }
}
