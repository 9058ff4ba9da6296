//! Peer relays: two hard NATs, and a machine of the network that both reach.

use std::time::Duration;

use sw_lab::{MachineSpec, Nat, SiteSpec, Software};

use crate::journey::set_policy;
use crate::scene::{OFFICIAL, SAMEWIRE, Scene, missing, says, scene};

/// Official clients ask relays again only every half minute.
const PATIENCE: Duration = Duration::from_secs(90);

/// Alder and birch, each behind a hard NAT, meet at cedar.
fn meet(lab: &str, clients: [Software; 2], relay: Software) -> Option<Scene> {
    if missing(lab, &[clients[0], clients[1], relay], SAMEWIRE) {
        return None;
    }
    let sites = vec![SiteSpec::new("home", Nat::Hard), SiteSpec::new("office", Nat::Hard)];
    let machines = vec![
        MachineSpec::new("alder", "home", clients[0]),
        MachineSpec::new("birch", "office", clients[1]),
        MachineSpec::new("cedar", "internet", relay),
    ];
    let mut scene = scene(lab, SAMEWIRE, sites, machines);
    for name in ["alder", "birch", "cedar"] {
        scene.join(name);
    }
    let cedar = scene.address("cedar");
    let policy = serde_json::json!({ "grants": [
        { "src": ["*"], "dst": ["*"], "ip": ["*"] },
        { "src": ["autogroup:member"], "dst": [cedar], "app": { "tailscale.com/cap/relay": [{}] } },
    ]});
    set_policy(&mut scene, &policy.to_string());
    says(&mut scene, "cedar", &["set", "--relay-server-port=0"]);
    for (from, to) in [("alder", "birch"), ("birch", "alder")] {
        until_tunnel(&mut scene, from, to);
    }
    scene.session("alder", "birch", 7000).exchange("through cedar");
    Some(scene)
}

fn until_tunnel(scene: &mut Scene, from: &str, to: &str) {
    let start = std::time::Instant::now();
    loop {
        scene.ping(from, to);
        let tunnel = tunnel_of(scene, from, to);
        // It is named by the address of the relay and the number of the tunnel.
        if tunnel.contains(":vni:") || tunnel.split(':').count() == 3 {
            return;
        }
        let logs = || crate::scene::logs(&scene.world.topology().name);
        assert!(start.elapsed() < PATIENCE, "{from} → {to}: no tunnel but {tunnel:?}\n{}", logs());
    }
}

/// What the status of `from` says of the tunnel to `to`.
fn tunnel_of(scene: &mut Scene, from: &str, to: &str) -> String {
    let status = says(scene, from, &["status", "--json"]);
    let status: serde_json::Value = serde_json::from_str(&status).expect("JSON");
    let peers = status["Peer"].as_object().expect("peers");
    let peer = peers.values().find(|peer| peer["HostName"] == to).expect("the peer");
    peer["PeerRelay"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn two_hard_nats_meet_at_a_peer() {
    let Some(mut scene) = meet("tunnel", [SAMEWIRE, SAMEWIRE], SAMEWIRE) else { return };
    let counters = says(&mut scene, "cedar", &["metrics"]);
    let forwarded = counters.lines().find(|line| line.contains("forwarded") && !line.starts_with('#'));
    let count = forwarded.and_then(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
    assert!(count.is_some_and(|count| count > 0), "{counters}");
    // Who takes the setting back ends the tunnels; the relay of the network carries on.
    says(&mut scene, "cedar", &["set", "--relay-server-port="]);
    let start = std::time::Instant::now();
    while !tunnel_of(&mut scene, "alder", "birch").is_empty() {
        scene.ping("alder", "birch");
        assert!(start.elapsed() < PATIENCE, "the tunnel goes on");
    }
}

#[test]
fn official_clients_meet_at_our_peer() {
    meet("tunneloos", [OFFICIAL, OFFICIAL], SAMEWIRE);
}

#[test]
fn ours_and_an_official_client_meet_at_an_official_peer() {
    meet("tunnelsoo", [SAMEWIRE, OFFICIAL], OFFICIAL);
}
