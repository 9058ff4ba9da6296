//! The life of a network: joining, talking, moving, crashing, losing relay and server.

use std::time::Duration;

use sw_lab::{Nat, Roam};

use crate::scene::{Cast, OFFICIAL, SAMEWIRE, SOON, remembers, two_sites};

/// The parts of the journey that both softwares promise.
fn whole_journey(lab: &str, cast: Cast) {
    let Some(mut scene) = two_sites(lab, cast, [Nat::Easy, Nat::EasyAf]) else { return };
    scene.join("alder");
    scene.join("birch");
    scene.ping("alder", "birch");
    scene.ping("birch", "alder");
    let before = scene.until_direct(SOON, "alder", "birch");
    let mut session = scene.session("alder", "birch", 7000);
    session.exchange("a direct path");

    // Another network, another address: the session lives on.
    scene.world.machine("alder").expect("alder").roam(Roam::To(1)).expect("a second place");
    session.exchange("after the move");
    let after = scene.until_direct(SOON, "birch", "alder");
    assert!(after.starts_with("203.0.113."), "{after}");
    assert_ne!(before, after);

    // A crash of the daemon.
    let interrupt = scene.world.interrupt().clone();
    let birch = scene.world.machine("birch").expect("birch");
    birch.kill();
    birch.start(&interrupt).expect("it starts again");
    scene.ping("alder", "birch");

    // The server stops and comes back: packets flow all the time. An official client on Headscale may need longer
    // than a test has to find the crashed peer's new disco key.
    if cast.server == SAMEWIRE || cast.alder == SAMEWIRE {
        scene.until_direct(SOON, "alder", "birch");
    }
    scene.world.server().expect("a server").kill_control();
    session_free_ping_loss(&mut scene, "alder", "birch");
    scene.world.server().expect("a server").start(&interrupt).expect("it starts again");
    scene.ping("birch", "alder");
}

/// Twenty pings over a settled direct path lose none.
fn session_free_ping_loss(scene: &mut crate::scene::Scene, from: &str, to: &str) {
    let address = scene.address(to).to_string();
    let interrupt = scene.world.interrupt().clone();
    let machine = scene.world.machine(from).expect("a machine");
    let words = ["ping", "-n", "-c", "20", "-i", "0.05", "-W", "1", &address];
    let output = machine.exec(&words, SOON, &interrupt).expect("ping runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains(" 0% packet loss"), "{said}");
}

#[test]
fn journey_samewire_with_samewire() {
    whole_journey("jss", Cast { alder: SAMEWIRE, birch: SAMEWIRE, server: SAMEWIRE });
}

#[test]
fn journey_samewire_with_official() {
    whole_journey("jso", Cast { alder: SAMEWIRE, birch: OFFICIAL, server: SAMEWIRE });
}

#[test]
fn journey_official_on_our_server() {
    whole_journey("joos", Cast { alder: OFFICIAL, birch: OFFICIAL, server: SAMEWIRE });
}

#[test]
fn journey_samewire_on_headscale() {
    whole_journey("jsoh", Cast { alder: SAMEWIRE, birch: OFFICIAL, server: OFFICIAL });
}

#[test]
fn journey_official_with_official() {
    whole_journey("joo", Cast { alder: OFFICIAL, birch: OFFICIAL, server: OFFICIAL });
}

#[test]
fn a_restart_without_server_still_reaches_the_peers() {
    let cast = Cast { alder: SAMEWIRE, birch: SAMEWIRE, server: SAMEWIRE };
    let Some(mut scene) = two_sites("cached", cast, [Nat::EasyAf, Nat::EasyAf]) else { return };
    scene.join("alder");
    scene.join("birch");
    scene.ping("alder", "birch");
    scene.until_direct(SOON, "alder", "birch");
    let address = scene.address("birch").to_string();
    let cache = scene.world.machine("alder").expect("alder").dir().join("state/netmap.cache");
    scene.until("alder's disk knows where birch is", || remembers(&cache, &address));
    scene.world.server().expect("a server").kill_control();
    let interrupt = scene.world.interrupt().clone();
    let alder = scene.world.machine("alder").expect("alder");
    alder.kill();
    alder.start(&interrupt).expect("it starts from its own files");
    scene.ping_within(Duration::from_secs(10), "alder", &address);
}

#[test]
fn the_relay_dies_and_direct_paths_do_not_notice() {
    let cast = Cast { alder: SAMEWIRE, birch: SAMEWIRE, server: SAMEWIRE };
    let Some(mut scene) = two_sites("relay", cast, [Nat::Easy, Nat::Easy]) else { return };
    scene.join("alder");
    scene.join("birch");
    scene.ping("alder", "birch");
    scene.until_direct(SOON, "alder", "birch");
    scene.world.server().expect("a server").kill_relay();
    session_free_ping_loss(&mut scene, "alder", "birch");
}

#[test]
fn a_policy_change_closes_and_opens_a_port() {
    let cast = Cast { alder: SAMEWIRE, birch: SAMEWIRE, server: SAMEWIRE };
    let Some(mut scene) = two_sites("policy", cast, [Nat::Easy, Nat::Easy]) else { return };
    scene.join("alder");
    scene.join("birch");
    let mut session = scene.session("alder", "birch", 7000);
    session.exchange("everything is allowed");
    let address = scene.address("birch");
    let listener = scene.world.in_room("birch", || {
        std::net::TcpListener::bind((address, 7001)).map_err(|e| sw_lab::LabError::new("test", e.to_string()))
    });
    let _listener = listener.expect("a second port");
    scene.until("the second port is open", || scene.connect("alder", address, 7001));
    set_policy(&mut scene, r#"{"acls": [{"action": "accept", "src": ["*"], "dst": ["*:22"]}]}"#);
    scene
        .until("the second port is closed", || scene.connect("alder", address, 7001).is_none().then_some(()));
    set_policy(&mut scene, r#"{"acls": [{"action": "accept", "src": ["*"], "dst": ["*:7001"]}]}"#);
    scene.until("the second port is open again", || scene.connect("alder", address, 7001));
}

pub(crate) fn set_policy(scene: &mut crate::scene::Scene, policy: &str) {
    let server = scene.world.server().expect("a server");
    let file = server.state_dir().with_file_name("policy.hujson");
    std::fs::write(&file, policy).expect("a policy file");
    let path = file.to_str().expect("a plain path");
    server.control(&["policy", "set", path]).unwrap_or_else(|e| panic!("{e}"));
}
