//! Profiles: the identities of this machine in its networks (localapi-cli.md §A3, node-services.md §21).

use serde::{Deserialize, Serialize};

use super::null_is_default;
use crate::{UnixTime, UserId};

/// A person, as the control server describes one.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct UserProfile {
    #[serde(rename = "ID")]
    pub id: UserId,
    #[serde(deserialize_with = "null_is_default")]
    pub login_name: String,
    #[serde(deserialize_with = "null_is_default")]
    pub display_name: String,
    #[serde(
        rename = "ProfilePicURL",
        deserialize_with = "null_is_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub profile_pic_url: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub groups: Option<Vec<String>>,
}

/// The network a profile belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct NetworkProfile {
    #[serde(rename = "MagicDNSName", deserialize_with = "null_is_default")]
    pub magic_dns_name: String,
    #[serde(deserialize_with = "null_is_default")]
    pub domain_name: String,
    #[serde(deserialize_with = "null_is_default")]
    pub display_name: String,
}

/// One identity in one network.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct LoginProfile {
    /// Four hexadecimal digits.
    #[serde(rename = "ID")]
    pub id: String,
    #[serde(deserialize_with = "null_is_default")]
    pub name: String,
    pub network_profile: NetworkProfile,
    /// The key of its preferences in the state file, `profile-<id>`.
    pub key: String,
    pub user_profile: UserProfile,
    #[serde(rename = "NodeID", deserialize_with = "null_is_default")]
    pub node_id: String,
    #[serde(rename = "LocalUserID", deserialize_with = "null_is_default")]
    pub local_user_id: String,
    #[serde(rename = "ControlURL", deserialize_with = "null_is_default")]
    pub control_url: String,
    #[serde(deserialize_with = "null_is_default")]
    pub created: UnixTime,
}

/// Who this node is in its network. With secrets only inside the state file.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Persist {
    /// `privkey:` text.
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "SecretText::is_empty")]
    pub private_node_key: SecretText,
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "SecretText::is_empty")]
    pub old_private_node_key: SecretText,
    pub user_profile: UserProfile,
    /// `nlpriv:` text.
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "SecretText::is_empty")]
    pub network_lock_key: SecretText,
    #[serde(rename = "NodeID", deserialize_with = "null_is_default")]
    pub node_id: String,
    #[serde(rename = "DisallowedTKAStateIDs", skip_serializing_if = "Option::is_none")]
    pub disallowed_tka_state_ids: Option<Vec<String>>,
    /// Ours: the pinned key of the control server, `mkey:` text; empty when none was seen yet.
    #[serde(
        rename = "SamewireServerKey",
        deserialize_with = "null_is_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub server_key: String,
    /// Ours: further addresses of the control server, best first.
    #[serde(
        rename = "SamewireServerURLs",
        deserialize_with = "null_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub server_urls: Vec<String>,
}

impl Persist {
    /// The same without private keys.
    #[must_use]
    pub fn without_secrets(self) -> Self {
        Self {
            private_node_key: SecretText::default(),
            old_private_node_key: SecretText::default(),
            network_lock_key: SecretText::default(),
            ..self
        }
    }
}

/// The text of a private key inside [`Persist`]; prints as `***`.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SecretText(pub String);

impl SecretText {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Drop for SecretText {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.0);
    }
}

impl std::fmt::Debug for SecretText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.is_empty() { "" } else { "***" })
    }
}
