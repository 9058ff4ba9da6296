//! The Noise IK handshake of the control protocol (control.md §1.4).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sw_types::{
    CapVer, ControlKey, ControlPrivate, EphemeralKey, EphemeralPrivate, LowOrderPoint, MachineKey,
    MachinePrivate,
};

use crate::primitives::{SealBroken, TAG_LEN};
use crate::record::Transport;
use crate::symmetric::SymmetricState;

/// Length of the client's message.
pub const INITIATION_LEN: usize = 101;
/// Length of the server's message.
pub const RESPONSE_LEN: usize = 51;
/// Longest error text that is read from a server; what fits one record.
pub const ERROR_TEXT_MAX: usize = 4093;
/// The HTTP header that carries the initiation.
pub const HANDSHAKE_HEADER: &str = "X-Tailscale-Handshake";
/// The value of the HTTP `Upgrade` header.
pub const UPGRADE_PROTOCOL: &str = "tailscale-control-protocol";

const PROTOCOL_NAME: &[u8] = b"Noise_IK_25519_ChaChaPoly_BLAKE2s";
const TYPE_INITIATION: u8 = 1;
const TYPE_RESPONSE: u8 = 2;
const TYPE_ERROR: u8 = 3;
const INITIATION_PAYLOAD: u16 = 96;
const RESPONSE_PAYLOAD: u16 = 48;

/// Why a handshake ends. The first three are what a server tells the client in an error message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    #[error("wrong handshake initiation size")]
    Size,
    #[error("unexpected handshake message type")]
    Type,
    #[error("wrong handshake initiation length")]
    Length,
    #[error("the handshake header is not base64")]
    Header,
    #[error("the server's error text is {got} bytes long")]
    ErrorTextTooLong { got: usize },
    /// The keys do not fit: most often the server's key has changed.
    #[error("the other side does not hold the key that was expected")]
    SealBroken,
    #[error("the other side sent a key of low order")]
    LowOrderPoint,
}

impl From<SealBroken> for HandshakeError {
    fn from(_: SealBroken) -> Self {
        Self::SealBroken
    }
}

impl From<LowOrderPoint> for HandshakeError {
    fn from(_: LowOrderPoint) -> Self {
        Self::LowOrderPoint
    }
}

/// The state before the first message, the same on both sides.
fn begin(version: CapVer, server: &ControlKey) -> SymmetricState {
    let mut noise = SymmetricState::new(PROTOCOL_NAME);
    noise.mix_hash(format!("Tailscale Control Protocol v{version}").as_bytes());
    noise.mix_hash(server.as_bytes());
    noise
}

/// The client's side, waiting for the server's message.
#[derive(Debug)]
pub struct Initiator {
    noise: SymmetricState,
    ephemeral: EphemeralPrivate,
}

impl Initiator {
    /// Makes the first message. `random` is 32 fresh random bytes; `version` is our capability version, which
    /// both sides hash in.
    ///
    /// # Errors
    /// [`HandshakeError::LowOrderPoint`] when the server's key is one.
    pub fn start(
        version: CapVer,
        machine: &MachinePrivate,
        server: &ControlKey,
        random: [u8; 32],
    ) -> Result<(Self, [u8; INITIATION_LEN]), HandshakeError> {
        let ephemeral = EphemeralPrivate::from_bytes(random);
        let mut noise = begin(version, server);
        let mut message = Vec::with_capacity(INITIATION_LEN);
        message.extend(version.0.to_be_bytes());
        message.push(TYPE_INITIATION);
        message.extend(INITIATION_PAYLOAD.to_be_bytes());

        message.extend(ephemeral.public().as_bytes());
        noise.mix_hash(ephemeral.public().as_bytes());
        let key = noise.mix_key(ephemeral.shared_secret(server)?.expose());
        noise.seal(&key, machine.public().as_bytes(), &mut message);
        let key = noise.mix_key(machine.shared_secret(server)?.expose());
        noise.seal(&key, &[], &mut message);
        let message = message.try_into().expect("5 + 32 + 48 + 16 bytes");
        Ok((Self { noise, ephemeral }, message))
    }

    /// Reads the server's message; `machine` is the key that [`Self::start`] was given.
    ///
    /// # Errors
    /// [`HandshakeError::Type`], [`HandshakeError::Length`], [`HandshakeError::SealBroken`] when the server does not
    /// hold the key that we know, [`HandshakeError::LowOrderPoint`].
    pub fn finish(
        mut self,
        machine: &MachinePrivate,
        response: &[u8; RESPONSE_LEN],
    ) -> Result<Transport, HandshakeError> {
        let [kind, length @ ..] = response.first_chunk::<3>().ok_or(HandshakeError::Length)?;
        if *kind != TYPE_RESPONSE {
            return Err(HandshakeError::Type);
        }
        if u16::from_be_bytes(*length) != RESPONSE_PAYLOAD {
            return Err(HandshakeError::Length);
        }
        let (server_ephemeral, tag) = split_key_and_tag(&response[3..])?;
        let server_ephemeral = EphemeralKey::from_bytes(*server_ephemeral);
        self.noise.mix_hash(server_ephemeral.as_bytes());
        self.noise.mix_chaining_key(self.ephemeral.shared_secret(&server_ephemeral)?.expose());
        let key = self.noise.mix_key(machine.shared_secret(&server_ephemeral)?.expose());
        self.noise.open(&key, &[], tag)?;
        let hash = *self.noise.hash();
        let (to_server, to_client) = self.noise.split();
        Ok(Transport::new(to_server, to_client, hash))
    }
}

fn split_key_and_tag(bytes: &[u8]) -> Result<(&[u8; 32], &[u8; TAG_LEN]), HandshakeError> {
    let (key, rest) = bytes.split_first_chunk::<32>().ok_or(HandshakeError::Length)?;
    Ok((key, rest.first_chunk::<TAG_LEN>().ok_or(HandshakeError::Length)?))
}

/// A client that a server let in. Its machine key is proven; whether it may do anything is not.
#[derive(Debug)]
pub struct Accepted {
    /// What the client can do.
    pub version: CapVer,
    pub machine: MachineKey,
    /// To be sent, at best in one segment with the HTTP 101.
    pub response: [u8; RESPONSE_LEN],
    pub transport: Transport,
}

/// Answers a client's first message. `random` is 32 fresh random bytes.
///
/// # Errors
/// [`HandshakeError`]; the first three kinds may be told to the client ([`error_message`]), after the others the
/// connection is closed without a word.
pub fn accept(
    initiation: &[u8],
    server: &ControlPrivate,
    random: [u8; 32],
) -> Result<Accepted, HandshakeError> {
    let initiation: &[u8; INITIATION_LEN] = initiation.try_into().map_err(|_| HandshakeError::Size)?;
    let (header, payload) = initiation.split_first_chunk::<5>().ok_or(HandshakeError::Size)?;
    let [version_high, version_low, kind, length @ ..] = *header;
    if kind != TYPE_INITIATION {
        return Err(HandshakeError::Type);
    }
    if u16::from_be_bytes(length) != INITIATION_PAYLOAD {
        return Err(HandshakeError::Length);
    }
    let version = CapVer(u16::from_be_bytes([version_high, version_low]));
    let (client_ephemeral, rest) = payload.split_first_chunk::<32>().ok_or(HandshakeError::Size)?;
    let (sealed_machine, tag) = split_key_and_tag(rest)?;
    let last_tag = rest.last_chunk::<TAG_LEN>().ok_or(HandshakeError::Size)?;

    let mut noise = begin(version, &server.public());
    let client_ephemeral = EphemeralKey::from_bytes(*client_ephemeral);
    noise.mix_hash(client_ephemeral.as_bytes());
    let key = noise.mix_key(server.shared_secret(&client_ephemeral)?.expose());
    let machine = MachineKey::from_bytes(noise.open(&key, sealed_machine, tag)?);
    let key = noise.mix_key(server.shared_secret(&machine)?.expose());
    noise.open(&key, &[], last_tag)?;

    let ephemeral = EphemeralPrivate::from_bytes(random);
    let mut response = Vec::with_capacity(RESPONSE_LEN);
    response.push(TYPE_RESPONSE);
    response.extend(RESPONSE_PAYLOAD.to_be_bytes());
    response.extend(ephemeral.public().as_bytes());
    noise.mix_hash(ephemeral.public().as_bytes());
    noise.mix_chaining_key(ephemeral.shared_secret(&client_ephemeral)?.expose());
    let key = noise.mix_key(ephemeral.shared_secret(&machine)?.expose());
    noise.seal(&key, &[], &mut response);
    let hash = *noise.hash();
    let (to_server, to_client) = noise.split();
    Ok(Accepted {
        version,
        machine,
        response: response.try_into().expect("3 + 32 + 16 bytes"),
        transport: Transport::new(to_client, to_server, hash),
    })
}

/// The initiation as the value of [`HANDSHAKE_HEADER`].
pub fn initiation_to_header(initiation: &[u8; INITIATION_LEN]) -> String {
    STANDARD.encode(initiation)
}

/// Reads the value of [`HANDSHAKE_HEADER`].
///
/// # Errors
/// [`HandshakeError::Header`], [`HandshakeError::Size`].
pub fn initiation_from_header(value: &str) -> Result<[u8; INITIATION_LEN], HandshakeError> {
    const TEXT_LEN: usize = INITIATION_LEN.div_ceil(3) * 4;
    if value.len() > TEXT_LEN {
        return Err(HandshakeError::Size);
    }
    let bytes = STANDARD.decode(value).map_err(|_| HandshakeError::Header)?;
    bytes.try_into().map_err(|_| HandshakeError::Size)
}

/// What a server sends in place of its response (control.md §1.4). Only the fixed texts of [`HandshakeError`] are
/// sent, so the length always fits.
pub fn error_message(error: HandshakeError) -> Vec<u8> {
    let text = error.to_string();
    let mut message = vec![TYPE_ERROR];
    message.extend((text.len() as u16).to_be_bytes());
    message.extend(text.into_bytes());
    message
}

/// The server's first message as a client finds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerReply {
    /// For [`Initiator::finish`].
    Response([u8; RESPONSE_LEN]),
    /// The server refuses. Anyone on the way can have written this text; control characters are replaced.
    Refused(String),
}

/// Splits the server's first message off the front of `input`; `Ok(None)` means that more bytes are needed.
///
/// # Errors
/// [`HandshakeError::Type`], [`HandshakeError::Length`], [`HandshakeError::ErrorTextTooLong`].
pub fn split_reply(input: &[u8]) -> Result<Option<(ServerReply, &[u8])>, HandshakeError> {
    let Some(([kind, length @ ..], payload)) = input.split_first_chunk::<3>() else {
        return Ok(None);
    };
    let length = usize::from(u16::from_be_bytes(*length));
    match *kind {
        TYPE_RESPONSE if length != usize::from(RESPONSE_PAYLOAD) => Err(HandshakeError::Length),
        TYPE_RESPONSE => Ok(input
            .split_first_chunk::<RESPONSE_LEN>()
            .map(|(response, rest)| (ServerReply::Response(*response), rest))),
        TYPE_ERROR if length > ERROR_TEXT_MAX => Err(HandshakeError::ErrorTextTooLong { got: length }),
        TYPE_ERROR => Ok(payload.split_at_checked(length).map(|(text, rest)| {
            let text = String::from_utf8_lossy(text).replace(char::is_control, "\u{fffd}");
            (ServerReply::Refused(text), rest)
        })),
        _ => Err(HandshakeError::Type),
    }
}
