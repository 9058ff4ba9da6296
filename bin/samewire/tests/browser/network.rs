//! A real server in the test's process, and real machines that join it over the protocol.

use samewire::serving::{Place, Serving};
use serde_json::Value;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command as Program, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use sw_control::{Control, Roles, ServeArgs, clock};
use sw_lab::LocalApi;
use sw_tailnet::{Command, Done, NewAuthKey, NewUser, PolicyEngine, SessionKind};

use crate::tab::SOON;

/// The server of a network with one person, Ada.
pub(crate) struct Network {
    pub(crate) control: Control,
    pub(crate) url: String,
    state: tempfile::TempDir,
}

impl Network {
    /// Serves on loopback, as `samewire control serve` does.
    pub(crate) async fn start() -> Self {
        let state = tempfile::tempdir().expect("a folder");
        Self::start_in(state).await
    }

    /// Serves what lies in `state`.
    pub(crate) async fn start_in(state: tempfile::TempDir) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port();
        let url = format!("http://localhost:{port}");
        let listen = SocketAddr::from(([127, 0, 0, 1], port));
        let args = ServeArgs {
            url: url.clone(),
            listen: Some(listen),
            policy: None,
            derp_map: None,
            no_relay: false,
            tls_cert: None,
            tls_key: None,
            acme: false,
            acme_directory: String::new(),
            acme_ca: None,
        };
        let dir = state.path().join("control");
        let (handle, given) = tokio::sync::oneshot::channel();
        let engine = Arc::new(PolicyEngine::new(&url));
        let keys = dir.clone();
        let roles = move |server: &sw_control::Server, bound: sw_control::Bound| {
            let place = Place {
                tls_url: format!("https://localhost:{port}"),
                login_server: bound.url,
                candidates: vec![(bound.host.clone(), port)],
                hosts: vec![bound.host],
                listen: bound.listen,
                can_port_80: false,
                is_reachable_outside: false,
                has_node: false,
                given: None,
                oidc: None,
            };
            let serving = Serving::start(server, &keys, &place, false, &sw_net::tls::CertStore::new())
                .map_err(|e| format!("{e:#}"))?;
            let _is_waited_for = handle.send(server.control().clone());
            Ok(Roles {
                others: Some(serving.router()),
                tls: Some(Arc::clone(&serving.tls)),
                derp_map: serving.derp_map.clone(),
                ..Roles::default()
            })
        };
        tokio::spawn(async move {
            if let Err(error) = sw_control::serve(args, dir, engine, roles).await {
                panic!("the server: {error}");
            }
        });
        let control = given.await.expect("the server starts");
        let begun = Instant::now();
        while tokio::net::TcpStream::connect(listen).await.is_err() {
            assert!(begun.elapsed() < SOON, "the server does not listen");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let network = Self { control, url, state };
        if network.control.read(|t| t.state().users().count()).await.expect("runs") == 0 {
            network.add_person("ada", "Ada Marsh").await;
        }
        network
    }

    pub(crate) async fn add_person(&self, name: &str, display: &str) {
        let new = NewUser { name: name.into(), display_name: display.into(), ..NewUser::default() };
        self.control.execute("root", Command::CreateUser(new)).await.expect("a person");
    }

    /// The path of a one-time link for Ada.
    pub(crate) async fn link(&self) -> String {
        let user = self.control.read(|t| t.state().find_user("ada").map(|u| u.id)).await;
        let user = user.expect("runs").expect("ada");
        let expires = clock::now().wall + Duration::from_secs(3_600);
        let make = Command::CreateSession { kind: SessionKind::Link, user, expires };
        let done = self.control.execute("root", make).await.expect("made");
        let Done::Secret { text, .. } = done else { panic!("no secret: {done:?}") };
        format!("/admin/{}", text.expose())
    }

    /// A key with which any number of machines join for Ada.
    pub(crate) async fn key(&self) -> String {
        let user = self.control.read(|t| t.state().find_user("ada").map(|u| u.id)).await.expect("runs");
        let new = NewAuthKey { user, preapproved: true, ..NewAuthKey::default() };
        let done = self.control.execute("root", Command::CreateAuthKey(new)).await.expect("made");
        let Done::Secret { text, .. } = done else { panic!("no secret: {done:?}") };
        text.expose().clone()
    }

    /// Starts a machine that asks to join; without a key it waits at its login page.
    pub(crate) fn machine(&self, name: &str, key: Option<&str>) -> Machine {
        let dir = self.state.path().join(name);
        std::fs::create_dir_all(&dir).expect("a folder");
        let socket = dir.join("daemon.sock");
        let socks = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port");
        let log = std::fs::File::create(dir.join("log")).expect("a log");
        let daemon = Program::new(env!("CARGO_BIN_EXE_samewire"))
            .arg("--socket")
            .arg(&socket)
            .args(["daemon", "--tun=userspace-networking", "--port=0", "--statedir"])
            .arg(dir.join("state"))
            .arg(format!("--socks5-server={socks}"))
            .env("HOME", &dir)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("a daemon");
        let mut machine =
            Machine { name: name.into(), api: LocalApi::new(&socket), socket, socks, daemon, up: None };
        machine.until("its daemon answers", |status| status.get("BackendState").map(|_| ()));
        let mut up = machine.command("up");
        up.arg(format!("--login-server={}", self.url)).arg(format!("--hostname={name}"));
        if let Some(key) = key {
            up.arg(format!("--auth-key={key}"));
        }
        let log = std::fs::File::create(dir.join("up.log")).expect("a log");
        let up = up.stdout(Stdio::null()).stderr(log).spawn().expect("up starts");
        machine.up = Some(up);
        machine
    }
}

/// One machine: the real daemon, without a TUN, so that no privilege is needed.
pub(crate) struct Machine {
    name: String,
    api: LocalApi,
    socket: PathBuf,
    socks: SocketAddr,
    daemon: Child,
    up: Option<Child>,
}

impl Machine {
    fn command(&self, verb: &str) -> Program {
        let mut command = Program::new(env!("CARGO_BIN_EXE_samewire"));
        command.arg("--socket").arg(&self.socket).arg(verb).stdin(Stdio::null());
        command
    }

    /// Waits until its status has something.
    pub(crate) fn until<T>(&self, what: &str, found: impl Fn(&Value) -> Option<T>) -> T {
        let begun = Instant::now();
        loop {
            if let Some(value) = self.api.status().as_ref().and_then(&found) {
                return value;
            }
            assert!(
                begun.elapsed() < SOON,
                "{}: {what}: not in {SOON:?}: {:?}",
                self.name,
                self.api.status()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The path of the page where somebody lets it in.
    pub(crate) fn login_page(&self) -> String {
        let url = self.until("it has a login page", |status| {
            status["AuthURL"].as_str().filter(|url| !url.is_empty()).map(str::to_owned)
        });
        url[url.find("/register/").expect("a login page")..].to_owned()
    }

    pub(crate) fn until_running(&self) {
        self.until("it runs", |status| (status["BackendState"] == "Running").then_some(()));
    }

    /// Whether it sees a machine of that name.
    pub(crate) fn sees(&self, name: &str) -> bool {
        self.api.peer(name).is_some()
    }

    /// Connects to a port of a machine over the network, again until it works, and hears it speak.
    pub(crate) fn connect(&self, name: &str, port: u16) {
        let begun = Instant::now();
        while let Err(error) = self.try_connect(name, port) {
            assert!(begun.elapsed() < SOON, "{} to {name}:{port}: {error}", self.name);
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// By its SOCKS5 proxy (RFC 1928, no authentication, a name).
    fn try_connect(&self, name: &str, port: u16) -> std::io::Result<()> {
        let mut stream = TcpStream::connect(self.socks)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let length = u8::try_from(name.len()).expect("a short name");
        stream.write_all(&[5, 1, 0])?;
        stream.write_all(&[&[5, 1, 0, 3, length], name.as_bytes(), &port.to_be_bytes()[..]].concat())?;
        let mut answers = [0; 2 + 10];
        stream.read_exact(&mut answers)?;
        if answers[3] != 0 {
            return Err(std::io::Error::other(format!("the proxy says {}", answers[3])));
        }
        let mut greeting = [0; 5];
        stream.read_exact(&mut greeting)?;
        assert_eq!(&greeting, b"hello");
        Ok(())
    }

    /// Ends it in good order.
    pub(crate) fn stop(&mut self) {
        if let Some(pid) = rustix::process::Pid::from_raw(self.daemon.id().cast_signed()) {
            rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it runs");
        }
        self.daemon.wait().expect("it ends");
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        for child in self.up.iter_mut().chain([&mut self.daemon]) {
            let _gone = child.kill();
            let _status = child.wait();
        }
    }
}

/// A service of this computer, which every machine of the test offers on the network; returns its port.
pub(crate) fn greeter() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let _gone = (&stream).write_all(b"hello");
        }
    });
    port
}
