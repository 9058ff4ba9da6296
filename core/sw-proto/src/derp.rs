//! DERP frames, version 2 (derp.md §5): type, length, body.
//!
//! Packets are views into the read buffer; a relay turns a `SendPacket` into the `RecvPacket` of the receiver by
//! writing 33 bytes over it ([`rewrite_send_to_recv`]), since both frames have the same length.

mod frame;
mod login;

use sw_types::NodeKey;

pub use frame::{ClientFrame, FrameError, FrameType, PeerGone, PeerPresent, PresentFlags, ServerFrame};
pub use login::{
    ClientInfo, LoginError, ServerInfo, open_client_info, open_server_info, seal_client_info,
    seal_server_info,
};

/// The protocol version; also the serial number of the meta certificate (derp.md §3).
pub const VERSION: u8 = 2;

/// What a `ServerKey` frame begins with: "DERP" and a key emoji.
pub const MAGIC: [u8; 8] = *b"DERP\xf0\x9f\x94\x91";

/// Type byte and length.
pub const HEADER_LEN: usize = 5;

/// Longest packet in Send, Recv and Forward frames; the connection is closed above it (derp.md §5).
pub const PACKET_MAX: usize = 65_536;

/// Longest ClientInfo body: it is read before the sender is trusted (threat-model.md §4).
pub const CLIENT_INFO_MAX: u32 = 256 << 10;

/// Longest ServerInfo body: nonce and 1 MiB (derp.md §5).
pub const SERVER_INFO_MAX: u32 = 24 + (1 << 20);

/// Longest ServerKey body that a client reads (derp.md §5).
pub const SERVER_KEY_MAX: u32 = 1024;

/// Longest Ping body; only the first 8 bytes are echoed (derp.md §5).
pub const PING_MAX: u32 = 1000;

/// Longest body of every other type, known or not (threat-model.md §4).
pub const OTHER_MAX: u32 = 64 << 10;

/// A packet this long that begins with the disco magic has the disco queue (derp.md §7.1).
pub const DISCO_LEN_MIN: usize = 62;

/// Type and body length of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// The type.
    pub kind: FrameType,
    /// Bytes that follow the header.
    pub len: u32,
}

impl FrameHeader {
    /// Reads the header in front of `input`; `None` means that more bytes are needed.
    #[must_use]
    pub fn read(input: &[u8]) -> Option<Self> {
        let &[kind, l0, l1, l2, l3] = input.first_chunk::<HEADER_LEN>()?;
        Some(Self { kind: FrameType::from_wire(kind), len: u32::from_be_bytes([l0, l1, l2, l3]) })
    }

    /// The bytes.
    #[must_use]
    pub fn encode(self) -> [u8; HEADER_LEN] {
        let [l0, l1, l2, l3] = self.len.to_be_bytes();
        [self.kind.to_wire(), l0, l1, l2, l3]
    }

    /// Checks the length of a frame that a client sent, before any of the body is kept.
    ///
    /// # Errors
    /// The limits of derp.md §5 and threat-model.md §4; the relay closes the connection.
    pub fn check_from_client(self) -> Result<(), FrameError> {
        let (min, max) = match self.kind {
            FrameType::ClientInfo => (56, CLIENT_INFO_MAX),
            FrameType::SendPacket => (32, 32 + PACKET_MAX as u32),
            FrameType::ForwardPacket => (64, 64 + PACKET_MAX as u32),
            FrameType::NotePreferred => (1, 1),
            FrameType::WatchConns => (0, 0),
            FrameType::ClosePeer => (32, 32),
            FrameType::Ping | FrameType::Pong => (8, PING_MAX),
            FrameType::ServerKey
            | FrameType::ServerInfo
            | FrameType::RecvPacket
            | FrameType::KeepAlive
            | FrameType::PeerGone
            | FrameType::PeerPresent
            | FrameType::Health
            | FrameType::Restarting
            | FrameType::Unknown(_) => (0, OTHER_MAX),
        };
        self.check(min, max)
    }

    /// Checks the length of a frame that a relay sent, before any of the body is kept.
    ///
    /// # Errors
    /// The limits of derp.md §5 and threat-model.md §4; the client closes the connection.
    pub fn check_from_server(self) -> Result<(), FrameError> {
        let (min, max) = match self.kind {
            FrameType::ServerKey => (40, SERVER_KEY_MAX),
            FrameType::ServerInfo => (24, SERVER_INFO_MAX),
            FrameType::RecvPacket => (32, 32 + PACKET_MAX as u32),
            // A mesh member gets these from its peer relay.
            FrameType::ForwardPacket => (64, 64 + PACKET_MAX as u32),
            FrameType::PeerGone | FrameType::PeerPresent => (32, OTHER_MAX),
            FrameType::Ping | FrameType::Pong => (8, PING_MAX),
            FrameType::Restarting => (8, OTHER_MAX),
            FrameType::ClientInfo
            | FrameType::SendPacket
            | FrameType::KeepAlive
            | FrameType::NotePreferred
            | FrameType::WatchConns
            | FrameType::ClosePeer
            | FrameType::Health
            | FrameType::Unknown(_) => (0, OTHER_MAX),
        };
        self.check(min, max)
    }

    fn check(self, min: u32, max: u32) -> Result<(), FrameError> {
        if self.len > max {
            return Err(FrameError::TooLong { kind: self.kind, got: self.len, max });
        }
        if self.len < min {
            return Err(FrameError::TooShort { kind: self.kind, got: self.len });
        }
        Ok(())
    }
}

/// Splits one frame that a client sent off the front of `input`; `Ok(None)` means that more bytes are needed.
///
/// # Errors
/// A length outside the limits, or a body that does not fit its type.
pub fn split_client_frame(input: &[u8]) -> Result<Option<(ClientFrame<'_>, &[u8])>, FrameError> {
    let Some(header) = FrameHeader::read(input) else { return Ok(None) };
    header.check_from_client()?;
    let Some((body, rest)) = split_body(input, header) else { return Ok(None) };
    Ok(Some((ClientFrame::parse(header.kind, body)?, rest)))
}

/// Splits one frame that a relay sent off the front of `input`; `Ok(None)` means that more bytes are needed.
///
/// # Errors
/// A length outside the limits, or a body that does not fit its type.
pub fn split_server_frame(input: &[u8]) -> Result<Option<(ServerFrame<'_>, &[u8])>, FrameError> {
    let Some(header) = FrameHeader::read(input) else { return Ok(None) };
    header.check_from_server()?;
    let Some((body, rest)) = split_body(input, header) else { return Ok(None) };
    Ok(Some((ServerFrame::parse(header.kind, body)?, rest)))
}

fn split_body(input: &[u8], header: FrameHeader) -> Option<(&[u8], &[u8])> {
    input.get(HEADER_LEN..)?.split_at_checked(header.len as usize)
}

/// Whether a relayed packet is a disco message, by the rule of derp.md §7.1.
#[must_use]
pub fn looks_like_disco(packet: &[u8]) -> bool {
    packet.len() >= DISCO_LEN_MIN && packet.starts_with(&crate::disco::MAGIC)
}

/// Makes a whole `SendPacket` frame into the `RecvPacket` frame that its destination gets from `from`.
///
/// # Panics
/// When `frame` is shorter than header and key.
pub fn rewrite_send_to_recv(frame: &mut [u8], from: &NodeKey) {
    let head = frame.first_chunk_mut::<{ HEADER_LEN + 32 }>().expect("the frame was checked to hold a key");
    head[0] = FrameType::RecvPacket.to_wire();
    head[HEADER_LEN..].copy_from_slice(from.as_bytes());
}
