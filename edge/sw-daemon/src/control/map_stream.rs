//! The frames of a map stream (control.md §5.1): a little-endian length, then one or more zstd frames of JSON.

use std::io::Read as _;

use bytes::{Buf as _, BytesMut};
use sw_tailcfg::{MAP_MESSAGE_MAX, MapResponse, decode_map_response};

use super::ControlError;
use crate::errors::chain;

/// Largest window that a compressed frame may ask for: 8 MiB (threat-model.md §4).
const WINDOW_LOG_MAX: u32 = 23;
const LENGTH_BYTES: usize = 4;

/// Takes messages out of a body.
pub(super) struct Frames {
    body: h2::RecvStream,
    buffer: BytesMut,
}

impl Frames {
    pub(super) fn new(body: h2::RecvStream) -> Self {
        Self { body, buffer: BytesMut::new() }
    }

    /// Waits for the next message; `None` at the end of the stream.
    pub(super) async fn next(&mut self) -> Result<Option<MapResponse>, ControlError> {
        loop {
            if let Some(frame) = self.take_frame()? {
                return decode(&frame).map(Some);
            }
            let Some(chunk) = self.body.data().await else { return Ok(None) };
            let chunk = chunk.map_err(|error| ControlError::Broken(chain(&error)))?;
            let _closed_meanwhile = self.body.flow_control().release_capacity(chunk.len());
            self.buffer.extend_from_slice(&chunk);
        }
    }

    fn take_frame(&mut self) -> Result<Option<BytesMut>, ControlError> {
        let Some(length) = self.buffer.first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
        let length = u32::from_le_bytes(*length) as usize;
        if length > MAP_MESSAGE_MAX {
            return Err(ControlError::Answer(format!("a frame of {length} bytes")));
        }
        if self.buffer.len() < LENGTH_BYTES + length {
            self.buffer.reserve(length.min(1 << 20));
            return Ok(None);
        }
        self.buffer.advance(LENGTH_BYTES);
        Ok(Some(self.buffer.split_to(length)))
    }
}

fn decode(frame: &[u8]) -> Result<MapResponse, ControlError> {
    let json =
        decompress(frame).map_err(|error| ControlError::Answer(format!("a compressed frame: {error}")))?;
    let decoded = decode_map_response(&json).map_err(|error| ControlError::Answer(error.to_string()))?;
    for rejected in decoded.rejected {
        tracing::warn!(id = ?rejected.id, why = %rejected.why, "a peer of the map was not understood");
    }
    Ok(decoded.response)
}

/// Reads all zstd frames of `frame`, as long as they do not get longer than a message may be.
pub(crate) fn decompress(frame: &[u8]) -> std::io::Result<Vec<u8>> {
    // Not `single_frame`: a server may compress the parts of a message apart (RFC 8878 §3.1), and ours does.
    let mut decoder = zstd::stream::read::Decoder::with_buffer(frame)?;
    decoder.window_log_max(WINDOW_LOG_MAX)?;
    let mut json = Vec::new();
    let limit = MAP_MESSAGE_MAX as u64 + 1;
    decoder.take(limit).read_to_end(&mut json)?;
    if json.len() > MAP_MESSAGE_MAX {
        return Err(std::io::Error::other("too long"));
    }
    Ok(json)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_either_form_are_read() {
        // The two forms of control.md §9.3: without and with checksum.
        let keep_alive = "7b224b656570416c697665223a747275657d";
        for (head, tail) in [("28b52ffd0048910000", ""), ("28b52ffd0448910000", "0e260c10")] {
            let hex = format!("{head}{keep_alive}{tail}");
            let bytes: Vec<u8> = (0..hex.len())
                .step_by(2)
                .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex"))
                .collect();
            assert!(decode(&bytes).expect("a message").keep_alive);
        }
    }

    #[test]
    fn a_message_compressed_in_parts_is_read_whole() {
        let parts = ["{\"Domain\":\"x\",\"Peers\":[", "{\"ID\":1},{\"ID\":2}", ",{\"ID\":3}", "]}"];
        let frame: Vec<u8> = parts
            .iter()
            .flat_map(|part| zstd::bulk::compress(part.as_bytes(), 1).expect("compressible"))
            .collect();
        assert_eq!(decode(&frame).expect("a message").peers.len(), 3);
        assert!(decode(&frame[..frame.len() - 1]).is_err(), "a part that is cut off");
    }

    #[test]
    fn bombs_in_many_parts_are_refused() {
        let part = zstd::bulk::compress(&vec![b' '; MAP_MESSAGE_MAX / 4 + 1], 1).expect("compressible");
        assert!(decode(&part.repeat(4)).is_err());
    }

    #[test]
    fn bombs_and_rubbish_are_refused() {
        let bomb = zstd::bulk::compress(&vec![b' '; MAP_MESSAGE_MAX + 2], 1).expect("compressible");
        assert!(decode(&bomb).is_err());
        assert!(decode(b"rubbish").is_err());
    }
}
