//! BLAKE2s, HKDF, X25519 and the two AEADs, in the forms the WireGuard paper §5.4 names them.

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
pub(crate) use sw_noise::primitives::{KeyBytes as Secret, hash, hkdf as kdf, keyed_mac as mac};
use sw_noise::primitives::{xopen_in_place, xseal_in_place};
use x25519_dalek::x25519;
use zeroize::Zeroizing;

/// Bytes of an AEAD tag.
pub const TAG_LEN: usize = 16;

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
    let tag = xseal_in_place(key, nonce, ad, &mut out[..16]);
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
    let mut cookie = *body;
    xopen_in_place(key, nonce, ad, &mut cookie, tag.first_chunk()?).ok()?;
    Some(cookie)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_derivation_matches_a_published_program() {
        // HMAC-BLAKE2s chained by hand with Python's hashlib: KDF2 of the key 0x00… and the input "abc".
        let [first, second] = kdf(&[0; 32], b"abc");
        assert_eq!(
            hex::encode(first.as_slice()),
            "3a4c46e6e03f713f0c87443ab4e9b123a4c7c5e543c6d0c7a497d66caa0a4878"
        );
        assert_eq!(
            hex::encode(second.as_slice()),
            "57e2981688335b67bc30fcc79ecd376d26c7a858eb8e0477a80bc49fa4a82147"
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
