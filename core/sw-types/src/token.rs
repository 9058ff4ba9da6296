//! Secrets in text: auth keys, API keys, OAuth clients, invites (keys.md §1.4).

use std::fmt;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use crate::base62;
use crate::secret::Secret;

const ID_DIGITS: usize = 6;
const SECRET_DIGITS: usize = 43;
const INVITE_DIGITS: usize = 22;

/// Why a text is none of our secrets. It may still be a key of another maker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("the text is not one of our keys")]
    Foreign,
    #[error("the key is cut short or mistyped")]
    Malformed,
}

/// What a [`SecretText`] opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TokenKind {
    /// Lets machines join (`swkey-`).
    AuthKey,
    /// Opens the API (`swapi-`).
    ApiKey,
    /// Secret of an OAuth client (`swclient-`).
    ClientSecret,
    /// Access token made with such a secret (`swtoken-`).
    AccessToken,
}

impl TokenKind {
    const ALL: [Self; 4] = [Self::AuthKey, Self::ApiKey, Self::ClientSecret, Self::AccessToken];

    /// The word that the text begins with.
    pub const fn word(self) -> &'static str {
        match self {
            Self::AuthKey => "swkey",
            Self::ApiKey => "swapi",
            Self::ClientSecret => "swclient",
            Self::AccessToken => "swtoken",
        }
    }
}

/// The public part of a secret: six digits, unique per server, the look-up key and the only part shown again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenId([u8; ID_DIGITS]);

impl TokenId {
    /// How many ids there are: 62^6.
    pub const COUNT: u64 = 62_u64.pow(ID_DIGITS as u32);

    /// Takes a random number, reduced modulo [`Self::COUNT`].
    pub fn from_number(number: u64) -> Self {
        let text = base62::encode(&(number % Self::COUNT).to_be_bytes(), ID_DIGITS);
        let mut id = [b'0'; ID_DIGITS];
        id.copy_from_slice(text.as_bytes());
        Self(id)
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|&digit| write!(f, "{}", char::from(digit)))
    }
}

impl fmt::Debug for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenId({self})")
    }
}

impl FromStr for TokenId {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let id = text.as_bytes().try_into().map_err(|_| TokenError::Malformed)?;
        if base62::is_digits(text) { Ok(Self(id)) } else { Err(TokenError::Malformed) }
    }
}

/// What a server keeps of a secret: SHA-256 of its whole text. Enough since the secret is random.
#[derive(Clone, Copy)]
pub struct TokenHash([u8; 32]);

impl TokenHash {
    /// Hashes a text as presented; keys of other makers are kept in the same way.
    pub fn of(text: &str) -> Self {
        Self(Sha256::digest(text.as_bytes()).into())
    }

    /// Takes stored bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes to store.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Compares in constant time.
    pub fn ct_eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenHash(***)")
    }
}

/// A secret as it is shown once and presented later: `swkey-ID-SECRET` and the like.
#[derive(Debug)]
pub struct SecretText {
    kind: TokenKind,
    id: TokenId,
    text: Secret<String>,
}

impl SecretText {
    /// Makes a secret of 32 random bytes of the operating system's generator.
    pub fn generate(kind: TokenKind, id: TokenId, random: [u8; 32]) -> Self {
        let random = Zeroizing::new(random);
        let secret = Zeroizing::new(base62::encode(&*random, SECRET_DIGITS));
        Self { kind, id, text: Secret::new(format!("{}-{id}-{}", kind.word(), *secret)) }
    }

    /// What it opens.
    pub const fn kind(&self) -> TokenKind {
        self.kind
    }

    /// The public part, by which the server finds its record.
    pub const fn id(&self) -> TokenId {
        self.id
    }

    /// The whole text.
    pub const fn text(&self) -> &Secret<String> {
        &self.text
    }

    /// What the server keeps.
    pub fn hash(&self) -> TokenHash {
        TokenHash::of(self.text.expose())
    }
}

impl FromStr for SecretText {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let (word, rest) = text.split_once('-').ok_or(TokenError::Foreign)?;
        let kind = TokenKind::ALL.into_iter().find(|kind| kind.word() == word).ok_or(TokenError::Foreign)?;
        let (id, secret) = rest.split_once('-').ok_or(TokenError::Malformed)?;
        if secret.len() != SECRET_DIGITS || !base62::is_digits(secret) {
            return Err(TokenError::Malformed);
        }
        Ok(Self { kind, id: id.parse()?, text: Secret::new(text.to_owned()) })
    }
}

/// The 16 secret bytes of an invite (`/j/TOKEN`) or an admin link (`/admin/TOKEN`); text: 22 digits.
pub struct InviteToken(Zeroizing<[u8; 16]>);

impl InviteToken {
    const AUTH_KEY_WORD: &'static str = "swinv-";

    /// Takes 16 random bytes of the operating system's generator.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The bytes, as the join string carries them.
    pub fn expose_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// The id of the invite's record: the first 5 bytes of SHA-256 of the token, modulo 62^6.
    pub fn id(&self) -> TokenId {
        let hash: [u8; 32] = Sha256::digest(*self.0).into();
        let [a, b, c, d, e, ..] = hash;
        TokenId::from_number(u64::from_be_bytes([0, 0, 0, a, b, c, d, e]))
    }

    /// The 22 digits of the link.
    pub fn to_text(&self) -> Secret<String> {
        Secret::new(base62::encode(&*self.0, INVITE_DIGITS))
    }

    /// The invite as `Auth.AuthKey` of a joining machine: `swinv-` and the 22 digits.
    pub fn to_auth_key(&self) -> Secret<String> {
        Secret::new(format!("{}{}", Self::AUTH_KEY_WORD, self.to_text().expose()))
    }

    /// Reads what [`Self::to_auth_key`] wrote.
    ///
    /// # Errors
    /// [`TokenError::Foreign`] when it is no invite at all, [`TokenError::Malformed`] when it is a damaged one.
    pub fn from_auth_key(text: &str) -> Result<Self, TokenError> {
        text.strip_prefix(Self::AUTH_KEY_WORD).ok_or(TokenError::Foreign)?.parse()
    }

    /// Compares in constant time.
    pub fn ct_eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&*other.0).into()
    }
}

impl FromStr for InviteToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        if text.len() != INVITE_DIGITS {
            return Err(TokenError::Malformed);
        }
        base62::decode(text).map(Self::from_bytes).ok_or(TokenError::Malformed)
    }
}

impl fmt::Debug for InviteToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "InviteToken(id {})", self.id())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_survive_their_text_and_show_nothing() {
        arbtest::arbtest(|u| {
            let kind = *u.choose(&TokenKind::ALL)?;
            let made = SecretText::generate(kind, TokenId::from_number(u.arbitrary()?), u.arbitrary()?);
            let read: SecretText = made.text().expose().parse().unwrap();
            assert_eq!((read.kind(), read.id()), (kind, made.id()));
            assert!(read.hash().ct_eq(&made.hash()));
            let secret = made.text().expose().rsplit('-').next().unwrap();
            assert!(!format!("{made:?}").contains(secret));

            let invite = InviteToken::from_bytes(u.arbitrary()?);
            let read: InviteToken = invite.to_text().expose().parse().unwrap();
            assert!(read.ct_eq(&invite));
            assert!(InviteToken::from_auth_key(invite.to_auth_key().expose()).unwrap().ct_eq(&invite));
            Ok(())
        });
    }

    #[test]
    fn foreign_and_damaged_texts_are_told_apart() {
        for (text, expected) in [
            ("tskey-auth-abc", TokenError::Foreign),
            ("0123456789abcdef", TokenError::Foreign),
            ("swkey", TokenError::Foreign),
            ("swkey-", TokenError::Malformed),
            ("swkey-000000-short", TokenError::Malformed),
            ("swkey-00000-0000000000000000000000000000000000000000000", TokenError::Malformed),
            ("swkey-00000!-0000000000000000000000000000000000000000000", TokenError::Malformed),
            ("swkey-000000-000000000000000000000000000000000000000000_", TokenError::Malformed),
        ] {
            assert_eq!(text.parse::<SecretText>().err(), Some(expected), "{text}");
        }
        // 62^22 is more than 2^128: the largest digits do not fit 16 bytes.
        assert_eq!("z".repeat(22).parse::<InviteToken>().err(), Some(TokenError::Malformed));
        assert_eq!(InviteToken::from_auth_key("hskey-auth").err(), Some(TokenError::Foreign));
    }
}
