//! The messages inside the box (disco.md §3).

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use sw_types::{DiscoKey, NodeKey, Vni};

use super::ENDPOINTS_MAX;

/// Names one ping; random.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TxId(pub [u8; 12]);

/// Why a message cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum MessageError {
    /// Shorter than its type needs, or of a length that its type cannot have.
    #[error("disco message of a wrong length")]
    Length,
    /// A type that we do not know; dropped silently.
    #[error("disco message of unknown type {0:#04x}")]
    UnknownType(u8),
    /// More than [`ENDPOINTS_MAX`] addresses.
    #[error("disco message with too many addresses")]
    TooManyEndpoints,
    /// A virtual network id over 24 bits.
    #[error("virtual network id over 24 bits")]
    Vni,
}

/// The type byte of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MessageType {
    /// 0x01.
    Ping,
    /// 0x02.
    Pong,
    /// 0x03.
    CallMeMaybe,
    /// 0x04.
    Bind,
    /// 0x05.
    BindChallenge,
    /// 0x06.
    BindAnswer,
    /// 0x07.
    CallMeMaybeVia,
    /// 0x08.
    AllocateRequest,
    /// 0x09.
    AllocateResponse,
}

impl MessageType {
    /// The byte.
    #[must_use]
    pub const fn to_wire(self) -> u8 {
        match self {
            Self::Ping => 0x01,
            Self::Pong => 0x02,
            Self::CallMeMaybe => 0x03,
            Self::Bind => 0x04,
            Self::BindChallenge => 0x05,
            Self::BindAnswer => 0x06,
            Self::CallMeMaybeVia => 0x07,
            Self::AllocateRequest => 0x08,
            Self::AllocateResponse => 0x09,
        }
    }
}

/// Asks for a pong by the same way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ping {
    /// Which ping.
    pub tx: TxId,
    /// The sender's node key: a claim, no proof. Absent from very old clients.
    pub node_key: Option<NodeKey>,
    /// Zero bytes behind it, for path MTU probes ([`super::padding_for`]).
    pub padding: usize,
}

/// The body which the three messages of the bind handshake share (disco.md §3.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BindHandshake {
    /// The relay endpoint; equals that of the Geneve header.
    pub vni: Vni,
    /// Which handshake; chosen by the client, not zero.
    pub generation: u32,
    /// The other client's disco key.
    pub remote: DiscoKey,
    /// Zero in Bind, set by the relay in the challenge, echoed in the answer.
    pub challenge: [u8; 32],
}

/// A tunnel through a peer relay (disco.md §3.5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayEndpoint {
    /// The relay's disco key.
    pub server: DiscoKey,
    /// Both clients, sorted by key in what relays send.
    pub clients: [DiscoKey; 2],
    /// Grows with each allocation; the higher one replaces the lower.
    pub lamport: u64,
    /// The tunnel.
    pub vni: Vni,
    /// How long it lives before both clients are bound.
    pub bind_lifetime: Duration,
    /// How long it lives with a silent client.
    pub steady_lifetime: Duration,
    /// The relay's addresses, at least one.
    pub addresses: Vec<SocketAddr>,
}

/// One disco message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Asks for a pong.
    Ping(Ping),
    /// Answers a ping.
    Pong {
        /// That of the ping.
        tx: TxId,
        /// Where the ping was seen to come from.
        seen: SocketAddr,
    },
    /// "Ping me at these addresses", through the relay only.
    CallMeMaybe(Vec<SocketAddr>),
    /// Client to peer relay: begin.
    Bind(BindHandshake),
    /// Peer relay to client: prove your address.
    BindChallenge(BindHandshake),
    /// Client to peer relay: the proof.
    BindAnswer(BindHandshake),
    /// "Meet me at this peer relay", through the relay only.
    CallMeMaybeVia(RelayEndpoint),
    /// Asks a peer relay for a tunnel.
    AllocateRequest {
        /// Both clients.
        clients: [DiscoKey; 2],
        /// Which request.
        generation: u32,
    },
    /// The tunnel.
    AllocateResponse {
        /// That of the request.
        generation: u32,
        /// The tunnel.
        endpoint: RelayEndpoint,
    },
}

const VERSION: u8 = 0;
const BLOCK_LEN: usize = 124;
const ADDRESS_LEN: usize = 18;

impl Message {
    /// The type.
    #[must_use]
    pub const fn kind(&self) -> MessageType {
        match self {
            Self::Ping(_) => MessageType::Ping,
            Self::Pong { .. } => MessageType::Pong,
            Self::CallMeMaybe(_) => MessageType::CallMeMaybe,
            Self::Bind(_) => MessageType::Bind,
            Self::BindChallenge(_) => MessageType::BindChallenge,
            Self::BindAnswer(_) => MessageType::BindAnswer,
            Self::CallMeMaybeVia(_) => MessageType::CallMeMaybeVia,
            Self::AllocateRequest { .. } => MessageType::AllocateRequest,
            Self::AllocateResponse { .. } => MessageType::AllocateResponse,
        }
    }

    /// Appends type, version and body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[self.kind().to_wire(), VERSION]);
        match self {
            Self::Ping(ping) => {
                out.extend_from_slice(&ping.tx.0);
                if let Some(key) = ping.node_key {
                    out.extend_from_slice(key.as_bytes());
                    out.resize(out.len() + ping.padding, 0);
                }
            }
            Self::Pong { tx, seen } => {
                out.extend_from_slice(&tx.0);
                write_address(out, *seen);
            }
            Self::CallMeMaybe(addresses) => addresses.iter().for_each(|address| write_address(out, *address)),
            Self::Bind(body) | Self::BindChallenge(body) | Self::BindAnswer(body) => body.encode(out),
            Self::CallMeMaybeVia(endpoint) => endpoint.encode(out),
            Self::AllocateRequest { clients, generation } => {
                out.extend_from_slice(clients[0].as_bytes());
                out.extend_from_slice(clients[1].as_bytes());
                out.extend_from_slice(&generation.to_be_bytes());
            }
            Self::AllocateResponse { generation, endpoint } => {
                out.extend_from_slice(&generation.to_be_bytes());
                endpoint.encode(out);
            }
        }
    }

    /// Reads type, version and body; unknown bytes behind a body are ignored.
    ///
    /// # Errors
    /// See [`MessageError`].
    pub fn parse(plain: &[u8]) -> Result<Self, MessageError> {
        let (&[kind, version], body) = plain.split_first_chunk().ok_or(MessageError::Length)?;
        let mut read = Reader(body);
        match kind {
            0x01 => {
                let tx = TxId(read.take()?);
                let node_key = read.take().ok().map(NodeKey::from_bytes);
                let padding = if node_key.is_some() { read.0.len() } else { 0 };
                Ok(Self::Ping(Ping { tx, node_key, padding }))
            }
            0x02 => Ok(Self::Pong { tx: TxId(read.take()?), seen: read.address()? }),
            // disco.md §3.3: whatever cannot be read counts as no addresses.
            0x03 if version != VERSION || !body.len().is_multiple_of(ADDRESS_LEN) => {
                Ok(Self::CallMeMaybe(Vec::new()))
            }
            0x03 => Ok(Self::CallMeMaybe(read.addresses()?)),
            0x04 => Ok(Self::Bind(read.bind()?)),
            0x05 => Ok(Self::BindChallenge(read.bind()?)),
            0x06 => Ok(Self::BindAnswer(read.bind()?)),
            0x07 => Ok(Self::CallMeMaybeVia(read.endpoint()?)),
            0x08 => {
                Ok(Self::AllocateRequest { clients: [read.key()?, read.key()?], generation: read.u32()? })
            }
            0x09 => Ok(Self::AllocateResponse { generation: read.u32()?, endpoint: read.endpoint()? }),
            kind => Err(MessageError::UnknownType(kind)),
        }
    }
}

impl BindHandshake {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.vni.get().to_be_bytes());
        out.extend_from_slice(&self.generation.to_be_bytes());
        out.extend_from_slice(self.remote.as_bytes());
        out.extend_from_slice(&self.challenge);
    }
}

impl RelayEndpoint {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.server.as_bytes());
        out.extend_from_slice(self.clients[0].as_bytes());
        out.extend_from_slice(self.clients[1].as_bytes());
        out.extend_from_slice(&self.lamport.to_be_bytes());
        out.extend_from_slice(&self.vni.get().to_be_bytes());
        out.extend_from_slice(&nanos(self.bind_lifetime).to_be_bytes());
        out.extend_from_slice(&nanos(self.steady_lifetime).to_be_bytes());
        self.addresses.iter().for_each(|address| write_address(out, *address));
    }
}

/// Takes fields off the front of a body.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], MessageError> {
        let (bytes, rest) = self.0.split_first_chunk().ok_or(MessageError::Length)?;
        self.0 = rest;
        Ok(*bytes)
    }

    fn u32(&mut self) -> Result<u32, MessageError> {
        self.take().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64, MessageError> {
        self.take().map(u64::from_be_bytes)
    }

    fn key(&mut self) -> Result<DiscoKey, MessageError> {
        self.take().map(DiscoKey::from_bytes)
    }

    fn vni(&mut self) -> Result<Vni, MessageError> {
        Vni::new(self.u32()?).ok_or(MessageError::Vni)
    }

    fn address(&mut self) -> Result<SocketAddr, MessageError> {
        let ip = IpAddr::from(Ipv6Addr::from(self.take::<16>()?)).to_canonical();
        Ok(SocketAddr::new(ip, u16::from_be_bytes(self.take()?)))
    }

    fn addresses(&mut self) -> Result<Vec<SocketAddr>, MessageError> {
        let count = self.0.len() / ADDRESS_LEN;
        if count > ENDPOINTS_MAX {
            return Err(MessageError::TooManyEndpoints);
        }
        (0..count).map(|_| self.address()).collect()
    }

    fn bind(&mut self) -> Result<BindHandshake, MessageError> {
        Ok(BindHandshake {
            vni: self.vni()?,
            generation: self.u32()?,
            remote: self.key()?,
            challenge: self.take()?,
        })
    }

    fn endpoint(&mut self) -> Result<RelayEndpoint, MessageError> {
        let addresses_len = self.0.len().checked_sub(BLOCK_LEN).ok_or(MessageError::Length)?;
        if addresses_len == 0 || !addresses_len.is_multiple_of(ADDRESS_LEN) {
            return Err(MessageError::Length);
        }
        Ok(RelayEndpoint {
            server: self.key()?,
            clients: [self.key()?, self.key()?],
            lamport: self.u64()?,
            vni: self.vni()?,
            bind_lifetime: Duration::from_nanos(self.u64()?),
            steady_lifetime: Duration::from_nanos(self.u64()?),
            addresses: self.addresses()?,
        })
    }
}

fn write_address(out: &mut Vec<u8>, address: SocketAddr) {
    let ip = match address.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    out.extend_from_slice(&ip.octets());
    out.extend_from_slice(&address.port().to_be_bytes());
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
