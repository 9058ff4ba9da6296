//! Against the official relay, where its program is on this machine (`DERPER`, or `derper` in the search path).

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use sw_net::tls::Identity;
use sw_types::{CertCheck, MeshKey, RegionId};

use crate::setup::{Peer, config, eventually, region, start, start_with};

fn program(variable: &str, name: &str) -> Option<PathBuf> {
    let given = std::env::var_os(variable).map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = || std::env::split_paths(&path).map(|dir| dir.join(name)).find(|path| path.is_file());
    let program = given.or_else(found);
    if program.is_none() {
        writeln!(std::io::stderr(), "skipped: {name} is not here (set {variable})").expect("stderr");
    }
    program
}

/// Ends with the test.
struct Running {
    child: Child,
    dir: PathBuf,
    address: SocketAddr,
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        drop(std::fs::remove_dir_all(&self.dir));
    }
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Plain HTTP, so that it needs no certificate authority.
async fn derper(program: &Path, extra: &[String]) -> Running {
    derper_that_trusts(program, extra, None).await
}

/// With an authority of its own in place of the system's.
async fn derper_that_trusts(program: &Path, extra: &[String], authority: Option<&Path>) -> Running {
    let port = free_port();
    let dir = std::env::temp_dir().join(format!("sw-derper-{}-{port}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let child = Command::new(program)
        .arg("-c")
        .arg(dir.join("derper.json"))
        .args([
            "-a",
            &format!("127.0.0.1:{port}"),
            "-http-port",
            "-1",
            "-stun=false",
            "-hostname",
            "localhost",
        ])
        .args(extra)
        .envs(authority.map(|file| ("SSL_CERT_FILE", file)))
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let up = || std::net::TcpStream::connect(address).is_ok();
    let running = Running { child, dir, address };
    eventually("derper is up", up).await;
    running
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_client_works_with_the_official_relay() {
    let Some(program) = program("DERPER", "derper") else { return };
    let official = derper(&program, &[]).await;
    let mut a = Peer::connect(official.address, None, 10).await;
    let mut b = Peer::connect(official.address, None, 11).await;
    for size in [0, 1, 1280, 65_536] {
        a.client.send(b.key, &vec![1; size]);
        let got = b.packet().await;
        assert_eq!((got.from, got.packet.len()), (a.key, size));
        b.client.send(a.key, &vec![2; size]);
        assert_eq!(a.packet().await.packet.len(), size);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_official_relay_and_ours_are_one_region() {
    let Some(program) = program("DERPER", "derper") else { return };
    let dir = std::env::temp_dir().join(format!("sw-mesh-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let key_file = dir.join("mesh.key");
    std::fs::write(&key_file, "05".repeat(32)).unwrap();
    let mut ours = config(1);
    ours.mesh_key = Some(Arc::new(MeshKey::from_bytes([5; 32])));
    let ours = start(ours);
    // Here the official one only accepts: ours connects to it.
    let official = derper(&program, &[format!("-mesh-psk-file={}", key_file.display())]).await;
    let mut peer = region(official.address, CertCheck::HostName);
    peer.id = RegionId(900);
    ours.relay.join_mesh(peer, true);
    let a = Peer::plain(&ours, 10).await;
    let mut b = Peer::connect(official.address, None, 11).await;
    // Until the official relay has told of its client, packets to it have no way.
    let began = std::time::Instant::now();
    while ours.relay.metrics_text().contains("derp_packets_forwarded_out 0\n") {
        assert!(began.elapsed() < crate::setup::PATIENCE, "the official relay told of its client");
        a.client.send(b.key, b"are you there");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(b.packet().await.from, a.key);
    for size in [1, 1280, 60_000] {
        a.client.send(b.key, &vec![3; size]);
        let mut got = b.packet().await;
        while &got.packet[..] == b"are you there" {
            got = b.packet().await;
        }
        assert_eq!((got.from, got.packet.len()), (a.key, size));
    }
    drop(std::fs::remove_dir_all(dir));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_official_relay_joins_our_mesh_by_itself() {
    let Some(program) = program("DERPER", "derper") else { return };
    let dir = tempfile::tempdir().unwrap();
    let (key_file, authority) = (dir.path().join("mesh.key"), dir.path().join("relay.crt"));
    std::fs::write(&key_file, "05".repeat(32)).unwrap();
    // It connects over TLS alone and believes its roots; our certificate is one of them.
    let (cert, key) = sw_net::tls::self_signed_pem(&["localhost".to_owned()]).unwrap();
    std::fs::write(&authority, &cert).unwrap();
    let identity = Identity::from_pem(cert.as_bytes(), key.as_bytes()).unwrap();
    let mut ours = config(1);
    ours.mesh_key = Some(Arc::new(MeshKey::from_bytes([5; 32])));
    let ours = start_with(ours, &identity);
    let mesh = [
        format!("-mesh-psk-file={}", key_file.display()),
        format!("-mesh-with=localhost:{}", ours.address.port()),
    ];
    let official = derper_that_trusts(&program, &mesh, Some(&authority)).await;
    eventually("the official relay watches ours", || ours.relay.stats().watchers == 1).await;

    let mut here = Peer::plain(&ours, 10).await;
    let there = Peer::connect(official.address, None, 11).await;
    // Its client reaches ours as soon as ours is known there.
    let began = std::time::Instant::now();
    while ours.relay.metrics_text().contains("derp_packets_forwarded_in 0\n") {
        assert!(began.elapsed() < crate::setup::PATIENCE, "our client was told to the official relay");
        there.client.send(here.key, b"are you there");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(here.packet().await.from, there.key);
    for size in [1, 1280, 60_000] {
        there.client.send(here.key, &vec![4; size]);
        let mut got = here.packet().await;
        while &got.packet[..] == b"are you there" {
            got = here.packet().await;
        }
        assert_eq!((got.from, got.packet.len()), (there.key, size));
    }
}
