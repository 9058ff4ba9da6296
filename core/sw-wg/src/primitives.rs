//! BLAKE2s, HKDF, X25519 and the two AEADs, in the forms the WireGuard paper §5.4 names them.

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use blake2::digest::{FixedOutput, KeyInit, Mac, Update};
use blake2::{Blake2s256, Blake2sMac, Digest};
use chacha20poly1305::aead::AeadInOut;
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use x25519_dalek::x25519;
use zeroize::Zeroizing;

/// A 32-byte secret that is wiped when dropped.
pub(crate) type Secret = Zeroizing<[u8; 32]>;

/// Bytes of an AEAD tag.
pub const TAG_LEN: usize = 16;

/// `HASH` over the concatenation of `parts`.
pub(crate) fn hash(parts: &[&[u8]]) -> [u8; 32] {
    let mut state = Blake2s256::new();
    for part in parts {
        Update::update(&mut state, part);
    }
    state.finalize_fixed().into()
}

/// `MAC`: keyed BLAKE2s with a 16-byte output.
pub(crate) fn mac(key: &[u8], parts: &[&[u8]]) -> [u8; 16] {
    let mut state = Blake2sMac::<blake2::digest::consts::U16>::new_from_slice(key)
        .expect("every key here is 16 or 32 bytes, BLAKE2s takes up to 32");
    for part in parts {
        Mac::update(&mut state, part);
    }
    state.finalize_fixed().into()
}

/// HMAC over BLAKE2s (RFC 2104 with 64-byte blocks); all keys here are 32 bytes.
fn hmac(key: &[u8; 32], parts: &[&[u8]]) -> [u8; 32] {
    let mut inner = Zeroizing::new([0x36u8; 64]);
    let mut outer = Zeroizing::new([0x5cu8; 64]);
    for (i, byte) in key.iter().enumerate() {
        inner[i] ^= byte;
        outer[i] ^= byte;
    }
    let mut state = Blake2s256::new();
    Update::update(&mut state, inner.as_slice());
    for part in parts {
        Update::update(&mut state, part);
    }
    let digest: [u8; 32] = state.finalize_fixed().into();
    hash(&[outer.as_slice(), &digest])
}

/// `KDFn`: the first `N` outputs of HKDF with `chain` as salt.
pub(crate) fn kdf<const N: usize>(chain: &[u8; 32], input: &[u8]) -> [Secret; N] {
    let extracted = Zeroizing::new(hmac(chain, &[input]));
    let mut outputs: [Secret; N] = std::array::from_fn(|_| Zeroizing::new([0; 32]));
    for i in 0..N {
        let number = [i as u8 + 1];
        *outputs[i] = match i {
            0 => hmac(&extracted, &[&number]),
            _ => hmac(&extracted, &[outputs[i - 1].as_slice(), &number]),
        };
    }
    outputs
}

/// X25519; `None` when the result is all zero, that is when the other side sent a low-order point.
pub(crate) fn dh(private: &[u8; 32], public: &[u8; 32]) -> Option<Secret> {
    let shared = Zeroizing::new(x25519(*private, *public));
    let all = shared.iter().fold(0u8, |all, byte| all | byte);
    (all != 0).then_some(shared)
}

/// The public half of `private`.
pub(crate) fn public_key(private: &[u8; 32]) -> [u8; 32] {
    x25519(*private, x25519_dalek::X25519_BASEPOINT_BYTES)
}

fn handshake_key(key: &[u8; 32]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, key).expect("the key has 32 bytes"))
}

/// `AEAD` seal with nonce 0: every handshake key seals one message.
pub(crate) fn seal_once<const N: usize>(key: &[u8; 32], ad: &[u8], plain: &[u8]) -> [u8; N] {
    debug_assert_eq!(N, plain.len() + TAG_LEN);
    let mut out = [0; N];
    let (body, tag) = out.split_at_mut(plain.len());
    body.copy_from_slice(plain);
    let sealed = handshake_key(key)
        .seal_in_place_separate_tag(Nonce::assume_unique_for_key([0; 12]), Aad::from(ad), body)
        .expect("a message of a few bytes is within the cipher's limit");
    tag.copy_from_slice(sealed.as_ref());
    out
}

/// `AEAD` open with nonce 0.
pub(crate) fn open_once<const N: usize>(key: &[u8; 32], ad: &[u8], sealed: &[u8]) -> Option<[u8; N]> {
    let mut buffer = sealed.to_vec();
    let plain = handshake_key(key)
        .open_in_place(Nonce::assume_unique_for_key([0; 12]), Aad::from(ad), &mut buffer)
        .ok()?;
    <[u8; N]>::try_from(&*plain).ok()
}

/// `XAEAD` of cookie replies.
pub(crate) fn seal_cookie(key: &[u8; 32], nonce: &[u8; 24], ad: &[u8], cookie: &[u8; 16]) -> [u8; 32] {
    let mut out = [0u8; 32];
    out[..16].copy_from_slice(cookie);
    let tag = XChaCha20Poly1305::new(key.into())
        .encrypt_inout_detached(&XNonce::from(*nonce), ad, (&mut out[..16]).into())
        .expect("16 bytes are within the cipher's limit");
    out[16..].copy_from_slice(&tag);
    out
}

/// Opens what `seal_cookie` made.
pub(crate) fn open_cookie(
    key: &[u8; 32],
    nonce: &[u8; 24],
    ad: &[u8],
    sealed: &[u8; 32],
) -> Option<[u8; 16]> {
    let (body, tag) = sealed.split_first_chunk::<16>()?;
    let tag = <[u8; 16]>::try_from(tag).ok()?;
    let mut cookie = *body;
    XChaCha20Poly1305::new(key.into())
        .decrypt_inout_detached(&XNonce::from(*nonce), ad, (&mut cookie[..]).into(), &tag.into())
        .ok()?;
    Some(cookie)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hmac_matches_a_published_value() {
        // HMAC-BLAKE2s of "what do ya want for nothing?" with the key "Jefe" padded to 32 bytes equals the
        // unpadded one (RFC 2104 pads with zeros).
        let mut key = [0; 32];
        key[..4].copy_from_slice(b"Jefe");
        assert_eq!(
            hex::encode(hmac(&key, &[b"what do ya want for nothing?"])),
            "90b6281e2f3038c9056af0b4a7e763cae6fe5d9eb4386a0ec95237890c104ff0"
        );
    }

    #[test]
    fn low_order_points_are_refused() {
        let private = [7; 32];
        for point in [[0; 32], {
            let mut one = [0; 32];
            one[0] = 1;
            one
        }] {
            assert!(dh(&private, &point).is_none());
        }
        assert!(dh(&private, &public_key(&[9; 32])).is_some());
    }

    #[test]
    fn a_cookie_opens_only_with_its_mac() {
        let sealed = seal_cookie(&[1; 32], &[2; 24], b"mac1", &[3; 16]);
        assert_eq!(open_cookie(&[1; 32], &[2; 24], b"mac1", &sealed), Some([3; 16]));
        assert_eq!(open_cookie(&[1; 32], &[2; 24], b"mac2", &sealed), None);
    }
}
