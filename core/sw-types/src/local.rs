//! The LocalAPI's JSON types: what daemon and local programs say to each other (localapi-cli.md part A).
//!
//! Objects of the control protocol that pass through unread are raw JSON here; the daemon writes them from the
//! types of `sw-tailcfg`.

mod notify;
mod prefs;
mod profile;
mod serve;
mod status;

pub use notify::{BackendState, EngineStatus, Notify, watch_mask};
pub use prefs::{AppConnectorPrefs, AutoUpdatePrefs, MaskedPrefs, NetfilterMode, Prefs, PrefsError};
pub use profile::{LoginProfile, NetworkProfile, Persist, SecretText, UserProfile};
pub use serve::{HttpHandler, ServeConfig, TcpPortHandler, Unservable, Upstream, UpstreamKind, WebServer};
pub use status::{ExitNodeStatus, PeerStatus, PingResult, Status, TailnetStatus};

use serde::{Deserialize, Deserializer, Serialize};

/// Types of DNS records that a query may name, with their numbers (RFC 1035 §3.2.2, RFC 3596, RFC 2782).
pub const DNS_TYPES: [(&str, u16); 9] = [
    ("A", 1),
    ("NS", 2),
    ("CNAME", 5),
    ("SOA", 6),
    ("PTR", 12),
    ("MX", 15),
    ("TXT", 16),
    ("AAAA", 28),
    ("SRV", 33),
];
/// Where the daemon listens (architecture.md §10.1).
pub const SOCKET_PATH: &str = "/run/samewire/samewire.sock";
/// Where official daemons listen.
pub const OFFICIAL_SOCKET_PATH: &str = "/run/tailscale/tailscaled.sock";
/// The only `Host` besides an empty one that the API accepts.
pub const LOCAL_HOST: &str = "local-tailscaled.sock";

/// The body of `start` (localapi-cli.md §A3).
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct StartOptions {
    #[serde(rename = "FrontendLogID", deserialize_with = "null_is_default")]
    pub frontend_log_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub update_prefs: Option<Prefs>,
    /// A secret; the daemon moves it into one at once.
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "String::is_empty")]
    pub auth_key: String,
}

/// An error as `samewire` shows it and as `--json` carries it (ux.md §1).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    pub slug: String,
    pub what: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub fix: String,
}

/// What, why and the way out, each on a line of its own.
impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.what)?;
        for (name, text) in [("why", &self.why), ("fix", &self.fix)] {
            if !text.is_empty() {
                write!(f, "\n  {name}: {text}")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for Problem {}

/// Takes `null` as the type's default, as Go does.
pub(crate) fn null_is_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// Whether a boolean is false, for fields left out then.
pub(crate) fn is_false(value: &bool) -> bool {
    !*value
}
