//! Programs that carry a node inside them, by the official libraries: Go's (`tsnet`, in Caddy with its plugin) and
//! Rust's (`tests/peers/tailscale-crate`).

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use sw_lab::{MachineSpec, Nat, SiteSpec, Software};

use crate::scene::{SAMEWIRE, Scene, missing, scene, skip};

const WORDS: &str = "a page from the other side";

/// A program that ends with this value.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _collected = self.0.wait();
    }
}

/// The program that a variable names, as `cargo xtask peers` prints them.
fn peer(test: &str, variable: &str) -> Option<PathBuf> {
    let program = std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_file());
    if program.is_none() {
        skip(&format!("{test}: {variable} names no program; `cargo xtask peers` says how to get it"));
    }
    program
}

/// Two machines without software of their own, behind different routers.
fn stage(lab: &str) -> Option<Scene> {
    if missing(lab, &[SAMEWIRE], SAMEWIRE) {
        return None;
    }
    let sites = vec![SiteSpec::new("home", Nat::Easy), SiteSpec::new("office", Nat::Easy)];
    let machines = vec![
        MachineSpec::new("alder", "home", Software::None),
        MachineSpec::new("birch", "office", Software::None),
    ];
    Some(scene(lab, SAMEWIRE, sites, machines))
}

fn control(scene: &mut Scene, words: &[&str]) -> String {
    scene.world.server().expect("a server").control(words).unwrap_or_else(|e| panic!("{words:?}: {e}"))
}

fn set_policy(scene: &mut Scene, grants: Value) {
    let policy = json!({ "tagOwners": { "tag:pages": [], "tag:reader": [] }, "grants": grants });
    let file = scene.world.server().expect("a server").state_dir().with_file_name("policy.hujson");
    std::fs::write(&file, policy.to_string()).expect("a policy file");
    control(scene, &["policy", "set", file.to_str().expect("a plain path")]);
}

fn tagged_key(scene: &mut Scene, tag: &str) -> String {
    let answer = control(scene, &["keys", "create", "--tags", tag, "--json"]);
    let answer: Value = serde_json::from_str(&answer).expect("JSON");
    answer["key"].as_str().expect("a key").to_owned()
}

/// Runs Caddy on a machine with one site, and with the settings of its node in the network.
fn caddy(
    scene: &mut Scene,
    program: &Path,
    name: &str,
    node: Value,
    listen: &str,
    handler: Value,
) -> Running {
    let dir = scene.world.machine(name).expect("a machine").dir().to_owned();
    let url = scene.world.server().expect("a server").url();
    let mut tailscale = json!({ "control_url": url, "state_dir": dir.join("state") });
    tailscale.as_object_mut().expect("an object").extend(node.as_object().expect("an object").clone());
    let config = json!({
        "admin": { "disabled": true },
        "apps": {
            "tailscale": tailscale,
            "http": { "servers": { "only": {
                "listen": [listen], "automatic_https": { "disable": true }, "routes": [{ "handle": [handler] }],
            } } },
        },
    });
    let file = dir.join("caddy.json");
    std::fs::write(&file, config.to_string()).expect("a file");
    let log = std::fs::File::create(dir.join("caddy.log")).expect("a log");
    let mut command = scene.world.command_in_room(name, program).expect("a command");
    command.arg("run").arg("--config").arg(file).env("HOME", &dir).env("XDG_DATA_HOME", dir.join("data"));
    // Nothing of the machine's own proxies: the lab has no Internet.
    for variable in ["http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"] {
        command.env_remove(variable);
    }
    let errors = log.try_clone().expect("a second handle");
    Running(command.stdin(Stdio::null()).stdout(log).stderr(errors).spawn().expect("caddy starts"))
}

fn fetched(scene: &Scene) -> String {
    let mut command = scene.world.command_in_room("birch", Path::new("curl")).expect("a command");
    let output = command.args(["-s", "-m", "5", "http://127.0.0.1:8081/"]).output().expect("curl");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn online(scene: &mut Scene) -> usize {
    let list: Vec<Value> = serde_json::from_str(&control(scene, &["nodes", "list", "--json"])).expect("JSON");
    list.iter().filter(|node| node["online"] == true).count()
}

#[test]
fn programs_with_the_official_go_library_serve_and_fetch_as_the_policy_says() {
    let Some(program) = peer("tsnet", "SAMEWIRE_PEER_CADDY") else { return };
    if Command::new("curl").arg("--version").stdout(Stdio::null()).status().is_err() {
        return skip("tsnet: curl is not there");
    }
    let Some(mut scene) = stage("tsnet") else { return };
    set_policy(&mut scene, json!([]));
    let (pages, reader) = (tagged_key(&mut scene, "tag:pages"), tagged_key(&mut scene, "tag:reader"));
    // Each request on a connection of its own, since the policy decides about connections.
    let page = json!({ "handler": "static_response", "body": WORDS, "close": true });
    let node = json!({ "auth_key": pages, "nodes": { "pages": { "hostname": "pages" } } });
    let _serving = caddy(&mut scene, &program, "alder", node, "tailscale/pages:80", page);
    let address = pages_address(&mut scene);
    let proxy = json!({
        "handler": "reverse_proxy",
        "transport": { "protocol": "tailscale", "name": "reader" },
        "upstreams": [{ "dial": format!("{address}:80") }],
    });
    let node = json!({ "auth_key": reader, "nodes": { "reader": { "hostname": "reader" } } });
    let _fetching = caddy(&mut scene, &program, "birch", node, ":8081", proxy);
    until(&mut scene, "both are online", |scene| {
        // Its node begins with the first request.
        assert_ne!(fetched(scene), WORDS, "nothing is granted");
        (online(scene) == 2).then_some(())
    });
    assert_ne!(fetched(&scene), WORDS, "nothing is granted");
    set_policy(&mut scene, json!([{ "src": ["tag:reader"], "dst": ["tag:pages"], "ip": ["tcp:80"] }]));
    until(&mut scene, "a page under the grant", |scene| (fetched(scene) == WORDS).then_some(()));
    set_policy(&mut scene, json!([{ "src": ["tag:reader"], "dst": ["tag:pages"], "ip": ["tcp:81"] }]));
    until(&mut scene, "no page under another grant", |scene| (fetched(scene) != WORDS).then_some(()));
}

fn pages_address(scene: &mut Scene) -> String {
    until(scene, "the serving node has an address", |scene| {
        let list: Vec<Value> =
            serde_json::from_str(&control(scene, &["nodes", "list", "--json"])).expect("JSON");
        Some(list.iter().find(|node| node["givenName"] == "pages")?["addresses"][0].as_str()?.to_owned())
    })
}

pub(crate) fn until<T>(scene: &mut Scene, what: &str, mut ready: impl FnMut(&mut Scene) -> Option<T>) -> T {
    let end = std::time::Instant::now() + 2 * crate::scene::SOON;
    loop {
        if let Some(value) = ready(scene) {
            return value;
        }
        let lab = scene.world.topology().name.clone();
        assert!(std::time::Instant::now() < end, "{what}: not in time\n{}", crate::scene::logs(&lab));
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

#[test]
fn programs_with_the_official_rust_library_join_and_exchange_data_through_our_relay() {
    let Some(program) = peer("tailscale-crate", "SAMEWIRE_PEER_TAILSCALE_CRATE") else { return };
    let Some(mut scene) = stage("tsrust") else { return };
    trust_the_relay_without_a_certificate(&mut scene);
    let (url, key) = (scene.world.server().expect("a server").url(), scene.key.clone());
    let dir = scene.world.machine("alder").expect("alder").dir().to_owned();
    let mut command = scene.world.command_in_room("alder", &program).expect("a command");
    command.args([&url, &key]).env("HOME", &dir).stdin(Stdio::null());
    let output = command.output().expect("the program starts");
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    let logs = crate::scene::logs("tsrust");
    assert!(output.status.success() && said.contains("exchanged 262144 bytes"), "{said}\n{logs}");
    let list: Vec<Value> =
        serde_json::from_str(&control(&mut scene, &["nodes", "list", "--json"])).expect("JSON");
    let mut names: Vec<&str> = list.iter().filter_map(|node| node["givenName"].as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["far", "near"]);
}

/// The official Rust client knows no pinned certificates yet: it is told not to look, by its own switch for tests.
fn trust_the_relay_without_a_certificate(scene: &mut Scene) {
    let server = scene.world.server().expect("a server");
    let file = server.state_dir().with_file_name("derp-map.json");
    let text = std::fs::read_to_string(&file).expect("the relay's map");
    let mut map: Value = serde_json::from_str(&text).expect("JSON");
    for region in map["Regions"].as_object_mut().expect("regions").values_mut() {
        for node in region["Nodes"].as_array_mut().expect("nodes") {
            let node = node.as_object_mut().expect("a node");
            node.remove("CertName");
            node.insert("InsecureForTests".to_owned(), true.into());
        }
    }
    std::fs::write(&file, map.to_string()).expect("the changed map");
    server.kill_control();
    scene.world.server().expect("a server").start(&sw_lab::Interrupt::default()).expect("it starts again");
}
