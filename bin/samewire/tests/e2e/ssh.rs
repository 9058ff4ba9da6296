//! A session to the SSH server of an official client, under a rule of the policy that asks its person first.

use std::path::Path;
use std::process::{Child, Stdio};

use serde_json::{Value, json};
use sw_lab::{Interrupt, MachineSpec, Nat, SiteSpec};

use crate::official::control;
use crate::scene::{OFFICIAL, SAMEWIRE, Scene, curl, missing, scene, skip};
use crate::tsnet::until;

const SSH: &str = "/usr/bin/ssh";

fn begin_session(scene: &Scene, to: &str) -> Child {
    let mut command = scene.world.command_in_room("alder", Path::new(SSH)).expect("a command");
    for option in [
        "BatchMode=yes",
        "StrictHostKeyChecking=no",
        "UserKnownHostsFile=/dev/null",
        "ConnectTimeout=5",
        "ConnectionAttempts=10",
    ] {
        command.args(["-o", option]);
    }
    command.args(["-F", "/dev/null", "-l", "root", to, "echo", "came in"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("ssh")
}

/// The id of the session that waits, and no other.
fn waiting(scene: &mut Scene) -> Option<String> {
    let list: Vec<Value> = serde_json::from_str(&control(scene, &["ssh", "list", "--json"])).expect("JSON");
    let open = list.first()?;
    assert_eq!(
        (&open["user"], &open["from"], &open["to"]),
        (&"lab".into(), &"alder".into(), &"birch".into())
    );
    Some(open["id"].as_str()?.to_owned())
}

type Decide = fn(&mut Scene, &str);

fn refuse_by_command(scene: &mut Scene, check: &str) {
    control(scene, &["ssh", "refuse", check]);
}

fn allow_by_command(scene: &mut Scene, check: &str) {
    control(scene, &["ssh", "allow", check]);
}

/// What a person does in a browser: signs in by a link, opens the page that the session named, and presses Allow.
fn allow_on_the_page(scene: &mut Scene, check: &str) {
    let server = scene.world.server().expect("a server");
    let (url, state) = (server.url(), server.state_dir().to_owned());
    let (socket, jar) = (state.join("control.sock"), state.with_file_name("cookies"));
    let (socket, jar) = (socket.to_str().expect("a path"), jar.to_str().expect("a path"));
    let page = format!("{url}/check/{check}");
    assert!(!curl(scene, "alder", &[&page]).contains("Is this you?"), "strangers are asked to sign in");

    let link = curl(
        scene,
        "alder",
        &["--unix-socket", socket, "-X", "POST", "http://control/api/samewire/v1/admin-link"],
    );
    let link: Value = serde_json::from_str(&link).unwrap_or_else(|e| panic!("{e}: {link}"));
    let token =
        link["adminUrl"].as_str().and_then(|link| link.rsplit('/').next()).expect("a link").to_owned();
    let same = ["-H", "Sec-Fetch-Site: same-origin", "-b", jar, "-c", jar];
    curl(scene, "alder", &[&same[..], &["-X", "POST", &format!("{url}/admin/{token}")]].concat());
    let asked = curl(scene, "alder", &[&same[..], &[&page]].concat());
    assert!(asked.contains("Is this you?") && asked.contains("root"), "{asked}");
    let (_, csrf) = asked.split_once("name=\"csrf\" value=\"").expect("a form");
    let form = format!("csrf={}&answer=allow", csrf.split('"').next().expect("a value"));
    let answered = curl(scene, "alder", &[&same[..], &["-d", &form, &page]].concat());
    assert!(answered.contains("The session begins"), "{answered}");
}

#[test]
fn a_session_to_an_official_client_waits_until_its_person_allows_it() {
    if missing("ssh", &[OFFICIAL], SAMEWIRE) {
        return;
    }
    if !Path::new(SSH).exists() {
        return skip(&format!("ssh: there is no {SSH}"));
    }
    let machines =
        vec![MachineSpec::new("alder", "home", SAMEWIRE), MachineSpec::new("birch", "internet", OFFICIAL)];
    let mut scene = scene("ssh", SAMEWIRE, vec![SiteSpec::new("home", Nat::Easy)], machines);
    let policy = json!({
        "grants": [{ "src": ["*"], "dst": ["*"], "ip": ["*"] }],
        "ssh": [{ "action": "check", "src": ["autogroup:member"], "dst": ["autogroup:self"], "users": ["root"], "checkPeriod": "always" }],
    });
    let file = scene.world.server().expect("a server").state_dir().with_file_name("policy.hujson");
    std::fs::write(&file, policy.to_string()).expect("a policy file");
    control(&mut scene, &["policy", "set", file.to_str().expect("a plain path")]);
    scene.join("alder");
    let (url, key) = (scene.world.server().expect("a server").url(), scene.key.clone());
    let birch = scene.world.machine("birch").expect("birch");
    birch.start(&Interrupt::default()).expect("a daemon");
    birch.up(&url, &key, &["--ssh"], &Interrupt::default()).expect("it joins");
    scene.ping("alder", "birch");
    let address = scene.address("birch").to_string();

    let decisions: [(Decide, bool); 3] =
        [(refuse_by_command, false), (allow_on_the_page, true), (allow_by_command, true)];
    for (decide, comes_in) in decisions {
        let session = begin_session(&scene, &address);
        let check = until(&mut scene, "a question for the person", waiting);
        decide(&mut scene, &check);
        let output = session.wait_with_output().expect("ssh ends");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let logs = crate::scene::logs("ssh");
        assert_eq!(output.status.success(), comes_in, "{said}\n{logs}");
        assert_eq!(output.stdout == b"came in\n", comes_in, "{said}");
        assert!(said.contains(&format!("{url}/check/{check}")), "the person is told where to go: {said}");
    }
}
