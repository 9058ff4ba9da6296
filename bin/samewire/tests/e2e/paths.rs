//! Which NATs let machines talk directly, and what heals.

use std::time::Duration;

use sw_lab::{MachineSpec, Nat, SiteSpec, Udp};

use crate::scene::{Cast, OFFICIAL, SAMEWIRE, SOON, missing, scene, two_sites};

fn gets_direct(lab: &str, cast: Cast, nats: [Nat; 2]) {
    let Some(mut scene) = two_sites(lab, cast, nats) else { return };
    scene.join("alder");
    scene.join("birch");
    scene.until_direct(SOON, "alder", "birch");
}

#[test]
fn easy_with_easy_is_direct_samewire_with_samewire() {
    gets_direct("ee", Cast { alder: SAMEWIRE, birch: SAMEWIRE, server: SAMEWIRE }, [Nat::Easy, Nat::Easy]);
}

#[test]
fn easy_with_easy_is_direct_samewire_with_official() {
    gets_direct("eeso", Cast { alder: SAMEWIRE, birch: OFFICIAL, server: SAMEWIRE }, [Nat::Easy, Nat::Easy]);
}

#[test]
fn hard_with_easy_is_direct_samewire_with_samewire() {
    gets_direct("he", Cast { alder: SAMEWIRE, birch: SAMEWIRE, server: SAMEWIRE }, [Nat::Hard, Nat::Easy]);
}

#[test]
fn hard_with_address_restricted_is_direct_samewire_with_official() {
    gets_direct("haf", Cast { alder: SAMEWIRE, birch: OFFICIAL, server: SAMEWIRE }, [Nat::Hard, Nat::EasyAf]);
}

#[test]
fn hard_with_address_restricted_is_direct_official_with_official() {
    gets_direct(
        "hafoo",
        Cast { alder: OFFICIAL, birch: OFFICIAL, server: OFFICIAL },
        [Nat::Hard, Nat::EasyAf],
    );
}

#[test]
fn hard_with_hard_talks_through_the_relay() {
    let cast = Cast { alder: SAMEWIRE, birch: SAMEWIRE, server: SAMEWIRE };
    let Some(mut scene) = two_sites("hh", cast, [Nat::Hard, Nat::Hard]) else { return };
    scene.join("alder");
    scene.join("birch");
    scene.ping("alder", "birch");
}

fn talks_without_udp(lab: &str, cast: Cast) {
    if missing(lab, &[cast.alder, cast.birch], cast.server) {
        return;
    }
    let mut hotel = SiteSpec::new("hotel", Nat::Easy);
    hotel.udp = Udp::Blocked;
    let machines = vec![
        MachineSpec::new("alder", "hotel", cast.alder),
        MachineSpec::new("birch", "internet", cast.birch),
    ];
    let mut scene = scene(lab, cast.server, vec![hotel], machines);
    scene.join("alder");
    scene.join("birch");
    scene.ping("alder", "birch");
    scene.ping("birch", "alder");
}

#[test]
fn a_network_without_udp_talks_through_the_relay_samewire_with_samewire() {
    talks_without_udp("noudp", Cast { alder: SAMEWIRE, birch: SAMEWIRE, server: SAMEWIRE });
}

#[test]
fn a_network_without_udp_talks_through_the_relay_samewire_with_official() {
    talks_without_udp("noudpso", Cast { alder: SAMEWIRE, birch: OFFICIAL, server: SAMEWIRE });
}

#[test]
fn a_blocked_direct_path_heals_by_the_relay() {
    let cast = Cast { alder: SAMEWIRE, birch: SAMEWIRE, server: SAMEWIRE };
    let Some(mut scene) = two_sites("heal", cast, [Nat::Easy, Nat::Easy]) else { return };
    scene.join("alder");
    scene.join("birch");
    scene.until_direct(SOON, "alder", "birch");
    let mut session = scene.session("alder", "birch", 7000);
    session.exchange("a direct path");
    // Only what runs between the two sites is lost; the relay is still there.
    let block = "table ip swl_cut {\nchain cut {\ntype filter hook forward priority filter;\n\
                 ip saddr 203.0.113.0/24 ip daddr 203.0.113.0/24 drop\n}\n}\n";
    scene.world.nft("internet", block).expect("a firewall rule");
    let address = scene.address("birch").to_string();
    let start = std::time::Instant::now();
    scene.ping_within(Duration::from_secs(10), "alder", &address);
    session.exchange("by the relay");
    let healed = start.elapsed();
    assert!(healed < Duration::from_secs(6), "healed only after {healed:?}");
    scene.world.nft("internet", "delete table ip swl_cut\n").expect("the rule goes");
    scene.until_direct(Duration::from_secs(40), "alder", "birch");
}
