//! Authority updates: how the set of trusted keys changes (keys.md §4.2).

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use sw_noise::primitives::hash;

use crate::LockError;
use crate::cbor::{Fields, Value, decode};

/// Hash of an update: BLAKE2s-256 of its bytes. Text: 52 characters of base32 without padding.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct UpdateHash(pub [u8; 32]);

const BASE32: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
const HASH_TEXT_LEN: usize = 52;

impl fmt::Display for UpdateHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for place in 0..HASH_TEXT_LEN {
            let bit = place * 5;
            let byte = |at: usize| u16::from(self.0.get(at).copied().unwrap_or(0));
            let pair = byte(bit / 8) << 8 | byte(bit / 8 + 1);
            let digit = pair >> (11 - bit % 8) & 31;
            write!(f, "{}", char::from(BASE32[usize::from(digit)]))?;
        }
        Ok(())
    }
}

impl fmt::Debug for UpdateHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UpdateHash({self})")
    }
}

impl FromStr for UpdateHash {
    type Err = LockError;

    fn from_str(text: &str) -> Result<Self, LockError> {
        if text.len() != HASH_TEXT_LEN {
            return Err(LockError::Shape);
        }
        let mut bytes = [0; 32];
        let (mut waiting, mut bits, mut place) = (0_u32, 0, 0);
        for character in text.bytes() {
            let digit = BASE32.iter().position(|known| *known == character).ok_or(LockError::Shape)?;
            waiting = waiting << 5 | digit as u32;
            bits += 5;
            if bits >= 8 {
                bits -= 8;
                *bytes.get_mut(place).ok_or(LockError::Shape)? = (waiting >> bits) as u8;
                place += 1;
                waiting &= (1 << bits) - 1;
            }
        }
        // The four bits that are left over must be zero, so that every hash has one text.
        if waiting == 0 { Ok(Self(bytes)) } else { Err(LockError::Shape) }
    }
}

/// What an update does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum UpdateKind {
    #[default]
    Invalid,
    AddKey,
    RemoveKey,
    NoOp,
    UpdateKey,
    Checkpoint,
    /// Ignored by this version.
    Unknown(u64),
}

impl UpdateKind {
    const fn from_wire(number: u64) -> Self {
        match number {
            0 => Self::Invalid,
            1 => Self::AddKey,
            2 => Self::RemoveKey,
            3 => Self::NoOp,
            4 => Self::UpdateKey,
            5 => Self::Checkpoint,
            number => Self::Unknown(number),
        }
    }

    const fn to_wire(self) -> u64 {
        match self {
            Self::Invalid => 0,
            Self::AddKey => 1,
            Self::RemoveKey => 2,
            Self::NoOp => 3,
            Self::UpdateKey => 4,
            Self::Checkpoint => 5,
            Self::Unknown(number) => number,
        }
    }
}

/// One update. Byte strings are `None` where the wire has null, which hashes cover.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Update {
    pub kind: UpdateKind,
    /// Hash of the update before; `None` for the first one.
    pub previous: Option<Vec<u8>>,
    pub key: Option<TrustedKey>,
    pub key_id: Option<Vec<u8>>,
    pub state: Option<State>,
    pub votes: Option<u64>,
    pub meta: Option<BTreeMap<String, String>>,
    pub signatures: Vec<UpdateSignature>,
}

/// A key that is trusted to sign.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct TrustedKey {
    /// 1 is Ed25519.
    pub kind: u64,
    /// 1 to 4,096.
    pub votes: u64,
    pub public: Option<Vec<u8>>,
    pub meta: Option<BTreeMap<String, String>>,
}

/// The whole set of keys, as a checkpoint carries it.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct State {
    pub last_update: Option<Vec<u8>>,
    pub disablement_values: Option<Vec<Vec<u8>>>,
    pub keys: Option<Vec<TrustedKey>>,
    /// 0 is left out.
    pub state_id_1: u64,
    /// 0 is left out.
    pub state_id_2: u64,
}

/// A signature of an update.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct UpdateSignature {
    pub key_id: Option<Vec<u8>>,
    pub signature: Option<Vec<u8>>,
}

/// A list of objects, `None` for null.
fn list<T>(
    value: Option<Value>,
    item: impl Fn(Value) -> Result<T, LockError>,
) -> Result<Option<Vec<T>>, LockError> {
    match value {
        Some(Value::List(items)) => items.into_iter().map(item).collect::<Result<_, _>>().map(Some),
        Some(Value::Null) => Ok(None),
        None => Err(LockError::Fields),
        Some(Value::Uint(_) | Value::Bytes(_) | Value::Text(_) | Value::Fields(_) | Value::Words(_)) => {
            Err(LockError::Shape)
        }
    }
}

fn object(value: Value) -> Result<Fields, LockError> {
    match value {
        Value::Fields(fields) => Ok(fields),
        Value::Null
        | Value::Uint(_)
        | Value::Bytes(_)
        | Value::Text(_)
        | Value::List(_)
        | Value::Words(_) => Err(LockError::Shape),
    }
}

impl TrustedKey {
    fn to_value(&self) -> Value {
        let mut fields = Fields::default();
        fields.set(1, Value::Uint(self.kind));
        fields.set(2, Value::Uint(self.votes));
        fields.set(3, Value::bytes(self.public.as_deref()));
        fields.set_some(12, self.meta.clone().map(Value::Words));
        Value::Fields(fields)
    }

    fn from_value(value: Value) -> Result<Self, LockError> {
        let mut fields = object(value)?;
        let key = Self {
            kind: fields.take_uint(1)?.ok_or(LockError::Fields)?,
            votes: fields.take_uint(2)?.ok_or(LockError::Fields)?,
            public: fields.take_nullable_bytes(3)?,
            meta: fields.take_words(12)?,
        };
        fields.finish()?;
        Ok(key)
    }
}

impl State {
    fn to_value(&self) -> Value {
        let mut fields = Fields::default();
        fields.set(1, Value::bytes(self.last_update.as_deref()));
        let values = self.disablement_values.as_ref();
        fields.set(
            2,
            values.map_or(Value::Null, |v| Value::List(v.iter().map(|b| Value::Bytes(b.clone())).collect())),
        );
        let keys = self.keys.as_ref();
        fields
            .set(3, keys.map_or(Value::Null, |k| Value::List(k.iter().map(TrustedKey::to_value).collect())));
        fields.set_some(4, (self.state_id_1 != 0).then_some(Value::Uint(self.state_id_1)));
        fields.set_some(5, (self.state_id_2 != 0).then_some(Value::Uint(self.state_id_2)));
        Value::Fields(fields)
    }

    fn from_value(value: Value) -> Result<Self, LockError> {
        let mut fields = object(value)?;
        let nonzero = |id: Option<u64>| match id {
            Some(0) => Err(LockError::NotCanonical),
            id => Ok(id.unwrap_or(0)),
        };
        let state = Self {
            last_update: fields.take_nullable_bytes(1)?,
            disablement_values: list(fields.take(2), |value| match value {
                Value::Bytes(bytes) => Ok(bytes),
                Value::Null
                | Value::Uint(_)
                | Value::Text(_)
                | Value::List(_)
                | Value::Fields(_)
                | Value::Words(_) => Err(LockError::Shape),
            })?,
            keys: list(fields.take(3), TrustedKey::from_value)?,
            state_id_1: nonzero(fields.take_uint(4)?)?,
            state_id_2: nonzero(fields.take_uint(5)?)?,
        };
        fields.finish()?;
        Ok(state)
    }
}

impl UpdateSignature {
    fn to_value(&self) -> Value {
        let mut fields = Fields::default();
        fields.set(1, Value::bytes(self.key_id.as_deref()));
        fields.set(2, Value::bytes(self.signature.as_deref()));
        Value::Fields(fields)
    }

    fn from_value(value: Value) -> Result<Self, LockError> {
        let mut fields = object(value)?;
        let signature =
            Self { key_id: fields.take_nullable_bytes(1)?, signature: fields.take_nullable_bytes(2)? };
        fields.finish()?;
        Ok(signature)
    }
}

impl Update {
    const SIGNATURES: u64 = 23;

    fn fields(&self) -> Fields {
        let mut fields = Fields::default();
        fields.set(1, Value::Uint(self.kind.to_wire()));
        fields.set(2, Value::bytes(self.previous.as_deref()));
        fields.set_some(3, self.key.as_ref().map(TrustedKey::to_value));
        fields.set_some(4, self.key_id.clone().map(Value::Bytes));
        fields.set_some(5, self.state.as_ref().map(State::to_value));
        fields.set_some(6, self.votes.map(Value::Uint));
        fields.set_some(7, self.meta.clone().map(Value::Words));
        let signatures = self.signatures.iter().map(UpdateSignature::to_value).collect();
        fields.set_some(Self::SIGNATURES, (!self.signatures.is_empty()).then_some(Value::List(signatures)));
        fields
    }

    /// The bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        Value::Fields(self.fields()).encode(&mut out);
        out
    }

    /// Reads the bytes.
    ///
    /// # Errors
    /// [`LockError`] for everything that would not be written as the same bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, LockError> {
        let mut fields = decode(bytes)?;
        let signatures = match fields.take(Self::SIGNATURES) {
            None => Vec::new(),
            // An empty list is left out, so it must not be there.
            some => list(some, UpdateSignature::from_value)?
                .filter(|signatures| !signatures.is_empty())
                .ok_or(LockError::NotCanonical)?,
        };
        let update = Self {
            kind: UpdateKind::from_wire(fields.take_uint(1)?.ok_or(LockError::Fields)?),
            previous: fields.take_nullable_bytes(2)?,
            key: fields.take(3).map(TrustedKey::from_value).transpose()?,
            key_id: fields.take_bytes(4)?,
            state: fields.take(5).map(State::from_value).transpose()?,
            votes: fields.take_uint(6)?,
            meta: fields.take_words(7)?,
            signatures,
        };
        fields.finish()?;
        Ok(update)
    }

    /// The name of this update.
    pub fn hash(&self) -> UpdateHash {
        UpdateHash(hash(&[&self.encode()]))
    }

    /// What its signatures sign: the update without them.
    pub fn signature_hash(&self) -> [u8; 32] {
        hash(&[&Self { signatures: Vec::new(), ..self.clone() }.encode()])
    }
}
