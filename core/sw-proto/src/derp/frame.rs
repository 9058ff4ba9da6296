//! Frame types and bodies, as each side reads them and as each side writes them.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use sw_types::{DerpKey, NodeKey};

use super::{FrameHeader, HEADER_LEN, MAGIC};

/// The type byte of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FrameType {
    /// 0x01, relay: magic and its key.
    ServerKey,
    /// 0x02, client: its key and the sealed login.
    ClientInfo,
    /// 0x03, relay: the sealed answer.
    ServerInfo,
    /// 0x04, client: packet to a key.
    SendPacket,
    /// 0x05, relay: packet from a key.
    RecvPacket,
    /// 0x06, relay: nothing.
    KeepAlive,
    /// 0x07, client: whether this is its home.
    NotePreferred,
    /// 0x08, relay: a key is not reachable here.
    PeerGone,
    /// 0x09, relay to mesh member: a key connected.
    PeerPresent,
    /// 0x0A, mesh member: packet from a key to a key.
    ForwardPacket,
    /// 0x10, mesh member: asks for PeerPresent and PeerGone.
    WatchConns,
    /// 0x11, mesh member: asks to close a key's connections.
    ClosePeer,
    /// 0x12, both: echo request.
    Ping,
    /// 0x13, both: echo answer.
    Pong,
    /// 0x14, relay: text of a problem.
    Health,
    /// 0x15, relay: will be away.
    Restarting,
    /// Any other; skipped (derp.md §5).
    Unknown(u8),
}

impl FrameType {
    /// The type of this byte.
    #[must_use]
    pub const fn from_wire(byte: u8) -> Self {
        match byte {
            0x01 => Self::ServerKey,
            0x02 => Self::ClientInfo,
            0x03 => Self::ServerInfo,
            0x04 => Self::SendPacket,
            0x05 => Self::RecvPacket,
            0x06 => Self::KeepAlive,
            0x07 => Self::NotePreferred,
            0x08 => Self::PeerGone,
            0x09 => Self::PeerPresent,
            0x0a => Self::ForwardPacket,
            0x10 => Self::WatchConns,
            0x11 => Self::ClosePeer,
            0x12 => Self::Ping,
            0x13 => Self::Pong,
            0x14 => Self::Health,
            0x15 => Self::Restarting,
            byte => Self::Unknown(byte),
        }
    }

    /// The byte.
    #[must_use]
    pub const fn to_wire(self) -> u8 {
        match self {
            Self::ServerKey => 0x01,
            Self::ClientInfo => 0x02,
            Self::ServerInfo => 0x03,
            Self::SendPacket => 0x04,
            Self::RecvPacket => 0x05,
            Self::KeepAlive => 0x06,
            Self::NotePreferred => 0x07,
            Self::PeerGone => 0x08,
            Self::PeerPresent => 0x09,
            Self::ForwardPacket => 0x0a,
            Self::WatchConns => 0x10,
            Self::ClosePeer => 0x11,
            Self::Ping => 0x12,
            Self::Pong => 0x13,
            Self::Health => 0x14,
            Self::Restarting => 0x15,
            Self::Unknown(byte) => byte,
        }
    }
}

/// Why a frame is refused; the connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The length is above the limit of its type.
    #[error("{kind:?} frame of {got} bytes, at most {max}")]
    TooLong {
        /// Of which type.
        kind: FrameType,
        /// The stated length.
        got: u32,
        /// The limit.
        max: u32,
    },
    /// The length is below what its type needs.
    #[error("{kind:?} frame of only {got} bytes")]
    TooShort {
        /// Of which type.
        kind: FrameType,
        /// The stated length.
        got: u32,
    },
    /// A ServerKey frame without the magic.
    #[error("not a DERP relay")]
    Magic,
}

/// Why a peer is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PeerGone {
    /// 0x00: it had sent to us and left.
    Disconnected,
    /// 0x01: we sent to it and it is not here.
    NotHere,
    /// Any other.
    Unknown(u8),
}

impl PeerGone {
    const fn from_wire(byte: u8) -> Self {
        match byte {
            0x00 => Self::Disconnected,
            0x01 => Self::NotHere,
            byte => Self::Unknown(byte),
        }
    }

    const fn to_wire(self) -> u8 {
        match self {
            Self::Disconnected => 0x00,
            Self::NotHere => 0x01,
            Self::Unknown(byte) => byte,
        }
    }
}

/// What kind of client a mesh member tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct PresentFlags(pub u8);

impl PresentFlags {
    /// An ordinary client.
    pub const REGULAR: Self = Self(1);
    /// A mesh member.
    pub const MESH: Self = Self(2);
    /// A prober.
    pub const PROBER: Self = Self(4);
    /// A client that would rather be on another node of the region.
    pub const NOT_IDEAL: Self = Self(8);
}

/// One connected client, as told to mesh members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerPresent {
    /// Its key.
    pub key: NodeKey,
    /// Where it came from; absent from old relays.
    pub from: Option<SocketAddr>,
    /// What it is.
    pub flags: PresentFlags,
}

/// A frame that a client sent, as the relay reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientFrame<'a> {
    /// The sealed login; [`super::open_client_info`] reads it.
    ClientInfo(&'a [u8]),
    /// A packet for `to`.
    SendPacket {
        /// The destination.
        to: NodeKey,
        /// The packet.
        packet: &'a [u8],
    },
    /// A packet from another relay of the region.
    ForwardPacket {
        /// The sender, vouched for by the mesh member.
        from: NodeKey,
        /// The destination.
        to: NodeKey,
        /// The packet.
        packet: &'a [u8],
    },
    /// Whether this relay is the client's home.
    NotePreferred(bool),
    /// A mesh member wants to hear of clients.
    WatchConns,
    /// A mesh member wants a key's connections closed.
    ClosePeer(NodeKey),
    /// Echo request.
    Ping([u8; 8]),
    /// Echo answer.
    Pong([u8; 8]),
    /// Anything else, to be skipped.
    Other(FrameType),
}

impl<'a> ClientFrame<'a> {
    /// Reads a body.
    ///
    /// # Errors
    /// [`FrameError::TooShort`], which [`FrameHeader::check_from_client`] has already excluded.
    pub fn parse(kind: FrameType, body: &'a [u8]) -> Result<Self, FrameError> {
        let short = FrameError::TooShort { kind, got: body.len() as u32 };
        Ok(match kind {
            FrameType::ClientInfo => Self::ClientInfo(body),
            FrameType::SendPacket => {
                let (to, packet) = split_key(body).ok_or(short)?;
                Self::SendPacket { to, packet }
            }
            FrameType::ForwardPacket => {
                let (from, rest) = split_key(body).ok_or(short)?;
                let (to, packet) = split_key(rest).ok_or(short)?;
                Self::ForwardPacket { from, to, packet }
            }
            FrameType::NotePreferred => Self::NotePreferred(*body.first().ok_or(short)? == 1),
            FrameType::WatchConns => Self::WatchConns,
            FrameType::ClosePeer => Self::ClosePeer(split_key(body).ok_or(short)?.0),
            FrameType::Ping => Self::Ping(*body.first_chunk().ok_or(short)?),
            FrameType::Pong => Self::Pong(*body.first_chunk().ok_or(short)?),
            FrameType::ServerKey
            | FrameType::ServerInfo
            | FrameType::RecvPacket
            | FrameType::KeepAlive
            | FrameType::PeerGone
            | FrameType::PeerPresent
            | FrameType::Health
            | FrameType::Restarting
            | FrameType::Unknown(_) => Self::Other(kind),
        })
    }

    /// Appends the whole frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::ClientInfo(body) => write(out, FrameType::ClientInfo, &[body]),
            Self::SendPacket { to, packet } => write(out, FrameType::SendPacket, &[to.as_bytes(), packet]),
            Self::ForwardPacket { from, to, packet } => {
                write(out, FrameType::ForwardPacket, &[from.as_bytes(), to.as_bytes(), packet]);
            }
            Self::NotePreferred(home) => write(out, FrameType::NotePreferred, &[&[u8::from(*home)]]),
            Self::WatchConns => write(out, FrameType::WatchConns, &[]),
            Self::ClosePeer(key) => write(out, FrameType::ClosePeer, &[key.as_bytes()]),
            Self::Ping(data) => write(out, FrameType::Ping, &[data]),
            Self::Pong(data) => write(out, FrameType::Pong, &[data]),
            Self::Other(kind) => write(out, *kind, &[]),
        }
    }
}

/// A frame that a relay sent, as the client reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerFrame<'a> {
    /// The relay's key.
    ServerKey(DerpKey),
    /// The sealed answer to the login; [`super::open_server_info`] reads it.
    ServerInfo(&'a [u8]),
    /// A packet from `from`: a routing hint, no proof (threat-model.md §2).
    RecvPacket {
        /// The sender, as the relay says.
        from: NodeKey,
        /// The packet.
        packet: &'a [u8],
    },
    /// Nothing but life.
    KeepAlive,
    /// A key is not reachable here.
    PeerGone {
        /// Which.
        key: NodeKey,
        /// Why.
        reason: PeerGone,
    },
    /// For mesh members: a key connected.
    PeerPresent(PeerPresent),
    /// For mesh members.
    ForwardPacket {
        /// The sender.
        from: NodeKey,
        /// The destination.
        to: NodeKey,
        /// The packet.
        packet: &'a [u8],
    },
    /// Echo request.
    Ping([u8; 8]),
    /// Echo answer.
    Pong([u8; 8]),
    /// A problem, or none if empty; the text is not trusted.
    Health(&'a [u8]),
    /// The relay is about to go.
    Restarting {
        /// Wait this long before connecting again.
        reconnect_in: Duration,
        /// Keep trying for this long.
        try_for: Duration,
    },
    /// Anything else, to be skipped.
    Other(FrameType),
}

impl<'a> ServerFrame<'a> {
    /// Reads a body.
    ///
    /// # Errors
    /// [`FrameError::Magic`], or a body too short for its type.
    pub fn parse(kind: FrameType, body: &'a [u8]) -> Result<Self, FrameError> {
        let short = FrameError::TooShort { kind, got: body.len() as u32 };
        Ok(match kind {
            FrameType::ServerKey => {
                let (magic, rest) = body.split_first_chunk::<8>().ok_or(short)?;
                if *magic != MAGIC {
                    return Err(FrameError::Magic);
                }
                Self::ServerKey(DerpKey::from_bytes(*rest.first_chunk().ok_or(short)?))
            }
            FrameType::ServerInfo => Self::ServerInfo(body),
            FrameType::RecvPacket => {
                let (from, packet) = split_key(body).ok_or(short)?;
                Self::RecvPacket { from, packet }
            }
            FrameType::ForwardPacket => {
                let (from, rest) = split_key(body).ok_or(short)?;
                let (to, packet) = split_key(rest).ok_or(short)?;
                Self::ForwardPacket { from, to, packet }
            }
            FrameType::KeepAlive => Self::KeepAlive,
            FrameType::PeerGone => {
                let (key, rest) = split_key(body).ok_or(short)?;
                // Old relays send no reason.
                Self::PeerGone { key, reason: PeerGone::from_wire(rest.first().copied().unwrap_or(0)) }
            }
            FrameType::PeerPresent => Self::PeerPresent(read_present(body).ok_or(short)?),
            FrameType::Ping => Self::Ping(*body.first_chunk().ok_or(short)?),
            FrameType::Pong => Self::Pong(*body.first_chunk().ok_or(short)?),
            FrameType::Health => Self::Health(body),
            FrameType::Restarting => {
                let &[r0, r1, r2, r3, t0, t1, t2, t3] = body.first_chunk::<8>().ok_or(short)?;
                Self::Restarting {
                    reconnect_in: Duration::from_millis(u32::from_be_bytes([r0, r1, r2, r3]).into()),
                    try_for: Duration::from_millis(u32::from_be_bytes([t0, t1, t2, t3]).into()),
                }
            }
            FrameType::ClientInfo
            | FrameType::SendPacket
            | FrameType::NotePreferred
            | FrameType::WatchConns
            | FrameType::ClosePeer
            | FrameType::Unknown(_) => Self::Other(kind),
        })
    }

    /// Appends the whole frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::ServerKey(key) => write(out, FrameType::ServerKey, &[&MAGIC, key.as_bytes()]),
            Self::ServerInfo(body) => write(out, FrameType::ServerInfo, &[body]),
            Self::RecvPacket { from, packet } => {
                write(out, FrameType::RecvPacket, &[from.as_bytes(), packet]);
            }
            Self::ForwardPacket { from, to, packet } => {
                write(out, FrameType::ForwardPacket, &[from.as_bytes(), to.as_bytes(), packet]);
            }
            Self::KeepAlive => write(out, FrameType::KeepAlive, &[]),
            Self::PeerGone { key, reason } => {
                write(out, FrameType::PeerGone, &[key.as_bytes(), &[reason.to_wire()]]);
            }
            Self::PeerPresent(present) => write_present(out, present),
            Self::Ping(data) => write(out, FrameType::Ping, &[data]),
            Self::Pong(data) => write(out, FrameType::Pong, &[data]),
            Self::Health(text) => write(out, FrameType::Health, &[text]),
            Self::Restarting { reconnect_in, try_for } => {
                write(out, FrameType::Restarting, &[&millis(*reconnect_in), &millis(*try_for)]);
            }
            Self::Other(kind) => write(out, *kind, &[]),
        }
    }
}

fn write(out: &mut Vec<u8>, kind: FrameType, parts: &[&[u8]]) {
    let len: usize = parts.iter().map(|part| part.len()).sum();
    out.reserve(HEADER_LEN + len);
    out.extend_from_slice(&FrameHeader { kind, len: len as u32 }.encode());
    for part in parts {
        out.extend_from_slice(part);
    }
}

fn split_key(body: &[u8]) -> Option<(NodeKey, &[u8])> {
    let (key, rest) = body.split_first_chunk::<32>()?;
    Some((NodeKey::from_bytes(*key), rest))
}

fn read_present(body: &[u8]) -> Option<PeerPresent> {
    let (key, rest) = split_key(body)?;
    let from = rest.split_first_chunk::<16>().and_then(|(ip, rest)| {
        let port = u16::from_be_bytes(*rest.first_chunk()?);
        Some(SocketAddr::new(IpAddr::from(Ipv6Addr::from(*ip)).to_canonical(), port))
    });
    Some(PeerPresent { key, from, flags: PresentFlags(rest.get(18).copied().unwrap_or(0)) })
}

fn write_present(out: &mut Vec<u8>, present: &PeerPresent) {
    let key = present.key.as_bytes();
    match present.from {
        Some(from) => {
            let ip = match from.ip() {
                IpAddr::V4(ip) => ip.to_ipv6_mapped(),
                IpAddr::V6(ip) => ip,
            };
            let port = from.port().to_be_bytes();
            write(out, FrameType::PeerPresent, &[key, &ip.octets(), &port, &[present.flags.0]]);
        }
        None => write(out, FrameType::PeerPresent, &[key]),
    }
}

fn millis(duration: Duration) -> [u8; 4] {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX).to_be_bytes()
}
