//! Networks of both softwares, on our server and on Headscale.

use sw_lab::{Interrupt, MachineSpec, Nat, SiteSpec, Software};

use crate::scene::{OFFICIAL, SAMEWIRE, SOON, Scene, curl, listen, missing, says, scene, serve_page};

/// Three machines, two of them ours: every pair pings by name, carries a TCP session and fetches a page, directly.
fn all_pairs_talk(lab: &str, server: Software) -> Option<Scene> {
    if missing(lab, &[SAMEWIRE, OFFICIAL], server) {
        return None;
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
        let own = scene.address(name);
        serve_page(listen(&scene, name, own, 8080));
    }
    let mut port = 7000;
    for (from, to) in [("alder", "birch"), ("alder", "cedar"), ("birch", "cedar"), ("cedar", "alder")] {
        scene.ping(from, to);
        scene.ping(to, from);
        scene.until_direct(SOON, from, to);
        port += 1;
        scene.session(from, to, port).exchange(&format!("{from} → {to}"));
        for (from, to) in [(from, to), (to, from)] {
            let page = format!("http://{}:8080/", scene.address(to));
            assert_eq!(curl(&scene, from, &[&page]), "hello", "{from} fetches a page of {to}");
        }
    }
    Some(scene)
}

#[test]
fn a_mixed_network_on_our_server() {
    let Some(mut scene) = all_pairs_talk("mixours", SAMEWIRE) else { return };
    every_kind_of_ping(&mut scene, "alder", "cedar");
    every_kind_of_ping(&mut scene, "cedar", "alder");
    every_kind_of_ping(&mut scene, "alder", "birch");

    files_travel(&mut scene, "alder", "cedar");
    files_travel(&mut scene, "cedar", "alder");
    files_travel(&mut scene, "alder", "birch");

    let explained = says(&mut scene, "alder", &["explain", "cedar:8080"]);
    for part in ["it works, directly.", "Allowed", "yes", "TCP 8080 answers"] {
        assert!(explained.contains(part), "{explained}");
    }
}

/// As people and programs ask: through the tunnel to the daemon, to the host, and to the API of the peer.
fn every_kind_of_ping(scene: &mut Scene, from: &str, to: &str) {
    for (kind, answer) in
        [("--tsmp", "via TSMP in"), ("--icmp", "via ICMP in"), ("--peerapi", "hit peerapi of")]
    {
        let machine = scene.world.machine(from).expect("a machine");
        let interrupt = Interrupt::default();
        let mut said = String::new();
        // Where a peer's API is, the server has to tell first.
        let answered = interrupt.wait_for(SOON, || {
            let output = machine.command_line(&["ping", kind, to], SOON, &interrupt)?;
            said = format!("{output:?}");
            Ok(said.contains(answer).then_some(()))
        });
        assert_eq!(answered, Ok(Some(())), "{from} pings {to} {kind}: {said}");
    }
}

/// A file and standard input, sent and fetched.
fn files_travel(scene: &mut Scene, from: &str, to: &str) {
    let dir = scene.world.machine(from).expect("a machine").dir().to_owned();
    let name = format!("from {from} ü.bin");
    let content: Vec<u8> = (0..300_000_u32).map(|i| (i * 7 % 251) as u8).collect();
    let file = dir.join(&name);
    std::fs::write(&file, &content).expect("a file");
    says(scene, from, &["file", "cp", &file.to_string_lossy(), &format!("{to}:")]);
    let inbox = scene.world.machine(to).expect("a machine").dir().join(format!("inbox-{from}"));
    std::fs::create_dir(&inbox).expect("a folder");
    says(scene, to, &["file", "get", "--wait", &inbox.to_string_lossy()]);
    let got = std::fs::read(inbox.join(&name)).expect("the file arrived");
    assert!(got == content, "{from} → {to}: other bytes");
}

#[test]
fn a_mixed_network_on_headscale() {
    let Some(mut scene) = all_pairs_talk("mixhead", OFFICIAL) else { return };
    every_kind_of_ping(&mut scene, "alder", "cedar");
    // That server does not tell what its policy says; the rest is told.
    let explained = says(&mut scene, "alder", &["explain", "cedar:8080"]);
    assert!(explained.contains("not told by this network's server"), "{explained}");
}
