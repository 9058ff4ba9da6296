//! Nodes without an interface: behind a proxy, and inside a program.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use samewire::{JoinOptions, Node};
use sw_lab::{LabError, MachineSpec, Nat, SiteSpec, Software};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::scene::{PAGE, SAMEWIRE, SOON, Scene, curl, listen, missing, scene, serve_page, skip};

const PROXY: &str = "127.0.0.1:1055";

/// A machine with an interface, and a plain one behind another router.
fn stage(lab: &str) -> Option<Scene> {
    if missing(lab, &[SAMEWIRE], SAMEWIRE) {
        return None;
    }
    let sites = vec![SiteSpec::new("home", Nat::Easy), SiteSpec::new("office", Nat::Easy)];
    let machines = vec![
        MachineSpec::new("alder", "home", SAMEWIRE),
        MachineSpec::new("birch", "office", Software::None),
    ];
    let mut scene = scene(lab, SAMEWIRE, sites, machines);
    scene.join("alder");
    Some(scene)
}

/// A daemon of a user without any right; it ends with this value.
struct Unprivileged {
    child: Child,
    socket: PathBuf,
    _dir: tempfile::TempDir,
}

impl Drop for Unprivileged {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _collected = self.child.wait();
    }
}

fn unprivileged(scene: &Scene, room: &str) -> Unprivileged {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).expect("its rights");
    // Where the build lies the user may not look.
    let program = dir.path().join("samewire");
    std::fs::copy(env!("CARGO_BIN_EXE_samewire"), &program).expect("a copy of the program");
    let socket = dir.path().join("samewire.sock");
    let mut command = scene.world.command_in_room(room, Path::new("/usr/bin/setpriv")).expect("a command");
    command
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(&program)
        .args(["daemon", "--tun=userspace-networking", "--port=0"])
        .arg(format!("--socks5-server={PROXY}"))
        .arg(format!("--outbound-http-proxy-listen={PROXY}"))
        .arg("--statedir")
        .arg(dir.path().join("state"))
        .arg("--socket")
        .arg(&socket)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    Unprivileged { child: command.spawn().expect("setpriv"), socket, _dir: dir }
}

#[test]
fn a_user_without_rights_reaches_the_network_through_a_proxy_and_is_reached() {
    for program in ["/usr/bin/curl", "/usr/bin/setpriv"] {
        if !Path::new(program).exists() {
            return skip(&format!("{program} is not there"));
        }
    }
    let Some(mut scene) = stage("proxy") else { return };
    let alder = scene.address("alder");
    serve_page(listen(&scene, "alder", alder, 8080));
    let daemon = unprivileged(&scene, "birch");
    let (url, key) = (scene.world.server().expect("a server").url(), scene.key.clone());
    let up = |scene: &Scene| {
        let program = Path::new(env!("CARGO_BIN_EXE_samewire"));
        let mut command = scene.world.command_in_room("birch", program).expect("a command");
        command.arg("--socket").arg(&daemon.socket);
        command.args(["up", "--login-server", &url, "--auth-key", &key, "--hostname", "birch"]);
        command.output().is_ok_and(|output| output.status.success()).then_some(())
    };
    scene.until("birch joins", || up(&scene));
    let socks = ["--socks5-hostname", PROXY, "http://alder:8080/"];
    scene
        .until("a page through SOCKS5, by name", || (curl(&scene, "birch", &socks) == "hello").then_some(()));
    let page = format!("http://{alder}:8080/");
    assert_eq!(curl(&scene, "birch", &["--proxy", PROXY, &page]), "hello", "through HTTP, by address");
    assert_eq!(curl(&scene, "birch", &["--proxytunnel", "--proxy", PROXY, &page]), "hello", "by CONNECT");

    assert_eq!(echo_by_datagram(&scene, alder), "hello", "a datagram through SOCKS5, by name");

    serve_page(listen(&scene, "birch", Ipv4Addr::LOCALHOST.into(), 8081));
    let birch = own_address(&scene, &daemon.socket);
    scene.ping("alder", &birch);
    let page = format!("http://{birch}:8081/");
    assert_eq!(curl(&scene, "alder", &[&page]), "hello", "a service of the host");

    let program = Path::new(env!("CARGO_BIN_EXE_samewire"));
    let mut serve = scene.world.command_in_room("birch", program).expect("a command");
    serve.arg("--socket").arg(&daemon.socket).args(["serve", "--bg", "text:good morning"]);
    let served = serve.output().expect("it runs");
    assert!(served.status.success(), "{}", String::from_utf8_lossy(&served.stderr));
    assert_eq!(curl(&scene, "alder", &["http://birch/"]), "good morning", "what it serves itself");
    let api = scene.world.machine("alder").expect("a machine").local_api();
    scene.within(SOON, "a direct path", || {
        curl(&scene, "alder", &[&page]);
        api.direct_address("birch")
    });
}

/// Sends a datagram to a service of alder through the proxy in birch's room, and returns what comes back.
fn echo_by_datagram(scene: &Scene, alder: std::net::IpAddr) -> String {
    let bind = |ip: std::net::IpAddr, port: u16| {
        UdpSocket::bind((ip, port)).map_err(|e| LabError::new("test", e.to_string()))
    };
    let service = scene.world.in_room("alder", || bind(alder, 7777)).expect("a service");
    std::thread::spawn(move || {
        let mut datagram = [0; 64];
        while let Ok((len, from)) = service.recv_from(&mut datagram) {
            let _lost = service.send_to(&datagram[..len], from);
        }
    });
    let (mut control, socket) = scene
        .world
        .in_room("birch", || {
            let control = TcpStream::connect(PROXY).map_err(|e| LabError::new("test", e.to_string()))?;
            Ok((control, bind(Ipv4Addr::LOCALHOST.into(), 0)?))
        })
        .expect("the proxy");
    control.write_all(b"\x05\x01\0\x05\x03\0\x01\0\0\0\0\0\0").expect("a request");
    let mut reply = [0; 12];
    control.read_exact(&mut reply).expect("a reply");
    assert_eq!(reply[..4], [5, 0, 5, 0], "the proxy carries datagrams");
    let relay = (Ipv4Addr::LOCALHOST, u16::from_be_bytes([reply[10], reply[11]]));
    socket.set_read_timeout(Some(Duration::from_secs(1))).expect("a timeout");
    scene.until("a datagram comes back", || {
        socket.send_to(b"\0\0\0\x03\x05alder\x1e\x61hello", relay).expect("sent");
        let mut answer = [0; 64];
        let (len, _) = socket.recv_from(&mut answer).ok()?;
        // Behind the header of an IPv4 address.
        Some(String::from_utf8_lossy(answer.get(10..len)?).into_owned())
    })
}

/// The address that a daemon tells.
fn own_address(scene: &Scene, socket: &Path) -> String {
    let program = Path::new(env!("CARGO_BIN_EXE_samewire"));
    let mut command = scene.world.command_in_room("birch", program).expect("a command");
    let output = command.arg("--socket").arg(socket).args(["ip", "-4"]).output().expect("samewire ip");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[test]
fn a_program_is_a_machine_of_the_network() {
    let Some(mut scene) = stage("library") else { return };
    let alder = scene.address("alder");
    serve_page(listen(&scene, "alder", alder, 8080));
    let (url, key) = (scene.world.server().expect("a server").url(), scene.key.clone());
    let alder_can_fetch = |ip: std::net::IpAddr| {
        let stream = scene.connect("alder", ip, 80);
        let mut stream = stream.expect("the program listens");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("a greeting");
        text
    };
    let world = &scene.world;
    let greeting = world.in_room("birch", || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.map_err(|e| LabError::new("test", e.to_string()))?;
        let greeting = runtime.block_on(async {
            let options =
                JoinOptions { server: url, auth_key: key, hostname: "program".into(), state_dir: None };
            let node = Node::join(options).await.expect("it joins");
            let mut stream = node.dial("alder:8080").await.expect("alder answers");
            stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await.expect("a request");
            let mut page = String::new();
            stream.read_to_string(&mut page).await.expect("a page");
            assert_eq!(page, PAGE);
            let mut listener = node.listen(80).expect("a port");
            tokio::spawn(async move {
                while let Some(mut client) = listener.accept().await {
                    client.write_all(b"greetings").await.expect("alder listens");
                }
            });
            let own = node.addresses().await;
            let ip = *own.iter().find(|ip| ip.is_ipv4()).expect("an address");
            let greeting = std::thread::scope(|scope| scope.spawn(|| alder_can_fetch(ip)).join());
            node.stop().await;
            greeting.expect("a greeting")
        });
        Ok(greeting)
    });
    assert_eq!(greeting.expect("no error of the lab"), "greetings");
}
