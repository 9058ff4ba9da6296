//! What our own machines tell our own server beyond the official protocol: the paths in use, and who was answered.
//! A server that wants it says so in the header [`PATHS_WANTED`] of a map stream; official programs neither send nor
//! see any of it.

use serde::{Deserialize, Serialize};
use sw_types::NodeId;

/// Header of a map stream's answer by which a server asks for [`PathsReport`]s.
pub const PATHS_WANTED: &str = "samewire-paths";
/// Most links of one report.
pub const LINKS_MAX: usize = 256;
/// Most accepted connections of one report.
pub const ACCEPTED_MAX: usize = 256;

/// Body of `POST /machine/samewire/v1/paths`. The links replace those of the report before.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PathsReport {
    /// Peers with a packet in the last 45 s.
    pub links: Vec<LinkReport>,
    /// Peers whose connections this machine answered since the report before.
    pub accepted: Vec<AcceptedReport>,
}

/// One live link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkReport {
    /// The other end.
    pub peer: NodeId,
    /// How packets go there.
    pub path: LinkPath,
    /// Round trip in microseconds, if it was measured.
    #[serde(default)]
    pub delay_us: Option<u32>,
    /// Bytes in both directions in the last minute, at the rate since the report before.
    #[serde(default)]
    pub bytes: u64,
}

/// How packets of a link travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LinkPath {
    /// From socket to socket.
    Direct,
    /// By a DERP relay.
    Relay,
    /// By another machine.
    PeerRelay,
}

/// A connection that a peer opened and this machine answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AcceptedReport {
    /// Who opened it.
    pub peer: NodeId,
    /// IP protocol number.
    pub protocol: u8,
    /// Port of this machine.
    pub port: u16,
}
