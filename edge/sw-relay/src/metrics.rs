//! The Prometheus page: the official relay's names where it has them (derp.md §12).

use std::fmt::Write as _;
use std::sync::atomic::Ordering;

use crate::hub::Hub;

/// The page.
pub(crate) fn text(hub: &Hub) -> String {
    let mut out = String::with_capacity(4096);
    let stats = hub.stats();
    let gauges = [
        ("current_connections", stats.connections),
        ("current_home_connections", stats.home_connections),
        ("current_notideal_connections", stats.not_ideal_connections),
        ("clients_total", stats.local_clients + stats.remote_clients),
        ("clients_local", stats.local_clients),
        ("clients_remote", stats.remote_clients),
        ("watchers", stats.watchers),
        ("current_dup_client_keys", stats.duplicate_keys),
        ("current_dup_client_conns", stats.duplicate_connections),
        ("queued_bytes", hub.queued_bytes.load(Ordering::Relaxed)),
    ];
    for (name, value) in gauges {
        line(&mut out, name, "gauge", value as u64);
    }
    let mut dropped = Vec::new();
    for (name, value) in hub.counters.all() {
        match name.strip_prefix("dropped_").and_then(|rest| rest.rsplit_once('_')) {
            Some((reason, kind @ ("disco" | "other"))) => dropped.push((reason, kind, value)),
            Some(_) | None => line(&mut out, name, "counter", value),
        }
    }
    out.push_str("# TYPE derp_packets_dropped counter\n");
    for (reason, kind, value) in dropped {
        writeln!(out, "derp_packets_dropped{{reason=\"{reason}\",kind=\"{kind}\"}} {value}")
            .expect("a string takes all that is written");
    }
    out.push_str("# TYPE stun_requests counter\n");
    for (name, value) in hub.stun.all() {
        writeln!(out, "{name} {value}").expect("a string takes all that is written");
    }
    out
}

fn line(out: &mut String, name: &str, kind: &str, value: u64) {
    writeln!(out, "# TYPE derp_{name} {kind}\nderp_{name} {value}")
        .expect("a string takes all that is written");
}
