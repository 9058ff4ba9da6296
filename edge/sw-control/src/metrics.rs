//! Counters of the server, as Prometheus text.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

use sw_net::front::FrontStats;
use sw_tailnet::Stats;

/// What the edge counts; the core counts for itself.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    /// Map streams open.
    pub map_streams: AtomicU64,
    /// Registrations answered.
    pub registrations: AtomicU64,
    /// Registrations refused.
    pub registrations_refused: AtomicU64,
    /// Admin requests answered.
    pub api_requests: AtomicU64,
}

/// What is counted elsewhere, at the moment of a scrape.
#[derive(Debug)]
pub(crate) struct Scrape<'a> {
    pub metrics: &'a Metrics,
    pub front: Option<&'a FrontStats>,
    pub stats: Stats,
    pub nodes: usize,
    pub online: usize,
}

/// The text that Prometheus reads.
pub(crate) fn text(scrape: &Scrape<'_>) -> String {
    let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let m = scrape.metrics;
    let s = scrape.stats;
    let mut out = String::new();
    let mut line = |name: &str, kind: &str, help: &str, value: u64| {
        // Writing to a string cannot fail.
        let _ = writeln!(
            out,
            "# HELP samewire_control_{name} {help}\n# TYPE samewire_control_{name} {kind}\nsamewire_control_{name} {value}"
        );
    };
    line("nodes", "gauge", "Machines of the network.", scrape.nodes as u64);
    line(
        "nodes_online",
        "gauge",
        "Machines with a live map stream, or that had one a moment ago.",
        scrape.online as u64,
    );
    line("map_streams", "gauge", "Map streams open.", load(&m.map_streams));
    line("registrations_total", "counter", "Registrations answered.", load(&m.registrations));
    line("registrations_refused_total", "counter", "Registrations refused.", load(&m.registrations_refused));
    line("api_requests_total", "counter", "Admin requests answered.", load(&m.api_requests));
    line("map_messages_built_total", "counter", "Map messages built for one stream.", s.messages_built);
    line(
        "map_messages_shared_total",
        "counter",
        "Map messages shared with another stream.",
        s.messages_shared,
    );
    line("full_maps_total", "counter", "Full maps built.", s.full_maps);
    line("blocks_encoded_total", "counter", "Blocks of peers encoded.", s.blocks_encoded);
    line("policy_compilations_total", "counter", "Times the policy was applied.", s.compilations);
    if let Some(front) = scrape.front {
        line("accepted_total", "counter", "TCP connections accepted.", load(&front.accepted));
        line(
            "refused_queue_total",
            "counter",
            "Connections whose turn did not come in time.",
            load(&front.refused_queue),
        );
        line(
            "failed_handshakes_total",
            "counter",
            "Connections that did not finish TLS or a head.",
            load(&front.failed_handshakes),
        );
        line("bad_requests_total", "counter", "Requests refused by the listener.", load(&front.bad_requests));
    }
    out
}
