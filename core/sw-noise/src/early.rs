//! The early payload: JSON that a server may send before HTTP/2 begins (control.md §1.6).

/// Longest JSON that is read, as the official client does.
pub const EARLY_JSON_MAX: usize = 10 << 20;
/// Longest JSON that is sent: the official Rust client reads no more.
pub const EARLY_JSON_SENT_MAX: usize = 1024;

/// Cannot be the header of an HTTP/2 frame that a server begins with.
const MAGIC: [u8; 5] = [0xff, 0xff, 0xff, b'T', b'S'];

/// The payload is longer than [`EARLY_JSON_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("early payload of {got} bytes, at most {EARLY_JSON_MAX} are read")]
pub struct EarlyError {
    pub got: u32,
}

/// What the first bytes of a server are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EarlySplit<'a> {
    /// Not known until more has come.
    NeedMore,
    /// A payload, and what follows it.
    Payload { json: &'a [u8], rest: &'a [u8] },
    /// No payload: everything belongs to HTTP/2.
    Http2 { rest: &'a [u8] },
}

/// Splits the early payload off everything that the server has sent so far.
///
/// # Errors
/// [`EarlyError`].
pub fn split_early(input: &[u8]) -> Result<EarlySplit<'_>, EarlyError> {
    let Some((header, body)) = input.split_first_chunk::<9>() else {
        return Ok(EarlySplit::NeedMore);
    };
    let [m0, m1, m2, m3, m4, length @ ..] = *header;
    if [m0, m1, m2, m3, m4] != MAGIC {
        return Ok(EarlySplit::Http2 { rest: input });
    }
    let length = u32::from_be_bytes(length);
    if length as usize > EARLY_JSON_MAX {
        return Err(EarlyError { got: length });
    }
    Ok(match body.split_at_checked(length as usize) {
        Some((json, rest)) => EarlySplit::Payload { json, rest },
        None => EarlySplit::NeedMore,
    })
}

/// Appends an early payload.
///
/// # Panics
/// When `json` is longer than [`EARLY_JSON_SENT_MAX`]: it holds one key.
pub fn push_early(json: &[u8], plain: &mut Vec<u8>) {
    assert!(json.len() <= EARLY_JSON_SENT_MAX, "the early payload holds one key");
    plain.extend(MAGIC);
    plain.extend((json.len() as u32).to_be_bytes());
    plain.extend(json);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_is_found_however_it_is_cut() {
        let mut wire = Vec::new();
        push_early(b"{}", &mut wire);
        wire.extend(b"PRI");
        for end in 0..11 {
            assert_eq!(split_early(&wire[..end]), Ok(EarlySplit::NeedMore));
        }
        assert_eq!(split_early(&wire), Ok(EarlySplit::Payload { json: b"{}", rest: b"PRI" }));
    }

    #[test]
    fn http2_without_a_payload_loses_nothing() {
        let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
        assert_eq!(split_early(&settings), Ok(EarlySplit::Http2 { rest: &settings }));
        assert_eq!(split_early(&settings[..8]), Ok(EarlySplit::NeedMore));
    }

    #[test]
    fn length_has_a_limit() {
        let header = |length: u32| [&MAGIC[..], &length.to_be_bytes()].concat();
        assert_eq!(split_early(&header(EARLY_JSON_MAX as u32)), Ok(EarlySplit::NeedMore));
        let got = EARLY_JSON_MAX as u32 + 1;
        assert_eq!(split_early(&header(got)), Err(EarlyError { got }));
    }
}
