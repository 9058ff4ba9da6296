//! Programs written for the official daemon's socket, unmodified, on ours; and accounts as they switch them.

use std::path::{Path, PathBuf};

use sw_lab::{Interrupt, MachineSpec, Nat, SiteSpec};

use crate::scene::{SAMEWIRE, SOON, Scene, listen, missing, says, scene, serve_page, skip};

/// The Python whose packages include `tslocal`, the LocalAPI client on PyPI.
const PYTHON: &str = "SAMEWIRE_TEST_PYTHON";

/// Runs against the socket in argv[1]; `alder` in argv[2] is the daemon's machine, argv[3] a peer's address.
const TSLOCAL: &str = r#"
import sys, tslocal
with tslocal.Client(socket_path=sys.argv[1]) as client:
    status = client.status()
    assert status.backend_state == "Running", status.backend_state
    assert status.self_.host_name == sys.argv[2], status.self_
    assert len(status.peer) == 1, status.peer
    assert client.status_without_peers().peer in (None, {}), "without peers"
    who = client.who_is(sys.argv[3])
    assert who.node.name.startswith("birch."), who.node
    assert who.user_profile.login_name, who.user_profile
    key = who.node.key
    assert client.who_is_node_key(key).node.name == who.node.name
    assert client.who_is_proto("tcp", sys.argv[3] + ":80").node.name == who.node.name
    serve = client.get_serve_config()
    assert not serve.web, serve
    print("all well")
"#;

fn stage(lab: &str) -> Option<Scene> {
    if missing(lab, &[SAMEWIRE], SAMEWIRE) {
        return None;
    }
    let sites = vec![SiteSpec::new("home", Nat::Easy), SiteSpec::new("office", Nat::Easy)];
    let machines =
        vec![MachineSpec::new("alder", "home", SAMEWIRE), MachineSpec::new("birch", "office", SAMEWIRE)];
    let mut scene = scene(lab, SAMEWIRE, sites, machines);
    scene.join("alder");
    scene.join("birch");
    scene.ping("alder", "birch");
    Some(scene)
}

/// A Python that has `tslocal`.
fn python() -> Option<PathBuf> {
    let python = std::env::var_os(PYTHON).map(PathBuf::from)?;
    let has_it = std::process::Command::new(&python).args(["-c", "import tslocal"]).output();
    has_it.is_ok_and(|output| output.status.success()).then_some(python)
}

#[test]
fn the_client_from_pypi_reads_status_and_whois() {
    let Some(python) = python() else {
        return skip(&format!("tslocal: {PYTHON} names no Python with the package tslocal"));
    };
    let Some(mut scene) = stage("tslocal") else { return };
    let birch = scene.address("birch").to_string();
    let socket = scene.world.machine("alder").expect("a machine").dir().join("daemon.sock");
    let mut command = scene.world.command_in_room("alder", Path::new(&python)).expect("a command");
    let output =
        command.arg("-c").arg(TSLOCAL).arg(&socket).args(["alder", &birch]).output().expect("python");
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(said.ends_with("all well\n"), "{said}");
}

#[test]
fn explain_says_what_the_policy_refuses_and_what_is_missing() {
    let Some(mut scene) = stage("explain") else { return };
    let explain = |scene: &mut Scene, target: &str| {
        let machine = scene.world.machine("alder").expect("a machine");
        let output =
            machine.command_line(&["explain", target], SOON, &Interrupt::default()).expect("samewire");
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let has = |said: &(Option<i32>, String), code: i32, parts: &[&str]| {
        assert_eq!(said.0, Some(code), "{}", said.1);
        for part in parts {
            assert!(said.1.contains(part), "it lacks {part:?}: {}", said.1);
        }
    };
    let said = explain(&mut scene, "birch:81");
    has(
        &said,
        1,
        &["it does not work", "Allowed", "yes", "TCP 81 refuses: nothing listens there", "start on birch"],
    );
    let own = scene.address("birch");
    serve_page(listen(&scene, "birch", own, 80));
    has(&explain(&mut scene, "birch:80"), 0, &["it works, directly.", "TCP 80 answers"]);

    let dir = scene.world.machine("alder").expect("a machine").dir().to_owned();
    let policy = dir.join("policy.json");
    let text = r#"{"grants": [{"src": ["*"], "dst": ["*"], "ip": ["tcp:80", "icmp:*"]}]}"#;
    std::fs::write(&policy, text).expect("a policy");
    let server = scene.world.server().expect("a server");
    server.control(&["policy", "set", &policy.to_string_lossy()]).expect("a new policy");
    has(&explain(&mut scene, "birch:80"), 0, &["yes, by line 1"]);
    let said = explain(&mut scene, "birch:81");
    has(&said, 1, &["no: ", "(line 1: ", "an admin", "tcp:81"]);

    scene.world.machine("birch").expect("a machine").stop();
    let end = std::time::Instant::now() + SOON;
    loop {
        let said = explain(&mut scene, "birch");
        if said.1.contains("switch birch on") {
            break;
        }
        assert!(std::time::Instant::now() < end, "birch is not offline: {}", said.1);
    }
}

#[test]
fn a_machine_changes_between_its_accounts() {
    let Some(mut scene) = stage("accounts") else { return };
    let first = says(&mut scene, "alder", &["switch", "--list", "--json"]);
    let first: serde_json::Value = serde_json::from_str(&first).expect("JSON");
    let id = first[0]["id"].as_str().expect("an id").to_owned();
    let before = scene.address("alder");

    // Another person's account in the same network: another machine for the server.
    let server = scene.world.server().expect("a server");
    server.control(&["users", "create", "ben"]).expect("ben");
    let key = server.control(&["keys", "create", "--user", "ben"]).expect("a key").trim().to_owned();
    let url = server.url();
    says(&mut scene, "alder", &["login", "--login-server", &url, "--auth-key", &key, "--hostname", "second"]);
    let second = scene.address("alder");
    assert_ne!(before, second);
    scene.ping("alder", "birch");
    let list = says(&mut scene, "alder", &["switch", "--list"]);
    assert_eq!(list.lines().count(), 3, "{list}");

    let said = says(&mut scene, "alder", &["switch", &id]);
    assert!(said.contains("Success."), "{said}");
    assert_eq!(scene.address("alder"), before, "the first account is as it was");
    scene.ping("alder", "birch");
    scene.ping("birch", "alder");

    let list: serde_json::Value =
        serde_json::from_str(&says(&mut scene, "alder", &["switch", "--list", "--json"])).expect("JSON");
    let other = list.as_array().expect("a list").iter().find(|account| account["selected"] == false);
    let other = other.expect("the second account")["id"].as_str().expect("an id").to_owned();
    says(&mut scene, "alder", &["switch", "remove", &other]);
    let list = says(&mut scene, "alder", &["switch", "--list"]);
    assert_eq!(list.lines().count(), 2, "{list}");
    let machine = scene.world.machine("alder").expect("a machine");
    let gone = machine.command_line(&["switch", &other], SOON, &Interrupt::default()).expect("samewire");
    assert_eq!(gone.status.code(), Some(1));
}
