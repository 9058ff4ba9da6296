//! Networks of both softwares, on our server and on Headscale.

use sw_lab::{MachineSpec, Nat, SiteSpec, Software};

use crate::scene::{OFFICIAL, SAMEWIRE, SOON, missing, scene};

/// Three machines, two of them ours: every pair pings by name and carries a TCP session.
fn all_pairs_talk(lab: &str, server: Software) {
    if missing(lab, &[SAMEWIRE, OFFICIAL], server) {
        return;
    }
    let sites = vec![SiteSpec::new("home", Nat::Easy), SiteSpec::new("office", Nat::EasyAf)];
    let machines = vec![
        MachineSpec::new("alder", "home", SAMEWIRE),
        MachineSpec::new("birch", "office", SAMEWIRE),
        MachineSpec::new("cedar", "internet", OFFICIAL),
    ];
    let mut scene = scene(lab, server, sites, machines);
    for name in ["alder", "birch", "cedar"] {
        scene.join(name);
    }
    let mut port = 7000;
    for (from, to) in [("alder", "birch"), ("alder", "cedar"), ("birch", "cedar"), ("cedar", "alder")] {
        scene.ping(from, to);
        scene.ping(to, from);
        scene.until_direct(SOON, from, to);
        port += 1;
        scene.session(from, to, port).exchange(&format!("{from} → {to}"));
    }
}

#[test]
fn a_mixed_network_on_our_server() {
    all_pairs_talk("mixours", SAMEWIRE);
}

#[test]
fn a_mixed_network_on_headscale() {
    all_pairs_talk("mixhead", OFFICIAL);
}
