//! SSH policy and its callbacks (control.md §5.11). Names here are lower camel case.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};
use sw_types::{CapVer, NodeId, NodeKey, StableNodeId, UnixTime};

use crate::wire::{addr_ports, is_default};

/// Rules; the first that fits decides, no rule refuses.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct SshPolicy {
    pub rules: Vec<SshRule>,
}

/// Who may sign in as whom, and what then.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct SshRule {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule_expires: Option<UnixTime>,
    /// Any of them fits.
    pub principals: Vec<SshPrincipal>,
    /// Local user by requested user or `*`: `=` is the same name but never root, empty is no match.
    pub ssh_users: BTreeMap<String, String>,
    pub action: Option<SshAction>,
    /// Environment variables that are taken over, with `*` and `?`.
    #[serde(skip_serializing_if = "is_default")]
    pub accept_env: Vec<String>,
}

/// A source of connections.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct SshPrincipal {
    #[serde(skip_serializing_if = "is_default")]
    pub node: StableNodeId,
    #[serde(rename = "nodeIP", skip_serializing_if = "Option::is_none")]
    pub node_ip: Option<IpAddr>,
    #[serde(skip_serializing_if = "is_default")]
    pub user_login: String,
    #[serde(skip_serializing_if = "is_default")]
    pub any: bool,
}

/// What happens with a connection.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct SshAction {
    /// Shown to the user.
    #[serde(skip_serializing_if = "is_default")]
    pub message: String,
    #[serde(skip_serializing_if = "is_default")]
    pub reject: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub accept: bool,
    /// Nanoseconds; 0 is without end.
    #[serde(rename = "sessionDuration", skip_serializing_if = "is_default")]
    pub session_duration_ns: i64,
    #[serde(skip_serializing_if = "is_default")]
    pub allow_agent_forwarding: bool,
    /// Where the node asks what to do (check mode).
    #[serde(skip_serializing_if = "is_default")]
    pub hold_and_delegate: String,
    #[serde(skip_serializing_if = "is_default")]
    pub allow_local_port_forwarding: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub allow_remote_port_forwarding: bool,
    #[serde(deserialize_with = "addr_ports", skip_serializing_if = "is_default")]
    pub recorders: Vec<SocketAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_recording_failure: Option<SshRecordingFailure>,
}

/// What happens when a session cannot be recorded.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct SshRecordingFailure {
    #[serde(skip_serializing_if = "is_default")]
    pub reject_session_with_message: String,
    #[serde(skip_serializing_if = "is_default")]
    pub terminate_session_with_message: String,
    #[serde(rename = "NotifyURL", skip_serializing_if = "is_default")]
    pub notify_url: String,
}

/// Report of a recording failure, sent to the `NotifyURL`.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct SshEventNotifyRequest {
    /// 1 rejected, 2 terminated, 3 failed.
    pub event_type: i32,
    #[serde(rename = "ConnectionID")]
    pub connection_id: String,
    pub cap_version: CapVer,
    pub node_key: NodeKey,
    pub src_node: NodeId,
    #[serde(rename = "SSHUser")]
    pub ssh_user: String,
    pub local_user: String,
    pub recording_attempts: Vec<SshRecordingAttempt>,
}

/// A recorder that was tried.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct SshRecordingAttempt {
    pub recorder: Option<SocketAddr>,
    pub failure_message: String,
}
