//! Forms that single values take in JSON.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sw_types::{UnixTime, parse_addr_port};

/// Returns true for the value that official programs leave out.
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Bytes as a JSON string in standard base64 with padding; empty reads from `null` and writes as `null`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Base64(pub Vec<u8>);

impl Base64 {
    /// Returns true when absent.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<Vec<u8>> for Base64 {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl fmt::Debug for Base64 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Base64({} bytes)", self.0.len())
    }
}

impl Serialize for Base64 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0.is_empty() {
            serializer.serialize_none()
        } else {
            serializer.serialize_str(&STANDARD.encode(&self.0))
        }
    }
}

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?.unwrap_or_default();
        STANDARD.decode(text).map(Self).map_err(|_| serde::de::Error::custom("not base64"))
    }
}

/// A secret in base64, written in the clear: the message exists to carry it.
pub(crate) mod secret_base64 {
    use sw_types::Secret;

    use super::*;

    pub(crate) fn is_empty(secret: &Secret<Vec<u8>>) -> bool {
        secret.expose().is_empty()
    }

    pub(crate) fn serialize<S: Serializer>(
        secret: &Secret<Vec<u8>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let text = Secret::new(STANDARD.encode(secret.expose()));
        serializer.serialize_str(text.expose())
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Secret<Vec<u8>>, D::Error> {
        Base64::deserialize(deserializer).map(|bytes| Secret::new(bytes.0))
    }
}

/// A time that may be unset: absent, `null` or Go's zero time; written as Go's zero time.
pub(crate) mod go_time {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(
        time: &Option<UnixTime>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        time.unwrap_or(UnixTime::GO_ZERO).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<UnixTime>, D::Error> {
        Ok(Option::<UnixTime>::deserialize(deserializer)?.filter(|time| !time.is_go_zero()))
    }
}

/// Addresses with ports; what is not one is dropped, since one bad endpoint of one peer must not cost the map.
pub(crate) fn addr_ports<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<SocketAddr>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    Ok(texts.iter().filter_map(|text| parse_addr_port(text).ok()).collect())
}

/// The same where absent and empty differ.
pub(crate) fn optional_addr_ports<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Vec<SocketAddr>>, D::Error> {
    let texts = Option::<Vec<String>>::deserialize(deserializer)?;
    Ok(texts.map(|texts| texts.iter().filter_map(|text| parse_addr_port(text).ok()).collect()))
}

/// The same for a list beside which another one runs: what is no address becomes the unspecified one.
pub(crate) fn parallel_addr_ports<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<SocketAddr>, D::Error> {
    const NONE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
    let texts = Vec::<String>::deserialize(deserializer)?;
    Ok(texts.iter().map(|text| parse_addr_port(text).unwrap_or(NONE)).collect())
}

/// Declares a closed set of words that may grow: unknown ones are kept.
macro_rules! open_words {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
        #[serde(from = "String", into = "String")]
        pub enum $name {
            $($(#[$vdoc])* $variant,)*
            /// A word that this version does not know.
            Unknown(String),
        }

        impl From<String> for $name {
            fn from(word: String) -> Self {
                match word.as_str() {
                    $($word => Self::$variant,)*
                    _ => Self::Unknown(word),
                }
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> String {
                match value {
                    $($name::$variant => $word.to_owned(),)*
                    $name::Unknown(word) => word,
                }
            }
        }
    };
}
pub(crate) use open_words;
