//! The kernel's NATs do what the lab says of them: measured with plain UDP sockets, no product involved.

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::time::Duration;

use sw_lab::{Interrupt, LabError, MachineSpec, Nat, Programs, SiteSpec, Software, Topology, World};

/// Long enough for a packet of a lab, short enough to prove that none comes.
const QUIET: Duration = Duration::from_millis(150);

/// A socket inside a site and two machines outside, each with two sockets.
struct Scene {
    _world: World,
    inside: UdpSocket,
    near: [UdpSocket; 2],
    far: UdpSocket,
}

fn socket(world: &World, room: &str, port: u16) -> UdpSocket {
    let bound = world.in_room(room, || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))
            .map_err(|e| LabError::new("test", e.to_string()))?;
        socket.set_read_timeout(Some(QUIET)).map_err(|e| LabError::new("test", e.to_string()))?;
        Ok(socket)
    });
    bound.expect("a socket in a room")
}

fn scene(name: &str, nat: Nat) -> Option<Scene> {
    if !rustix::process::geteuid().is_root() {
        // Not captured by the test harness, so that the skip is seen.
        writeln!(std::io::stderr(), "skipped: {name}: network namespaces need root").expect("stderr");
        return None;
    }
    let machine = |name: &str, place: &str| MachineSpec::new(name, place, Software::None);
    let topology = Topology {
        name: name.into(),
        server: None,
        site: vec![SiteSpec::new("home", nat)],
        machine: vec![machine("inner", "home"), machine("near", "internet"), machine("far", "internet")],
    };
    let programs = Programs { samewire: PathBuf::from("/nonexistent"), ..Programs::default() };
    let world = World::build(topology, programs, Interrupt::default()).expect("a lab");
    let inside = socket(&world, "inner", 4000);
    let near = [socket(&world, "near", 5001), socket(&world, "near", 5002)];
    let far = socket(&world, "far", 5003);
    Some(Scene { _world: world, inside, near, far })
}

const NEAR: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
const FAR: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 6);

impl Scene {
    /// Sends from the inside and returns the address under which it arrives at `at`.
    fn seen_at(&self, to: (Ipv4Addr, u16), at: &UdpSocket) -> SocketAddr {
        self.inside.send_to(b"out", SocketAddr::from(to)).expect("sent");
        at.recv_from(&mut [0; 16]).expect("the packet arrives").1
    }

    /// Tells whether a packet from `from` to the outside address `to` gets in.
    fn gets_in(&self, from: &UdpSocket, to: SocketAddr) -> bool {
        from.send_to(b"in", to).expect("sent");
        self.inside.recv_from(&mut [0; 16]).is_ok()
    }
}

#[test]
fn an_easy_router_keeps_one_port_and_lets_in_who_was_asked() {
    let Some(scene) = scene("nateasy", Nat::Easy) else { return };
    let outside = scene.seen_at((NEAR, 5001), &scene.near[0]);
    assert!(!scene.gets_in(&scene.near[1], outside), "another port of the same machine");
    assert!(!scene.gets_in(&scene.far, outside), "a machine that was not asked");
    assert!(scene.gets_in(&scene.near[0], outside));
    assert_eq!(scene.seen_at((FAR, 5003), &scene.far), outside, "unsolicited packets changed the port");
    assert_eq!(scene.seen_at((NEAR, 5002), &scene.near[1]), outside);
}

#[test]
fn an_address_restricted_router_lets_in_every_port_of_who_was_asked() {
    let Some(scene) = scene("nataf", Nat::EasyAf) else { return };
    let outside = scene.seen_at((NEAR, 5001), &scene.near[0]);
    assert!(scene.gets_in(&scene.near[1], outside));
    assert!(!scene.gets_in(&scene.far, outside));
    assert_eq!(scene.seen_at((FAR, 5003), &scene.far), outside);
}

#[test]
fn a_full_cone_lets_everybody_in() {
    let Some(scene) = scene("natcone", Nat::FullCone) else { return };
    let outside = scene.seen_at((NEAR, 5001), &scene.near[0]);
    assert!(scene.gets_in(&scene.far, outside));
}

#[test]
fn a_hard_router_takes_another_port_for_every_destination() {
    let Some(scene) = scene("nathard", Nat::Hard) else { return };
    let ports = [
        scene.seen_at((NEAR, 5001), &scene.near[0]),
        scene.seen_at((NEAR, 5002), &scene.near[1]),
        scene.seen_at((FAR, 5003), &scene.far),
    ];
    assert!(ports[0] != ports[1] && ports[1] != ports[2] && ports[0] != ports[2], "{ports:?}");
    assert!(!scene.gets_in(&scene.near[1], ports[0]));
    assert!(scene.gets_in(&scene.near[0], ports[0]));
}

#[test]
fn a_lab_is_gone_when_its_world_is_dropped() {
    let Some(scene) = scene("natgone", Nat::OneToOne) else { return };
    assert!(!sw_lab::find_leftovers(Some("natgone")).is_empty());
    drop(scene);
    assert!(sw_lab::find_leftovers(Some("natgone")).is_empty());
}
