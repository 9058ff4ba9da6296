//! Records: what follows the handshake, sealed in pieces of at most 4,096 bytes (control.md §1.5).

use std::fmt;

use crate::primitives::{KeyBytes, TAG_LEN, open_in_place, seal_in_place};

/// Longest record with its header; a longer one is fatal at the official receiver.
pub const RECORD_MAX: usize = 4096;
/// Longest content of one record.
pub const PLAIN_MAX: usize = RECORD_MAX - HEADER_LEN - TAG_LEN;

const HEADER_LEN: usize = 3;
const TYPE_RECORD: u8 = 4;

/// Why a connection is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    #[error("unexpected record type {got}")]
    Type { got: u8 },
    #[error("record of {got} bytes, at most {RECORD_MAX} and at least a tag are read")]
    Length { got: usize },
    #[error("the record does not open")]
    SealBroken,
    #[error("all {} record numbers are used up", u64::MAX)]
    Exhausted,
}

/// Both directions of a connection after the handshake.
#[derive(Debug)]
pub struct Transport {
    writer: RecordWriter,
    reader: RecordReader,
    handshake_hash: [u8; 32],
}

impl Transport {
    pub(crate) fn new(send: KeyBytes, receive: KeyBytes, handshake_hash: [u8; 32]) -> Self {
        Self { writer: RecordWriter::new(send), reader: RecordReader::new(receive), handshake_hash }
    }

    /// What both sides know of this handshake and nobody else (channel binding).
    pub const fn handshake_hash(&self) -> &[u8; 32] {
        &self.handshake_hash
    }

    /// The two directions, to be driven apart.
    pub fn split(self) -> (RecordWriter, RecordReader) {
        (self.writer, self.reader)
    }
}

/// Key and record number of one direction.
struct Direction {
    key: KeyBytes,
    next: u64,
}

impl Direction {
    fn nonce(&mut self) -> Result<[u8; 12], RecordError> {
        if self.next == u64::MAX {
            return Err(RecordError::Exhausted);
        }
        let mut nonce = [0; 12];
        // Big-endian, unlike the Noise specification (control.md §1.5).
        nonce[4..].copy_from_slice(&self.next.to_be_bytes());
        self.next += 1;
        Ok(nonce)
    }
}

/// The sending direction.
pub struct RecordWriter(Direction);

impl RecordWriter {
    fn new(key: KeyBytes) -> Self {
        Self(Direction { key, next: 0 })
    }

    /// Seals `plain` into as many records as it needs and appends them to `wire`.
    ///
    /// # Errors
    /// [`RecordError::Exhausted`]; the connection is over.
    pub fn write(&mut self, plain: &[u8], wire: &mut Vec<u8>) -> Result<(), RecordError> {
        wire.reserve(plain.len() + plain.len().div_ceil(PLAIN_MAX) * (HEADER_LEN + TAG_LEN));
        for piece in plain.chunks(PLAIN_MAX) {
            let nonce = self.0.nonce()?;
            wire.push(TYPE_RECORD);
            wire.extend(((piece.len() + TAG_LEN) as u16).to_be_bytes());
            let start = wire.len();
            wire.extend_from_slice(piece);
            let tag = seal_in_place(&self.0.key, &nonce, &[], &mut wire[start..]);
            wire.extend(tag);
        }
        Ok(())
    }
}

impl fmt::Debug for RecordWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RecordWriter(at record {})", self.0.next)
    }
}

/// The receiving direction. It keeps at most one unfinished record, and nothing between records.
pub struct RecordReader {
    direction: Direction,
    partial: Vec<u8>,
    failed: Option<RecordError>,
}

impl RecordReader {
    fn new(key: KeyBytes) -> Self {
        Self { direction: Direction { key, next: 0 }, partial: Vec::new(), failed: None }
    }

    /// Takes received bytes, cut anywhere, and appends the content of all finished records to `plain`.
    ///
    /// # Errors
    /// [`RecordError`]; the connection is over, and every later call fails alike. What was opened before the bad
    /// record has been appended.
    pub fn read(&mut self, mut wire: &[u8], plain: &mut Vec<u8>) -> Result<(), RecordError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        while !wire.is_empty() {
            let wanted = match self.wanted() {
                Ok(wanted) => wanted,
                Err(error) => return self.fail(error),
            };
            let (piece, rest) = wire.split_at(wanted.min(wire.len()));
            self.partial.extend_from_slice(piece);
            wire = rest;
            match self.wanted() {
                Ok(0) => self.open(plain).or_else(|error| self.fail(error))?,
                Ok(_) => {}
                Err(error) => return self.fail(error),
            }
        }
        if self.partial.is_empty() {
            // An idle connection keeps no buffer: a server has thousands.
            self.partial = Vec::new();
        }
        Ok(())
    }

    /// Returns true when a record has begun and not ended: an end of the stream here is a cut.
    pub fn is_within_record(&self) -> bool {
        !self.partial.is_empty()
    }

    /// How many bytes of the current record, or of its header, are missing.
    fn wanted(&self) -> Result<usize, RecordError> {
        let Some(&[kind, high, low]) = self.partial.first_chunk::<HEADER_LEN>() else {
            return Ok(HEADER_LEN - self.partial.len());
        };
        if kind != TYPE_RECORD {
            return Err(RecordError::Type { got: kind });
        }
        let total = HEADER_LEN + usize::from(u16::from_be_bytes([high, low]));
        if !(HEADER_LEN + TAG_LEN..=RECORD_MAX).contains(&total) {
            return Err(RecordError::Length { got: total });
        }
        Ok(total.saturating_sub(self.partial.len()))
    }

    fn open(&mut self, plain: &mut Vec<u8>) -> Result<(), RecordError> {
        let nonce = self.direction.nonce()?;
        let record = self.partial.get_mut(HEADER_LEN..).and_then(<[u8]>::split_last_chunk_mut::<TAG_LEN>);
        let (sealed, tag) = record.ok_or(RecordError::SealBroken)?;
        open_in_place(&self.direction.key, &nonce, &[], sealed, tag).map_err(|_| RecordError::SealBroken)?;
        plain.extend_from_slice(sealed);
        self.partial.clear();
        Ok(())
    }

    fn fail(&mut self, error: RecordError) -> Result<(), RecordError> {
        self.failed = Some(error);
        Err(error)
    }
}

impl fmt::Debug for RecordReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RecordReader(at record {})", self.direction.next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zeroize::Zeroizing;

    fn pair() -> (RecordWriter, RecordReader) {
        (RecordWriter::new(Zeroizing::new([7; 32])), RecordReader::new(Zeroizing::new([7; 32])))
    }

    #[test]
    fn any_bytes_cut_anywhere_arrive_whole() {
        arbtest::arbtest(|u| {
            let (mut writer, mut reader) = pair();
            let (mut sent, mut received) = (Vec::new(), Vec::new());
            while !u.is_empty() && sent.len() < 20_000 {
                let plain = vec![u.arbitrary()?; u.int_in_range(0..=9000)?];
                let mut wire = Vec::new();
                writer.write(&plain, &mut wire).unwrap();
                let cut = u.int_in_range(0..=wire.len())?;
                reader.read(&wire[..cut], &mut received).unwrap();
                reader.read(&wire[cut..], &mut received).unwrap();
                sent.extend(plain);
            }
            assert!(sent == received && !reader.is_within_record());
            Ok(())
        });
    }

    #[test]
    fn arbitrary_bytes_never_open_and_never_panic() {
        arbtest::arbtest(|u| {
            let (_, mut reader) = pair();
            let mut plain = Vec::new();
            let wire: Vec<u8> = u.arbitrary()?;
            let first = reader.read(&wire, &mut plain);
            assert!(plain.is_empty() && reader.partial.len() <= RECORD_MAX);
            if first.is_err() {
                assert_eq!(reader.read(&[], &mut plain), first);
            }
            Ok(())
        });
    }

    #[test]
    fn records_are_at_most_4096_bytes() {
        let (mut writer, mut reader) = pair();
        let mut wire = Vec::new();
        writer.write(&[1; PLAIN_MAX], &mut wire).unwrap();
        assert_eq!(wire.len(), RECORD_MAX);
        let mut plain = Vec::new();
        reader.read(&wire, &mut plain).unwrap();
        assert_eq!(plain.len(), 4077);

        wire.clear();
        writer.write(&[1; PLAIN_MAX + 1], &mut wire).unwrap();
        assert_eq!(wire.len(), RECORD_MAX + HEADER_LEN + TAG_LEN + 1);

        let header = |length: u16| [&[TYPE_RECORD][..], &length.to_be_bytes()].concat();
        assert_eq!(pair().1.read(&header(4093), &mut plain), Ok(()));
        assert_eq!(pair().1.read(&header(4094), &mut plain), Err(RecordError::Length { got: 4097 }));
        assert_eq!(pair().1.read(&header(16), &mut plain), Ok(()));
        assert_eq!(pair().1.read(&header(15), &mut plain), Err(RecordError::Length { got: 18 }));
        assert_eq!(pair().1.read(&[5, 0, 0], &mut plain), Err(RecordError::Type { got: 5 }));
    }

    #[test]
    fn replayed_changed_and_reordered_records_end_the_connection() {
        let (mut writer, mut reader) = pair();
        let (mut first, mut second, mut plain) = (Vec::new(), Vec::new(), Vec::new());
        writer.write(b"a", &mut first).unwrap();
        writer.write(b"b", &mut second).unwrap();
        assert_eq!(pair().1.read(&second, &mut plain), Err(RecordError::SealBroken));
        for place in HEADER_LEN..first.len() {
            let mut changed = first.clone();
            changed[place] ^= 1;
            assert_eq!(pair().1.read(&changed, &mut plain), Err(RecordError::SealBroken));
        }
        reader.read(&first, &mut plain).unwrap();
        assert_eq!(reader.read(&first, &mut plain), Err(RecordError::SealBroken));
        assert_eq!(reader.read(&second, &mut plain), Err(RecordError::SealBroken));
        assert_eq!(plain, b"a");
    }

    #[test]
    fn the_last_record_number_is_never_used() {
        let (mut writer, mut reader) = pair();
        writer.0.next = u64::MAX - 1;
        reader.direction.next = u64::MAX - 1;
        let (mut wire, mut plain) = (Vec::new(), Vec::new());
        writer.write(b"last", &mut wire).unwrap();
        reader.read(&wire, &mut plain).unwrap();
        assert_eq!(plain, b"last");
        assert_eq!(writer.write(b"more", &mut wire), Err(RecordError::Exhausted));
    }
}
