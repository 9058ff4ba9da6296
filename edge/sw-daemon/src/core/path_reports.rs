//! Tells a server of ours which paths are in use and whom this machine answered: the server's picture of the network,
//! and what a change of the policy would cut. Servers that do not ask for it (official ones) are told nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use sw_filter::PeerTag;
use sw_tailcfg::{ACCEPTED_MAX, AcceptedReport, LINKS_MAX, LinkPath, LinkReport, PathsReport};
use sw_types::{Instant, NodeId, NodeKey, Path};

use super::Core;
use super::queries::ACTIVE_FOR;

/// Changes that belong together are told together.
const SETTLE: Duration = Duration::from_millis(300);
/// Least time between two reports.
const SPACING: Duration = Duration::from_secs(3);
/// While there are live links it is looked this often whether they still are.
const LOOK_EVERY: Duration = Duration::from_secs(15);
const MINUTE_S: u128 = 60;

/// What was told, and when to look again.
#[derive(Debug, Default)]
pub(super) struct PathReports {
    /// The server of the present map stream takes reports.
    is_wanted: bool,
    pub(super) due: Option<Instant>,
    /// On this map stream.
    told: Option<(Instant, Vec<LinkReport>)>,
    /// Bytes of each peer when it was last told.
    bytes: BTreeMap<NodeKey, u64>,
}

impl Core {
    /// A map stream began: the server knows nothing yet.
    pub(super) fn on_map_opened(&mut self, takes_paths: bool) {
        self.path_reports = PathReports { is_wanted: takes_paths, ..PathReports::default() };
        self.paths_may_differ();
    }

    /// Something about the links changed.
    pub(super) fn paths_may_differ(&mut self) {
        let now = self.now().mono;
        let reports = &mut self.path_reports;
        let earliest = reports.told.as_ref().map_or(now, |(at, _)| *at + SPACING).max(now + SETTLE);
        if reports.is_wanted {
            reports.due = Some(reports.due.map_or(earliest, |due| due.min(earliest)));
        }
    }

    /// Tells the links, if they differ from what was told.
    pub(super) fn report_paths(&mut self) {
        let now = self.now().mono;
        let links = self.live_links(now);
        let accepted = self.answered();
        self.path_reports.due = (!links.is_empty()).then_some(now + LOOK_EVERY);
        let told = self.path_reports.told.as_ref().map(|(_, links)| links.as_slice());
        if accepted.is_empty() && told.is_some_and(|told| !differ(told, &links)) {
            return;
        }
        let Some(key) = self.node.key() else { return };
        self.path_reports.told = Some((now, links.clone()));
        self.control.tell_paths(key, PathsReport { links, accepted });
    }

    fn live_links(&mut self, now: Instant) -> Vec<LinkReport> {
        let Some(netmap) = self.node.netmap() else { return Vec::new() };
        let minutes_nanos = self.path_reports.told.as_ref().map_or(0, |(at, _)| (now - *at).as_nanos());
        let mut bytes = BTreeMap::new();
        let mut links = Vec::new();
        for (key, at) in &self.activity {
            let Some(peer) = netmap.peer_by_key(key).filter(|_| now - *at < ACTIVE_FOR) else { continue };
            let path = match self.paths.route(key).and_then(sw_path::Route::path) {
                Some(Path::Direct(_)) => LinkPath::Direct,
                Some(Path::PeerRelay { .. }) => LinkPath::PeerRelay,
                Some(Path::Derp(_)) => LinkPath::Relay,
                None => continue,
            };
            let runtime = self.peer_runtime(key);
            let total = runtime.rx_bytes + runtime.tx_bytes;
            let since = total.saturating_sub(self.path_reports.bytes.get(key).copied().unwrap_or(0));
            bytes.insert(*key, total);
            let delay = runtime.latency_seconds.map(Duration::from_secs_f64);
            links.push(LinkReport {
                peer: peer.id,
                path,
                delay_us: delay.map(|delay| u32::try_from(delay.as_micros()).unwrap_or(u32::MAX)),
                bytes: per_minute(since, minutes_nanos),
            });
            if links.len() == LINKS_MAX {
                break;
            }
        }
        self.path_reports.bytes = bytes;
        links
    }

    /// Peers whose connections were answered since the last call.
    fn answered(&self) -> Vec<AcceptedReport> {
        let answered = self.gate.as_ref().map(|gate| gate.take_answered()).unwrap_or_default();
        let Some(netmap) = self.node.netmap().filter(|_| !answered.is_empty()) else { return Vec::new() };
        let ids: BTreeMap<PeerTag, NodeId> =
            netmap.peers().map(|peer| (PeerTag::of(&peer.key), peer.id)).collect();
        let known = answered.into_iter().filter_map(|(tag, service)| {
            let (protocol, port) = (service.protocol.0, service.port);
            ids.get(&tag).map(|peer| AcceptedReport { peer: *peer, protocol, port })
        });
        known.take(ACCEPTED_MAX).collect()
    }
}

fn per_minute(bytes: u64, nanos: u128) -> u64 {
    let rate = u128::from(bytes) * MINUTE_S * 1_000_000_000 / nanos.max(1_000_000_000);
    u64::try_from(rate).unwrap_or(u64::MAX)
}

/// Whether somebody who looks at a picture would see a difference: links, their kinds, delays by a quarter.
fn differ(told: &[LinkReport], now: &[LinkReport]) -> bool {
    let is_far = |a: Option<u32>, b: Option<u32>| match (a, b) {
        (Some(a), Some(b)) => a.abs_diff(b) > (a / 4).max(1_000),
        (None, None) => false,
        (Some(_), None) | (None, Some(_)) => true,
    };
    told.len() != now.len()
        || told.iter().zip(now).any(|(old, new)| {
            (old.peer, old.path) != (new.peer, new.path) || is_far(old.delay_us, new.delay_us)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(path: LinkPath, delay_us: u32) -> LinkReport {
        LinkReport { peer: NodeId(7), path, delay_us: Some(delay_us), bytes: 0 }
    }

    #[test]
    fn what_nobody_would_see_is_not_told() {
        let old = [link(LinkPath::Direct, 11_000)];
        assert!(!differ(&old, &[link(LinkPath::Direct, 12_000)]), "a little slower");
        assert!(differ(&old, &[link(LinkPath::Direct, 40_000)]), "much slower");
        assert!(differ(&old, &[link(LinkPath::Relay, 11_000)]), "another path");
        assert!(differ(&old, &[]), "idle");
    }

    #[test]
    fn bytes_are_by_the_minute() {
        assert_eq!(per_minute(1_000, 30_000_000_000), 2_000);
        assert_eq!(per_minute(1_000, 0), 60_000, "the first report counts as a second");
    }
}
