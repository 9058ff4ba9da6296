//! What is worth knowing although nothing stopped: each cause is made for real, and its sentence is read wherever it
//! belongs.

use std::io::Write as _;
use std::path::Path;

use serde_json::Value;

use crate::machine::{Machine, Said, can_run};

const BIRCH: &str = "--socket /run/birch.sock";

fn json(said: &Said) -> Value {
    serde_json::from_str(&said.out).unwrap_or_else(|e| panic!("{e}: {}{}", said.out, said.err))
}

/// The slugs of a list of problems.
fn slugs(list: &Value) -> Vec<String> {
    let all = list.as_array().into_iter().flatten();
    all.filter_map(|problem| problem["slug"].as_str().map(str::to_owned)).collect()
}

fn assert_says(said: &Said, code: i32, parts: &[&str]) {
    let all = format!("{}{}", said.out, said.err);
    assert_eq!(said.code, code, "{all}");
    for part in parts {
        assert!(all.contains(part), "it lacks {part:?}:\n{all}");
    }
}

/// A network with a second machine of the same host name, which joined by an invite for one.
fn two(machine: &Machine) -> (Value, Said) {
    machine.works("up");
    let invite = json(&machine.works("invite --uses 1 --json"));
    machine.daemon("birch", "--tun userspace-networking --port 0");
    let joined = machine.works(&format!("{BIRCH} join {}", invite["joinString"].as_str().expect("a string")));
    (invite, joined)
}

#[test]
fn a_used_up_invite_and_a_taken_name_are_told_with_their_facts() {
    let Some(machine) = can_run("used-up invites").then(|| Machine::new("alder")) else { return };
    let (invite, joined) = two(&machine);
    assert_says(
        &joined,
        0,
        &[
            "note: this machine is called alder-1.",
            "  why: alder is taken by a machine of root",
            "  fix: to choose another: samewire set --hostname=NAME",
        ],
    );
    let notices = json(&machine.works(&format!("{BIRCH} status --json")))["SamewireNotices"].clone();
    assert_eq!(slugs(&notices), ["name-taken"]);

    let used_up =
        ["error: this invite has been used 1 of 1 times.", "  why: last by alder-1, ", "samewire invite"];
    machine.daemon("cedar", "--tun userspace-networking --port 0");
    let string = invite["joinString"].as_str().expect("a string");
    assert_says(&machine.run(&format!("--socket /run/cedar.sock join {string}")), 7, &used_up);
    let as_json = machine.run(&format!("--socket /run/cedar.sock join --json {string}"));
    let told: Value = serde_json::from_str(&as_json.err).expect("JSON");
    assert_eq!((told["error"]["slug"].as_str(), as_json.code), (Some("invite-used-up"), 7));
    // The line for machines without the program says the same before anything is fetched.
    let line = invite["joinLine"].as_str().expect("a line").replace("sudo ", "");
    assert_says(&machine.bare("TERM=dumb", &line, false), 7, &used_up);
}

#[test]
fn the_end_of_a_key_is_told_from_two_weeks_before() {
    let Some(machine) = can_run("keys that end").then(|| Machine::new("alder")) else { return };
    two(&machine);
    let (day, now) = (86_400, std::time::SystemTime::now());
    for (seconds, time, is_on_page) in [
        (20 * day, None, false),
        (14 * day - 60, Some("13 days"), false),
        (3 * day - 60, Some("2 days"), true),
        (day - 60, Some("23 h"), true),
    ] {
        let end = now + std::time::Duration::from_secs(seconds);
        let end = end.duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs();
        let end = machine.bare("TZ=UTC", &format!("date -d @{end} +%Y-%m-%dT%H:%M:%SZ"), false).out;
        machine.works(&format!("control nodes expire alder-1 --expiry {}", end.trim()));
        let wanted = time.map(|time| format!("this machine's key expires in {time}."));
        let said = machine.until("the machine hears of it", || {
            let said = machine.run(&format!("{BIRCH} status --pretty"));
            let sentence = said.out.lines().find(|line| line.contains("key expires in")).map(str::to_owned);
            let is_right = match &wanted {
                Some(wanted) => sentence.as_ref().is_some_and(|line| line.contains(wanted)),
                None => sentence.is_none(),
            };
            is_right.then_some(said)
        });
        assert_eq!(
            said.out.contains("Fix: samewire login, any time before"),
            wanted.is_some(),
            "{}",
            said.out
        );
        let health = json(&machine.works("control health --json"));
        let told = slugs(&health["problems"]).iter().any(|slug| slug == "key-expires-soon");
        assert_eq!(told, is_on_page, "{time:?}: {health}");
    }
    let check = machine.run(&format!("{BIRCH} check --json"));
    assert_eq!(
        (check.code, slugs(&json(&check)["notices"]).contains(&"key-expires-soon".to_owned())),
        (1, true)
    );
}

#[test]
fn the_official_daemon_beside_ours_is_told() {
    let Some(machine) = can_run("another client").then(|| Machine::new("alder")) else { return };
    machine.works("up");
    let key = machine.works("control keys create").out.trim().to_owned();
    machine.shell(
        "ln -s samewire /usr/local/bin/tailscaled
         tailscaled --statedir /var/lib/other --socket /run/other.sock --tun tailscale0 --port 0 >/run/other.log 2>&1 </dev/null &",
    );
    let join = format!("--socket /run/other.sock up --login-server=http://127.0.0.1 --auth-key={key}");
    machine.until("the other daemon is in", || (machine.run(&join).code == 0).then_some(()));
    let told = machine.until("ours sees it", || {
        let said = machine.run("check");
        said.out.contains("tailscaled also runs").then_some(said)
    });
    assert_says(
        &told,
        1,
        &["! tailscaled also runs on this machine.", "sudo systemctl disable --now tailscaled"],
    );
    let up = machine.run("up --accept-routes");
    assert_says(
        &up,
        0,
        &["warning: tailscaled also runs", "it owns tailscale0 and the routes of 100.64.0.0/10"],
    );
    // The shell must not find itself.
    machine.shell("kill $(pgrep -x tailscaled)");
    machine.until("it is gone again", || (!machine.run("check").out.contains("tailscaled")).then_some(()));
}

#[test]
fn a_closed_router_is_told_in_every_place() {
    let Some(machine) = can_run("a closed router").then(|| Machine::new("alder")) else { return };
    // Nobody answers there, as from a router that maps no ports.
    machine.shell("ip route add default via 192.168.8.1");
    let up = json(&machine.works("up --json"));
    assert_eq!(slugs(&up["problems"]), ["not-reachable-outside"]);
    assert_eq!(
        up["problems"][0]["why"],
        "the router at 192.168.8.1 maps no ports and there is no public IPv6"
    );
    let fix = "in the router, forward TCP and UDP port 443 to 192.168.8.10; then: samewire check";
    assert_eq!(up["problems"][0]["fix"], fix);
    let check = json(&machine.run("check --json"));
    assert_eq!(check["server"]["problems"], up["problems"]);
    assert_eq!(json(&machine.works("control health --json"))["problems"], up["problems"]);
    assert_says(
        &machine.works("control health"),
        0,
        &["machines outside this LAN cannot reach this server.", fix],
    );
}

#[test]
fn a_certificate_that_is_refused_is_told_and_the_network_works_all_the_same() {
    let Some(machine) = can_run("a refused certificate").then(|| Machine::new("alder")) else { return };
    if !["/usr/bin/pebble", "/usr/bin/pebble-challtestsrv"].iter().all(|tool| Path::new(tool).exists()) {
        writeln!(std::io::stderr(), "skipped: a refused certificate: pebble is not installed")
            .expect("stderr");
        return;
    }
    let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder that the machine sees");
    let folder = place.path().display();
    let (certificate, key) = sw_net::tls::self_signed_pem(&["127.0.0.1".to_owned()]).expect("a certificate");
    std::fs::write(place.path().join("ca.crt"), certificate).expect("written");
    std::fs::write(place.path().join("ca.key"), key).expect("written");
    // Port 9 is nobody's, so every proof fails.
    let config = serde_json::json!({ "pebble": {
        "listenAddress": "127.0.0.1:14000", "managementListenAddress": "127.0.0.1:15000",
        "certificate": format!("{folder}/ca.crt"), "privateKey": format!("{folder}/ca.key"),
        "tlsPort": 9, "httpPort": 9, "ocspResponderURL": "", "externalAccountBindingRequired": false,
    }});
    std::fs::write(place.path().join("pebble.json"), config.to_string()).expect("written");
    machine.shell(&format!(
        "pebble-challtestsrv -dns01 127.0.0.1:8053 -http01 '' -https01 '' -tlsalpn01 '' >/run/dns.log 2>&1 </dev/null &
         PEBBLE_VA_NOSLEEP=1 PEBBLE_WFE_NONCEREJECT=0 pebble -config {folder}/pebble.json -dnsserver 127.0.0.1:8053 >/run/pebble.log 2>&1 </dev/null &"
    ));
    machine.until("the authority answers", || {
        let said = machine.bare("TERM=dumb", "curl -sk https://127.0.0.1:14000/dir", false);
        said.out.contains("newOrder").then_some(())
    });
    let up = machine.works(&format!(
        "up --domain 192.168.8.10 --acme-directory https://127.0.0.1:14000/dir --acme-ca {folder}/ca.crt"
    ));
    let refused = "the authority could not reach 192.168.8.10 on TCP 443 or 80";
    assert_says(&up, 0, &["! Certificate", refused, "Add a machine"]);
    let check = json(&machine.run("check --json"));
    assert_eq!(slugs(&check["server"]["problems"]), ["cert-failed"]);
    let told = machine.works("control health");
    assert_says(
        &told,
        0,
        &["no public certificate, so samewire made its own and pins it.", refused, "Phones need this"],
    );
    assert_says(&machine.works("status"), 0, &["alder"]);
}
