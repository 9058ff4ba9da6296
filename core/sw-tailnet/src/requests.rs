//! Map requests and the life of map streams (control.md §4).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use sw_tailcfg::{Hostinfo, MapRequest, MapRequestKind, PingRequest};
use sw_types::{MachineKey, NodeId, Now};

use crate::encode::MapMessage;
use crate::live::{Aspect, Presence};
use crate::record::{Audit, Change};
use crate::streams::StreamId;
use crate::tailnet::Tailnet;

/// Most endpoints kept of one machine.
const ENDPOINTS_MAX: usize = 100;

/// How long a machine whose stream broke is still shown online (control.md §4.2).
const GRACE_BROKEN: Duration = Duration::from_secs(10);
/// The same after an orderly end.
const GRACE_ORDERLY: Duration = Duration::from_secs(1);

/// How a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The client said goodbye.
    Orderly,
    /// End of file or reset.
    Broken,
    /// Nothing was heard for too long: the machine is gone already.
    Dead,
}

/// What a map request is answered with.
#[derive(Debug)]
pub enum MapReply {
    /// 200 with an empty body.
    Stored,
    /// 200 with one frame.
    Once(MapMessage),
    /// 200 and messages as [`crate::Output::Map`] says; `replaced` is to be ended.
    Streaming {
        /// The stream that the machine had before.
        replaced: Option<StreamId>,
    },
}

/// Why a map request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MapRefused {
    /// 404: no machine has this key, or another device does.
    #[error("node not found")]
    UnknownNode,
}

impl Tailnet {
    /// Takes a map request of the device `machine`. `stream` is the name that a stream shall have.
    ///
    /// # Errors
    /// [`MapRefused`], to be answered before any frame.
    pub fn on_map_request(
        &mut self,
        machine: MachineKey,
        request: &MapRequest,
        stream: StreamId,
        now: Now,
    ) -> Result<MapReply, MapRefused> {
        let node = self.state.node_by_key(&request.node_key).filter(|node| node.machine_key == machine);
        let id = node.ok_or(MapRefused::UnknownNode)?.id;
        let kind = request.kind();
        self.take_facts(id, request, kind == MapRequestKind::Stream, now);
        match kind {
            MapRequestKind::LiteUpdate => Ok(MapReply::Stored),
            MapRequestKind::OneShot => {
                self.settle(now);
                let audience = self.audience(self.streams.class_of(id));
                let message = self.whole(id, request.version, &audience, now);
                message.map(MapReply::Once).ok_or(MapRefused::UnknownNode)
            }
            MapRequestKind::Stream => {
                let replaced = self.streams.open(stream, id, request.version);
                self.set_presence(id, Presence::Online, now);
                Ok(MapReply::Streaming { replaced })
            }
        }
    }

    /// Stores what a request tells. From a stream request only what is not known yet is taken: it may
    /// be stale (control.md §4.2), but after our own restart it may be all there is.
    fn take_facts(&mut self, id: NodeId, request: &MapRequest, stream: bool, now: Now) {
        let fresh = self.live.get(&id).is_some_and(|live| live.facts.last_seen.is_none() || live.restored);
        let take = !stream || fresh;
        let mut aspects = Vec::new();
        let Some(live) = self.live.get_mut(&id) else {
            return;
        };
        live.restored &= stream && request.endpoints.is_empty();
        let facts = &mut live.facts;
        if facts.cap != request.version {
            facts.cap = request.version;
            aspects.push(Aspect::Full);
        }
        if !request.disco_key.is_zero() && request.disco_key != facts.disco && (take || stream) {
            // WHY from a stream request too: a restarted daemon has a new disco key, and its first
            // stream request is where it says so.
            facts.disco = request.disco_key;
            aspects.push(Aspect::Disco);
        }
        let endpoints: Vec<SocketAddr> =
            request.usable_endpoints().into_iter().map(|(addr, _)| addr).take(ENDPOINTS_MAX).collect();
        let told = take && !(stream && endpoints.is_empty());
        if told
            && endpoints != facts.endpoints
            && !(request.endpoints.is_empty() && request.hostinfo.is_none())
        {
            facts.endpoints = endpoints;
            aspects.push(Aspect::Endpoints);
        }
        let mut renamed = None;
        if let Some(host) = request.hostinfo.as_ref().filter(|_| take || facts.host.os.is_empty()) {
            let host = with_old_netinfo(host, &facts.host);
            let home = host.net_info.as_ref().map_or(facts.home, |net| net.preferred_derp);
            if home != facts.home && !home.is_zero() {
                facts.home = home;
                aspects.push(Aspect::Home);
            }
            if differs_to_peers(&host, &facts.host) {
                aspects.push(Aspect::Full);
            }
            if host.routable_ips != facts.host.routable_ips {
                aspects.push(Aspect::Own);
            }
            if host.hostname != facts.host.hostname && !host.hostname.is_empty() {
                renamed = Some(host.hostname.clone());
            }
            if *host != *facts.host {
                live.unsaved = true;
            }
            facts.host = host;
        }
        if facts.last_seen != Some(now.wall) && !live.presence.is_online() {
            // Peers are shown when a machine that is away was last heard of.
            aspects.push(Aspect::Online);
        }
        facts.last_seen = Some(now.wall);
        live.unsaved |= !aspects.is_empty();
        let routes_may_differ = aspects.contains(&Aspect::Own);
        if !aspects.is_empty() {
            self.touch(id, &aspects);
        }
        if routes_may_differ {
            self.see_again(id);
            self.refresh_routes(id);
        }
        if let Some(host) = renamed {
            self.follow_host_name(id, &host, now);
        }
    }

    /// Gives a machine the name it reports, unless an admin chose one.
    pub(crate) fn follow_host_name(&mut self, id: NodeId, host: &str, now: Now) {
        let Some(node) = self.state.node(id).filter(|n| n.host_name != host) else {
            return;
        };
        let mut node = node.clone();
        host.clone_into(&mut node.host_name);
        let mut audit = Vec::new();
        if !node.label_fixed {
            let taken = |label: &str| self.state.node_by_label(label).is_some_and(|other| other.id != id);
            let label = crate::names::free_label(host, taken);
            if label != node.label {
                let old = std::mem::replace(&mut node.label, label.clone());
                audit.push(Audit {
                    what: "machine.name".to_owned(),
                    target: old.clone(),
                    old: Some(old),
                    new: Some(label),
                });
            }
        }
        let actor = format!("machine {}", node.label);
        self.record(&actor, audit, vec![Change::Node(id, Some(Box::new(node)))], now);
    }

    /// Asks a machine something through its stream (control.md §5.15). False: it has none, or another question has not
    /// left yet.
    pub fn on_question(&mut self, node: NodeId, question: PingRequest) -> bool {
        self.streams.ask(node, question)
    }

    /// The driver has written what [`crate::Output::Map`] gave it.
    pub fn on_stream_ready(&mut self, stream: StreamId) {
        self.streams.ready(stream);
    }

    /// A stream is over.
    pub fn on_stream_closed(&mut self, stream: StreamId, ended: Ended, now: Now) {
        let Some(id) = self.streams.close(stream) else {
            return;
        };
        let presence = match ended {
            Ended::Orderly => Presence::Leaving { until: now.mono + GRACE_ORDERLY },
            Ended::Broken => Presence::Leaving { until: now.mono + GRACE_BROKEN },
            Ended::Dead => Presence::Offline,
        };
        if let Some(live) = self.live.get_mut(&id) {
            live.facts.last_seen = Some(now.wall);
            live.unsaved = true;
        }
        self.set_presence(id, presence, now);
    }

    /// How many streams are open.
    pub fn stream_count(&self) -> usize {
        self.streams.count()
    }
}

/// Keeps the former NetInfo where an update leaves it out (control.md §4.2).
fn with_old_netinfo(host: &Arc<Hostinfo>, old: &Hostinfo) -> Arc<Hostinfo> {
    if host.net_info.is_some() || old.net_info.is_none() {
        return Arc::clone(host);
    }
    let mut host = (**host).clone();
    host.net_info.clone_from(&old.net_info);
    Arc::new(host)
}

/// Whether anything that peers are shown differs.
fn differs_to_peers(new: &Hostinfo, old: &Hostinfo) -> bool {
    crate::wire::peer_host(new) != crate::wire::peer_host(old)
}
