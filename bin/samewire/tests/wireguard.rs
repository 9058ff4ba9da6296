//! `samewire wireguard` beside other WireGuard programs, in two network namespaces.
//!
//! Needs root, `ip`, `wg` and `ping`. The other programs are named by the environment variables WIREGUARD_GO,
//! BORINGTUN and GOTATUN; what is missing is skipped, visibly. Against itself it always runs.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(40);
const PSK: &str = "FpCyhws9cxwWoV4xELtfJvjJN+zQVRPISllRWgeopVE=";

#[test]
fn with_itself() {
    interop("samewire", 'x');
}

#[test]
fn with_wireguard_go() {
    interop("WIREGUARD_GO", 'g');
}

#[test]
fn with_boringtun() {
    interop("BORINGTUN", 'b');
}

#[test]
fn with_gotatun() {
    interop("GOTATUN", 'o');
}

/// Handshakes from both sides, data, psk, keepalive, roaming of both, restart of both.
fn interop(other: &str, tag: char) {
    let Some(mut lab) = Lab::new(other, tag) else { return };
    lab.configure();
    let [a, b] = [0, 1];
    lab.ping(a, 56);
    for size in [0, 1, 1372, 8000] {
        lab.ping(a, size);
        lab.ping(b, size);
    }

    let before = lab.transfer(a);
    eventually("keepalives of both arrive", || {
        let now = lab.transfer(a);
        now.0 >= before.0 + 64 && now.1 >= before.1 + 64
    });

    // boringtun binds a socket to its address for good.
    let moved = if other == "BORINGTUN" {
        lab.ports[b] = 40_001;
        lab.wg(b, &["listen-port", "40001"]);
        ":40001"
    } else {
        lab.move_address(b, "192.168.77.12");
        "192.168.77.12:"
    };
    lab.ping(b, 100);
    let seen = lab.show(a, "endpoints");
    assert!(seen.contains(moved), "{other}: {seen}");
    lab.ping(a, 100);
    lab.ports[a] = 40_002;
    lab.wg(a, &["listen-port", "40002"]);
    lab.ping(a, 100);
    let seen = lab.show(b, "endpoints");
    assert!(seen.trim_end().ends_with(":40002"), "{other}: {seen}");
    lab.ping(b, 100);

    for side in [b, a] {
        lab.restart(side);
        // The restarted side begins: it is the initiator.
        lab.ping(side, 100);
        lab.ping(1 - side, 100);
    }
}

struct Lab {
    names: [String; 2],
    interfaces: [String; 2],
    programs: [(PathBuf, Vec<&'static str>); 2],
    children: [Option<Child>; 2],
    keys: [(String, String); 2],
    ports: [u16; 2],
    addresses: [&'static str; 2],
    links: [String; 2],
}

impl Lab {
    fn new(other: &str, tag: char) -> Option<Self> {
        let ours = (PathBuf::from(env!("CARGO_BIN_EXE_samewire")), vec!["wireguard"]);
        let theirs = match other {
            "samewire" => ours.clone(),
            _ => {
                let Some(path) = std::env::var_os(other).map(PathBuf::from) else {
                    writeln!(std::io::stderr(), "skipped: {other} names no program").expect("stderr");
                    return None;
                };
                let go = other == "WIREGUARD_GO";
                (path, if go { vec!["-f"] } else { vec!["-f", "--disable-drop-privileges"] })
            }
        };
        if !can_make_namespaces() {
            writeln!(std::io::stderr(), "skipped: needs root, ip and wg").expect("stderr");
            return None;
        }
        let id = format!("swtd{}{tag}", std::process::id() % 10_000);
        let names = [format!("{id}-a"), format!("{id}-b")];
        let interfaces = [format!("{id}wa"), format!("{id}wb")];
        let pair = [format!("{id}0"), format!("{id}1")];
        for name in &names {
            run(&["ip", "netns", "add", name]);
        }
        run(&[
            "ip", "link", "add", &pair[0], "netns", &names[0], "type", "veth", "peer", "name", &pair[1],
            "netns", &names[1],
        ]);
        for i in 0..2 {
            run(&[
                "ip",
                "-n",
                &names[i],
                "addr",
                "add",
                &format!("192.168.77.{}/24", i + 1),
                "dev",
                &pair[i],
            ]);
            run(&["ip", "-n", &names[i], "link", "set", &pair[i], "up"]);
        }
        let key = || {
            let private = run(&["wg", "genkey"]);
            let public = pipe(&["wg", "pubkey"], &private);
            (private, public)
        };
        let mut lab = Self {
            names,
            interfaces,
            programs: [ours, theirs],
            children: [None, None],
            keys: [key(), key()],
            ports: [51_820; 2],
            addresses: ["192.168.77.1", "192.168.77.2"],
            links: pair,
        };
        for side in 0..2 {
            lab.start(side);
        }
        Some(lab)
    }

    fn start(&mut self, side: usize) {
        let (program, args) = &self.programs[side];
        let interface = &self.interfaces[side];
        let child = Command::new("ip")
            .args(["netns", "exec", &self.names[side]])
            .arg(program)
            .args(args)
            .arg(interface)
            .env("WG_PROCESS_FOREGROUND", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.children[side] = Some(child);
        let socket = socket(interface);
        eventually("the control socket", || {
            socket.exists()
                && try_run(&["ip", "-n", &self.names[side], "link", "show", interface]).status.success()
        });
    }

    fn stop(&mut self, side: usize) {
        if let Some(mut child) = self.children[side].take() {
            let _is_gone_already = child.kill();
            child.wait().unwrap();
        }
        let _is_gone_already = std::fs::remove_file(socket(&self.interfaces[side]));
        let gone = ["ip", "-n", &self.names[side], "link", "show", &self.interfaces[side]];
        eventually("the interface goes", || !try_run(&gone).status.success());
    }

    fn restart(&mut self, side: usize) {
        self.stop(side);
        self.start(side);
        self.configure_side(side);
    }

    fn configure(&self) {
        for side in 0..2 {
            self.configure_side(side);
        }
    }

    fn configure_side(&self, side: usize) {
        let dir = std::env::temp_dir();
        let file = |name: &str, text: &str| {
            let path = dir.join(format!("{}-{name}", self.interfaces[side]));
            std::fs::write(&path, text).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let (private, psk) = (file("key", &self.keys[side].0), file("psk", PSK));
        let (port, other) = (self.ports[side].to_string(), 1 - side);
        self.wg(side, &["listen-port", &port, "private-key", &private]);
        let endpoint = format!("{}:{}", self.addresses[other], self.ports[other]);
        let allowed = format!("10.99.0.{}/32,fd99::{}/128", other + 1, other + 1);
        self.wg(
            side,
            &[
                "peer",
                &self.keys[other].1,
                "preshared-key",
                &psk,
                "endpoint",
                &endpoint,
                "persistent-keepalive",
                "1",
                "allowed-ips",
                &allowed,
            ],
        );
        for path in [private, psk] {
            std::fs::remove_file(path).unwrap();
        }
        let (name, interface) = (&self.names[side], &self.interfaces[side]);
        run(&["ip", "-n", name, "addr", "add", &format!("10.99.0.{}/24", side + 1), "dev", interface]);
        run(&["ip", "-n", name, "link", "set", interface, "mtu", "1420", "up"]);
    }

    fn move_address(&mut self, side: usize, address: &'static str) {
        let former = std::mem::replace(&mut self.addresses[side], address);
        let (name, link) = (&self.names[side], &self.links[side]);
        // In this order: the second address of a subnet goes with the first.
        run(&["ip", "-n", name, "addr", "del", &format!("{former}/24"), "dev", link]);
        run(&["ip", "-n", name, "addr", "add", &format!("{address}/24"), "dev", link]);
    }

    fn wg(&self, side: usize, args: &[&str]) {
        let base = ["ip", "netns", "exec", &self.names[side], "wg", "set", &self.interfaces[side]];
        run(&[&base[..], args].concat());
    }

    fn show(&self, side: usize, what: &str) -> String {
        run(&["ip", "netns", "exec", &self.names[side], "wg", "show", &self.interfaces[side], what])
    }

    /// Bytes received and sent.
    fn transfer(&self, side: usize) -> (u64, u64) {
        let text = self.show(side, "transfer");
        let mut numbers = text.split_whitespace().skip(1).map(|n| n.parse().unwrap());
        (numbers.next().unwrap(), numbers.next().unwrap())
    }

    fn ping(&self, from: usize, size: usize) {
        let (target, size) = (format!("10.99.0.{}", 2 - from), size.to_string());
        let ping = ["ip", "netns", "exec", &self.names[from], "ping", "-c1", "-W1", "-s", &size, &target];
        eventually(&format!("{ping:?}"), || try_run(&ping).status.success());
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for side in 0..2 {
            if let Some(mut child) = self.children[side].take() {
                let _is_gone_already = child.kill();
                let _status = child.wait();
            }
            let _is_gone_already = std::fs::remove_file(socket(&self.interfaces[side]));
            let _is_gone_already = try_run(&["ip", "netns", "del", &self.names[side]]);
        }
    }
}

fn socket(interface: &str) -> PathBuf {
    Path::new("/var/run/wireguard").join(format!("{interface}.sock"))
}

fn can_make_namespaces() -> bool {
    let has =
        |args: &[&str]| Command::new(args[0]).args(&args[1..]).output().is_ok_and(|o| o.status.success());
    let name = format!("swtd{}-try", std::process::id());
    let can = has(&["wg", "--version"]) && has(&["ip", "netns", "add", &name]);
    can && has(&["ip", "netns", "del", &name])
}

fn try_run(args: &[&str]) -> Output {
    Command::new(args[0]).args(&args[1..]).output().unwrap()
}

fn run(args: &[&str]) -> String {
    let output = try_run(args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn pipe(args: &[&str], input: &str) -> String {
    use std::io::Write;
    let mut child =
        Command::new(args[0]).args(&args[1..]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap().trim().to_owned()
}

fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
