//! Noise: the symmetric state, the control protocol's IK handshake, and its record framing, both sides.
//!
//! Bytes in, bytes out: no sockets and no randomness, ephemeral keys come in as 32 random bytes.
//!
//! ```text
//!   primitives   BLAKE2s, HKDF, ChaCha20-Poly1305           (also for sw-wg)
//!   symmetric    chaining key and hash of a handshake        (also for sw-wg)
//!   handshake    POST /ts2021: initiation and response       control.md §1.4
//!   record       what follows, cut into sealed records       control.md §1.5
//!   early        the early payload before HTTP/2             control.md §1.6
//!   map_frame    length prefixes of a map stream             control.md §5.1
//! ```
//!
//! ```
//! use sw_noise::{Initiator, accept};
//! use sw_types::{CapVer, ControlPrivate, MachinePrivate};
//!
//! let (machine, server) = (MachinePrivate::generate([1; 32]), ControlPrivate::generate([2; 32]));
//! let (client, initiation) = Initiator::start(CapVer::CLIENT, &machine, &server.public(), [3; 32])?;
//! let accepted = accept(&initiation, &server, [4; 32])?;
//! assert_eq!(accepted.machine, machine.public());
//!
//! let (mut to_server, _) = client.finish(&machine, &accepted.response)?.split();
//! let (_, mut from_client) = accepted.transport.split();
//! let (mut wire, mut plain) = (Vec::new(), Vec::new());
//! to_server.write(b"hello", &mut wire)?;
//! from_client.read(&wire, &mut plain)?;
//! assert_eq!(plain, b"hello");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]
#![warn(clippy::iter_over_hash_type)]

mod early;
mod handshake;
mod map_frame;
pub mod primitives;
mod record;
mod symmetric;

pub use early::{EARLY_JSON_MAX, EARLY_JSON_SENT_MAX, EarlyError, EarlySplit, push_early, split_early};
pub use handshake::{
    Accepted, ERROR_TEXT_MAX, HANDSHAKE_HEADER, HandshakeError, INITIATION_LEN, Initiator, RESPONSE_LEN,
    ServerReply, UPGRADE_PROTOCOL, accept, error_message, initiation_from_header, initiation_to_header,
    split_reply,
};
pub use map_frame::{MAP_FRAME_MAX, MapFrame, MapFrameTooLong, push_map_frame, split_map_frame};
pub use record::{PLAIN_MAX, RECORD_MAX, RecordError, RecordReader, RecordWriter, Transport};
pub use symmetric::SymmetricState;
