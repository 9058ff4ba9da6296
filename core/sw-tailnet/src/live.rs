//! What is known of a machine while the server runs, and may be lost with it.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use sw_tailcfg::{CapMap, Hostinfo, LinkReport};
use sw_types::{CapVer, DiscoKey, Instant, RegionId, UnixTime};

use crate::reports::Accepted;
use crate::rules::Class;

/// A moment in the life of the state: every change gets the next one.
pub(crate) type Stamp = u64;

/// The class of machines that are in the network's books but not let in: it sees nobody.
pub(crate) const OUTSIDE: Class = Class(u32::MAX);

/// Whether a machine has a live map stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// It has.
    Online,
    /// Its stream ended a moment ago; others still see it online (control.md §4.2).
    Leaving {
        /// When others are told.
        until: Instant,
    },
    /// It has not.
    Offline,
}

impl Presence {
    /// What others are told.
    pub fn is_online(self) -> bool {
        match self {
            Self::Online | Self::Leaving { .. } => true,
            Self::Offline => false,
        }
    }
}

/// What a machine says of itself, kept over a restart if there was time to save it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Facts {
    /// As reported last.
    #[serde(default)]
    pub host: Arc<Hostinfo>,
    /// Where it can be reached by UDP, in its own order.
    #[serde(default)]
    pub endpoints: Vec<SocketAddr>,
    /// Zero until known.
    #[serde(default)]
    pub disco: DiscoKey,
    /// Home relay; zero until known.
    #[serde(default)]
    pub home: RegionId,
    /// Capability version of its last map request.
    #[serde(default)]
    pub cap: CapVer,
    /// When it was last seen; `None` before the first time.
    #[serde(default)]
    pub last_seen: Option<UnixTime>,
    /// Connections that it answered lately, as far as it tells.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub accepted: Vec<Accepted>,
}

/// When each part of a machine's view last changed.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Stamps {
    /// Any part that peers see; the key in the list of recent changes.
    pub any: Stamp,
    /// A part for which there is no patch.
    pub full: Stamp,
    /// What the machine is told about itself.
    pub own: Stamp,
    pub endpoints: Stamp,
    pub home: Stamp,
    pub disco: Stamp,
    pub online: Stamp,
}

/// Everything about one machine that is not durable.
#[derive(Debug)]
pub(crate) struct Live {
    pub facts: Facts,
    pub presence: Presence,
    pub stamps: Stamps,
    pub class: Class,
    /// Announced and approved, sorted.
    pub routes: Vec<IpNet>,
    /// The part of `routes` that peers may send to it: exit routes, and those it is primary for.
    pub serving: Vec<IpNet>,
    /// Attributes of the policy.
    pub attributes: CapMap,
    /// Whether the facts were taken over from before a restart, and the machine has not spoken since.
    pub restored: bool,
    /// Whether the facts differ from what was saved.
    pub unsaved: bool,
    /// The peer object as JSON, for a machine without routes; [modern, legacy] clients.
    pub json: [Option<Bytes>; 2],
    /// The facts that the policy was compiled with.
    pub known: Option<Arc<crate::rules::NodeFacts>>,
    /// Its live links, if it tells them and is online; sorted by peer.
    pub links: Option<Vec<LinkReport>>,
    /// When it told them.
    pub told: Option<Instant>,
}

impl Live {
    pub(crate) fn new(facts: Facts) -> Self {
        Self {
            facts,
            presence: Presence::Offline,
            stamps: Stamps::default(),
            class: OUTSIDE,
            routes: Vec::new(),
            serving: Vec::new(),
            attributes: CapMap::new(),
            restored: true,
            unsaved: false,
            json: [None, None],
            known: None,
            links: None,
            told: None,
        }
    }

    pub(crate) fn has_attribute(&self, name: &str) -> bool {
        self.attributes.contains_key(name)
    }
}

/// Parts of a machine's view that can change alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Aspect {
    /// Something for which there is no patch.
    Full,
    /// Something that only the machine itself is told.
    Own,
    Endpoints,
    Home,
    Disco,
    Online,
}
