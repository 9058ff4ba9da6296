//! Registration, `/key` and the early payload (control.md §1.1, §1.6, §3).

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sw_types::{CapVer, ChallengeKey, LockKey, MachineKey, NodeKey, Secret, UnixTime, UserId};

use crate::hostinfo::Hostinfo;
use crate::wire::{Base64, go_time, is_default, open_words};

/// Answer to `GET /key?v=N` (control.md §1.1).
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct OverTlsPublicKeyResponse {
    /// Key of the transport before 2022; zero for new servers, and always written.
    #[serde(rename = "legacyPublicKey")]
    pub legacy_public_key: MachineKey,
    /// The server's Noise key.
    #[serde(rename = "publicKey")]
    pub public_key: MachineKey,
}

/// The early payload (control.md §1.6). Nobody answers the challenge.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct EarlyNoise {
    #[serde(rename = "nodeKeyChallenge")]
    pub node_key_challenge: ChallengeKey,
}

open_words! {
    /// How a [`RegisterRequest`] is signed with a device certificate.
    SignatureType {
        /// Not signed; left out.
        #[default]
        None = "signature-none",
        /// The server chooses.
        Undecided = "signature-unknown",
        V1 = "signature-v1",
        V2 = "signature-v2",
    }
}

/// Body of `POST /machine/register` (control.md §3.1).
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct RegisterRequest {
    pub version: CapVer,
    /// The key to be registered.
    pub node_key: NodeKey,
    /// The profile's key before; zero at the first registration, and written all the same.
    pub old_node_key: NodeKey,
    /// The node's tailnet-lock key.
    #[serde(rename = "NLKey")]
    pub nl_key: LockKey,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth: Option<RegisterAuth>,
    /// May only shorten the key's life; in the past it means log-out.
    #[serde(with = "go_time")]
    pub expiry: Option<UnixTime>,
    /// The `AuthURL` that was got before: the server holds its answer until that has been dealt with.
    pub followup: String,
    pub hostinfo: Option<Arc<Hostinfo>>,
    #[serde(skip_serializing_if = "is_default")]
    pub ephemeral: bool,
    pub node_key_signature: Base64,
    #[serde(skip_serializing_if = "is_default")]
    pub signature_type: SignatureType,
    #[serde(with = "go_time", skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<UnixTime>,
    #[serde(skip_serializing_if = "is_default")]
    pub device_cert: Base64,
    #[serde(skip_serializing_if = "is_default")]
    pub signature: Base64,
    /// The wished network; the prefix `required:` refuses all others.
    #[serde(skip_serializing_if = "is_default")]
    pub tailnet: String,
}

impl RegisterRequest {
    /// The `Expiry` by which official clients log out, unix second 123 (control.md §3.6).
    pub fn logout_expiry() -> UnixTime {
        UnixTime::from_secs(123)
    }
}

/// How a machine proves that it may join without a person.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct RegisterAuth {
    #[serde(serialize_with = "sw_types::serialize_exposed", skip_serializing_if = "Secret::is_empty")]
    pub auth_key: Secret<String>,
}

/// Answer to `POST /machine/register`: every field is written, since the official Rust client wants them all; the
/// signature alone is left out when empty (control.md §3.2).
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct RegisterResponse {
    pub user: User,
    pub login: Login,
    /// Make a new node key and register again at once.
    pub node_key_expired: bool,
    /// Must be false beside `auth_url` or `error`: the Rust client looks here first.
    pub machine_authorized: bool,
    /// Not registered yet: a person must go there.
    #[serde(rename = "AuthURL")]
    pub auth_url: String,
    #[serde(skip_serializing_if = "is_default")]
    pub node_key_signature: Base64,
    /// Failed, for the reason that this tells the user; everything else is then ignored.
    pub error: String,
}

/// The owner of a machine.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct User {
    #[serde(rename = "ID")]
    pub id: UserId,
    pub display_name: String,
    #[serde(rename = "ProfilePicURL", skip_serializing_if = "is_default")]
    pub profile_pic_url: String,
    #[serde(with = "go_time", skip_serializing_if = "Option::is_none")]
    pub created: Option<UnixTime>,
}

/// The identity by which the owner signed in.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Login {
    #[serde(rename = "ID")]
    pub id: UserId,
    pub provider: String,
    /// Never empty and never changing for one person: clients know their profiles by it.
    pub login_name: String,
    pub display_name: String,
    #[serde(rename = "ProfilePicURL", skip_serializing_if = "is_default")]
    pub profile_pic_url: String,
}
