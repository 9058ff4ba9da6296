//! The two sealed messages of a DERP login (derp.md §6).

use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use sw_types::{MeshKey, NodeKey};

use crate::nacl::{BoxKey, NONCE_LEN, Nonce};

use super::VERSION;

/// Why a login message cannot be read; the connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoginError {
    /// Shorter than key and nonce.
    #[error("login message cut off")]
    TooShort,
    /// The box does not open: the sender does not hold the key it names.
    #[error("login message does not open")]
    Sealed,
    /// The JSON inside cannot be read.
    #[error("login message is not the JSON expected")]
    Json,
}

/// What a client says of itself. Its encoding leaves `meshKey` out unless set: official relays refuse it empty.
#[derive(Debug, Default)]
pub struct ClientInfo {
    /// The secret shared by the relays of a region; from mesh members alone.
    pub mesh_key: Option<MeshKey>,
    /// Protocol version, 2.
    pub version: i64,
    /// Whether it answers pings of the relay.
    pub can_ack_pings: bool,
    /// Whether it is a prober.
    pub is_prober: bool,
    /// Free text for statistics; not trusted.
    pub app_name: String,
}

impl ClientInfo {
    /// What a node says.
    #[must_use]
    pub fn node() -> Self {
        Self { version: VERSION.into(), can_ack_pings: true, ..Self::default() }
    }

    /// The JSON in the official order of fields.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        #[derive(Serialize)]
        struct Wire<'a> {
            #[serde(rename = "meshKey", skip_serializing_if = "Option::is_none")]
            mesh_key: Option<&'a str>,
            version: i64,
            #[serde(rename = "CanAckPings")]
            can_ack_pings: bool,
            #[serde(rename = "IsProber", skip_serializing_if = "std::ops::Not::not")]
            is_prober: bool,
            #[serde(rename = "AppName", skip_serializing_if = "str::is_empty")]
            app_name: &'a str,
        }
        let mesh_key = self.mesh_key.as_ref().map(MeshKey::to_text);
        let wire = Wire {
            mesh_key: mesh_key.as_ref().map(|text| text.expose().as_str()),
            version: self.version,
            can_ack_pings: self.can_ack_pings,
            is_prober: self.is_prober,
            app_name: &self.app_name,
        };
        serde_json::to_vec(&wire).expect("a struct of plain fields always encodes")
    }

    /// Reads the JSON: unknown fields are skipped, names match in any case, `null` counts as absent.
    ///
    /// # Errors
    /// [`LoginError::Json`]; also for a mesh key that is not 64 hex digits.
    pub fn from_json(json: &[u8]) -> Result<Self, LoginError> {
        serde_json::from_slice(json).map_err(|_| LoginError::Json)
    }
}

/// What the relay says of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServerInfo {
    /// Protocol version, 2.
    pub version: i64,
    /// Rate to which the client should keep, framing included; 0 for none.
    pub bytes_per_second: u64,
    /// Burst over that rate.
    pub bytes_burst: u64,
}

impl ServerInfo {
    /// The JSON.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        #[derive(Serialize)]
        struct Wire {
            version: i64,
            #[serde(rename = "TokenBucketBytesPerSecond", skip_serializing_if = "is_zero")]
            bytes_per_second: u64,
            #[serde(rename = "TokenBucketBytesBurst", skip_serializing_if = "is_zero")]
            bytes_burst: u64,
        }
        let wire = Wire {
            version: self.version,
            bytes_per_second: self.bytes_per_second,
            bytes_burst: self.bytes_burst,
        };
        serde_json::to_vec(&wire).expect("a struct of plain fields always encodes")
    }

    /// Reads the JSON, as leniently as [`ClientInfo::from_json`].
    ///
    /// # Errors
    /// [`LoginError::Json`].
    pub fn from_json(json: &[u8]) -> Result<Self, LoginError> {
        serde_json::from_slice(json).map_err(|_| LoginError::Json)
    }
}

/// The body of a ClientInfo frame: key, nonce, box.
#[must_use]
pub fn seal_client_info(key: NodeKey, shared: &BoxKey, nonce: &Nonce, info: &ClientInfo) -> Vec<u8> {
    [&key.as_bytes()[..], &nonce.0, &shared.seal(nonce, &info.to_json())].concat()
}

/// Opens the body of a ClientInfo frame; `agree` gives the box key with the client that the frame names. Gives that
/// key back for the answer: the agreement is the expensive part.
///
/// # Errors
/// See [`LoginError`]; `agree` gives `None` for a key of low order.
pub fn open_client_info(
    body: &[u8],
    agree: impl FnOnce(NodeKey) -> Option<BoxKey>,
) -> Result<(NodeKey, ClientInfo, BoxKey), LoginError> {
    let (key, rest) = body.split_first_chunk::<32>().ok_or(LoginError::TooShort)?;
    let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>().ok_or(LoginError::TooShort)?;
    let key = NodeKey::from_bytes(*key);
    let shared = agree(key).ok_or(LoginError::Sealed)?;
    let json = shared.open(&Nonce(*nonce), sealed).map_err(|_| LoginError::Sealed)?;
    Ok((key, ClientInfo::from_json(&json)?, shared))
}

/// The body of a ServerInfo frame: nonce, box.
#[must_use]
pub fn seal_server_info(shared: &BoxKey, nonce: &Nonce, info: &ServerInfo) -> Vec<u8> {
    [&nonce.0[..], &shared.seal(nonce, &info.to_json())].concat()
}

/// Opens the body of a ServerInfo frame.
///
/// # Errors
/// See [`LoginError`].
pub fn open_server_info(body: &[u8], shared: &BoxKey) -> Result<ServerInfo, LoginError> {
    let (nonce, sealed) = body.split_first_chunk::<NONCE_LEN>().ok_or(LoginError::TooShort)?;
    ServerInfo::from_json(&shared.open(&Nonce(*nonce), sealed).map_err(|_| LoginError::Sealed)?)
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
fn is_zero(value: &u64) -> bool {
    *value == 0
}

// WHY: written by hand so that unknown values are skipped without being stored: a login is read before its sender is
// trusted, and a tree of JSON values is many times the size of its text.
impl<'de> Deserialize<'de> for ClientInfo {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = ClientInfo;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("client info")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<ClientInfo, A::Error> {
                let mut info = ClientInfo::default();
                while let Some(name) = map.next_key::<String>()? {
                    match name.to_ascii_lowercase().as_str() {
                        "meshkey" => {
                            let text = map.next_value::<Option<String>>()?;
                            let key = text.map(|text| MeshKey::from_text(&text)).transpose();
                            info.mesh_key = key.map_err(serde::de::Error::custom)?;
                        }
                        "version" => info.version = map.next_value::<Option<i64>>()?.unwrap_or_default(),
                        "canackpings" => {
                            info.can_ack_pings = map.next_value::<Option<bool>>()?.unwrap_or_default();
                        }
                        "isprober" => info.is_prober = map.next_value::<Option<bool>>()?.unwrap_or_default(),
                        "appname" => info.app_name = map.next_value::<Option<String>>()?.unwrap_or_default(),
                        _ => drop(map.next_value::<IgnoredAny>()?),
                    }
                }
                Ok(info)
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

impl<'de> Deserialize<'de> for ServerInfo {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = ServerInfo;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("server info")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<ServerInfo, A::Error> {
                let mut info = ServerInfo::default();
                while let Some(name) = map.next_key::<String>()? {
                    match name.to_ascii_lowercase().as_str() {
                        "version" => info.version = map.next_value::<Option<i64>>()?.unwrap_or_default(),
                        "tokenbucketbytespersecond" => {
                            info.bytes_per_second = map.next_value::<Option<u64>>()?.unwrap_or_default();
                        }
                        "tokenbucketbytesburst" => {
                            info.bytes_burst = map.next_value::<Option<u64>>()?.unwrap_or_default();
                        }
                        _ => drop(map.next_value::<IgnoredAny>()?),
                    }
                }
                Ok(info)
            }
        }
        deserializer.deserialize_map(Fields)
    }
}
