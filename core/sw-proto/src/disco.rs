//! Disco messages: path discovery between nodes, and the handshake with peer relays (disco.md).
//!
//! ```text
//! 0       6                 38        62          78
//! | magic | sender disco key | nonce   | tag       | type | version | body
//! |<---------------- clear ---------->|<------------- sealed ----------->
//! ```

mod message;

use sw_types::DiscoKey;

pub use message::{BindHandshake, Message, MessageError, MessageType, Ping, RelayEndpoint, TxId};

use crate::nacl::{BoxKey, NONCE_LEN, Nonce, TAG_LEN};

/// What a disco datagram begins with: "TS" and a speech balloon.
pub const MAGIC: [u8; 6] = *b"TS\xf0\x9f\x92\xac";

/// Magic, key and nonce.
pub const HEADER_LEN: usize = 6 + 32 + NONCE_LEN;

/// Length of a datagram whose message has an empty body.
pub const OVERHEAD: usize = HEADER_LEN + TAG_LEN + 2;

/// Length of a ping's datagram without padding.
pub const PING_LEN: usize = OVERHEAD + 44;

/// Longest datagram of any message but a padded ping (threat-model.md §4).
pub const DATAGRAM_MAX: usize = 2048;

/// Longest datagram of a ping: path MTU probes reach 9,000 bytes (threat-model.md §4).
pub const PROBE_MAX: usize = 9216;

/// Most addresses in one message (threat-model.md §4).
pub const ENDPOINTS_MAX: usize = 100;

/// Why a datagram is no disco message for us; it is dropped and counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum OpenError {
    /// Without magic, or shorter than an empty message.
    #[error("not a disco message")]
    NotDisco,
    /// Longer than its type may be.
    #[error("disco message too long")]
    TooLong,
    /// The box does not open.
    #[error("disco message does not open")]
    Sealed,
    /// The message inside cannot be read.
    #[error(transparent)]
    Message(#[from] MessageError),
}

/// Tells whether a datagram is to be treated as disco (path-selection.md §2).
#[must_use]
pub fn looks_like(datagram: &[u8]) -> bool {
    datagram.len() >= 38 && datagram.starts_with(&MAGIC)
}

/// The sender's key, which the box proves once it has been opened with it.
#[must_use]
pub fn sender(datagram: &[u8]) -> Option<DiscoKey> {
    let rest = datagram.strip_prefix(&MAGIC)?;
    Some(DiscoKey::from_bytes(*rest.first_chunk()?))
}

/// Seals `message` into a datagram; `shared` is the key between `from` and the receiver.
#[must_use]
pub fn seal(message: &Message, from: DiscoKey, shared: &BoxKey, nonce: &Nonce) -> Vec<u8> {
    let mut out = Vec::with_capacity(PING_LEN + 20);
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(from.as_bytes());
    out.extend_from_slice(&nonce.0);
    out.extend_from_slice(&[0; TAG_LEN]);
    message.encode(&mut out);
    shared.seal_in_place(nonce, out.get_mut(HEADER_LEN..).unwrap_or_default());
    out
}

/// Opens a datagram; `shared` is the key between us and [`sender`].
///
/// # Errors
/// See [`OpenError`].
pub fn open(datagram: &[u8], shared: &BoxKey) -> Result<Message, OpenError> {
    if datagram.len() > PROBE_MAX {
        return Err(OpenError::TooLong);
    }
    let rest = datagram.strip_prefix(&MAGIC).ok_or(OpenError::NotDisco)?;
    let (nonce, sealed) =
        rest.get(32..).and_then(<[u8]>::split_first_chunk::<NONCE_LEN>).ok_or(OpenError::NotDisco)?;
    let plain = shared.open(&Nonce(*nonce), sealed).map_err(|_| OpenError::Sealed)?;
    let message = Message::parse(&plain)?;
    if datagram.len() > DATAGRAM_MAX && message.kind() != MessageType::Ping {
        return Err(OpenError::TooLong);
    }
    Ok(message)
}

/// The padding that makes a ping's datagram `datagram_len` bytes long.
#[must_use]
pub fn padding_for(datagram_len: usize) -> usize {
    datagram_len.saturating_sub(PING_LEN)
}
