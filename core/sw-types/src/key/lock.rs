//! Tailnet-lock keys (Ed25519) and hardware attestation keys (P-256): text forms only (keys.md §1).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

use super::text::{KeyVisitor, hex_decode, hex_encode};
use super::{KeyError, STANDARD};
use crate::secret::Secret;
use base64::Engine as _;

/// Public half of a tailnet-lock key: Ed25519, 32 bytes. `nlpub:` on the wire, `tlpub:` for people; both are read.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct LockKey([u8; 32]);

impl LockKey {
    /// The all-zero key, which means "absent".
    pub const ZERO: Self = Self([0; 32]);

    /// Takes the 32 bytes of the wire form.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes of the wire form; they are also the key's id inside lock objects (keys.md §4.2).
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Returns true for the all-zero key, which means "absent".
    pub fn is_zero(&self) -> bool {
        self.0 == [0; 32]
    }

    /// The text that commands show: `tlpub:` + 64 hex digits.
    pub fn to_cli_text(&self) -> String {
        format!("tlpub:{}", hex_encode(&self.0))
    }
}

impl fmt::Display for LockKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "nlpub:{}", hex_encode(&self.0))
    }
}

impl fmt::Debug for LockKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut short = STANDARD.encode(self.0);
        short.truncate(5);
        write!(f, "LockKey([{short}])")
    }
}

impl FromStr for LockKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let prefix = if text.starts_with("tlpub:") { "tlpub:" } else { "nlpub:" };
        hex_decode::<32>(text, prefix).map(|bytes| Self(*bytes))
    }
}

impl Serialize for LockKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for LockKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(KeyVisitor::new("nlpub:"))
    }
}

/// Private half of a tailnet-lock key: 64 bytes, the seed and then the public key (RFC 8032 as Go keeps it).
/// Erased when dropped.
pub struct LockPrivate(Zeroizing<[u8; 64]>);

impl LockPrivate {
    /// Joins a 32-byte seed with the public key that belongs to it (the caller computes it: this crate has no
    /// Ed25519).
    pub fn from_seed(seed: &[u8; 32], public: LockKey) -> Self {
        let mut bytes = Zeroizing::new([0; 64]);
        bytes[..32].copy_from_slice(seed);
        bytes[32..].copy_from_slice(&public.0);
        Self(bytes)
    }

    /// The public half.
    pub fn public(&self) -> LockKey {
        let mut public = [0; 32];
        public.copy_from_slice(&self.0[32..]);
        LockKey(public)
    }

    /// Shows the 64 secret bytes, for a signature or a state file.
    pub fn expose_bytes(&self) -> &[u8; 64] {
        &self.0
    }

    /// The stored form: `nlpriv:` + 128 hex digits.
    pub fn to_text(&self) -> Secret<String> {
        Secret::new(format!("nlpriv:{}", hex_encode(&*self.0)))
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// [`KeyError`], without the text; an all-zero seed is refused.
    pub fn from_text(text: &str) -> Result<Self, KeyError> {
        let bytes = hex_decode::<64>(text, "nlpriv:")?;
        if bytes[..32] == [0; 32] {
            return Err(KeyError::ZeroPrivate);
        }
        Ok(Self(bytes))
    }
}

impl fmt::Debug for LockPrivate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LockPrivate(***)")
    }
}

/// Public half of a hardware attestation key: an uncompressed P-256 point of 65 bytes. Absent prints as the
/// empty string, the only key type of which the empty string is legal (keys.md §1.1).
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct HardwareKey(Option<[u8; 65]>);

impl HardwareKey {
    const PREFIX: &'static str = "hwattestpub:";

    /// Returns true when there is no key.
    pub fn is_zero(&self) -> bool {
        self.0.is_none()
    }

    /// The point's bytes, beginning with 4.
    pub fn as_bytes(&self) -> Option<&[u8; 65]> {
        self.0.as_ref()
    }
}

impl fmt::Display for HardwareKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(bytes) => write!(f, "{}{}", Self::PREFIX, hex_encode(bytes)),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for HardwareKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_zero() { "HardwareKey(none)" } else { "HardwareKey(P-256)" })
    }
}

impl FromStr for HardwareKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        if text.is_empty() {
            return Ok(Self(None));
        }
        let bytes = hex_decode::<65>(text, Self::PREFIX)?;
        if bytes[0] != 4 {
            return Err(KeyError::Inconsistent);
        }
        Ok(Self(Some(*bytes)))
    }
}

impl Serialize for HardwareKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for HardwareKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(KeyVisitor::new(Self::PREFIX))
    }
}
