//! The content of `node.state`: the shape of official clients, so that one may take over from the other
//! (node-services.md §21).

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sw_types::local::{LoginProfile, Prefs, ServeConfig};
use sw_types::{MachinePrivate, Secret};
use thiserror::Error;

const MACHINE_KEY: &str = "_machinekey";
const PROFILES: &str = "_profiles";
const CURRENT_PROFILE: &str = "_current-profile";
const PROFILE_PREFIX: &str = "profile-";
const SERVE_PREFIX: &str = "_serve/";

/// What is wrong with a state file.
#[derive(Debug, Error)]
pub enum StateError {
    #[error("it is no JSON object of base64 texts")]
    Shape,
    #[error("the entry {0} is damaged")]
    Entry(String),
}

/// Everything the node keeps over a restart.
#[derive(Debug, Default)]
pub struct StateFile {
    entries: BTreeMap<String, Vec<u8>>,
}

impl StateFile {
    /// Reads the file's content.
    pub fn parse(text: &[u8]) -> Result<Self, StateError> {
        let encoded: BTreeMap<String, String> =
            serde_json::from_slice(text).map_err(|_| StateError::Shape)?;
        let entries = encoded
            .into_iter()
            .map(|(key, value)| match STANDARD.decode(value) {
                Ok(bytes) => Ok((key, bytes)),
                Err(_) => Err(StateError::Entry(key)),
            })
            .collect::<Result<_, _>>()?;
        let state = Self { entries };
        // Damage must show at start, not when a key is needed.
        state.machine_key()?;
        state.profiles()?;
        state.prefs()?;
        state.serve_config()?;
        Ok(state)
    }

    /// Writes the file's content.
    pub fn render(&self) -> Vec<u8> {
        let encoded: BTreeMap<&str, String> =
            self.entries.iter().map(|(key, value)| (key.as_str(), STANDARD.encode(value))).collect();
        let mut text = serde_json::to_vec_pretty(&encoded).expect("text keys and values have a JSON form");
        text.push(b'\n');
        text
    }

    /// The machine's key towards control servers.
    pub fn machine_key(&self) -> Result<Option<MachinePrivate>, StateError> {
        let Some(text) = self.entries.get(MACHINE_KEY) else { return Ok(None) };
        let text = Secret::from(String::from_utf8_lossy(text).into_owned());
        MachinePrivate::from_text(text.expose())
            .map(Some)
            .map_err(|_| StateError::Entry(MACHINE_KEY.to_owned()))
    }

    /// Sets the machine's key.
    pub fn set_machine_key(&mut self, key: &MachinePrivate) {
        self.entries.insert(MACHINE_KEY.to_owned(), key.to_text().expose().clone().into_bytes());
    }

    /// All profiles by id.
    pub fn profiles(&self) -> Result<BTreeMap<String, LoginProfile>, StateError> {
        match self.entries.get(PROFILES) {
            Some(text) => serde_json::from_slice::<Option<_>>(text)
                .map(Option::unwrap_or_default)
                .map_err(|_| StateError::Entry(PROFILES.to_owned())),
            None => Ok(BTreeMap::new()),
        }
    }

    /// The id of the profile in use; empty when there is none.
    pub fn current_profile(&self) -> String {
        let key = self.entries.get(CURRENT_PROFILE).map(|text| String::from_utf8_lossy(text).into_owned());
        key.as_deref().and_then(|key| key.strip_prefix(PROFILE_PREFIX)).unwrap_or_default().to_owned()
    }

    /// Chooses the profile in use; empty for none.
    pub fn set_current_profile(&mut self, id: &str) {
        let key = if id.is_empty() { String::new() } else { format!("{PROFILE_PREFIX}{id}") };
        self.entries.insert(CURRENT_PROFILE.to_owned(), key.into_bytes());
    }

    /// The preferences, with keys, of the profile in use.
    pub fn prefs(&self) -> Result<Option<Prefs>, StateError> {
        self.prefs_of(&self.current_profile())
    }

    /// The preferences of a profile.
    pub fn prefs_of(&self, id: &str) -> Result<Option<Prefs>, StateError> {
        let key = format!("{PROFILE_PREFIX}{id}");
        match self.entries.get(&key).filter(|_| !id.is_empty()) {
            Some(text) => serde_json::from_slice(text).map(Some).map_err(|_| StateError::Entry(key)),
            None => Ok(None),
        }
    }

    /// What the profile in use serves.
    pub fn serve_config(&self) -> Result<ServeConfig, StateError> {
        let key = format!("{SERVE_PREFIX}{}", self.current_profile());
        match self.entries.get(&key) {
            Some(text) => serde_json::from_slice::<Option<_>>(text)
                .map(Option::unwrap_or_default)
                .map_err(|_| StateError::Entry(key)),
            None => Ok(ServeConfig::default()),
        }
    }

    /// Sets what the profile in use serves; what ends with its maker is left out.
    pub fn set_serve_config(&mut self, config: &ServeConfig) -> Result<(), StateError> {
        let key = format!("{SERVE_PREFIX}{}", self.current_profile());
        let background = config.background();
        if background.is_empty() {
            self.entries.remove(&key);
            return Ok(());
        }
        let text = serde_json::to_vec(&background).map_err(|_| StateError::Entry(key.clone()))?;
        self.entries.insert(key, text);
        Ok(())
    }

    /// Stores a profile and its preferences, and makes it the one in use.
    pub fn put(&mut self, profile: LoginProfile, prefs: &Prefs) -> Result<(), StateError> {
        let mut profiles = self.profiles()?;
        let id = profile.id.clone();
        let refuse = |what: &str| StateError::Entry(what.to_owned());
        let prefs = serde_json::to_vec(prefs).map_err(|_| refuse(&id))?;
        profiles.insert(id.clone(), profile);
        let profiles = serde_json::to_vec(&profiles).map_err(|_| refuse(PROFILES))?;
        self.entries.insert(format!("{PROFILE_PREFIX}{id}"), prefs);
        self.entries.insert(PROFILES.to_owned(), profiles);
        self.set_current_profile(&id);
        Ok(())
    }

    /// Forgets a profile and its keys.
    pub fn remove(&mut self, id: &str) -> Result<(), StateError> {
        let mut profiles = self.profiles()?;
        profiles.remove(id);
        let profiles = serde_json::to_vec(&profiles).map_err(|_| StateError::Entry(PROFILES.to_owned()))?;
        self.entries.insert(PROFILES.to_owned(), profiles);
        self.entries.remove(&format!("{PROFILE_PREFIX}{id}"));
        self.entries.remove(&format!("{SERVE_PREFIX}{id}"));
        if self.current_profile() == id {
            self.set_current_profile("");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let mut state = StateFile::default();
        state.set_machine_key(&MachinePrivate::generate([5; 32]));
        let profile =
            LoginProfile { id: "12ab".to_owned(), key: "profile-12ab".to_owned(), ..LoginProfile::default() };
        let prefs = Prefs { hostname: "birch".to_owned(), ..Prefs::default() };
        state.put(profile, &prefs).expect("storable");
        let again = StateFile::parse(&state.render()).expect("readable");
        assert_eq!(again.current_profile(), "12ab");
        assert_eq!(again.prefs().expect("readable"), Some(prefs));
        let key = again.machine_key().expect("readable").expect("there");
        assert_eq!(key.public(), MachinePrivate::generate([5; 32]).public());
    }

    #[test]
    fn a_damaged_file_is_refused_and_never_taken_as_empty() {
        for text in [
            &b""[..],
            b"{",
            b"[]",
            br#"{"_machinekey":"!"}"#,
            br#"{"_machinekey":"eA=="}"#,
            br#"{"_profiles":"eA=="}"#,
        ] {
            assert!(StateFile::parse(text).is_err(), "{}", String::from_utf8_lossy(text));
        }
    }

    #[test]
    fn a_removed_profile_leaves_no_key_behind() {
        let mut state = StateFile::default();
        let profile = LoginProfile { id: "12ab".to_owned(), ..LoginProfile::default() };
        state.put(profile, &Prefs::default()).expect("storable");
        state.remove("12ab").expect("removable");
        assert_eq!(state.current_profile(), "");
        assert!(state.prefs_of("12ab").expect("readable").is_none());
    }
}
