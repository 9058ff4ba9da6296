//! What compiling gives: packet filter rules and SSH rules as they go on the wire (policy.md §1).

use std::collections::BTreeMap;
use std::sync::Arc;

use ipnet::IpNet;
use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};

use crate::alias::Ports;
use crate::plan::CapMap;
use crate::range::prefix_text;

/// The strings of `SrcIPs`, sorted bytewise; shared by all rules with these sources.
pub type Sources = Arc<Vec<Arc<str>>>;

/// One packet filter rule: either destinations with ports, or capabilities.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    pub sources: Sources,
    pub action: Action,
}

/// What a rule lets its sources do.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Send packets; no protocol means TCP, UDP, ICMP and ICMPv6.
    Reach { protocol: Option<u8>, dst: Vec<DstPorts> },
    /// Use capabilities.
    Use(Vec<CapGrant>),
}

/// A destination and its ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DstPorts {
    /// An address, prefix, range or `*`.
    pub ip: Arc<str>,
    pub ports: Ports,
}

/// Capabilities towards destinations.
#[derive(Clone, Debug, PartialEq)]
pub struct CapGrant {
    pub dsts: Vec<IpNet>,
    pub caps: Arc<CapMap>,
}

impl Serialize for Ports {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(2))?;
        map.serialize_entry("First", &self.first)?;
        map.serialize_entry("Last", &self.last)?;
        map.end()
    }
}

impl Serialize for DstPorts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(2))?;
        map.serialize_entry("IP", &*self.ip)?;
        map.serialize_entry("Ports", &self.ports)?;
        map.end()
    }
}

impl Serialize for CapGrant {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(2))?;
        let dsts: Vec<String> = self.dsts.iter().map(|net| prefix_text(*net)).collect();
        map.serialize_entry("Dsts", &dsts)?;
        map.serialize_entry("CapMap", &*self.caps)?;
        map.end()
    }
}

impl Serialize for Rule {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("SrcIPs", &Texts(&self.sources))?;
        match &self.action {
            Action::Reach { protocol, dst } => {
                map.serialize_entry("DstPorts", dst)?;
                if let Some(protocol) = protocol {
                    map.serialize_entry("IPProto", &[protocol])?;
                }
            }
            Action::Use(grants) => map.serialize_entry("CapGrant", grants)?,
        }
        map.end()
    }
}

struct Texts<'t>(&'t [Arc<str>]);

impl Serialize for Texts<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut seq = serializer.serialize_seq(Some(self.0.len()))?;
        for text in self.0 {
            seq.serialize_element(&**text)?;
        }
        seq.end()
    }
}

/// The SSH policy of one machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SshPolicy {
    pub rules: Vec<SshRule>,
}

/// One SSH rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SshRule {
    /// Addresses of the sources, sorted bytewise.
    pub principals: Sources,
    /// Requested login to local login; `=` is the same name, empty is refused.
    pub users: BTreeMap<String, String>,
    pub action: SshVerdict,
    pub accept_env: Vec<String>,
}

/// What an SSH rule does with a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SshVerdict {
    Accept(Recording),
    /// The machine asks the server at this URL.
    Check(String),
}

/// Where sessions are recorded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recording {
    /// `address:port` of the recorders.
    pub recorders: Vec<String>,
    /// A session that cannot be recorded is refused or ended.
    pub is_enforced: bool,
}

impl Serialize for SshPolicy {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(1))?;
        map.serialize_entry("rules", &self.rules)?;
        map.end()
    }
}

impl Serialize for SshRule {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("principals", &Principals(&self.principals))?;
        map.serialize_entry("sshUsers", &self.users)?;
        map.serialize_entry("action", &self.action)?;
        if !self.accept_env.is_empty() {
            map.serialize_entry("acceptEnv", &self.accept_env)?;
        }
        map.end()
    }
}

struct Principals<'t>(&'t [Arc<str>]);

impl Serialize for Principals<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut seq = serializer.serialize_seq(Some(self.0.len()))?;
        for text in self.0 {
            seq.serialize_element(&BTreeMap::from([("nodeIP", &**text)]))?;
        }
        seq.end()
    }
}

impl Serialize for SshVerdict {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        match self {
            Self::Check(url) => map.serialize_entry("holdAndDelegate", url)?,
            Self::Accept(recording) => {
                map.serialize_entry("accept", &true)?;
                map.serialize_entry("allowAgentForwarding", &true)?;
                map.serialize_entry("allowLocalPortForwarding", &true)?;
                map.serialize_entry("allowRemotePortForwarding", &true)?;
                if !recording.recorders.is_empty() {
                    map.serialize_entry("recorders", &recording.recorders)?;
                }
                if recording.is_enforced {
                    let message = "this session must be recorded, and the recorder cannot be reached";
                    let refuse = BTreeMap::from([
                        ("RejectSessionWithMessage", message),
                        ("TerminateSessionWithMessage", message),
                    ]);
                    map.serialize_entry("onRecordingFailure", &refuse)?;
                }
            }
        }
        map.end()
    }
}
