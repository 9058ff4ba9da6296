//! Keys: X25519 pairs of each use, tailnet-lock keys, hardware keys (keys.md §1).
//!
//! Every use has its own pair of types, so that a disco key cannot be taken for a node key. Public keys are
//! plain values. Private keys are erased when dropped, are never cloned, and never print.

mod lock;
mod text;

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use subtle::ConstantTimeEq as _;
use x25519_dalek::x25519;
use zeroize::{Zeroize as _, Zeroizing};

pub use self::lock::{HardwareKey, LockKey, LockPrivate};
use self::text::{KeyVisitor, hex_decode, hex_encode};
use crate::secret::Secret;

/// The text of a key cannot be read. The text itself is never part of the error (it may be a private key).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("key does not begin with {expected:?}")]
    Prefix { expected: &'static str },
    #[error("key has {got} hex digits, expected {expected}")]
    Length { expected: usize, got: usize },
    #[error("key holds a character that is not a hex digit")]
    NotHex,
    #[error("private key is all zero")]
    ZeroPrivate,
    #[error("private key's second half is not its public key")]
    Inconsistent,
}

/// The result of X25519 is all zero: the peer sent a point of low order (threat-model.md §5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the peer's public key is a point of low order")]
pub struct LowOrderPoint;

/// A public X25519 key of any use.
pub trait PublicKey: Copy {
    /// The 32 bytes of the u-coordinate, little-endian (RFC 7748).
    fn as_bytes(&self) -> &[u8; 32];
}

/// What both sides of an X25519 exchange know. Erased when dropped; never prints.
pub struct SharedSecret(Zeroizing<[u8; 32]>);

impl SharedSecret {
    /// Shows the secret bytes to a key derivation.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for SharedSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SharedSecret(***)")
    }
}

fn clamp(mut bytes: [u8; 32]) -> [u8; 32] {
    // keys.md §1.2
    bytes[0] &= 0xf8;
    bytes[31] = (bytes[31] & 0x7f) | 0x40;
    bytes
}

fn exchange(private: &[u8; 32], public: &[u8; 32]) -> Result<SharedSecret, LowOrderPoint> {
    let shared = Zeroizing::new(x25519(*private, *public));
    if bool::from(shared.ct_eq(&[0; 32])) {
        return Err(LowOrderPoint);
    }
    Ok(SharedSecret(shared))
}

/// Declares the public half of one use: text form `PREFIX` + 64 hex digits.
macro_rules! public_key {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name([u8; 32]);

        impl $name {
            /// What the text form begins with.
            pub const PREFIX: &'static str = $prefix;
            /// The all-zero key, which means "absent" (keys.md §1.1).
            pub const ZERO: Self = Self([0; 32]);

            /// Takes the 32 bytes of the wire form.
            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// The 32 bytes of the wire form.
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }

            /// Returns true for the all-zero key, which means "absent".
            pub fn is_zero(&self) -> bool {
                self.0 == [0; 32]
            }

            /// The form for people and logs, `[e06Qm]`; empty for the zero key (keys.md §1.1).
            pub fn short(&self) -> String {
                if self.is_zero() {
                    return String::new();
                }
                let mut text = STANDARD.encode(self.0);
                text.truncate(5);
                format!("[{text}]")
            }
        }

        impl PublicKey for $name {
            fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str($prefix)?;
                f.write_str(&hex_encode(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.short())
            }
        }

        impl FromStr for $name {
            type Err = KeyError;

            fn from_str(text: &str) -> Result<Self, KeyError> {
                hex_decode::<32>(text, $prefix).map(|bytes| Self(*bytes))
            }
        }

        impl From<[u8; 32]> for $name {
            fn from(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        /// `null` reads as the zero key, an empty string is an error, as in Go (keys.md §1.1).
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any(KeyVisitor::new($prefix))
            }
        }
    };
}

/// Declares the private half of one use. It keeps its public key, since that is asked for all the time.
macro_rules! private_key {
    ($(#[$doc:meta])* $name:ident, $public:ident) => {
        $(#[$doc])*
        pub struct $name {
            secret: Zeroizing<[u8; 32]>,
            public: $public,
        }

        impl $name {
            /// Makes a key from 32 random bytes of the operating system's generator (keys.md §1.2).
            pub fn generate(random: [u8; 32]) -> Self {
                Self::from_bytes(clamp(random))
            }

            /// Takes stored bytes as they are; X25519 clamps at use.
            pub fn from_bytes(mut bytes: [u8; 32]) -> Self {
                let secret = Zeroizing::new(bytes);
                bytes.zeroize();
                let public = $public::from_bytes(x25519(*secret, x25519_dalek::X25519_BASEPOINT_BYTES));
                Self { secret, public }
            }

            /// The public half.
            pub const fn public(&self) -> $public {
                self.public
            }

            /// The X25519 exchange with a peer's key of any use.
            ///
            /// # Errors
            /// [`LowOrderPoint`] when the result is all zero.
            pub fn shared_secret(&self, peer: &impl PublicKey) -> Result<SharedSecret, LowOrderPoint> {
                exchange(&self.secret, peer.as_bytes())
            }

            /// Shows the secret bytes, for a key file or a handshake.
            pub fn expose_bytes(&self) -> &[u8; 32] {
                &self.secret
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}(of {})", stringify!($name), self.public.short())
            }
        }
    };
}

/// Adds the stored text form `privkey:` + 64 hex digits.
macro_rules! private_text {
    ($name:ident) => {
        impl $name {
            /// The stored form `privkey:` + 64 hex digits.
            pub fn to_text(&self) -> Secret<String> {
                Secret::new(format!("{PRIVATE_PREFIX}{}", hex_encode(&*self.secret)))
            }

            /// Reads the stored form.
            ///
            /// # Errors
            /// [`KeyError`], without the text; the zero key is refused.
            pub fn from_text(text: &str) -> Result<Self, KeyError> {
                let bytes = hex_decode::<32>(text, PRIVATE_PREFIX)?;
                if *bytes == [0; 32] {
                    return Err(KeyError::ZeroPrivate);
                }
                Ok(Self::from_bytes(*bytes))
            }
        }
    };
}

const PRIVATE_PREFIX: &str = "privkey:";

public_key! {
    /// A device's key towards relays, peers (it is the WireGuard key) and the control server; rotates.
    NodeKey, "nodekey:"
}
private_key! {
    /// Private half of a [`NodeKey`].
    NodePrivate, NodeKey
}
private_text!(NodePrivate);

impl NodeKey {
    /// Makes the key unusable and its short form read `[bad01`…: no handshake with an expired peer can
    /// succeed (keys.md §1.2).
    #[must_use]
    pub fn spoiled(self) -> Self {
        let mut bytes = self.0;
        for (to, from) in bytes.iter_mut().zip([0x6d, 0xa7, 0x74, 0xd5, 0xd7, 0x74]) {
            *to = from;
        }
        Self(bytes)
    }
}

public_key! {
    /// A device's key towards the control server; one per installation, kept for ever.
    MachineKey, "mkey:"
}
private_key! {
    /// Private half of a [`MachineKey`].
    MachinePrivate, MachineKey
}
private_text!(MachinePrivate);

public_key! {
    /// The control server's Noise key; prints as a machine key does.
    ControlKey, "mkey:"
}
private_key! {
    /// Private half of a [`ControlKey`]; permanent state of a server (control.md §1.1).
    ControlPrivate, ControlKey
}
private_text!(ControlPrivate);

public_key! {
    /// The key of path discovery messages; new at every start of a daemon.
    DiscoKey, "discokey:"
}
private_key! {
    /// Private half of a [`DiscoKey`]; lives in memory only.
    DiscoPrivate, DiscoKey
}

public_key! {
    /// A relay's key. On the wire it is 32 raw bytes; its node-key text form is the one clients print.
    DerpKey, "nodekey:"
}
private_key! {
    /// Private half of a [`DerpKey`].
    DerpPrivate, DerpKey
}
private_text!(DerpPrivate);

public_key! {
    /// The challenge of the early payload (control.md §1.6).
    ChallengeKey, "chalpub:"
}
private_key! {
    /// Private half of a [`ChallengeKey`]; never written anywhere.
    ChallengePrivate, ChallengeKey
}

/// The public half of a key that lives for one handshake; it has no text form.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct EphemeralKey([u8; 32]);

impl EphemeralKey {
    /// Takes the 32 bytes of the wire form.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes of the wire form.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    fn short(&self) -> &'static str {
        "one handshake"
    }
}

impl PublicKey for EphemeralKey {
    fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for EphemeralKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EphemeralKey")
    }
}

private_key! {
    /// Private half of an [`EphemeralKey`]; never written anywhere.
    EphemeralPrivate, EphemeralKey
}

/// What relays of one region prove to one another: 32 bytes, text 64 hex digits without prefix (keys.md §1).
pub struct MeshKey(Zeroizing<[u8; 32]>);

impl MeshKey {
    /// Takes 32 random bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Reads 64 hex digits.
    ///
    /// # Errors
    /// [`KeyError`], without the text.
    pub fn from_text(text: &str) -> Result<Self, KeyError> {
        hex_decode::<32>(text, "").map(Self)
    }

    /// The 64 hex digits.
    pub fn to_text(&self) -> Secret<String> {
        Secret::new(hex_encode(&*self.0))
    }

    /// Compares in constant time.
    pub fn ct_eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&*other.0).into()
    }
}

impl fmt::Debug for MeshKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MeshKey(***)")
    }
}
