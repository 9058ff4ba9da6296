//! Hex text forms: exact prefix, then exactly two digits per byte (keys.md §1.1).

use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

use serde::de;
use zeroize::Zeroizing;

use super::KeyError;

/// Lower-case hex digits.
pub(super) fn hex_encode(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    text
}

/// Reads `prefix` and then exactly `2 * N` hex digits of either case.
pub(super) fn hex_decode<const N: usize>(
    text: &str,
    prefix: &'static str,
) -> Result<Zeroizing<[u8; N]>, KeyError> {
    let digits = text.strip_prefix(prefix).ok_or(KeyError::Prefix { expected: prefix })?.as_bytes();
    if digits.len() != 2 * N {
        return Err(KeyError::Length { expected: 2 * N, got: digits.len() });
    }
    let mut bytes = Zeroizing::new([0; N]);
    for (byte, pair) in bytes.iter_mut().zip(digits.as_chunks::<2>().0) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Ok(bytes)
}

fn digit(character: u8) -> Result<u8, KeyError> {
    match character {
        b'0'..=b'9' => Ok(character - b'0'),
        b'a'..=b'f' => Ok(character - b'a' + 10),
        b'A'..=b'F' => Ok(character - b'A' + 10),
        _ => Err(KeyError::NotHex),
    }
}

/// Reads a key from a JSON string; `null` is the zero key.
pub(super) struct KeyVisitor<K> {
    prefix: &'static str,
    key: PhantomData<K>,
}

impl<K> KeyVisitor<K> {
    pub(super) fn new(prefix: &'static str) -> Self {
        Self { prefix, key: PhantomData }
    }
}

impl<K: FromStr<Err = KeyError> + Default> de::Visitor<'_> for KeyVisitor<K> {
    type Value = K;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a key that begins with {:?}", self.prefix)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<K, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_unit<E: de::Error>(self) -> Result<K, E> {
        Ok(K::default())
    }
}
