//! Hash, MAC, key derivation and sealing: BLAKE2s and ChaCha20-Poly1305 as Noise and WireGuard use them.

use blake2::digest::consts::U16;
use blake2::digest::{Digest as _, FixedOutput as _, KeyInit as _, Mac as _};
use blake2::{Blake2s256, Blake2sMac};
use chacha20poly1305::aead::AeadInOut as _;
use chacha20poly1305::{ChaCha20Poly1305, XChaCha20Poly1305};
use hmac::SimpleHmac;
use zeroize::Zeroizing;

/// Length of hashes and keys.
pub const KEY_LEN: usize = 32;
/// Length of a sealed message's tag.
pub const TAG_LEN: usize = 16;

/// A secret of 32 bytes: erased when dropped.
pub type KeyBytes = Zeroizing<[u8; KEY_LEN]>;

/// A sealed message was changed, or belongs to another key, nonce or associated data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the sealed message does not open")]
pub struct SealBroken;

/// BLAKE2s-256 over the parts one after another.
pub fn hash(parts: &[&[u8]]) -> [u8; KEY_LEN] {
    let mut hasher = Blake2s256::new();
    for part in parts {
        blake2::digest::Digest::update(&mut hasher, part);
    }
    hasher.finalize().into()
}

/// Keyed BLAKE2s with 16 bytes of output, WireGuard's `mac1` and `mac2`. `key` is 1 to 32 bytes long.
///
/// # Panics
/// When `key` is longer than 32 bytes: all callers pass a hash or a cookie.
pub fn keyed_mac(key: &[u8], parts: &[&[u8]]) -> [u8; TAG_LEN] {
    let mut mac = Blake2sMac::<U16>::new_from_slice(key).expect("the key is at most 32 bytes long");
    for part in parts {
        blake2::digest::Update::update(&mut mac, part);
    }
    mac.finalize_fixed().into()
}

fn hmac(key: &[u8], parts: &[&[u8]]) -> KeyBytes {
    let mut mac = <SimpleHmac<Blake2s256> as hmac::KeyInit>::new_from_slice(key).expect("HMAC takes any key");
    for part in parts {
        blake2::digest::Update::update(&mut mac, part);
    }
    Zeroizing::new(mac.finalize().into_bytes().into())
}

/// HKDF of the Noise specification §4.3: `N` keys (at most 255) from a chaining key and new key material.
pub fn hkdf<const N: usize>(chaining_key: &[u8; KEY_LEN], material: &[u8]) -> [KeyBytes; N] {
    const { assert!(N <= 255, "the counter is one byte") };
    let extracted = hmac(chaining_key, &[material]);
    let mut keys = std::array::from_fn(|_| Zeroizing::new([0; KEY_LEN]));
    let mut previous: &[u8] = &[];
    for (counter, key) in (1_u8..).zip(&mut keys) {
        *key = hmac(&*extracted, &[previous, &[counter]]);
        previous = &**key;
    }
    keys
}

/// Seals `buffer` in place and returns the tag. A nonce must not be used twice with one key.
pub fn seal_in_place(
    key: &[u8; KEY_LEN],
    nonce: &[u8; 12],
    associated: &[u8],
    buffer: &mut [u8],
) -> [u8; TAG_LEN] {
    ChaCha20Poly1305::new(key.into())
        .encrypt_inout_detached(nonce.into(), associated, buffer.into())
        .expect("a buffer of ours is shorter than 256 GiB")
        .into()
}

/// Opens `buffer` in place; on failure its content is not to be used.
///
/// # Errors
/// [`SealBroken`].
pub fn open_in_place(
    key: &[u8; KEY_LEN],
    nonce: &[u8; 12],
    associated: &[u8],
    buffer: &mut [u8],
    tag: &[u8; TAG_LEN],
) -> Result<(), SealBroken> {
    ChaCha20Poly1305::new(key.into())
        .decrypt_inout_detached(nonce.into(), associated, buffer.into(), tag.into())
        .map_err(|_| SealBroken)
}

/// Seals with the 24-byte nonce of XChaCha20-Poly1305 (WireGuard's cookie), in place; returns the tag.
pub fn xseal_in_place(
    key: &[u8; KEY_LEN],
    nonce: &[u8; 24],
    associated: &[u8],
    buffer: &mut [u8],
) -> [u8; TAG_LEN] {
    XChaCha20Poly1305::new(key.into())
        .encrypt_inout_detached(nonce.into(), associated, buffer.into())
        .expect("a buffer of ours is shorter than 256 GiB")
        .into()
}

/// Opens what [`xseal_in_place`] sealed.
///
/// # Errors
/// [`SealBroken`].
pub fn xopen_in_place(
    key: &[u8; KEY_LEN],
    nonce: &[u8; 24],
    associated: &[u8],
    buffer: &mut [u8],
    tag: &[u8; TAG_LEN],
) -> Result<(), SealBroken> {
    XChaCha20Poly1305::new(key.into())
        .decrypt_inout_detached(nonce.into(), associated, buffer.into(), tag.into())
        .map_err(|_| SealBroken)
}

/// Compares in constant time (for equal lengths).
pub fn ct_eq(left: &[u8], right: &[u8]) -> bool {
    subtle::ConstantTimeEq::ct_eq(left, right).into()
}
