//! A lab leaves nothing behind: at the end, on Ctrl-C, and after a kill once `lab down` has run.

use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use sw_lab::{Interrupt, find_leftovers};

use crate::scene::{SOON, missing, turn};

const SAMEWIRE: &str = env!("CARGO_BIN_EXE_samewire");

/// A lab that needs no daemon: two machines behind a slow cable, and a router that maps ports.
const PLAIN: &str = r#"
name = "plain"
[[site]]
name = "home"
port-mapping = ["pcp", "upnp"]
link = { delay-ms = 15, jitter-ms = 2 }
[[machine]]
name = "alder"
at = ["home", "internet"]
software = "none"
[[machine]]
name = "birch"
software = "none"
"#;

fn lab(words: &[&str]) -> Output {
    Command::new(SAMEWIRE).arg("lab").args(words).output().expect("samewire runs")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn topology_file(name: &str) -> std::path::PathBuf {
    write_topology(name, &PLAIN.replace("plain", name))
}

fn write_topology(name: &str, text: &str) -> std::path::PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.toml"));
    let mut file = std::fs::File::create(&path).expect("a file");
    file.write_all(text.as_bytes()).expect("written");
    path
}

fn start_lab(words: &[&str]) -> Child {
    Command::new(SAMEWIRE)
        .arg("lab")
        .args(words)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("samewire runs")
}

/// Waits until the lab has at least one namespace.
fn until_half_built(lab: &str) {
    let built = Interrupt::default()
        .wait_for(SOON, || Ok((!find_leftovers(Some(lab)).namespaces.is_empty()).then_some(())));
    assert_eq!(built, Ok(Some(())));
}

#[test]
fn up_exec_roam_and_down_leave_nothing_behind() {
    if missing("up and down", &[], sw_lab::Software::None) {
        return;
    }
    let _turn = turn();
    let file = topology_file("plain");
    let up = lab(&["up", file.to_str().expect("plain path")]);
    assert!(up.status.success(), "{}", said(&up));
    let ping = ["exec", "--lab", "plain", "alder", "--", "ping", "-n", "-c", "1", "-W", "20", "198.51.100.6"];
    let slow = lab(&ping);
    assert!(said(&slow).contains("1 received"), "{}", said(&slow));
    let rtt: f64 =
        said(&slow).split("time=").nth(1).and_then(|t| t.split(' ').next()?.parse().ok()).expect("a time");
    // A busy machine may add to it; without the link it would be far below a millisecond.
    assert!(rtt >= 30.0, "15 ms each way made {rtt} ms");
    let roam = lab(&["roam", "--lab", "plain", "alder", "internet"]);
    assert!(roam.status.success(), "{}", said(&roam));
    assert!(said(&lab(&ping)).contains("1 received"));
    assert!(said(&lab(&["ps"])).contains("alder"));
    let down = lab(&["down", "plain"]);
    assert!(down.status.success(), "{}", said(&down));
    let left = find_leftovers(Some("plain"));
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_lossy_link_loses_some_packets() {
    if missing("a lossy link", &[], sw_lab::Software::None) {
        return;
    }
    let _turn = turn();
    let text = PLAIN.replace("plain", "lossy").replace("delay-ms = 15, jitter-ms = 2", "loss-percent = 30");
    let file = write_topology("lossy", &text);
    let up = lab(&["up", file.to_str().expect("plain path")]);
    assert!(up.status.success(), "{}", said(&up));
    let many = ["-n", "-c", "60", "-i", "0.02", "-W", "20", "198.51.100.6"];
    let ping = lab(&[&["exec", "--lab", "lossy", "alder", "--", "ping"][..], &many].concat());
    let down = lab(&["down", "lossy"]);
    let received = said(&ping).split(" received").next().and_then(|t| t.rsplit(' ').next()?.parse().ok());
    // Half of them, and never none or all by chance in a lifetime.
    assert!(received.is_some_and(|n: u32| (5..55).contains(&n)), "{}", said(&ping));
    assert!(down.status.success(), "{}", said(&down));
}

#[test]
fn a_second_lab_of_the_same_name_is_refused() {
    if missing("a second lab", &[], sw_lab::Software::None) {
        return;
    }
    let _turn = turn();
    let file = topology_file("twice");
    let words = ["up", file.to_str().expect("plain path")];
    assert!(lab(&words).status.success());
    let second = lab(&words);
    let left = lab(&["down", "twice"]);
    assert!(said(&second).contains("a lab called \"twice\" exists"), "{}", said(&second));
    assert!(left.status.success(), "the first one was untouched: {}", said(&left));
}

#[test]
fn an_interrupted_lab_removes_itself() {
    if missing("an interrupted lab", &[], sw_lab::Software::None) {
        return;
    }
    let _turn = turn();
    // The matrix runs for minutes: it cannot end by itself in between.
    let mut child = start_lab(&["matrix", "--run", "samewire:samewire@samewire"]);
    until_half_built("matrix");
    kill_process(Pid::from_child(&child), Signal::INT).expect("it runs");
    let status = child.wait().expect("it ends");
    assert!(!status.success());
    let left = find_leftovers(Some("matrix"));
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_killed_lab_is_removed_by_down() {
    if missing("a killed lab", &[], sw_lab::Software::None) {
        return;
    }
    let _turn = turn();
    let mut child = start_lab(&["demo"]);
    until_half_built("demo");
    child.kill().expect("it runs");
    child.wait().expect("it ends");
    let down = lab(&["down", "demo"]);
    assert!(down.status.success(), "{}", said(&down));
    let left = find_leftovers(Some("demo"));
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn without_root_the_lab_says_what_to_do() {
    if missing("without root", &[], sw_lab::Software::None) {
        return;
    }
    let file = topology_file("user");
    let words =
        ["--reuid", "65534", "--clear-groups", SAMEWIRE, "lab", "up", file.to_str().expect("plain path")];
    let Ok(output) = Command::new("setpriv").args(words).output() else {
        crate::scene::skip("without root: the program setpriv is not installed");
        return;
    };
    // The binary may lie where that user may not look; then there is nothing to learn here.
    if output.status.code() == Some(4) {
        assert!(said(&output).contains("fix: sudo samewire lab"), "{}", said(&output));
    } else {
        crate::scene::skip("without root: the test binary's directory is closed to other users");
    }
}
