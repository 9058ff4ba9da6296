//! The part of CBOR that lock objects use, in CTAP2 canonical form: what is not canonical is refused, so that an
//! object and its bytes are the same thing and can be hashed (keys.md §4.1).

use std::collections::BTreeMap;

use crate::LockError;

/// Deepest nesting.
pub(crate) const DEPTH_MAX: u8 = 16;
const LIST_MAX: u64 = 4096;
const MAP_MAX: u64 = 1024;

const UINT: u8 = 0;
const BYTES: u8 = 2;
const TEXT: u8 = 3;
const LIST: u8 = 4;
const MAP: u8 = 5;
const NULL: u8 = 0xf6;

/// A value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Null,
    Uint(u64),
    Bytes(Vec<u8>),
    Text(String),
    List(Vec<Value>),
    /// A map with number keys: all objects are such.
    Fields(Fields),
    /// A map from text to text.
    Words(BTreeMap<String, String>),
}

impl Value {
    /// Bytes, or null when there are none.
    pub(crate) fn bytes(bytes: Option<&[u8]>) -> Self {
        bytes.map_or(Self::Null, |bytes| Self::Bytes(bytes.to_vec()))
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Null => out.push(NULL),
            Self::Uint(number) => head(UINT, *number, out),
            Self::Bytes(bytes) => string(BYTES, bytes, out),
            Self::Text(text) => string(TEXT, text.as_bytes(), out),
            Self::List(items) => {
                head(LIST, items.len() as u64, out);
                items.iter().for_each(|item| item.encode(out));
            }
            Self::Fields(fields) => {
                head(MAP, fields.0.len() as u64, out);
                for (key, value) in &fields.0 {
                    head(UINT, *key, out);
                    value.encode(out);
                }
            }
            Self::Words(words) => {
                // Canonical order: shorter keys first, then by bytes.
                let mut sorted: Vec<_> = words.iter().collect();
                sorted.sort_by_key(|(key, _)| (key.len(), *key));
                head(MAP, sorted.len() as u64, out);
                for (key, value) in sorted {
                    string(TEXT, key.as_bytes(), out);
                    string(TEXT, value.as_bytes(), out);
                }
            }
        }
    }
}

/// The fields of an object by number, ascending. Taking one out marks it as known.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(crate) struct Fields(BTreeMap<u64, Value>);

impl Fields {
    pub(crate) fn set(&mut self, key: u64, value: Value) {
        self.0.insert(key, value);
    }

    /// Sets the field unless there is nothing to set.
    pub(crate) fn set_some(&mut self, key: u64, value: Option<Value>) {
        if let Some(value) = value {
            self.set(key, value);
        }
    }

    pub(crate) fn take(&mut self, key: u64) -> Option<Value> {
        self.0.remove(&key)
    }

    pub(crate) fn take_uint(&mut self, key: u64) -> Result<Option<u64>, LockError> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::Uint(number)) => Ok(Some(number)),
            Some(_) => Err(LockError::Shape),
        }
    }

    /// Bytes that the object must have, though they may be null.
    pub(crate) fn take_nullable_bytes(&mut self, key: u64) -> Result<Option<Vec<u8>>, LockError> {
        match self.take(key) {
            None => Err(LockError::Fields),
            Some(Value::Null) => Ok(None),
            Some(Value::Bytes(bytes)) => Ok(Some(bytes)),
            Some(_) => Err(LockError::Shape),
        }
    }

    /// Bytes that the object may have.
    pub(crate) fn take_bytes(&mut self, key: u64) -> Result<Option<Vec<u8>>, LockError> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::Bytes(bytes)) => Ok(Some(bytes)),
            Some(_) => Err(LockError::Shape),
        }
    }

    pub(crate) fn take_words(&mut self, key: u64) -> Result<Option<BTreeMap<String, String>>, LockError> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::Words(words)) => Ok(Some(words)),
            Some(_) => Err(LockError::Shape),
        }
    }

    /// Refuses fields that nobody took: what is not understood cannot be written again and hashed.
    pub(crate) fn finish(&self) -> Result<(), LockError> {
        if self.0.is_empty() { Ok(()) } else { Err(LockError::Fields) }
    }
}

fn head(major: u8, number: u64, out: &mut Vec<u8>) {
    let major = major << 5;
    match number {
        0..24 => out.push(major | number as u8),
        24..=0xff => out.extend([major | 24, number as u8]),
        0x100..=0xffff => {
            out.push(major | 25);
            out.extend((number as u16).to_be_bytes());
        }
        0x1_0000..=0xffff_ffff => {
            out.push(major | 26);
            out.extend((number as u32).to_be_bytes());
        }
        _ => {
            out.push(major | 27);
            out.extend(number.to_be_bytes());
        }
    }
}

fn string(major: u8, bytes: &[u8], out: &mut Vec<u8>) {
    head(major, bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

/// Reads one object and nothing behind it.
pub(crate) fn decode(input: &[u8]) -> Result<Fields, LockError> {
    let mut reader = Reader(input);
    let value = reader.value(0)?;
    if !reader.0.is_empty() {
        return Err(LockError::Trailing);
    }
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

/// What is left to read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], LockError> {
        let (first, rest) = self.0.split_first_chunk::<N>().ok_or(LockError::Short)?;
        self.0 = rest;
        Ok(*first)
    }

    /// Major type and number, in the shortest form.
    fn head(&mut self) -> Result<(u8, u64), LockError> {
        let [byte] = self.take()?;
        let (number, least) = match byte & 0x1f {
            short @ 0..24 => (u64::from(short), 0),
            24 => (u64::from(self.take::<1>()?[0]), 24),
            25 => (u64::from(u16::from_be_bytes(self.take()?)), 0x100),
            26 => (u64::from(u32::from_be_bytes(self.take()?)), 0x1_0000),
            27 => (u64::from_be_bytes(self.take()?), 0x1_0000_0000),
            _ => return Err(LockError::NotCanonical),
        };
        if number < least {
            return Err(LockError::NotCanonical);
        }
        Ok((byte >> 5, number))
    }

    fn bytes(&mut self, len: u64) -> Result<&'a [u8], LockError> {
        let len = usize::try_from(len).map_err(|_| LockError::Short)?;
        let (bytes, rest) = self.0.split_at_checked(len).ok_or(LockError::Short)?;
        self.0 = rest;
        Ok(bytes)
    }

    fn text(&mut self, len: u64) -> Result<String, LockError> {
        std::str::from_utf8(self.bytes(len)?).map(str::to_owned).map_err(|_| LockError::Shape)
    }

    fn value(&mut self, depth: u8) -> Result<Value, LockError> {
        if self.0.first() == Some(&NULL) {
            self.take::<1>()?;
            return Ok(Value::Null);
        }
        let (major, number) = self.head()?;
        match major {
            UINT => Ok(Value::Uint(number)),
            BYTES => Ok(Value::Bytes(self.bytes(number)?.to_vec())),
            TEXT => Ok(Value::Text(self.text(number)?)),
            LIST | MAP if depth >= DEPTH_MAX => Err(LockError::TooDeep),
            LIST if number > LIST_MAX => Err(LockError::TooLong { got: number }),
            LIST => {
                let mut items = Vec::new();
                for _ in 0..number {
                    items.push(self.value(depth + 1)?);
                }
                Ok(Value::List(items))
            }
            MAP if number > MAP_MAX => Err(LockError::TooLong { got: number }),
            MAP if self.0.first().is_some_and(|byte| byte >> 5 == TEXT) => self.words(number),
            MAP => self.fields(number, depth),
            _ => Err(LockError::NotCanonical),
        }
    }

    fn fields(&mut self, number: u64, depth: u8) -> Result<Value, LockError> {
        let mut fields = Fields::default();
        for _ in 0..number {
            let (major, key) = self.head()?;
            if major != UINT || fields.0.last_key_value().is_some_and(|(last, _)| *last >= key) {
                return Err(LockError::NotCanonical);
            }
            let value = self.value(depth + 1)?;
            fields.set(key, value);
        }
        Ok(Value::Fields(fields))
    }

    fn words(&mut self, number: u64) -> Result<Value, LockError> {
        let mut words = BTreeMap::new();
        let mut last: Option<String> = None;
        for _ in 0..number {
            let (major, len) = self.head()?;
            if major != TEXT {
                return Err(LockError::Shape);
            }
            let key = self.text(len)?;
            if last.is_some_and(|last| (last.len(), last.as_str()) >= (key.len(), key.as_str())) {
                return Err(LockError::NotCanonical);
            }
            let (major, len) = self.head()?;
            if major != TEXT {
                return Err(LockError::Shape);
            }
            words.insert(key.clone(), self.text(len)?);
            last = Some(key);
        }
        Ok(Value::Words(words))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_canonical_form_is_read() {
        for (bytes, error) in [
            (&[0xa1, 0x18, 0x01, 0x00][..], LockError::NotCanonical), // a longer form of 1
            (&[0xa1, 0x01, 0x19, 0x00, 0xff], LockError::NotCanonical), // a longer form of 255
            (&[0xbf, 0xff], LockError::NotCanonical),                 // indefinite length
            (&[0xa1, 0x01, 0xc0, 0x00], LockError::NotCanonical),     // tag
            (&[0xa1, 0x01, 0xf5], LockError::NotCanonical),           // true
            (&[0xa2, 0x02, 0x00, 0x01, 0x00], LockError::NotCanonical), // unsorted
            (&[0xa2, 0x01, 0x00, 0x01, 0x00], LockError::NotCanonical), // repeated
            (&[0xa1, 0x01], LockError::Short),
            (&[0xa1, 0x01, 0x5b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], LockError::Short),
            (&[0xa0, 0x00], LockError::Trailing),
            (&[0x80], LockError::Shape),
        ] {
            assert_eq!(decode(bytes), Err(error), "{bytes:02x?}");
        }
    }

    #[test]
    fn nesting_and_lengths_have_limits() {
        let nested = |depth: u8| {
            let mut bytes = Vec::new();
            for _ in 0..depth {
                bytes.extend([0xa1, 0x01]);
            }
            bytes.push(0x00);
            bytes
        };
        assert!(decode(&nested(DEPTH_MAX)).is_ok());
        assert_eq!(decode(&nested(DEPTH_MAX + 1)), Err(LockError::TooDeep));

        let list = |len: u16| {
            let mut bytes = vec![0xa1, 0x01, 0x99];
            bytes.extend(len.to_be_bytes());
            bytes.resize(bytes.len() + usize::from(len), 0);
            bytes
        };
        assert!(decode(&list(4096)).is_ok());
        assert_eq!(decode(&list(4097)), Err(LockError::TooLong { got: 4097 }));
        let map = |len: u16| {
            let mut bytes = Vec::new();
            head(MAP, len.into(), &mut bytes);
            for key in 0..len {
                head(UINT, key.into(), &mut bytes);
                bytes.push(NULL);
            }
            bytes
        };
        assert!(decode(&map(1024)).is_ok());
        assert_eq!(decode(&map(1025)), Err(LockError::TooLong { got: 1025 }));
    }

    #[test]
    fn what_is_read_is_written_as_the_same_bytes() {
        arbtest::arbtest(|u| {
            let bytes: Vec<u8> = u.arbitrary()?;
            if let Ok(fields) = decode(&bytes) {
                let mut written = Vec::new();
                Value::Fields(fields).encode(&mut written);
                assert_eq!(written, bytes);
            }
            Ok(())
        });
    }
}
