//! Reading and writing whole messages, with limits (threat-model.md §4).

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use sw_types::NodeId;

use crate::go::{Go, Twice};
use crate::map_response::MapResponse;
use crate::node::Node;

/// Largest body of a register or map request and of most answers.
pub const BODY_MAX: usize = 1 << 20;
/// Largest body of a tailnet-lock request or answer.
pub const LOCK_BODY_MAX: usize = 10 << 20;
/// Largest message of a map stream once decompressed.
pub const MAP_MESSAGE_MAX: usize = 64 << 20;
/// Deepest nesting of lists and objects.
pub const DEPTH_MAX: usize = 64;
/// Longest string, in bytes of its JSON form.
pub const STRING_MAX: usize = 1 << 20;

/// The keep-alive of a map stream: always these bytes, since clients compare them (control.md §5.1).
pub const KEEP_ALIVE: &[u8] = br#"{"KeepAlive":true}"#;

/// A message cannot be read. Nothing of its content is part of the error: it may hold an auth key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("message of {got} bytes, at most {limit} are read")]
    TooLong { limit: usize, got: usize },
    #[error("message is nested deeper than {DEPTH_MAX} levels")]
    TooDeep,
    #[error("message holds a string longer than {STRING_MAX} bytes")]
    StringTooLong,
    #[error("message is not JSON (line {line}, column {column})")]
    Syntax { line: usize, column: usize },
    #[error("a value of the message has the wrong type or is out of range (line {line}, column {column})")]
    Type { line: usize, column: usize },
}

impl From<serde_json::Error> for DecodeError {
    fn from(error: serde_json::Error) -> Self {
        let (line, column) = (error.line(), error.column());
        if error.is_data() { Self::Type { line, column } } else { Self::Syntax { line, column } }
    }
}

/// Reads the body of a request, at most [`BODY_MAX`] bytes.
///
/// # Errors
/// [`DecodeError`]; a server answers 400 (413 for [`DecodeError::TooLong`]).
pub fn decode_request<T: DeserializeOwned>(body: &[u8]) -> Result<T, DecodeError> {
    decode(body, BODY_MAX)
}

/// Reads the body of an answer, at most `limit` bytes ([`BODY_MAX`] or [`LOCK_BODY_MAX`]).
///
/// # Errors
/// [`DecodeError`].
pub fn decode_answer<T: DeserializeOwned>(body: &[u8], limit: usize) -> Result<T, DecodeError> {
    decode(body, limit)
}

/// A map message, and the peers that had to be left out of it.
#[derive(Debug)]
pub struct DecodedMap {
    pub response: MapResponse,
    pub rejected: Vec<RejectedPeer>,
}

/// A peer of a map message that cannot be read. It is left out so that the others stay reachable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RejectedPeer {
    /// Its id, if that much can be read.
    pub id: Option<NodeId>,
    pub why: DecodeError,
}

/// Reads one message of a map stream, at most [`MAP_MESSAGE_MAX`] bytes. Peers that cannot be read are left out and
/// listed: one malformed peer must not cut off the whole network (control.md §10.2).
///
/// # Errors
/// [`DecodeError`] when anything else of the message cannot be read.
pub fn decode_map_response(message: &[u8]) -> Result<DecodedMap, DecodeError> {
    check_limits(message, MAP_MESSAGE_MAX)?;
    match decode_strict::<MapResponse>(message) {
        Ok(response) => Ok(DecodedMap { response, rejected: Vec::new() }),
        Err(DecodeError::Type { .. }) => {
            let mut value: Value = serde_json::from_slice(message)?;
            let mut rejected = Vec::new();
            if let Some(object) = value.as_object_mut() {
                for (_, peers) in object.iter_mut().filter(|(name, _)| is_peer_list(name)) {
                    remove_unreadable(peers, &mut rejected);
                }
            }
            let response = serde::Deserialize::deserialize(Go::new(value, Twice::LastWins))?;
            Ok(DecodedMap { response, rejected })
        }
        Err(error) => Err(error),
    }
}

fn is_peer_list(name: &str) -> bool {
    name.eq_ignore_ascii_case("Peers") || name.eq_ignore_ascii_case("PeersChanged")
}

fn remove_unreadable(peers: &mut Value, rejected: &mut Vec<RejectedPeer>) {
    let Some(peers) = peers.as_array_mut() else { return };
    peers.retain(|peer| {
        let read = <Node as serde::Deserialize>::deserialize(Go::new(peer.clone(), Twice::LastWins));
        if let Err(error) = &read {
            let id = peer.get("ID").and_then(Value::as_i64).map(NodeId);
            rejected.push(RejectedPeer {
                id,
                why: DecodeError::Type { line: error.line(), column: error.column() },
            });
        }
        read.is_ok()
    });
}

fn decode<T: DeserializeOwned>(message: &[u8], limit: usize) -> Result<T, DecodeError> {
    check_limits(message, limit)?;
    match decode_strict(message) {
        // WHY: a name that occurs twice is the one thing that the fast way refuses and Go does not.
        Err(error @ DecodeError::Type { .. }) => {
            let value: Value = serde_json::from_slice(message)?;
            T::deserialize(Go::new(value, Twice::LastWins)).map_err(|_| error)
        }
        other => other,
    }
}

fn decode_strict<T: DeserializeOwned>(message: &[u8]) -> Result<T, DecodeError> {
    let mut json = serde_json::Deserializer::from_slice(message);
    let value = T::deserialize(Go::new(&mut json, Twice::Refuse))?;
    json.end()?;
    Ok(value)
}

/// Checks length, nesting and string lengths before anything is allocated.
fn check_limits(message: &[u8], limit: usize) -> Result<(), DecodeError> {
    if message.len() > limit {
        return Err(DecodeError::TooLong { limit, got: message.len() });
    }
    let mut depth = 0_usize;
    let mut string_start = None;
    let mut escaped = false;
    for (place, byte) in message.iter().enumerate() {
        if let Some(start) = string_start {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' if place - start > STRING_MAX => return Err(DecodeError::StringTooLong),
                b'"' => string_start = None,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => string_start = Some(place + 1),
            b'[' | b'{' => {
                depth += 1;
                if depth > DEPTH_MAX {
                    return Err(DecodeError::TooDeep);
                }
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    Ok(())
}

/// Writes a message.
///
/// # Panics
/// Never for the types of this crate: their maps have text or number keys and their numbers are finite.
pub fn encode<T: Serialize>(message: &T) -> Vec<u8> {
    serde_json::to_vec(message).expect("the types of the protocol have a JSON form")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hostinfo::Hostinfo;
    use crate::map_request::MapRequest;

    fn read(body: &str) -> Result<MapRequest, DecodeError> {
        decode_request(body.as_bytes())
    }

    #[test]
    fn null_is_the_zero_value_of_everything() {
        let nulls = r#"{"Version":null,"Compress":null,"KeepAlive":null,"NodeKey":null,"Hostinfo":null,
            "MapSessionSeq":null,"Endpoints":null,"EndpointTypes":null,"HardwareAttestationKeySignature":null,
            "HardwareAttestationKeySignatureTimestamp":null,"HardwareAttestationKey":null,"DiscoKey":null}"#;
        assert_eq!(read(nulls), Ok(MapRequest::default()));
        let inner =
            r#"{"Hostinfo":{"OS":null,"Services":null,"Container":null,"Location":{"Latitude":null}}}"#;
        let location = Some(crate::hostinfo::Location::default());
        assert_eq!(
            read(inner).map(|request| request.hostinfo.as_deref().cloned()),
            Ok(Some(Hostinfo { location, ..Hostinfo::default() }))
        );
    }

    #[test]
    fn the_last_of_two_equal_names_wins_in_any_letter_case() {
        let hostname = |body| read(body).map(|request| request.hostinfo.map(|h| h.hostname.clone()));
        for body in [
            r#"{"Hostinfo":{"Hostname":"a"},"Hostinfo":{"Hostname":"b"}}"#,
            r#"{"Hostinfo":{"Hostname":"a"},"hostinfo":{"Hostname":"b"}}"#,
            r#"{"HOSTINFO":{"Hostname":"a"},"Hostinfo":{"HostName":"b"}}"#,
        ] {
            assert_eq!(hostname(body), Ok(Some("b".to_owned())), "{body}");
        }
    }

    #[test]
    fn wrong_types_and_ranges_are_refused() {
        for body in [
            r#"{"Version":"1"}"#,
            r#"{"Version":65536}"#,
            r#"{"Version":-1}"#,
            r#"{"Version":1.5}"#,
            r#"{"KeepAlive":1}"#,
            r#"{"Compress":1}"#,
            r#"{"NodeKey":""}"#,
            r#"{"NodeKey":"nodekey:00"}"#,
            r#"{"Hostinfo":[]}"#,
            r#"{"EndpointTypes":{}}"#,
            "[]",
            "7",
        ] {
            assert!(matches!(read(body), Err(DecodeError::Type { .. })), "{body}: {:?}", read(body));
        }
        for body in ["", "{", r#"{"Version":1}}"#, "{\"Version\":1}\0", "nul"] {
            assert!(matches!(read(body), Err(DecodeError::Syntax { .. })), "{body}: {:?}", read(body));
        }
    }

    #[test]
    fn nesting_and_strings_are_read_up_to_their_limits() {
        let nested = |depth: usize| format!("{{\"New\":{}{}}}", "[".repeat(depth - 1), "]".repeat(depth - 1));
        assert!(read(&nested(DEPTH_MAX)).is_ok());
        assert_eq!(read(&nested(DEPTH_MAX + 1)), Err(DecodeError::TooDeep));
        // Brackets in strings do not nest.
        assert!(read(&format!("{{\"Compress\":\"{}\\\"{}\"}}", "[".repeat(100), "[".repeat(100))).is_ok());

        let text = |len: usize| format!("{{\"Compress\":\"{}\"}}", "a".repeat(len));
        let read_large = |body: String| decode_answer::<MapRequest>(body.as_bytes(), LOCK_BODY_MAX);
        assert!(read_large(text(STRING_MAX)).is_ok());
        assert_eq!(read_large(text(STRING_MAX + 1)), Err(DecodeError::StringTooLong));

        let map = |len: usize| decode_map_response(format!("{{}}{}", " ".repeat(len - 2)).as_bytes());
        assert!(map(MAP_MESSAGE_MAX).is_ok());
        assert!(matches!(map(MAP_MESSAGE_MAX + 1), Err(DecodeError::TooLong { .. })));
    }

    #[test]
    fn errors_do_not_repeat_what_was_sent() {
        let error = read(r#"{"Version":"tskey-auth-secret"}"#).expect_err("a text is no version");
        assert!(!format!("{error} {error:?}").contains("secret"));
    }

    #[test]
    fn free_values_pass_unchanged() {
        let node: Node = decode_answer(
            br#"{"CapMap":{"https://a/B":null,"c":[{"Deep":null,"deep":[1,2.5,"x"]}]}}"#,
            BODY_MAX,
        )
        .expect("free values are read");
        assert_eq!(node.cap_map["https://a/B"], Vec::<Value>::new());
        assert_eq!(node.cap_map["c"], [serde_json::json!({"Deep": null, "deep": [1, 2.5, "x"]})]);
        let twice: Node =
            decode_answer(br#"{"Name":"a","Name":"b","CapMap":{"c":[{"Deep":null}],"d":null}}"#, BODY_MAX)
                .expect("read the slow way");
        assert_eq!(twice.cap_map["c"], [serde_json::json!({"Deep": null})]);
        assert_eq!(twice.cap_map["d"], Vec::<Value>::new());
        assert_eq!(twice.name, "b");
    }
}
