//! NaCl `crypto_box` (X25519, HSalsa20, XSalsa20-Poly1305) with the key agreement done once.
//!
//! The combined form: 16-byte tag first, then the ciphertext. It seals DERP logins (derp.md §6) and disco messages
//! (disco.md §2). One agreement costs about 95 µs, one seal of a disco ping about 1 µs: keep the [`BoxKey`] of a peer.

use poly1305::universal_hash::KeyInit;
use poly1305::{Key as MacKey, Poly1305};
use salsa20::cipher::consts::U10;
use salsa20::cipher::{KeyIvInit, StreamCipher};
use salsa20::{XSalsa20, hsalsa};
use subtle::ConstantTimeEq;
use sw_types::SharedSecret;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// Length of the tag in front of the ciphertext.
pub const TAG_LEN: usize = 16;

/// Length of a nonce.
pub const NONCE_LEN: usize = 24;

/// A nonce; random for each message (192 bits never collide in practice, disco.md §8).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Nonce(pub [u8; NONCE_LEN]);

/// The box did not open: forged, damaged or sealed for another key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("sealed message does not open")]
pub struct OpenError;

/// The key that two parties share; seals and opens in both directions.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct BoxKey([u8; 32]);

impl std::fmt::Debug for BoxKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BoxKey(***)")
    }
}

impl BoxKey {
    /// The key made of an X25519 agreement, of which `sw-types` has refused points of low order.
    #[must_use]
    pub fn new(shared: &SharedSecret) -> Self {
        Self(hsalsa::<U10>(&(*shared.expose()).into(), &[0u8; 16].into()).into())
    }

    /// Takes a key that was agreed on before.
    #[must_use]
    pub const fn from_precomputed(key: [u8; 32]) -> Self {
        Self(key)
    }

    /// Seals `buffer[TAG_LEN..]` in place and writes the tag in front of it.
    ///
    /// # Panics
    /// When `buffer` is shorter than [`TAG_LEN`].
    pub fn seal_in_place(&self, nonce: &Nonce, buffer: &mut [u8]) {
        let (tag, body) = buffer.split_first_chunk_mut::<TAG_LEN>().expect("callers leave room for the tag");
        let (mut cipher, mac) = self.start(nonce);
        cipher.apply_keystream(body);
        *tag = mac.compute_unpadded(body).into();
    }

    /// Checks the tag and opens `sealed` in place; the plaintext is the part behind the tag.
    ///
    /// # Errors
    /// [`OpenError`]; the bytes are unchanged then.
    pub fn open_in_place<'a>(&self, nonce: &Nonce, sealed: &'a mut [u8]) -> Result<&'a mut [u8], OpenError> {
        let (tag, body) = sealed.split_first_chunk_mut::<TAG_LEN>().ok_or(OpenError)?;
        let (mut cipher, mac) = self.start(nonce);
        let expected: [u8; TAG_LEN] = mac.compute_unpadded(body).into();
        if !bool::from(expected.ct_eq(tag)) {
            return Err(OpenError);
        }
        cipher.apply_keystream(body);
        Ok(body)
    }

    /// Seals `plain`: tag, then ciphertext.
    #[must_use]
    pub fn seal(&self, nonce: &Nonce, plain: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(TAG_LEN + plain.len());
        out.extend_from_slice(&[0; TAG_LEN]);
        out.extend_from_slice(plain);
        self.seal_in_place(nonce, &mut out);
        out
    }

    /// Opens what [`Self::seal`] made.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(&self, nonce: &Nonce, sealed: &[u8]) -> Result<Vec<u8>, OpenError> {
        let mut buffer = sealed.to_vec();
        self.open_in_place(nonce, &mut buffer)?;
        buffer.drain(..TAG_LEN);
        Ok(buffer)
    }

    /// The first 32 bytes of key stream are the Poly1305 key; the message begins behind them.
    fn start(&self, nonce: &Nonce) -> (XSalsa20, Poly1305) {
        let mut cipher = XSalsa20::new(&self.0.into(), &nonce.0.into());
        let mut mac_key = MacKey::default();
        cipher.apply_keystream(&mut mac_key);
        let mac = Poly1305::new(&mac_key);
        mac_key.zeroize();
        (cipher, mac)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_of_small_order_is_refused() {
        let private = sw_types::DiscoPrivate::from_bytes([7; 32]);
        for point in [[0; 32], std::array::from_fn(|index| u8::from(index == 0))] {
            assert!(private.shared_secret(&sw_types::DiscoKey::from_bytes(point)).is_err());
        }
    }

    #[test]
    fn what_was_sealed_opens_and_nothing_else_does() {
        arbtest::arbtest(|u| {
            let key = BoxKey(u.arbitrary()?);
            let nonce = Nonce(u.arbitrary()?);
            let plain: Vec<u8> = u.arbitrary()?;
            let mut sealed = key.seal(&nonce, &plain);
            assert_eq!(key.open(&nonce, &sealed).as_deref(), Ok(&plain[..]));
            let at = u.choose_index(sealed.len())?;
            sealed[at] ^= 1 << u.int_in_range(0..=7)?;
            assert_eq!(key.open(&nonce, &sealed), Err(OpenError));
            let noise: Vec<u8> = u.arbitrary()?;
            assert!(key.open(&nonce, &noise).is_err());
            Ok(())
        });
    }
}
