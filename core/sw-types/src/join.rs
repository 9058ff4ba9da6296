//! The join string `sw1.…`: where the server is, which key it has, and an invite (keys.md §1.4).

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use crate::clock::UnixTime;
use crate::key::ControlKey;
use crate::secret::Secret;
use crate::token::InviteToken;

const PREFIX: &str = "sw1.";
/// Longest text (keys.md §1.4).
const TEXT_MAX: usize = 512;
/// Most candidate addresses (keys.md §1.4).
const ADDRESSES_MAX: usize = 8;
const MORE: u8 = 0x80;
const KIND_NAME: u8 = 1;
const KIND_V4: u8 = 4;
const KIND_V6: u8 = 6;

/// Why a join string cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    #[error("the text does not begin with \"sw1.\"")]
    NotAJoinString,
    #[error("the join string is longer than {TEXT_MAX} characters")]
    TooLong,
    /// The check sum is wrong or bytes are missing: the text was not copied whole.
    #[error("the join string is cut or mistyped")]
    Cut,
    #[error("a join string holds 1 to {ADDRESSES_MAX} addresses")]
    AddressCount,
    #[error("a name in a join string is 1 to 255 printable ASCII characters")]
    Name,
}

/// First 16 bytes of SHA-256 of the server's Noise public key: what the joining machine checks `/key` against.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ServerKeyHash([u8; 16]);

impl ServerKeyHash {
    /// Hashes a server's key.
    pub fn of(key: &ControlKey) -> Self {
        let hash: [u8; 32] = Sha256::digest(key.as_bytes()).into();
        let mut first = [0; 16];
        first.copy_from_slice(&hash[..16]);
        Self(first)
    }

    /// Returns true when `key` is the one that was hashed.
    pub fn matches(&self, key: &ControlKey) -> bool {
        self.0.ct_eq(&Self::of(key).0).into()
    }
}

impl fmt::Debug for ServerKeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServerKeyHash({:02x}{:02x}…)", self.0[0], self.0[1])
    }
}

/// One place where the server may answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JoinAddress {
    V4(Ipv4Addr, u16),
    V6(Ipv6Addr, u16),
    /// An ASCII host name of 1 to 255 characters.
    Name(String, u16),
}

/// All that a machine needs to join.
#[derive(Debug)]
pub struct JoinString {
    addresses: Vec<JoinAddress>,
    server_key: ServerKeyHash,
    invite: InviteToken,
    expiry: UnixTime,
}

impl JoinString {
    /// Puts a join string together. `addresses` are candidates, best first; `expiry` is cut to whole seconds of
    /// the years 1970 to 2106.
    ///
    /// # Errors
    /// [`JoinError::AddressCount`], [`JoinError::Name`], and [`JoinError::TooLong`] when the names are too long
    /// for the text.
    pub fn new(
        addresses: Vec<JoinAddress>,
        server_key: ServerKeyHash,
        invite: InviteToken,
        expiry: UnixTime,
    ) -> Result<Self, JoinError> {
        if !(1..=ADDRESSES_MAX).contains(&addresses.len()) {
            return Err(JoinError::AddressCount);
        }
        for address in &addresses {
            if let JoinAddress::Name(name, _) = address {
                check_name(name.as_bytes())?;
            }
        }
        let seconds = expiry.as_secs().clamp(0, i64::from(u32::MAX));
        let join = Self { addresses, server_key, invite, expiry: UnixTime::from_secs(seconds) };
        if join.to_text().expose().len() > TEXT_MAX {
            return Err(JoinError::TooLong);
        }
        Ok(join)
    }

    /// The candidates, best first.
    pub fn addresses(&self) -> &[JoinAddress] {
        &self.addresses
    }

    /// What the server's key must hash to.
    pub const fn server_key(&self) -> ServerKeyHash {
        self.server_key
    }

    /// The invite to register with.
    pub const fn invite(&self) -> &InviteToken {
        &self.invite
    }

    /// When the invite ends.
    pub const fn expiry(&self) -> UnixTime {
        self.expiry
    }

    /// The text, `sw1.` and base64url.
    pub fn to_text(&self) -> Secret<String> {
        let mut bytes = Vec::with_capacity(64);
        for (index, address) in self.addresses.iter().enumerate() {
            let more = if index + 1 < self.addresses.len() { MORE } else { 0 };
            let port = match address {
                JoinAddress::V4(ip, port) => {
                    bytes.push(KIND_V4 | more);
                    bytes.extend(ip.octets());
                    port
                }
                JoinAddress::V6(ip, port) => {
                    bytes.push(KIND_V6 | more);
                    bytes.extend(ip.octets());
                    port
                }
                JoinAddress::Name(name, port) => {
                    bytes.extend([KIND_NAME | more, name.len() as u8]);
                    bytes.extend(name.as_bytes());
                    port
                }
            };
            bytes.extend(port.to_be_bytes());
        }
        bytes.extend(self.server_key.0);
        bytes.extend(self.invite.expose_bytes());
        bytes.extend((self.expiry.as_secs() as u32).to_be_bytes());
        let check = check_bytes(&bytes);
        bytes.extend(check);
        let text = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(&bytes));
        zeroize::Zeroize::zeroize(&mut bytes);
        Secret::new(text)
    }
}

fn check_bytes(bytes: &[u8]) -> [u8; 2] {
    let hash: [u8; 32] = Sha256::digest(bytes).into();
    [hash[0], hash[1]]
}

fn check_name(name: &[u8]) -> Result<(), JoinError> {
    let fits = (1..=255).contains(&name.len()) && name.iter().all(u8::is_ascii_graphic);
    if fits { Ok(()) } else { Err(JoinError::Name) }
}

impl FromStr for JoinString {
    type Err = JoinError;

    fn from_str(text: &str) -> Result<Self, JoinError> {
        let text = text.trim();
        if text.len() > TEXT_MAX {
            return Err(JoinError::TooLong);
        }
        let encoded = text.strip_prefix(PREFIX).ok_or(JoinError::NotAJoinString)?;
        let bytes = URL_SAFE_NO_PAD.decode(encoded).map_err(|_| JoinError::Cut)?;
        let (body, check) = bytes.split_last_chunk::<2>().ok_or(JoinError::Cut)?;
        if check_bytes(body) != *check {
            return Err(JoinError::Cut);
        }
        let mut input = Input(body);
        let mut addresses = Vec::new();
        loop {
            if addresses.len() == ADDRESSES_MAX {
                return Err(JoinError::AddressCount);
            }
            let [kind] = input.take()?;
            addresses.push(input.address(kind & !MORE)?);
            if kind & MORE == 0 {
                break;
            }
        }
        let server_key = ServerKeyHash(input.take()?);
        let invite = InviteToken::from_bytes(input.take()?);
        let expiry = UnixTime::from_secs(i64::from(u32::from_be_bytes(input.take()?)));
        if !input.0.is_empty() {
            return Err(JoinError::Cut);
        }
        Ok(Self { addresses, server_key, invite, expiry })
    }
}

/// What is left to read.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], JoinError> {
        let (first, rest) = self.0.split_first_chunk::<N>().ok_or(JoinError::Cut)?;
        self.0 = rest;
        Ok(*first)
    }

    fn address(&mut self, kind: u8) -> Result<JoinAddress, JoinError> {
        match kind {
            KIND_V4 => Ok(JoinAddress::V4(self.take::<4>()?.into(), self.port()?)),
            KIND_V6 => Ok(JoinAddress::V6(self.take::<16>()?.into(), self.port()?)),
            KIND_NAME => {
                let [len] = self.take()?;
                let (name, rest) = self.0.split_at_checked(usize::from(len)).ok_or(JoinError::Cut)?;
                check_name(name)?;
                self.0 = rest;
                Ok(JoinAddress::Name(String::from_utf8_lossy(name).into_owned(), self.port()?))
            }
            _ => Err(JoinError::Cut),
        }
    }

    fn port(&mut self) -> Result<u16, JoinError> {
        self.take().map(u16::from_be_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn join(addresses: Vec<JoinAddress>) -> Result<JoinString, JoinError> {
        let server_key = ServerKeyHash::of(&ControlKey::from_bytes([9; 32]));
        JoinString::new(addresses, server_key, InviteToken::from_bytes([7; 16]), UnixTime::from_secs(1 << 31))
    }

    #[test]
    fn addresses_are_1_to_8_and_the_text_at_most_512_characters() {
        let one = JoinAddress::V4(Ipv4Addr::LOCALHOST, 443);
        assert_eq!(join(vec![]).err(), Some(JoinError::AddressCount));
        assert!(join(vec![one.clone(); 8]).is_ok());
        assert_eq!(join(vec![one; 9]).err(), Some(JoinError::AddressCount));
        // 508 characters hold 381 bytes; 38 are fixed, 4 frame each name.
        let names =
            |last: usize| vec![JoinAddress::Name("a".repeat(255), 1), JoinAddress::Name("a".repeat(last), 1)];
        assert_eq!(join(names(80)).map(|j| j.to_text().expose().len()).ok(), Some(512));
        assert_eq!(join(names(81)).err(), Some(JoinError::TooLong));
        let long = format!("{PREFIX}{}", "A".repeat(TEXT_MAX));
        assert_eq!(long.parse::<JoinString>().err(), Some(JoinError::TooLong));
        for bad in [String::new(), "a".repeat(256), "ä".into(), "a b".into()] {
            assert_eq!(join(vec![JoinAddress::Name(bad, 1)]).err(), Some(JoinError::Name));
        }
    }

    #[test]
    fn any_cut_text_is_called_cut() {
        let text = join(vec![JoinAddress::V6(Ipv6Addr::LOCALHOST, 443)]).unwrap().to_text().expose().clone();
        for end in PREFIX.len()..text.len() {
            assert_eq!(text[..end].parse::<JoinString>().err(), Some(JoinError::Cut));
        }
        assert_eq!("https://x".parse::<JoinString>().err(), Some(JoinError::NotAJoinString));
    }

    #[test]
    fn every_join_string_survives_its_text() {
        arbtest::arbtest(|u| {
            let mut addresses = Vec::new();
            for _ in 0..u.int_in_range(1..=8)? {
                addresses.push(match u.int_in_range(0..=2)? {
                    0 => JoinAddress::V4(u.arbitrary()?, u.arbitrary()?),
                    1 => JoinAddress::V6(u.arbitrary()?, u.arbitrary()?),
                    _ => JoinAddress::Name("a-b.example".repeat(u.int_in_range(1..=2)?), u.arbitrary()?),
                });
            }
            let expiry = UnixTime::from_secs(i64::from(u.arbitrary::<u32>()?));
            let key = ServerKeyHash::of(&ControlKey::from_bytes(u.arbitrary()?));
            let made =
                JoinString::new(addresses, key, InviteToken::from_bytes(u.arbitrary()?), expiry).unwrap();
            let read: JoinString = made.to_text().expose().parse().unwrap();
            assert_eq!(read.addresses(), made.addresses());
            assert_eq!((read.server_key(), read.expiry()), (made.server_key(), made.expiry()));
            assert!(read.invite().ct_eq(made.invite()));
            Ok(())
        });
    }
}
