//! A node that crashes when nobody is left who could tell it where its peers are.

use std::time::Duration;

use sw_lab::Nat;

use crate::scene::{Cast, SAMEWIRE, SOON, two_sites};

#[test]
fn a_crash_without_server_and_relay_still_reaches_the_peers() {
    let cast = Cast { alder: SAMEWIRE, birch: SAMEWIRE, server: SAMEWIRE };
    // The address of a peer behind a hard NAT is in no netmap: only who was reached by it knows it.
    let Some(mut scene) = two_sites("recovery", cast, [Nat::EasyAf, Nat::Hard]) else { return };
    scene.join("alder");
    scene.join("birch");
    scene.ping("alder", "birch");
    scene.until_direct(SOON, "alder", "birch");
    let address = scene.address("birch").to_string();
    let state = scene.world.machine("alder").expect("alder").dir().join("state");
    scene.until("the way is on disk", || state.join("ways.cache").exists().then_some(()));
    let server = scene.world.server().expect("a server");
    server.kill_control();
    server.kill_relay();
    let interrupt = scene.world.interrupt().clone();
    let alder = scene.world.machine("alder").expect("alder");
    alder.kill();
    alder.start(&interrupt).expect("it starts from its own files");
    // Nobody tells birch anything; a quarter of a second on a machine with nothing else to do.
    scene.ping_within(Duration::from_secs(20), "alder", &address);
}
