//! The server under test and its admin socket.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;
use sw_types::ControlKey;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};

const PATIENCE: Duration = Duration::from_secs(30);

/// Where the server lives, across its lives.
pub(crate) struct Host {
    state: tempfile::TempDir,
    pub(crate) address: SocketAddr,
}

impl Host {
    pub(crate) fn new() -> Self {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        Self { state: tempfile::tempdir().unwrap(), address: free.local_addr().unwrap() }
    }

    pub(crate) fn state(&self) -> &Path {
        self.state.path()
    }

    pub(crate) async fn get(&self, path: &str) -> Option<Value> {
        self.ask("GET", path, "").await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Option<Value> {
        self.ask("POST", path, &body.to_string()).await
    }

    /// The body of a 200; `None` when the server died meanwhile.
    async fn ask(&self, method: &str, path: &str, body: &str) -> Option<Value> {
        let (status, answer) = ask(&self.state.path().join("control.sock"), method, path, body).await?;
        assert_eq!(status, 200, "{method} {path}: {answer}");
        Some(answer)
    }

    /// The key that clients pin, as the server tells it.
    pub(crate) async fn noise_key(&self) -> ControlKey {
        let mut socket = tokio::net::TcpStream::connect(self.address).await.unwrap();
        socket.write_all(b"GET /key?v=130 HTTP/1.1\r\nhost: c\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        let keys: Value = serde_json::from_str(body).unwrap();
        keys["publicKey"].as_str().unwrap().parse().unwrap()
    }
}

/// Asks over an admin socket: status and body; `None` when nobody answers to the end.
pub(crate) async fn ask(socket: &Path, method: &str, path: &str, body: &str) -> Option<(u16, Value)> {
    let mut socket = UnixStream::connect(socket).await.ok()?;
    let length = body.len();
    let request = format!(
        "{method} /api/samewire/v1/{path} HTTP/1.1\r\nhost: c\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    socket.write_all(request.as_bytes()).await.ok()?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, serde_json::from_str(body).ok()?))
}

/// One life of the server.
pub(crate) struct ControlServer(Child);

impl ControlServer {
    /// Starts it and waits until it answers.
    pub(crate) async fn start(host: &Host) -> Self {
        let address = host.address.to_string();
        let child = Command::new(env!("CARGO_BIN_EXE_samewire"))
            .args([
                "control",
                "serve",
                "--no-relay",
                "--url",
                &format!("http://{address}"),
                "--listen",
                &address,
            ])
            .arg("--state")
            .arg(host.state.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let begun = Instant::now();
        while host.get("health").await.is_none() {
            assert!(begun.elapsed() < PATIENCE, "the server does not answer");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Self(child)
    }

    /// SIGKILL.
    pub(crate) async fn kill(mut self) {
        self.0.kill().await.unwrap();
    }
}
