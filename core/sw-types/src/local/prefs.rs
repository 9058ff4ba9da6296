//! Preferences: what the user wants of the node (localapi-cli.md §A5).

use std::net::SocketAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use thiserror::Error;

use super::profile::Persist;
use super::{is_false, null_is_default};

/// How much of the firewall is ours: 0 off, 1 chains without jumps, 2 on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(into = "u8", try_from = "u8")]
pub enum NetfilterMode {
    Off,
    NoDivert,
    #[default]
    On,
}

impl From<NetfilterMode> for u8 {
    fn from(mode: NetfilterMode) -> Self {
        match mode {
            NetfilterMode::Off => 0,
            NetfilterMode::NoDivert => 1,
            NetfilterMode::On => 2,
        }
    }
}

impl TryFrom<u8> for NetfilterMode {
    type Error = String;

    fn try_from(number: u8) -> Result<Self, String> {
        match number {
            0 => Ok(Self::Off),
            1 => Ok(Self::NoDivert),
            2 => Ok(Self::On),
            other => Err(format!("netfilter mode {other} is not 0, 1 or 2")),
        }
    }
}

/// Whether updates are looked for, and made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct AutoUpdatePrefs {
    pub check: bool,
    pub apply: Option<bool>,
}

impl Default for AutoUpdatePrefs {
    fn default() -> Self {
        Self { check: true, apply: None }
    }
}

/// Whether this node routes for named applications.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct AppConnectorPrefs {
    pub advertise: bool,
}

/// What the user wants of the node. The default is that of a fresh Linux machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Prefs {
    /// Empty: the hosted service.
    #[serde(rename = "ControlURL", deserialize_with = "null_is_default")]
    pub control_url: String,
    /// Accept the subnet routes of others.
    pub route_all: bool,
    #[serde(rename = "ExitNodeID", deserialize_with = "null_is_default")]
    pub exit_node_id: String,
    /// An address in text, or empty.
    #[serde(rename = "ExitNodeIP", deserialize_with = "null_is_default")]
    pub exit_node_ip: String,
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "String::is_empty")]
    pub auto_exit_node: String,
    #[serde(deserialize_with = "null_is_default")]
    pub internal_exit_node_prior: String,
    #[serde(rename = "ExitNodeAllowLANAccess")]
    pub exit_node_allow_lan_access: bool,
    /// Use the network's DNS settings.
    #[serde(rename = "CorpDNS")]
    pub corp_dns: bool,
    #[serde(rename = "RunSSH")]
    pub run_ssh: bool,
    pub run_web_client: bool,
    pub want_running: bool,
    pub logged_out: bool,
    pub shields_up: bool,
    pub advertise_tags: Option<Vec<String>>,
    #[serde(deserialize_with = "null_is_default")]
    pub hostname: String,
    #[serde(rename = "NotepadURLs")]
    pub notepad_urls: bool,
    #[serde(skip_serializing_if = "is_false")]
    pub force_daemon: bool,
    #[serde(skip_serializing_if = "is_false")]
    pub egg: bool,
    pub advertise_routes: Option<Vec<IpNet>>,
    pub advertise_services: Option<Vec<String>>,
    pub sync: Option<bool>,
    #[serde(rename = "NoSNAT")]
    pub no_snat: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_stateful_filtering: Option<bool>,
    pub netfilter_mode: NetfilterMode,
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "String::is_empty")]
    pub operator_user: String,
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "String::is_empty")]
    pub profile_name: String,
    pub auto_update: AutoUpdatePrefs,
    pub app_connector: AppConnectorPrefs,
    pub posture_checking: bool,
    #[serde(deserialize_with = "null_is_default")]
    pub netfilter_kind: String,
    pub remote_config: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drive_shares: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relay_server_port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relay_server_static_endpoints: Option<Vec<SocketAddr>>,
    /// The profile's identity; without secrets wherever it leaves the daemon.
    pub config: Option<Persist>,
}

impl Default for Prefs {
    fn default() -> Self {
        Self {
            control_url: String::new(),
            route_all: false,
            exit_node_id: String::new(),
            exit_node_ip: String::new(),
            auto_exit_node: String::new(),
            internal_exit_node_prior: String::new(),
            exit_node_allow_lan_access: false,
            corp_dns: true,
            run_ssh: false,
            run_web_client: false,
            want_running: false,
            logged_out: false,
            shields_up: false,
            advertise_tags: None,
            hostname: String::new(),
            notepad_urls: false,
            force_daemon: false,
            egg: false,
            advertise_routes: None,
            advertise_services: None,
            sync: None,
            no_snat: false,
            no_stateful_filtering: Some(true),
            netfilter_mode: NetfilterMode::On,
            operator_user: String::new(),
            profile_name: String::new(),
            auto_update: AutoUpdatePrefs::default(),
            app_connector: AppConnectorPrefs::default(),
            posture_checking: false,
            netfilter_kind: String::new(),
            remote_config: false,
            drive_shares: None,
            relay_server_port: None,
            relay_server_static_endpoints: None,
            config: None,
        }
    }
}

impl Prefs {
    /// Whether both default routes are advertised.
    pub fn advertises_exit_node(&self) -> bool {
        let routes = self.advertise_routes.as_deref().unwrap_or_default();
        let has_default =
            |is_v4: bool| routes.iter().any(|net| net.prefix_len() == 0 && net.addr().is_ipv4() == is_v4);
        has_default(true) && has_default(false)
    }

    /// The same without the secrets of [`Persist`], for everybody's eyes.
    #[must_use]
    pub fn without_secrets(&self) -> Self {
        let mut shown = self.clone();
        shown.config = shown.config.map(|persist| persist.without_secrets());
        shown
    }
}

/// Why a change of preferences was refused.
#[derive(Debug, Error)]
pub enum PrefsError {
    #[error("the body is not a JSON object")]
    NotAnObject,
    #[error("there is no setting {0:?}")]
    Unknown(String),
    #[error("{0:?} cannot be set")]
    NotSettable(String),
    #[error("{0}")]
    Value(#[from] serde_json::Error),
}

/// A change of some preferences: fields of [`Prefs`], each with `<Field>Set: true`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MaskedPrefs(Map<String, Value>);

impl MaskedPrefs {
    /// Adds a change. `field` is the JSON name.
    pub fn set(&mut self, field: &str, value: impl Into<Value>) -> &mut Self {
        self.0.insert(field.to_owned(), value.into());
        self.0.insert(format!("{field}Set"), Value::Bool(true));
        self
    }

    /// Whether nothing is changed.
    pub fn is_empty(&self) -> bool {
        self.changed_fields().next().is_none()
    }

    /// Whether the field of this JSON name is changed.
    pub fn sets(&self, field: &str) -> bool {
        self.changed_fields().any(|changed| changed.eq_ignore_ascii_case(field))
    }

    /// Returns the JSON names of the changed fields, as the sender spelt them.
    pub fn changed_fields(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|(name, value)| {
            let field = name.strip_suffix("Set").or_else(|| name.strip_suffix("set"))?;
            let is_set = match value {
                Value::Bool(is_set) => *is_set,
                // AutoUpdateSet is an object of flags.
                Value::Object(flags) => flags.values().any(|flag| flag == &Value::Bool(true)),
                Value::Null | Value::Number(_) | Value::String(_) | Value::Array(_) => false,
            };
            is_set.then_some(field)
        })
    }

    /// Returns `prefs` with the changes made. Names match in any case, as Go's decoder takes them.
    pub fn apply_to(&self, prefs: &Prefs) -> Result<Prefs, PrefsError> {
        let Value::Object(mut fields) = serde_json::to_value(prefs)? else {
            return Err(PrefsError::NotAnObject);
        };
        let known: Vec<String> = all_field_names()?;
        for changed in self.changed_fields() {
            let Some(name) = known.iter().find(|name| name.eq_ignore_ascii_case(changed)) else {
                return Err(PrefsError::Unknown(changed.to_owned()));
            };
            if matches!(name.as_str(), "InternalExitNodePrior" | "Config") {
                return Err(PrefsError::NotSettable(name.clone()));
            }
            let value = self
                .0
                .iter()
                .find(|(key, _)| key.eq_ignore_ascii_case(changed))
                .map_or(Value::Null, |(_, value)| value.clone());
            match (fields.get_mut(name), value) {
                // Only the named parts of AutoUpdate and AppConnector change.
                (Some(Value::Object(present)), Value::Object(parts)) => present.extend(parts),
                (_, value) => {
                    fields.insert(name.clone(), value);
                }
            }
        }
        if self.sets("ExitNodeID") || self.sets("ExitNodeIP") {
            if !self.sets("AutoExitNode") {
                fields.remove("AutoExitNode");
            }
            // One of the two decides.
            let other = if self.sets("ExitNodeID") { "ExitNodeIP" } else { "ExitNodeID" };
            if !self.sets(other) {
                fields.insert(other.to_owned(), Value::String(String::new()));
            }
        }
        Ok(serde_json::from_value(Value::Object(fields))?)
    }
}

/// The JSON names of all fields, those left out when empty included.
fn all_field_names() -> Result<Vec<String>, PrefsError> {
    let full = Prefs {
        auto_exit_node: "any".to_owned(),
        force_daemon: true,
        egg: true,
        operator_user: "x".to_owned(),
        profile_name: "x".to_owned(),
        drive_shares: Some(Value::Null),
        relay_server_port: Some(0),
        relay_server_static_endpoints: Some(Vec::new()),
        ..Prefs::default()
    };
    match serde_json::to_value(full)? {
        Value::Object(fields) => Ok(fields.into_iter().map(|(name, _)| name).collect()),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            Err(PrefsError::NotAnObject)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_fields_marked_as_set_change() {
        let change: MaskedPrefs = serde_json::from_str(
            r#"{"RouteAll":true,"RouteAllSet":true,"Hostname":"ignored","ShieldsUp":true,"ShieldsUpSet":false}"#,
        )
        .expect("JSON");
        let prefs = change.apply_to(&Prefs::default()).expect("a good change");
        assert!(prefs.route_all && !prefs.shields_up && prefs.hostname.is_empty());
    }

    #[test]
    fn names_match_in_any_case_and_null_lists_are_taken() {
        let change: MaskedPrefs =
            serde_json::from_str(r#"{"advertiseroutes":null,"advertiseroutesset":true}"#).expect("JSON");
        let prefs = Prefs { advertise_routes: Some(Vec::new()), ..Prefs::default() };
        assert_eq!(change.apply_to(&prefs).expect("a good change").advertise_routes, None);
    }

    #[test]
    fn a_new_exit_node_ends_the_automatic_choice() {
        let prefs = Prefs {
            auto_exit_node: "any".to_owned(),
            exit_node_ip: "100.64.0.9".to_owned(),
            ..Prefs::default()
        };
        let mut change = MaskedPrefs::default();
        change.set("ExitNodeID", "n7");
        let prefs = change.apply_to(&prefs).expect("a good change");
        assert_eq!((prefs.auto_exit_node.as_str(), prefs.exit_node_ip.as_str()), ("", ""));
    }

    #[test]
    fn unknown_and_internal_settings_are_refused() {
        for field in ["Nonsense", "InternalExitNodePrior", "Config"] {
            let mut change = MaskedPrefs::default();
            change.set(field, "x");
            assert!(change.apply_to(&Prefs::default()).is_err(), "{field}");
        }
    }

    #[test]
    fn the_json_of_a_fresh_machine() {
        let json = serde_json::to_string(&Prefs::default()).expect("serialisable");
        assert_eq!(
            json,
            concat!(
                r#"{"ControlURL":"","RouteAll":false,"ExitNodeID":"","ExitNodeIP":"","InternalExitNodePrior":"","#,
                r#""ExitNodeAllowLANAccess":false,"CorpDNS":true,"RunSSH":false,"RunWebClient":false,"WantRunning":false,"#,
                r#""LoggedOut":false,"ShieldsUp":false,"AdvertiseTags":null,"Hostname":"","NotepadURLs":false,"#,
                r#""AdvertiseRoutes":null,"AdvertiseServices":null,"Sync":null,"NoSNAT":false,"NoStatefulFiltering":true,"#,
                r#""NetfilterMode":2,"AutoUpdate":{"Check":true,"Apply":null},"AppConnector":{"Advertise":false},"#,
                r#""PostureChecking":false,"NetfilterKind":"","RemoteConfig":false,"Config":null}"#,
            )
        );
    }
}
