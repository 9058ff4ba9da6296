//! The Prometheus page, under the names and labels of the official relay where it has them (derp.md §12).

use std::fmt::Write as _;
use std::sync::atomic::Ordering;

use crate::hub::Hub;

/// The page.
pub(crate) fn text(hub: &Hub) -> String {
    let mut page = Page(String::with_capacity(8192));
    let stats = hub.stats();
    let rate = hub.rate();
    let gauges = [
        ("current_connections", stats.connections as u64),
        ("current_home_connections", stats.home_connections as u64),
        ("current_notideal_connections", stats.not_ideal_connections as u64),
        ("clients_total", (stats.local_clients + stats.remote_clients) as u64),
        ("clients_local", stats.local_clients as u64),
        ("clients_remote", stats.remote_clients as u64),
        ("watchers", stats.watchers as u64),
        ("current_dup_client_keys", stats.duplicate_keys as u64),
        ("current_dup_client_conns", stats.duplicate_connections as u64),
        ("queued_bytes", hub.queued_bytes.load(Ordering::Relaxed) as u64),
        ("rate_limit_per_client_bytes_per_second", rate.map_or(0, |rate| rate.bytes_per_second)),
        ("rate_limit_per_client_burst_bytes", rate.map_or(0, |rate| rate.burst_bytes)),
    ];
    for (name, value) in gauges {
        page.one(&format!("derp_{name}"), "gauge", value);
    }
    let (mut packets, mut bytes) = (Vec::new(), Vec::new());
    let (mut received, mut received_disco) = (0, 0);
    for (name, value) in hub.counters.all() {
        if let Some(rest) = name.strip_prefix("bytes_dropped_") {
            bytes.push((dropped(rest), value));
        } else if let Some(rest) = name.strip_prefix("dropped_").filter(|rest| *rest != "control_frames") {
            packets.push((dropped(rest), value));
        } else if name == "packets_received_disco" {
            received_disco = value;
        } else {
            if name == "packets_received" {
                received = value;
            }
            page.one(&format!("derp_{name}"), "counter", value);
        }
    }
    let kinds =
        [("kind=\"disco\"", received_disco), ("kind=\"other\"", received.saturating_sub(received_disco))];
    page.labelled("derp_packets_received_kind", kinds);
    page.labelled("derp_packets_dropped", packets);
    page.labelled("derp_bytes_dropped", bytes);
    page.labelled("stun_requests", hub.stun.requests());
    page.labelled("stun_addrfamily", hub.stun.families());
    page.one("uptime_sec", "gauge", hub.now().as_nanos() / 1_000_000_000);
    let version = concat!("version=\"", env!("CARGO_PKG_VERSION"), "\",binary=\"samewire\"");
    page.series("version", "gauge", [(version, 1)]);
    page.0
}

/// Turns `queue_head_disco` into labels.
fn dropped(name: &str) -> String {
    let (reason, kind) = name.rsplit_once('_').unwrap_or((name, "other"));
    format!("reason=\"{reason}\",kind=\"{kind}\"")
}

struct Page(String);

impl Page {
    fn one(&mut self, name: &str, kind: &str, value: u64) {
        writeln!(self.0, "# TYPE {name} {kind}\n{name} {value}").expect("a string takes all that is written");
    }

    fn labelled(&mut self, name: &str, values: impl IntoIterator<Item = (impl std::fmt::Display, u64)>) {
        self.series(name, "counter", values);
    }

    fn series(
        &mut self,
        name: &str,
        kind: &str,
        values: impl IntoIterator<Item = (impl std::fmt::Display, u64)>,
    ) {
        writeln!(self.0, "# TYPE {name} {kind}").expect("a string takes all that is written");
        for (labels, value) in values {
            writeln!(self.0, "{name}{{{labels}}} {value}").expect("a string takes all that is written");
        }
    }
}
