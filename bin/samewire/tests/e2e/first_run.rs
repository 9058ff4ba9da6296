//! The first run: one line on the first machine, one pasted line on each other; no DNS server, no Internet.

use std::time::{Duration, Instant};

use serde_json::Value;
use sw_lab::{Interrupt, MachineSpec, Nat, PortMapping, SiteSpec, Software, Topology, Udp, World};

use crate::scene::{SOON, missing, programs, skip, turn};
use crate::typed::Shell;

/// Both lines typed and everybody reached, also with a build that is not optimised.
const ALL_IN: Duration = Duration::from_secs(20);

fn lab(name: &str, site: Vec<SiteSpec>, machines: &[(&str, &str)]) -> World {
    let machine = machines.iter().map(|(name, at)| MachineSpec::new(name, at, Software::None)).collect();
    let topology = Topology { name: name.into(), server: None, site, machine };
    World::build(topology, programs(), Interrupt::default()).expect("a lab")
}

/// The line of a screen that begins with this.
fn line_with<'a>(screen: &'a str, start: &str) -> &'a str {
    screen.lines().find(|line| line.starts_with(start)).unwrap_or_else(|| panic!("no {start}:\n{screen}"))
}

/// Pings a name until one answer comes, then until the path is direct.
fn reach(shell: &mut Shell, peer: &str) {
    shell.until(SOON, &format!("ping -n -c 1 -W 1 {peer}"));
    shell.until(SOON, &format!("samewire ping -c 5 --timeout 1s {peer} | grep -v DERP"));
}

#[test]
fn two_lines_make_a_network_and_the_official_client_joins_it() {
    if missing("first run", &[], Software::None) {
        return;
    }
    let _turn = turn();
    let sites = vec![
        SiteSpec::new("home", Nat::Easy),
        SiteSpec::new("office", Nat::EasyAf),
        SiteSpec::new("cafe", Nat::Easy),
    ];
    let machines = [("birch", "internet"), ("attic", "home"), ("studio", "office"), ("phone", "cafe")];
    let world = lab("first", sites, &machines);
    let mut birch = Shell::open(&world, "birch");
    let mut homes = ["attic", "studio"].map(|name| Shell::open(&world, name));
    birch.install();

    let begun = Instant::now();
    let screen = birch.types_well("samewire up");
    let line = line_with(&screen, "curl ");
    for shell in &mut homes {
        let said = shell.types_well(line);
        assert!(said.contains("  ok Downloaded          samewire "), "{said}");
        assert!(said.contains("You are in home.internal."), "{said}");
    }
    let [attic, studio] = &mut homes;
    reach(attic, "birch");
    reach(attic, "studio");
    reach(studio, "birch");
    reach(studio, "attic");
    reach(&mut birch, "attic");
    reach(&mut birch, "studio");
    let took = begun.elapsed();
    eprintln!("first run: two lines and all direct in {:.1} s", took.as_secs_f64());
    assert!(took < ALL_IN, "{took:?}");

    signed_in_by_the_network(&mut birch, attic);
    second_tries(&mut birch, attic);
    an_invite_from_another_machine(attic);
    official_client(&world, attic);
    nothing_is_left(studio);
}

/// The owner's machines are signed in on the page by being on the network; from outside nobody is.
fn signed_in_by_the_network(birch: &mut Shell, attic: &mut Shell) {
    let network = birch.types_well("samewire ip -4");
    let public = birch.types_well("ip -4 -br addr show eth0 | awk '{print $3}' | cut -d/ -f1");
    let page = |at: &str| format!("curl -skL --max-time 10 http://{}/machines", at.trim());
    let inside = attic.types_well(&page(&network));
    assert!(inside.contains("from attic") && inside.contains("studio"), "{inside}");
    let outside = attic.types_well(&page(&public));
    assert!(outside.contains("<h1>Sign in</h1>") && !outside.contains("studio"), "{outside}");
}

/// Never a second network over the first, by neither verb.
fn second_tries(birch: &mut Shell, attic: &mut Shell) {
    let said = birch.types_well("samewire up");
    assert!(said.contains("Already up. A new join line: samewire invite"), "{said}");
    let said = attic.types_well("samewire up");
    assert!(said.contains("Already up."), "{said}");
    let string = birch.types_well("samewire invite --json");
    let invite: Value = serde_json::from_str(&string).expect("JSON");
    let join = format!("samewire join {}", invite["joinString"].as_str().expect("a string"));
    for shell in [attic, birch] {
        let said = shell.types(&join);
        assert_eq!(said.code, 2, "{}", said.out);
        assert!(said.out.contains("this machine is already in the network"), "{}", said.out);
    }
}

/// An owner's machine invites through the network, and takes the invite back.
fn an_invite_from_another_machine(attic: &mut Shell) {
    let invite: Value =
        serde_json::from_str(&attic.types_well("samewire invite --uses 1 --json")).expect("JSON");
    assert_eq!(invite["uses"], 1);
    let id = invite["inviteId"].as_str().expect("an id");
    attic.types_well(&format!("samewire invite revoke {id}"));
    let url = invite["joinUrl"].as_str().expect("a URL");
    let gone = attic.types(&format!("curl -fsSk {url} | sh"));
    assert_eq!(gone.code, 7, "{}", gone.out);
    assert!(gone.out.contains("error: this invite was taken back."), "{}", gone.out);
    assert!(attic.types_well("samewire admin").contains("/admin/"));
}

fn official_client(world: &World, attic: &mut Shell) {
    let programs = programs();
    let Ok((daemon, client)) = programs.official_node() else {
        return skip("first run, official client: tailscale and tailscaled are not named");
    };
    let mut phone = Shell::open(world, "phone");
    let line = attic.types_well("samewire invite --official");
    let (daemon, client) = (daemon.display(), client.display());
    phone.types_well(&format!(
        "mkdir -p /run/tailscale /var/lib/tailscale; ln -s {client} /usr/local/bin/tailscale\n\
         TS_DEBUG_FIREWALL_MODE=nftables {daemon} --no-logs-no-support >/run/tailscaled.log 2>&1 &\n\
         echo $! >/run/tailscaled.pid"
    ));
    phone.until(SOON, "test -S /run/tailscale/tailscaled.sock");
    let joined = phone.types(line.trim());
    assert_eq!(joined.code, 0, "{}\n{}", joined.out, phone.types("tail -n 30 /run/tailscaled.log").out);
    phone.until(SOON, "ping -n -c 1 -W 1 attic");
    attic.until(SOON, "ping -n -c 1 -W 1 phone");
    let _ended = phone.types("kill $(cat /run/tailscaled.pid); tailscaled --cleanup");
}

/// `leave` and `uninstall` take away what was made.
fn nothing_is_left(studio: &mut Shell) {
    assert!(studio.types_well("samewire leave").contains("This machine has left home.internal."));
    assert_eq!(studio.types("samewire status").code, 3);
    let said = studio.types_well("samewire uninstall");
    assert!(said.contains("samewire is gone from this machine."), "{said}");
    let left = studio.types_well(
        "ls -A /var/lib /run | grep -i samewire; ls /usr/local/bin; ip -br link | grep samewire\n\
         ip rule | grep -v 'lookup \\(local\\|main\\|default\\)'; ss -Hlntup\n\
         nft list ruleset; true",
    );
    assert_eq!(left.trim(), "sudo", "{left}");
}

#[test]
fn without_udp_everything_goes_by_the_relay() {
    if missing("first run without UDP", &[], Software::None) {
        return;
    }
    let _turn = turn();
    let blocked = SiteSpec { udp: Udp::Blocked, ..SiteSpec::new("office", Nat::Easy) };
    let world = lab("noudp", vec![blocked], &[("birch", "internet"), ("desk", "office")]);
    let (mut birch, mut desk) = (Shell::open(&world, "birch"), Shell::open(&world, "desk"));
    birch.install();
    let screen = birch.types_well("samewire up");
    let said = desk.types_well(line_with(&screen, "curl "));
    assert!(said.contains("relayed"), "{said}");
    desk.until(SOON, "ping -n -c 1 -W 2 birch");
    birch.until(SOON, "ping -n -c 1 -W 2 desk");
    let peers: Value = serde_json::from_str(&desk.types_well("samewire status --json")).expect("JSON");
    let peers = peers["Peer"].as_object().expect("peers");
    assert!(peers.values().all(|peer| peer["CurAddr"] == "" && peer["Relay"] == "home"), "{peers:?}");
}

/// The first machine behind a router that maps ports by `service`; the others come in from outside.
fn behind_a_mapping_router(name: &str, service: PortMapping, word: &str) {
    if missing("first run behind a mapping router", &[], Software::None) {
        return;
    }
    let _turn = turn();
    let home = SiteSpec { port_mapping: vec![service], ..SiteSpec::new("home", Nat::Easy) };
    let sites = vec![home, SiteSpec::new("office", Nat::Easy)];
    let world = lab(name, sites, &[("birch", "home"), ("desk", "office")]);
    let (mut birch, mut desk) = (Shell::open(&world, "birch"), Shell::open(&world, "desk"));
    birch.install();
    let screen = birch.types_well("samewire up");
    assert!(screen.contains(&format!("mapped by the router ({word})")), "{screen}");
    desk.types_well(line_with(&screen, "curl "));
    reach(&mut desk, "birch");
    reach(&mut birch, "desk");
}

#[test]
fn a_first_machine_behind_a_router_with_pcp() {
    behind_a_mapping_router("firstpcp", PortMapping::Pcp, "PCP");
}

#[test]
fn a_first_machine_behind_a_router_with_nat_pmp() {
    behind_a_mapping_router("firstpmp", PortMapping::NatPmp, "NAT-PMP");
}

#[test]
fn a_first_machine_behind_a_router_with_upnp() {
    behind_a_mapping_router("firstupnp", PortMapping::Upnp, "UPnP");
}

#[test]
fn a_first_machine_behind_a_router_that_maps_none_says_what_is_missing() {
    if missing("first run behind a closed router", &[], Software::None) {
        return;
    }
    let _turn = turn();
    let world = lab("closed", vec![SiteSpec::new("home", Nat::Easy)], &[("birch", "home"), ("desk", "home")]);
    let (mut birch, mut desk) = (Shell::open(&world, "birch"), Shell::open(&world, "desk"));
    birch.install();
    let screen = birch.types_well("samewire up");
    let address = birch.types_well("ip -4 -br addr show eth0 | awk '{print $3}' | cut -d/ -f1");
    let router = birch.types_well("ip -4 route show default | awk '{print $3}'");
    let (address, router) = (address.trim(), router.trim());
    // The locale is C, so the marks are plain.
    for line in [
        format!("  ! Reachable           only in this LAN, {address}, port 443"),
        format!("      why: the router at {router} maps no ports, and there is no IPv6"),
        format!("      fix: forward TCP and UDP 443 to {address} in the router,"),
    ] {
        assert!(screen.lines().any(|shown| shown == line), "{line}\n{screen}");
    }
    // Inside the LAN it works.
    desk.types_well(line_with(&screen, "curl "));
    reach(&mut desk, "birch");
}

#[test]
fn a_network_moves_in_one_file() {
    if missing("backup and restore", &[], Software::None) {
        return;
    }
    let _turn = turn();
    let world =
        lab("kept", vec![SiteSpec::new("home", Nat::Easy)], &[("birch", "internet"), ("desk", "home")]);
    let (mut birch, mut desk) = (Shell::open(&world, "birch"), Shell::open(&world, "desk"));
    birch.install();
    let screen = birch.types_well("samewire up");
    desk.types_well(line_with(&screen, "curl "));
    desk.until(SOON, "ping -n -c 1 -W 1 birch");
    let before = birch.types_well("samewire ip -4");
    birch.types_well("cd /run; samewire backup kept && cp /usr/local/bin/samewire /run/program");
    birch.types_well("samewire uninstall --yes");
    birch.install();
    let taken = birch.types("samewire up >/dev/null 2>&1; samewire restore /run/kept");
    assert_eq!(taken.code, 2, "a second network is not overwritten unasked: {}", taken.out);
    birch.types_well("samewire restore --yes /run/kept");
    assert_eq!(birch.until(SOON, "samewire wait --timeout 10s; samewire ip -4"), before);
    desk.until(SOON, "ping -n -c 1 -W 1 birch");
}

#[test]
fn a_damaged_database_goes_back_to_the_daily_copy() {
    if missing("damaged database", &[], Software::None) {
        return;
    }
    let _turn = turn();
    let world =
        lab("damaged", vec![SiteSpec::new("home", Nat::Easy)], &[("birch", "internet"), ("desk", "home")]);
    let (mut birch, mut desk) = (Shell::open(&world, "birch"), Shell::open(&world, "desk"));
    birch.install();
    let screen = birch.types_well("samewire up");
    desk.types_well(line_with(&screen, "curl "));
    desk.until(SOON, "ping -n -c 1 -W 1 birch");
    let control = "/var/lib/samewire/control";
    birch.types_well(&format!(
        "mkdir -p {control}/snapshots; samewire control backup {control}/snapshots/2026-01-02.db\n\
         printf 'no database' > {control}/snapshots/2026-01-03.db"
    ));
    let said = birch.types("samewire restore --latest");
    assert_eq!(said.code, 2, "a network that is well is not taken back unasked: {}", said.out);
    // The one that listens in this machine's own network, and nobody else's.
    birch.types_well("kill -9 $(ss -Hltnp sport = :443 | sed -n 's/.*pid=\\([0-9]*\\).*/\\1/p')");
    birch.until(SOON, "! ss -Hltn sport = :443 | grep -q LISTEN");
    birch.types_well(&format!(
        "dd if=/dev/zero of={control}/control.db bs=1k seek=1 count=16 conv=notrunc status=none\n\
         rm -f {control}/control.db-wal {control}/control.db-shm"
    ));
    let said = birch.types("samewire up");
    assert_eq!(said.code, 1, "{}", said.out);
    assert!(
        said.out.contains("error: the state file is damaged, so samewire did not start."),
        "{}",
        said.out
    );
    assert!(said.out.contains("samewire restore --latest"), "{}", said.out);
    let said = birch.types_well("samewire restore --latest");
    assert!(said.contains("as it was on 2026-01-02"), "{said}");
    desk.until(SOON, "ping -n -c 1 -W 1 birch");
    birch.until(SOON, "samewire control nodes list | grep desk");
}

/// The user, or the router, says later how machines outside get in.
#[test]
fn a_port_that_is_forwarded_later_gets_into_the_join_lines() {
    if missing("forwarded later", &[], Software::None) {
        return;
    }
    let _turn = turn();
    let world = lab(
        "later",
        vec![SiteSpec::new("home", Nat::Easy), SiteSpec::new("office", Nat::Easy)],
        &[("birch", "home"), ("desk", "home")],
    );
    let (mut birch, mut desk) = (Shell::open(&world, "birch"), Shell::open(&world, "desk"));
    birch.install();
    let screen = birch.types_well("samewire up");
    desk.types_well(line_with(&screen, "curl "));
    let said = birch.until(SOON, "samewire check");
    assert!(said.contains("Reachable           only in this LAN"), "{said}");
    assert!(said.contains("sudo samewire up --domain ADDRESS"), "{said}");
    let screen = birch.types_well("samewire up --domain 203.0.113.99");
    assert!(screen.contains("  ok Reachable           203.0.113.99, port 443"), "{screen}");
    assert!(line_with(&screen, "curl ").contains("https://203.0.113.99/j/"), "{screen}");
    let check: Value = serde_json::from_str(&birch.types("samewire check --json").out).expect("JSON");
    assert_eq!(check["server"]["reachable"]["address"], "203.0.113.99");
    // Nobody is lost by it, and saying it again changes nothing.
    desk.until(SOON, "ping -n -c 1 -W 1 birch");
    let said = birch.types_well("samewire up --domain 203.0.113.99");
    assert!(said.contains("Already up."), "{said}");
}

#[test]
fn a_second_network_in_the_same_lan_is_not_made_unasked() {
    if missing("network nearby", &[], Software::None) {
        return;
    }
    let _turn = turn();
    let world = lab("near", vec![SiteSpec::new("home", Nat::Easy)], &[("birch", "home"), ("desk", "home")]);
    let (mut birch, mut desk) = (Shell::open(&world, "birch"), Shell::open(&world, "desk"));
    birch.install();
    desk.install();
    birch.types_well("samewire up");
    let address = birch.types_well("ip -4 -br addr show eth0 | awk '{print $3}' | cut -d/ -f1");
    let said = desk.types("samewire up");
    let expected = format!(
        "warning: another samewire network is near: home.internal, on birch ({}).\n  \
         why: it answered on this LAN\n  \
         fix: to join it: on birch run samewire invite. To start a second one all the same: samewire up --new-network",
        address.trim()
    );
    assert_eq!((said.code, said.out.trim()), (2, expected.as_str()));
    assert_eq!(desk.types_well("ls -A /var/lib/samewire 2>/dev/null; true").trim(), "", "nothing was made");
    let said = desk.types_well("samewire up --new-network");
    assert!(said.contains("Add a machine"), "{said}");
}

#[test]
fn an_interrupted_start_is_finished_by_the_next() {
    if missing("interruptions", &[], Software::None) {
        return;
    }
    let _turn = turn();
    let world =
        lab("ctrlc", vec![SiteSpec::new("home", Nat::Easy)], &[("birch", "internet"), ("desk", "home")]);
    let (mut birch, mut desk) = (Shell::open(&world, "birch"), Shell::open(&world, "desk"));
    birch.install();
    desk.install();
    let mut seed = 9_u64;
    let mut moment = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % 1_000
    };
    let interrupted =
        |millis: u64, line: &str| format!("timeout --preserve-status -s INT 0.{millis:03} {line}");
    let (mut kept, mut unchanged) = (0, 0);
    for round in 0..10 {
        let millis = moment();
        let said = birch.types(&interrupted(millis, "samewire up --quiet"));
        match said.code {
            0 => {}
            130 if said.out.contains("interrupted; the new network is kept") => kept += 1,
            // Silent: the program had not begun.
            130 if said.out.is_empty() || said.out.contains("interrupted; nothing was changed") => {
                let left = birch.types_well("ls -A /var/lib/samewire/control 2>/dev/null; true");
                assert!(!left.contains("network.json"), "{left}");
                unchanged += 1;
            }
            other => panic!("round {round}, after {millis} ms: {other}: {}", said.out),
        }
        let said = birch.types_well("samewire up");
        assert!(said.contains("samewire invite") || said.contains("Add a machine"), "round {round}: {said}");
        birch.types_well("samewire ip -4");
        if round < 9 {
            birch.types_well("samewire uninstall --yes");
            birch.install();
        }
    }
    eprintln!("up interrupted: {kept} times kept, {unchanged} times unchanged");
    for round in 0..10 {
        let invite: Value = serde_json::from_str(&birch.types_well("samewire invite --json")).expect("JSON");
        let join = format!("samewire join {}", invite["joinString"].as_str().expect("a string"));
        let millis = moment();
        let said = desk.types(&interrupted(millis, &join));
        assert!(
            said.code == 0
                || said.code == 130 && (said.out.is_empty() || said.out.contains("note: interrupted")),
            "round {round}, after {millis} ms: {}: {}",
            said.code,
            said.out
        );
        let said = desk.types(&join);
        let is_in = said.code == 0 || said.out.contains("this machine is already in the network");
        assert!(is_in, "round {round}: {}", said.out);
        desk.until(SOON, "ping -n -c 1 -W 1 birch");
        desk.types_well("samewire leave");
    }
}

#[test]
fn without_root_and_with_443_taken_it_says_so_and_works() {
    if missing("first run without root", &[], Software::None) {
        return;
    }
    let _turn = turn();
    let world =
        lab("taken", vec![SiteSpec::new("home", Nat::Easy)], &[("birch", "internet"), ("desk", "home")]);
    let (mut birch, mut desk) = (Shell::open(&world, "birch"), Shell::open(&world, "desk"));
    birch.install();
    birch.types_well("cp /usr/local/bin/samewire /usr/local/bin/nginx; mkdir -p /run/nginx\n\
        nginx relay --hostname 127.0.0.1 --state /run/nginx --stun-listen 127.0.0.1:3479 >/run/nginx/log 2>&1 & echo $! > /run/nginx/pid");
    birch.until(SOON, "ss -Hltn sport = :443 | grep -q LISTEN");
    let screen = birch.types_well("samewire up");
    let address = birch.types_well("ip -4 -br addr show eth0 | awk '{print $3}' | cut -d/ -f1");
    let line = format!("  ok Reachable           {}, port 8443 (443 belongs to nginx)", address.trim());
    assert!(screen.lines().any(|shown| shown.trim() == line.trim()), "{line}\n{screen}");
    desk.types_well(line_with(&screen, "curl "));
    reach(&mut desk, "birch");
    birch.types_well("samewire uninstall --yes; kill $(cat /run/nginx/pid)");
    birch.install();

    // Somebody without rights: all of it below their own home.
    birch.types_well("mkdir -p /run/ada && chown 1000:1000 /run/ada");
    let ada = "setpriv --reuid 1000 --regid 1000 --clear-groups env HOME=/run/ada USER=ada";
    let screen = birch.types_well(&format!("{ada} samewire up"));
    assert!(screen.contains(", without root: programs use the"), "{screen}");
    assert!(screen.contains("proxy at 127.0.0.1:1055 (SOCKS5 and HTTP)"), "{screen}");
    assert!(screen.contains("Starts at boot      no. With root it could: sudo samewire up"), "{screen}");
    desk.types_well("samewire leave");
    desk.types_well(line_with(&screen, "curl "));
    desk.until(SOON, "ping -n -c 1 -W 1 birch");
    birch.types_well(&format!("{ada} samewire uninstall --yes"));
}
