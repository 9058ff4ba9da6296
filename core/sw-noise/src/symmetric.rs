//! The symmetric state of a Noise handshake (Noise specification §5.2), for the control protocol and WireGuard.

use std::fmt;

use zeroize::Zeroizing;

use crate::primitives::{KEY_LEN, KeyBytes, SealBroken, TAG_LEN, hash, hkdf, open_in_place, seal_in_place};

/// Chaining key and running hash of one handshake.
///
/// Every key that [`Self::mix_key`] gives is used for one message with nonce 0, so keys are handed to the
/// caller and not kept here.
#[derive(Clone)]
pub struct SymmetricState {
    chaining_key: KeyBytes,
    hash: [u8; KEY_LEN],
}

impl SymmetricState {
    /// Begins with the protocol's name, which must be longer than 32 bytes (the names in use are 33 and 37).
    pub fn new(protocol_name: &[u8]) -> Self {
        debug_assert!(protocol_name.len() > KEY_LEN, "a shorter name is padded, not hashed");
        let hash = hash(&[protocol_name]);
        Self { chaining_key: Zeroizing::new(hash), hash }
    }

    /// Continues from a stored state (a handshake's later message is often prepared ahead).
    pub fn from_parts(chaining_key: [u8; KEY_LEN], hash: [u8; KEY_LEN]) -> Self {
        Self { chaining_key: Zeroizing::new(chaining_key), hash }
    }

    /// The running hash; at the end of the handshake it is the channel binding.
    pub const fn hash(&self) -> &[u8; KEY_LEN] {
        &self.hash
    }

    /// The chaining key.
    pub fn chaining_key(&self) -> &[u8; KEY_LEN] {
        &self.chaining_key
    }

    /// Mixes public bytes into the hash.
    pub fn mix_hash(&mut self, data: &[u8]) {
        self.hash = hash(&[&self.hash, data]);
    }

    /// Mixes a secret into the chaining key and returns the key for the next message.
    pub fn mix_key(&mut self, material: &[u8]) -> KeyBytes {
        let [chaining_key, key] = hkdf::<2>(&self.chaining_key, material);
        self.chaining_key = chaining_key;
        key
    }

    /// Mixes a secret into the chaining key alone (WireGuard's KDF1).
    pub fn mix_chaining_key(&mut self, material: &[u8]) {
        let [chaining_key] = hkdf::<1>(&self.chaining_key, material);
        self.chaining_key = chaining_key;
    }

    /// Mixes a pre-shared key into chaining key and hash and returns the key for the next message.
    pub fn mix_key_and_hash(&mut self, psk: &[u8; KEY_LEN]) -> KeyBytes {
        let [chaining_key, into_hash, key] = hkdf::<3>(&self.chaining_key, psk);
        self.chaining_key = chaining_key;
        self.mix_hash(&*into_hash);
        key
    }

    /// Seals a message of the handshake: `N` bytes and the tag.
    pub fn seal(&mut self, key: &KeyBytes, plain: &[u8], sealed: &mut Vec<u8>) {
        let start = sealed.len();
        sealed.extend_from_slice(plain);
        let tag = seal_in_place(key, &[0; 12], &self.hash, &mut sealed[start..]);
        sealed.extend_from_slice(&tag);
        self.hash = hash(&[&self.hash, &sealed[start..]]);
    }

    /// Opens a message of the handshake that holds `N` bytes.
    ///
    /// # Errors
    /// [`SealBroken`]; the handshake is then over.
    pub fn open<const N: usize>(
        &mut self,
        key: &KeyBytes,
        sealed: &[u8; N],
        tag: &[u8; TAG_LEN],
    ) -> Result<[u8; N], SealBroken> {
        let mut plain = *sealed;
        open_in_place(key, &[0; 12], &self.hash, &mut plain, tag)?;
        self.hash = hash(&[&self.hash, sealed, tag]);
        Ok(plain)
    }

    /// Ends the handshake: the keys of initiator to responder and responder to initiator.
    pub fn split(self) -> (KeyBytes, KeyBytes) {
        let [first, second] = hkdf::<2>(&self.chaining_key, &[]);
        (first, second)
    }
}

impl fmt::Debug for SymmetricState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SymmetricState(***)")
    }
}
