//! Frames of a map stream: a little-endian length and that many bytes (control.md §5.1). What is inside, JSON or
//! zstd, is the edge's business.

/// Longest frame: no message may be longer even when decompressed (threat-model.md §4).
pub const MAP_FRAME_MAX: usize = 64 << 20;

/// A frame is longer than [`MAP_FRAME_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("map frame of {got} bytes, at most {MAP_FRAME_MAX} are handled")]
pub struct MapFrameTooLong {
    pub got: usize,
}

/// A frame and what follows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapFrame<'a> {
    pub content: &'a [u8],
    pub rest: &'a [u8],
}

/// Splits one frame off the front of `input`. `Ok(None)` means that more bytes are
/// needed.
///
/// # Errors
/// [`MapFrameTooLong`].
pub fn split_map_frame(input: &[u8]) -> Result<Option<MapFrame<'_>>, MapFrameTooLong> {
    let Some((length, rest)) = input.split_first_chunk::<4>() else {
        return Ok(None);
    };
    let got = u32::from_le_bytes(*length) as usize;
    if got > MAP_FRAME_MAX {
        return Err(MapFrameTooLong { got });
    }
    Ok(rest.split_at_checked(got).map(|(content, rest)| MapFrame { content, rest }))
}

/// Appends a frame with this content.
///
/// # Errors
/// [`MapFrameTooLong`].
pub fn push_map_frame(content: &[u8], wire: &mut Vec<u8>) -> Result<(), MapFrameTooLong> {
    if content.len() > MAP_FRAME_MAX {
        return Err(MapFrameTooLong { got: content.len() });
    }
    wire.extend((content.len() as u32).to_le_bytes());
    wire.extend_from_slice(content);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_the_wire() {
        arbtest::arbtest(|u| {
            let (content, more): (Vec<u8>, Vec<u8>) = u.arbitrary()?;
            let mut wire = Vec::new();
            push_map_frame(&content, &mut wire).unwrap();
            assert_eq!(split_map_frame(&wire[..wire.len() - 1]), Ok(None));
            wire.extend(&more);
            assert_eq!(split_map_frame(&wire), Ok(Some(MapFrame { content: &content, rest: &more })));
            Ok(())
        });
    }

    #[test]
    fn length_has_a_limit() {
        assert_eq!(split_map_frame(&(MAP_FRAME_MAX as u32).to_le_bytes()), Ok(None));
        let got = MAP_FRAME_MAX + 1;
        assert_eq!(split_map_frame(&(got as u32).to_le_bytes()), Err(MapFrameTooLong { got }));
    }
}
