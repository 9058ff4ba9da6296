//! Machines that pass packets on: to the network behind them, and to the Internet.

use std::net::IpAddr;

use sw_lab::{Interrupt, MachineSpec, Nat, SiteSpec, Software};

use crate::scene::{SAMEWIRE, SOON, Scene, missing, says as run, scene};

/// Lets the kernel of a machine pass packets on, as its owner has to.
fn let_forward(scene: &mut Scene, machine: &str) {
    let machine = scene.world.machine(machine).expect("a machine");
    let words = ["sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"];
    let output = machine.exec(&words, SOON, &Interrupt::default()).expect("sh");
    assert!(output.status.success());
}

/// What `explain` prints, whether it works or not.
fn explain(scene: &mut Scene, machine: &str, target: &str) -> String {
    let machine = scene.world.machine(machine).expect("a machine");
    let output = machine.command_line(&["explain", target], SOON, &Interrupt::default()).expect("samewire");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn has_rules(scene: &mut Scene, machine: &str) -> bool {
    let machine = scene.world.machine(machine).expect("a machine");
    let words = ["nft", "list", "table", "inet", "samewire"];
    machine.exec(&words, SOON, &Interrupt::default()).expect("nft").status.success()
}

fn has_address(scene: &mut Scene, machine: &str) -> bool {
    let machine = scene.world.machine(machine).expect("a machine");
    let output = machine.exec(&["ip", "-o", "-4", "addr"], SOON, &Interrupt::default()).expect("ip");
    String::from_utf8_lossy(&output.stdout).contains(" 100.")
}

fn health(scene: &mut Scene, machine: &str) -> String {
    let machine = scene.world.machine(machine).expect("a machine");
    let output = machine.command_line(&["status", "--json"], SOON, &Interrupt::default()).expect("samewire");
    let status: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    status["Health"].to_string()
}

#[test]
fn a_router_leads_to_its_network_and_to_the_internet_and_cleans_up() {
    if missing("routes", &[SAMEWIRE], SAMEWIRE) {
        return;
    }
    let sites = vec![SiteSpec::new("home", Nat::Easy), SiteSpec::new("office", Nat::Easy)];
    let machines = vec![
        MachineSpec::new("alder", "home", SAMEWIRE),
        MachineSpec::new("birch", "office", SAMEWIRE),
        MachineSpec::new("printer", "office", Software::None),
        MachineSpec::new("web", "internet", Software::None),
    ];
    let mut scene = scene("routes", SAMEWIRE, sites, machines);
    scene.join("alder");
    scene.join("birch");
    let address = |scene: &mut Scene, machine: &str| -> IpAddr {
        let places = scene.world.machine(machine).expect("a machine").places();
        *places[0].1.iter().find(|ip| ip.is_ipv4()).expect("an address")
    };
    let (printer, web) = (address(&mut scene, "printer"), address(&mut scene, "web"));

    let route = format!("{printer}/32");
    run(&mut scene, "birch", &["set", "--advertise-routes", &route, "--advertise-exit-node"]);
    let server = scene.world.server().expect("a server");
    let nodes: serde_json::Value =
        serde_json::from_str(&server.control(&["nodes", "list", "--json"]).expect("a list")).expect("JSON");
    let nodes = nodes.as_array().or_else(|| nodes["nodes"].as_array()).expect("nodes");
    let birch = nodes.iter().find(|node| node["givenName"] == "birch").expect("birch");
    let id = birch["id"].as_str().map_or_else(|| birch["id"].to_string(), ToOwned::to_owned);
    server.control(&["routes", "approve", &id]).expect("approved");
    let complaint = health(&mut scene, "birch");
    assert!(complaint.contains("sysctl -w net.ipv4.ip_forward=1"), "{complaint}");
    let_forward(&mut scene, "birch");
    assert!(!health(&mut scene, "birch").contains("ip_forward"));

    let explained = explain(&mut scene, "alder", &printer.to_string());
    assert!(explained.contains("birch offers") && explained.contains("set --accept-routes"), "{explained}");
    run(&mut scene, "alder", &["set", "--accept-routes"]);
    scene.ping("alder", &printer.to_string());
    let explained = explain(&mut scene, "alder", &printer.to_string());
    assert!(explained.contains(&format!("birch carries {route}")), "{explained}");
    run(&mut scene, "alder", &["set", "--exit-node", "birch"]);
    scene.ping("alder", &web.to_string());
    let api = scene.world.machine("alder").expect("a machine").local_api();
    assert!(api.status().is_some(), "the daemon lives");
    assert!(has_rules(&mut scene, "birch"));
    run(&mut scene, "birch", &["down"]);
    let deadline = std::time::Instant::now() + SOON;
    while has_rules(&mut scene, "birch") || has_address(&mut scene, "birch") {
        assert!(std::time::Instant::now() < deadline, "down leaves rules or addresses behind");
    }
}

/// The packet filter of a careful host, as its distribution would load it: nothing unasked comes in or through.
const CAREFUL: &str = "
table ip filter {
  chain INPUT {
    type filter hook input priority filter; policy drop;
    ct state established,related accept
    iifname lo accept
  }
  chain FORWARD {
    type filter hook forward priority filter; policy drop;
    ct state established,related accept
  }
}
table inet plain {
  chain everything { type filter hook input priority filter; policy accept; }
}
";

fn rule_set(scene: &mut Scene, machine: &str) -> String {
    let machine = scene.world.machine(machine).expect("a machine");
    let output = machine.exec(&["nft", "list", "ruleset"], SOON, &Interrupt::default()).expect("nft");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn sh(scene: &mut Scene, machine: &str, line: &str) -> bool {
    let machine = scene.world.machine(machine).expect("a machine");
    machine.exec(&["sh", "-c", line], SOON, &Interrupt::default()).expect("sh").status.success()
}

#[test]
fn a_host_that_drops_lets_the_network_in_and_gets_its_rules_back() {
    if missing("careful", &[SAMEWIRE], SAMEWIRE) {
        return;
    }
    let sites = vec![SiteSpec::new("home", Nat::Easy), SiteSpec::new("office", Nat::Easy)];
    let machines =
        vec![MachineSpec::new("alder", "home", SAMEWIRE), MachineSpec::new("birch", "office", SAMEWIRE)];
    let mut scene = scene("careful", SAMEWIRE, sites, machines);
    assert!(sh(&mut scene, "birch", &format!("printf '%s' '{CAREFUL}' | nft -f -")));
    let before = rule_set(&mut scene, "birch");
    scene.join("alder");
    scene.join("birch");
    // Unasked, into the host: its own rules would drop it.
    scene.ping("alder", "birch");
    let during = rule_set(&mut scene, "birch");
    assert!(during.contains("udp dport 41641 accept comment \"samewire: samewire0\""), "{during}");
    assert!(!during.contains("oifname"), "it passes nothing on: {during}");
    let plain = |rules: &str| rules.split("table inet plain").nth(1).map(ToOwned::to_owned);
    assert_eq!(plain(&during), plain(&before), "a chain that drops nothing is left alone");

    run(&mut scene, "birch", &["down"]);
    let deadline = std::time::Instant::now() + SOON;
    while rule_set(&mut scene, "birch") != before {
        assert!(std::time::Instant::now() < deadline, "down leaves {}", rule_set(&mut scene, "birch"));
    }
    run(&mut scene, "birch", &["up"]);
    scene.ping("alder", "birch");
    // A crash leaves them; the next daemon takes them over and removes them when it ends.
    scene.world.machine("birch").expect("birch").kill();
    assert_ne!(rule_set(&mut scene, "birch"), before);
    let interrupt = scene.world.interrupt().clone();
    scene.world.machine("birch").expect("birch").start(&interrupt).expect("it starts again");
    scene.ping("alder", "birch");
    assert_eq!(rule_set(&mut scene, "birch").matches("udp dport").count(), 1, "no rule is there twice");
    scene.world.machine("birch").expect("birch").stop();
    assert_eq!(rule_set(&mut scene, "birch"), before);
}
