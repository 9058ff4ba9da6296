//! The metrics for users (node-services.md §18).

use std::fmt::Write as _;

use crate::core::Core;

/// Prometheus text.
pub(crate) fn render(core: &mut Core) -> String {
    let mut inbound = [0u64; 3];
    let mut outbound = [0u64; 3];
    let (mut rx, mut tx) = (0u64, 0u64);
    for peer in core.device.peers() {
        for (sum, count) in outbound.iter_mut().zip(peer.sent_datagrams) {
            *sum += count;
        }
        for (sum, count) in inbound.iter_mut().zip(peer.received_batches) {
            *sum += count;
        }
        rx += peer.received_bytes;
        tx += peer.sent_bytes;
    }
    let mut text = String::new();
    let paths = ["direct_ipv4", "peer_relay_ipv4", "derp"];
    counter(&mut text, "tailscaled_inbound_packets_total", "Packets received from peers", &paths, &inbound);
    counter(&mut text, "tailscaled_outbound_packets_total", "Packets sent to peers", &paths, &outbound);
    plain(&mut text, "samewire_inbound_bytes_total", "counter", "Bytes received from peers", rx);
    plain(&mut text, "samewire_outbound_bytes_total", "counter", "Bytes sent to peers", tx);
    let home = core.relays.home().map_or(0, |home| u64::from(home.0));
    plain(&mut text, "tailscaled_home_derp_region_id", "gauge", "DERP region of this node", home);
    let health = core.health().len() as u64;
    text.push_str("# TYPE tailscaled_health_messages gauge\n# HELP tailscaled_health_messages Number of health messages\n");
    let _infallible = writeln!(text, "tailscaled_health_messages{{type=\"warning\"}} {health}");
    for (counter, value) in core.device.stats().counters {
        plain(
            &mut text,
            &format!("samewire_dataplane_{}_total", counter.label()),
            "counter",
            "Data plane",
            value,
        );
    }
    text
}

fn counter(text: &mut String, name: &str, help: &str, paths: &[&str], values: &[u64]) {
    let _infallible = writeln!(text, "# TYPE {name} counter\n# HELP {name} {help}");
    for (path, value) in paths.iter().zip(values) {
        let _infallible = writeln!(text, "{name}{{path=\"{path}\"}} {value}");
    }
}

fn plain(text: &mut String, name: &str, kind: &str, help: &str, value: u64) {
    let _infallible = writeln!(text, "# TYPE {name} {kind}\n# HELP {name} {help}\n{name} {value}");
}
