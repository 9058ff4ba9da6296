//! The life of official clients on our server: every way in and out, and what they show of each other.

use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use sw_lab::{Interrupt, MachineSpec, Nat, SiteSpec};

use crate::scene::{OFFICIAL, SAMEWIRE, SOON, Scene, missing, scene};

/// Runs `tailscale` with `words` on a machine; returns whether it said yes, and what it said.
fn tailscale(scene: &mut Scene, name: &str, words: &[&str]) -> (bool, String) {
    let interrupt = Interrupt::default();
    let machine = scene.world.machine(name).expect("a machine");
    let output = machine.command_line(words, SOON, &interrupt).unwrap_or_else(|e| panic!("{words:?}: {e}"));
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

/// Asks until `tailscale` says something that `good` likes.
fn until_says(scene: &mut Scene, name: &str, words: &[&str], good: impl Fn(bool, &str) -> bool) -> String {
    let end = std::time::Instant::now() + SOON;
    loop {
        let (yes, said) = tailscale(scene, name, words);
        if good(yes, &said) {
            return said;
        }
        let logs = crate::scene::logs(&scene.world.topology().name);
        assert!(std::time::Instant::now() < end, "{name}: tailscale {words:?} says\n{said}\n{logs}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn pings(scene: &mut Scene, from: &str, to: &str) {
    let words = ["ping", "--c", "1", "--until-direct=false", "--timeout", "2s", to];
    until_says(scene, from, &words, |yes, said| yes && said.contains(&format!("pong from {to} ")));
}

pub(crate) fn control(scene: &mut Scene, words: &[&str]) -> String {
    scene.world.server().expect("a server").control(words).unwrap_or_else(|e| panic!("{words:?}: {e}"))
}

/// The server's row about a machine.
fn row(scene: &mut Scene, name: &str) -> Value {
    let list: Vec<Value> = serde_json::from_str(&control(scene, &["nodes", "list", "--json"])).expect("JSON");
    list.into_iter().find(|node| node["givenName"] == name).unwrap_or_else(|| panic!("no {name}"))
}

fn backend_is(scene: &mut Scene, name: &str, state: &str) {
    let api = scene.world.machine(name).expect("a machine").local_api();
    scene.until(&format!("{name} is {state}"), || (api.status()?["BackendState"] == state).then_some(()));
}

/// Logs in on the page: `up` waits for somebody who approves it, here at the server's command line.
fn log_in_on_the_page(scene: &mut Scene, name: &str, extra: &[&str]) {
    let url = scene.world.server().expect("a server").url();
    let machine = scene.world.machine(name).expect("a machine");
    let (api, socket) = (machine.local_api(), machine.dir().join("daemon.sock"));
    let program = crate::scene::programs().official_node().expect("seen already").1.to_owned();
    let mut up = scene.world.command_in_room(name, &program).expect("a command");
    up.arg("--socket").arg(socket).args(["up", "--login-server", &url, "--hostname", name]).args(extra);
    let mut up = up.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("up");
    let page = scene.until("a login page", || {
        let page = api.status()?["AuthURL"].as_str()?.to_owned();
        page.starts_with(&url).then_some(page)
    });
    let id = page.rsplit('/').next().expect("an id").to_owned();
    control(scene, &["nodes", "approve", &id, "--user", "lab"]);
    let status = scene.until("up ends", || up.try_wait().expect("up is ours"));
    assert!(status.success(), "up after the login page: {status}");
    backend_is(scene, name, "Running");
}

#[test]
fn an_official_client_comes_goes_and_returns() {
    if missing("official", &[OFFICIAL], SAMEWIRE) {
        return;
    }
    let sites = vec![SiteSpec::new("home", Nat::Easy)];
    let machines =
        vec![MachineSpec::new("alder", "home", OFFICIAL), MachineSpec::new("birch", "internet", OFFICIAL)];
    let mut scene = scene("official", SAMEWIRE, sites, machines);

    // In with a key, and in by the page.
    scene.join("alder");
    scene.world.machine("birch").expect("birch").start(&Interrupt::default()).expect("a daemon");
    log_in_on_the_page(&mut scene, "birch", &[]);
    let address = scene.address("birch").to_string();
    let status = until_says(&mut scene, "alder", &["status"], |yes, said| yes && said.contains("birch"));
    assert!(status.lines().any(|line| line.starts_with(&address) && line.contains(" lab ")), "{status}");
    pings(&mut scene, "alder", "birch");
    pings(&mut scene, "birch", "alder");
    assert_eq!(row(&mut scene, "birch")["online"], true);

    // It answers the server's own question, and finds the relay of the map.
    let said = control(&mut scene, &["nodes", "ping", "birch"]);
    assert!(said.starts_with("birch answers the server in "), "{said}");
    let region = {
        let map = scene.world.machine("alder").expect("alder").local_api();
        scene.until("a home relay", || {
            Some(map.status()?["Self"]["Relay"].as_str()?.to_owned()).filter(|r| !r.is_empty())
        })
    };
    until_says(&mut scene, "alder", &["debug", "derp", &region], |yes, said| {
        yes && said.contains("Successfully established a DERP connection")
    });

    // Another name, for everybody.
    control(&mut scene, &["nodes", "rename", "birch", "linden"]);
    until_says(&mut scene, "alder", &["status"], |_, said| said.contains("linden"));
    pings(&mut scene, "alder", "linden");

    // The key expires: out, and in again with the same address.
    control(&mut scene, &["nodes", "expire", "linden"]);
    backend_is(&mut scene, "birch", "NeedsLogin");
    let words = ["ping", "--c", "1", "--timeout", "1s", &address];
    until_says(&mut scene, "alder", &words, |yes, _| !yes);
    log_in_on_the_page(&mut scene, "birch", &["--force-reauth"]);
    assert_eq!(scene.address("birch").to_string(), address);
    pings(&mut scene, "alder", "linden");

    // Out by its own wish, and in again with a key: the same machine under the same name.
    let (yes, said) = tailscale(&mut scene, "birch", &["logout"]);
    assert!(yes, "{said}");
    backend_is(&mut scene, "birch", "NeedsLogin");
    until_says(&mut scene, "alder", &words, |yes, _| !yes);
    let (url, key) = (scene.world.server().expect("a server").url(), scene.key.clone());
    let birch = scene.world.machine("birch").expect("birch");
    birch.up(&url, &key, &[], &Interrupt::default()).expect("a key lets it in again");
    assert_eq!(scene.address("birch").to_string(), address);
    pings(&mut scene, "alder", "linden");
    assert_eq!(row(&mut scene, "linden")["addresses"][0], address);

    // Deleted: it is out, and nobody sees it.
    control(&mut scene, &["nodes", "delete", "linden"]);
    backend_is(&mut scene, "birch", "NeedsLogin");
    until_says(&mut scene, "alder", &["status"], |_, said| !said.contains("linden"));
}
