//! What the tests share: labs, awaited conditions, and TCP sessions between rooms.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sw_lab::{
    Interrupt, LabError, MachineSpec, Nat, Programs, RelayProcess, ServerSpec, SiteSpec, Software, Topology,
    World,
};

pub(crate) const SAMEWIRE: Software = Software::Samewire;
pub(crate) const OFFICIAL: Software = Software::Official;

/// What [`serve_page`] answers.
pub(crate) const PAGE: &str = "HTTP/1.0 200 OK\r\ncontent-length: 5\r\n\r\nhello";

/// Longest wait for anything that takes a network round trip or a restart.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// Whose software meets whose, on whose server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cast {
    pub(crate) alder: Software,
    pub(crate) birch: Software,
    pub(crate) server: Software,
}

/// A built lab; others wait until it is gone, since they would share two cores.
pub(crate) struct Scene {
    pub(crate) world: World,
    pub(crate) key: String,
    _turn: MutexGuard<'static, ()>,
}

static TURN: Mutex<()> = Mutex::new(());

pub(crate) fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Prints past the test harness, which would hide the line of a test that passes.
pub(crate) fn skip(why: &str) {
    writeln!(std::io::stderr(), "skipped: {why}").expect("stderr");
}

pub(crate) fn programs() -> Programs {
    Programs::from_environment(PathBuf::from(env!("CARGO_BIN_EXE_samewire")))
}

/// Returns why a test of this software cannot run here.
pub(crate) fn missing(test: &str, software: &[Software], server: Software) -> bool {
    let programs = programs();
    let mut why = None;
    if !rustix::process::geteuid().is_root() {
        why = Some("network namespaces need root".to_owned());
    } else if software.contains(&OFFICIAL) {
        why = programs.official_node().err().map(|e| e.what);
    }
    if server == OFFICIAL {
        why = why.or_else(|| programs.official_server().err().map(|e| e.what));
    }
    if let Some(why) = &why {
        skip(&format!("{test}: {why}"));
    }
    why.is_some()
}

/// Two sites and machines in them, with a server that runs and a key to join with.
pub(crate) fn two_sites(lab: &str, cast: Cast, nats: [Nat; 2]) -> Option<Scene> {
    if missing(lab, &[cast.alder, cast.birch], cast.server) {
        return None;
    }
    let sites = vec![
        SiteSpec::new("home", nats[0]),
        SiteSpec::new("office", nats[1]),
        SiteSpec::new("cafe", Nat::Easy),
    ];
    let mut alder = MachineSpec::new("alder", "home", cast.alder);
    alder.at.push("cafe".into());
    Some(scene(lab, cast.server, sites, vec![alder, MachineSpec::new("birch", "office", cast.birch)]))
}

pub(crate) fn scene(lab: &str, server: Software, site: Vec<SiteSpec>, machine: Vec<MachineSpec>) -> Scene {
    let turn = turn();
    let server = ServerSpec { relay: RelayProcess::Separate, ..ServerSpec::new("hub", server) };
    let topology = Topology { name: lab.into(), server: Some(server), site, machine };
    let mut world = World::build(topology, programs(), Interrupt::default()).expect("a lab");
    let key = world.start_server().unwrap_or_else(|e| panic!("{e}\n{}", logs(lab)));
    Scene { world, key, _turn: turn }
}

impl Scene {
    pub(crate) fn join(&mut self, name: &str) {
        let lab = self.world.topology().name.clone();
        self.world.join(name, &self.key).unwrap_or_else(|e| panic!("{e}\n{}", logs(&lab)));
    }

    pub(crate) fn address(&mut self, name: &str) -> IpAddr {
        let api = self.world.machine(name).expect("a machine").local_api();
        let address = self.until(&format!("{name} has an address"), || api.own_address());
        address.parse().expect("an address")
    }

    /// Asks until there is a value; panics with the logs of the lab when there is none.
    pub(crate) fn until<T>(&self, what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
        self.within(SOON, what, &mut ready)
    }

    pub(crate) fn within<T>(&self, limit: Duration, what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
        let value = self.world.interrupt().wait_for(limit, || Ok(ready())).expect("no interrupt in a test");
        value.unwrap_or_else(|| panic!("{what}: not in {limit:?}\n{}", logs(&self.world.topology().name)))
    }

    /// Pings by name or address until one answer comes.
    pub(crate) fn ping(&mut self, from: &str, to: &str) {
        self.ping_within(SOON, from, to);
    }

    pub(crate) fn ping_within(&mut self, limit: Duration, from: &str, to: &str) {
        let lab = self.world.topology().name.clone();
        let interrupt = Interrupt::default();
        let machine = self.world.machine(from).expect("a machine");
        let words = ["ping", "-n", "-c", "1", "-W", "1", to];
        let answered = interrupt.wait_for(limit, || {
            let output = machine.exec(&words, Duration::from_secs(5), &interrupt)?;
            Ok(output.status.success().then_some(()))
        });
        assert_eq!(answered, Ok(Some(())), "{from} cannot ping {to} in {limit:?}\n{}", logs(&lab));
    }

    /// Sends pings both ways until the path of `from` is direct; returns its address and port.
    pub(crate) fn until_direct(&mut self, limit: Duration, from: &str, to: &str) -> String {
        let tried = sw_lab::measure_direct(&mut self.world, from, to, limit).expect("two joined machines");
        let lab = self.world.topology().name.clone();
        tried.via.unwrap_or_else(|| panic!("{from} → {to} stayed relayed for {limit:?}\n{}", logs(&lab)))
    }

    /// Opens a TCP session from one machine to the other's address; both ends are returned.
    pub(crate) fn session(&mut self, from: &str, to: &str, port: u16) -> Session {
        let address = self.address(to);
        let listener = self
            .world
            .in_room(to, || TcpListener::bind((address, port)).map_err(broken))
            .expect("a listener");
        let near = self.until("a TCP session", || self.connect(from, address, port));
        let (far, _) = listener.accept().expect("the session arrives");
        for end in [&near, &far] {
            end.set_read_timeout(Some(SOON)).expect("a timeout");
            end.set_nodelay(true).expect("no delay");
        }
        Session { near, far }
    }

    /// Tries once to open a TCP connection.
    pub(crate) fn connect(&self, from: &str, address: IpAddr, port: u16) -> Option<TcpStream> {
        let limit = Duration::from_secs(2);
        self.world
            .in_room(from, || TcpStream::connect_timeout(&(address, port).into(), limit).map_err(broken))
            .ok()
    }
}

fn broken(e: std::io::Error) -> LabError {
    LabError::new("test", e.to_string())
}

/// Both ends of a TCP connection.
pub(crate) struct Session {
    near: TcpStream,
    far: TcpStream,
}

impl Session {
    /// Sends a word each way and awaits it: the session lives.
    pub(crate) fn exchange(&mut self, what: &str) {
        for (from, to) in [(&self.near, &self.far), (&self.far, &self.near)] {
            let mut word = [0; 4];
            let (mut from, mut to) = (from, to);
            from.write_all(b"word").unwrap_or_else(|e| panic!("{what}: {e}"));
            to.read_exact(&mut word).unwrap_or_else(|e| panic!("{what}: {e}"));
            assert_eq!(&word, b"word");
        }
    }
}

/// Answers every connection to `listener` with a page, until the process ends.
pub(crate) fn serve_page(listener: TcpListener) {
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut request = [0; 1024];
            let _some = stream.read(&mut request);
            let _gone = stream.write_all(PAGE.as_bytes());
        }
    });
}

pub(crate) fn listen(scene: &Scene, room: &str, ip: std::net::IpAddr, port: u16) -> TcpListener {
    let opened = scene.world.in_room(room, || TcpListener::bind((ip, port)).map_err(broken));
    opened.expect("a listener")
}

/// What curl fetches in a room; empty when it fails.
pub(crate) fn curl(scene: &Scene, room: &str, words: &[&str]) -> String {
    let mut command = scene.world.command_in_room(room, Path::new("/usr/bin/curl")).expect("a command");
    let output = command.args(["-s", "-m", "10"]).args(words).output().expect("curl");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs a machine's own command line; it must work.
pub(crate) fn says(scene: &mut Scene, machine: &str, words: &[&str]) -> String {
    let machine = scene.world.machine(machine).expect("a machine");
    let output = machine.command_line(words, SOON, &Interrupt::default()).expect("its program");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{} {words:?}: {out}{err}", machine.name());
    out.into_owned()
}

/// The last lines of every log of a lab, for the message of a failed test.
pub(crate) fn logs(lab: &str) -> String {
    let mut text = String::new();
    let mut directories = vec![PathBuf::from(format!("/run/swl-{lab}"))];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|e| e == "log") {
                let log = std::fs::read_to_string(&path).unwrap_or_default();
                let lines: Vec<&str> = log.lines().collect();
                let tail = lines.get(lines.len().saturating_sub(25)..).unwrap_or_default().join("\n");
                text.push_str(&format!("--- {}\n{tail}\n", path.display()));
            }
        }
    }
    text
}

/// Something when the cache file of a machine has the peer of this address with its relay and its endpoints.
pub(crate) fn remembers(cache: &std::path::Path, peer: &str) -> Option<()> {
    let packed = std::fs::read(cache).ok()?;
    let json = zstd::bulk::decompress(&packed, 1 << 20).ok()?;
    let map: serde_json::Value = serde_json::from_slice(&json).ok()?;
    let cidr = format!("{peer}/32");
    map["Peers"].as_array()?.iter().find_map(|node| {
        let is_it = node["Addresses"].as_array()?.iter().any(|address| address == cidr.as_str());
        let can_be_found = node["HomeDERP"].as_u64()? != 0 && !node["Endpoints"].as_array()?.is_empty();
        (is_it && can_be_found).then_some(())
    })
}
