//! The notify bus (localapi-cli.md §A3).

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::null_is_default;
use super::prefs::Prefs;

/// The bits of a watcher's mask.
pub mod watch_mask {
    pub const ENGINE_UPDATES: u64 = 1 << 0;
    pub const INITIAL_STATE: u64 = 1 << 1;
    pub const INITIAL_PREFS: u64 = 1 << 2;
    pub const INITIAL_NET_MAP: u64 = 1 << 3;
    pub const INITIAL_HEALTH: u64 = 1 << 7;
    pub const RATE_LIMIT: u64 = 1 << 8;
    pub const PEER_CHANGES: u64 = 1 << 12;
    pub const NO_NET_MAP: u64 = 1 << 13;
    pub const INITIAL_STATUS: u64 = 1 << 14;
    pub const PEER_PATCHES: u64 = 1 << 15;
    pub const IN_PROCESS: u64 = 1 << 16;
}

/// Where the node stands; the numbers are those of the bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(into = "u8", try_from = "u8")]
pub enum BackendState {
    #[default]
    NoState,
    InUseOtherUser,
    NeedsLogin,
    NeedsMachineAuth,
    Stopped,
    Starting,
    Running,
}

impl BackendState {
    const ALL: [Self; 7] = [
        Self::NoState,
        Self::InUseOtherUser,
        Self::NeedsLogin,
        Self::NeedsMachineAuth,
        Self::Stopped,
        Self::Starting,
        Self::Running,
    ];

    /// The name in `Status.BackendState`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoState => "NoState",
            Self::InUseOtherUser => "InUseOtherUser",
            Self::NeedsLogin => "NeedsLogin",
            Self::NeedsMachineAuth => "NeedsMachineAuth",
            Self::Stopped => "Stopped",
            Self::Starting => "Starting",
            Self::Running => "Running",
        }
    }
}

impl From<BackendState> for u8 {
    fn from(state: BackendState) -> Self {
        state as Self
    }
}

impl TryFrom<u8> for BackendState {
    type Error = String;

    fn try_from(number: u8) -> Result<Self, String> {
        Self::ALL.get(usize::from(number)).copied().ok_or_else(|| format!("state {number} is unknown"))
    }
}

/// Traffic figures of the whole node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct EngineStatus {
    pub r_bytes: u64,
    pub w_bytes: u64,
    pub num_live: u32,
    #[serde(rename = "LiveDERPs")]
    pub live_derps: u32,
    pub live_peers: Value,
}

/// One message of the bus; a field that is `None` has not changed. Nine fields are printed even so.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Notify {
    #[serde(deserialize_with = "null_is_default")]
    pub version: String,
    #[serde(
        rename = "SessionID",
        deserialize_with = "null_is_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub session_id: String,
    pub err_message: Option<String>,
    pub login_finished: Option<Value>,
    pub state: Option<BackendState>,
    pub prefs: Option<Prefs>,
    pub net_map: Option<Value>,
    pub engine: Option<EngineStatus>,
    #[serde(rename = "BrowseToURL")]
    pub browse_to_url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub self_change: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initial_status: Option<Box<super::Status>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peers_changed: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peers_removed: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_profiles: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_version: Option<Value>,
    pub drive_shares: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health: Option<Value>,
    /// Ours: the last problem in the words of ux.md, beside `ErrMessage`.
    #[serde(rename = "SamewireProblem", skip_serializing_if = "Option::is_none")]
    pub problem: Option<super::Problem>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_without_omitempty_are_printed_as_null() {
        let json = serde_json::to_string(&Notify::default()).expect("serialisable");
        for field in [
            "ErrMessage",
            "LoginFinished",
            "State",
            "Prefs",
            "NetMap",
            "Engine",
            "BrowseToURL",
            "DriveShares",
        ] {
            assert!(json.contains(&format!("\"{field}\":null")), "{field} in {json}");
        }
    }

    #[test]
    fn states_have_the_official_numbers() {
        assert_eq!(serde_json::to_string(&BackendState::Running).expect("serialisable"), "6");
        assert_eq!(serde_json::from_str::<BackendState>("2").expect("known"), BackendState::NeedsLogin);
        assert!(serde_json::from_str::<BackendState>("7").is_err());
    }
}
