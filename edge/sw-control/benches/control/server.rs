//! The server's process: this program started again with `--serve`.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use sw_control::{Roles, ServeArgs, serve as serve_control};
use sw_tailnet::{Command, Done, NewAuthKey, NewUser, PolicyEngine};
use sw_types::{ControlKey, UserId};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command as Program};

const OPEN: &str = r#"{"grants": [{"src": ["*"], "dst": ["*"], "ip": ["*"]}]}"#;
const NARROW: &str = r#"{"grants": [{"src": ["*"], "dst": ["*"], "ip": ["tcp:22", "tcp:443"]}]}"#;

/// Ports that are tried before the bench gives up.
const TRIES: u32 = 5;

/// Runs a server on `folder` until it is ended; prints its key and an auth key.
pub(crate) async fn serve(folder: PathBuf) {
    let port: u16 = std::fs::read_to_string(folder.join("port")).unwrap().trim().parse().unwrap();
    let args = ServeArgs {
        url: format!("http://127.0.0.1:{port}"),
        listen: Some(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))),
        policy: Some(folder.join("policy.hujson")),
        derp_map: None,
        no_relay: true,
        tls_cert: None,
        tls_key: None,
        acme: false,
        acme_directory: String::new(),
        acme_ca: None,
    };
    let engine = Arc::new(PolicyEngine::new(&args.url));
    let done = serve_control(args, folder.join("state"), engine, |server, _| {
        let (control, key) = (server.control().clone(), server.noise_key());
        tokio::spawn(async move {
            let user = NewUser { name: "ada".to_owned(), ..NewUser::default() };
            control.execute("bench", Command::CreateUser(user)).await.unwrap();
            let new = NewAuthKey { user: Some(UserId(1)), preapproved: true, ..NewAuthKey::default() };
            let made = control.execute("bench", Command::CreateAuthKey(new)).await.unwrap();
            let Done::Secret { text, .. } = made else { panic!("a key is a secret") };
            println!("{key} {}", text.expose());
        });
        Ok(Roles::default())
    });
    done.await.unwrap();
}

/// CPU time of all threads of a process, from the scheduler's own count.
pub(crate) fn cpu_of(pid: u32) -> Duration {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let ran = tasks.filter_map(|task| {
        let text = std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(ran.sum())
}

/// A line of `/proc/PID/status`.
pub(crate) fn memory_kib(pid: u32, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// A server to be measured.
pub(crate) struct ServerProcess {
    child: Child,
    folder: PathBuf,
    pid: u32,
    pub(crate) address: SocketAddr,
    pub(crate) key: ControlKey,
    pub(crate) auth_key: String,
}

impl ServerProcess {
    pub(crate) async fn start() -> Self {
        for _ in 0..TRIES {
            if let Some(server) = Self::try_start().await {
                return server;
            }
        }
        panic!("the server does not listen");
    }

    /// `None`: it ended. The port was free when it was looked for, but clients come from ports of the same range.
    async fn try_start() -> Option<Self> {
        let folder = std::env::temp_dir().join(format!("samewire-bench-{}", std::process::id()));
        drop(std::fs::remove_dir_all(&folder));
        std::fs::create_dir_all(&folder).unwrap();
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        std::fs::write(folder.join("port"), port.to_string()).unwrap();
        std::fs::write(folder.join("policy.hujson"), OPEN).unwrap();
        let mut child = Program::new(std::env::current_exe().unwrap())
            .arg("--serve")
            .arg(&folder)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = lines.next_line().await.unwrap()?;
        let (key, auth_key) = line.split_once(' ').unwrap();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut tries = 0;
        while tokio::net::TcpStream::connect(address).await.is_err() {
            tries += 1;
            if tries == 500 || child.try_wait().unwrap().is_some() {
                return None;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let (key, auth_key) = (key.parse().unwrap(), auth_key.to_owned());
        Some(Self { pid: child.id().unwrap(), child, folder, address, key, auth_key })
    }

    pub(crate) fn cpu(&self) -> Duration {
        cpu_of(self.pid)
    }

    pub(crate) fn resident_kib(&self) -> u64 {
        memory_kib(self.pid, "VmRSS:")
    }

    /// Writes another policy and tells the server to read it.
    pub(crate) fn change_policy(&self) {
        std::fs::write(self.folder.join("policy.hujson"), NARROW).unwrap();
        let pid = rustix::process::Pid::from_raw(self.pid.cast_signed()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    }

    pub(crate) async fn stop(mut self) {
        self.child.kill().await.unwrap();
        drop(std::fs::remove_dir_all(&self.folder));
    }
}
