//! The disk is full for a while: changes are refused with the reason, nothing acknowledged is lost, what is served is
//! what is kept, and the server goes on when there is space again.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::server::ask;

const PATIENCE: Duration = Duration::from_secs(60);
/// Changes that may still find room: the log of SQLite grows in steps.
const CHANGES_MAX: u32 = 20_000;

/// A program that ends with this value.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _collected = self.0.wait();
    }
}

/// A small disk in a mount namespace of its own; both end with this value.
struct SmallDisk {
    keeper: Running,
    at: tempfile::TempDir,
}

impl SmallDisk {
    fn new() -> Option<Self> {
        let at = tempfile::tempdir().unwrap();
        let script = "mount -t tmpfs -o size=3m,mode=700 none \"$0\" && echo ready && exec cat";
        let mut keeper = Command::new("unshare");
        keeper.args(["--mount", "--", "sh", "-c", script]).arg(at.path());
        keeper.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut keeper = Running(keeper.spawn().ok()?);
        let mut line = String::new();
        BufReader::new(keeper.0.stdout.take()?).read_line(&mut line).ok()?;
        (line == "ready\n").then_some(Self { keeper, at })
    }

    /// A file on it as this process sees it.
    fn seen(&self, name: &str) -> PathBuf {
        let path = self.at.path().strip_prefix("/").unwrap().join(name);
        PathBuf::from(format!("/proc/{}/root", self.keeper.0.id())).join(path)
    }

    async fn serve(&self, url: &str, listen: &str) -> Running {
        let mut server = Command::new("nsenter");
        server
            .arg(format!("--mount=/proc/{}/ns/mnt", self.keeper.0.id()))
            .arg(env!("CARGO_BIN_EXE_samewire"));
        server.args(["control", "serve", "--no-relay", "--url", url, "--listen", listen, "--state"]);
        server.arg(self.at.path()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let server = Running(server.spawn().unwrap());
        let begun = Instant::now();
        while ask(&self.seen("control.sock"), "GET", "health", "").await.is_none() {
            assert!(begun.elapsed() < PATIENCE, "the server does not answer");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        server
    }

    async fn create(&self, name: &str) -> (u16, Value) {
        let body = json!({ "name": name }).to_string();
        ask(&self.seen("control.sock"), "POST", "users", &body).await.expect("an answer")
    }

    async fn names(&self) -> BTreeSet<String> {
        let (status, users) = ask(&self.seen("control.sock"), "GET", "users", "").await.expect("an answer");
        assert_eq!(status, 200, "reading needs no space");
        let users = users.as_array().unwrap().iter();
        users.filter_map(|user| Some(user["name"].as_str()?.to_owned())).collect()
    }
}

/// Writes until nothing goes any more.
fn fill(file: &Path) {
    let mut file = std::fs::File::create(file).unwrap();
    for piece in [&[0; 64 * 1024][..], &[0; 4 * 1024], &[0]] {
        while file.write_all(piece).is_ok() {}
    }
}

#[tokio::test]
async fn a_full_disk_refuses_changes_and_loses_none() {
    if !rustix::process::geteuid().is_root() {
        return skip("a disk of its own needs root");
    }
    let Some(disk) = SmallDisk::new() else { return skip("no mount namespace, or no unshare") };
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let server = disk.serve(&format!("http://{free}"), &free).await;
    let mut acknowledged = disk.names().await;
    let mut create = async |disk: &SmallDisk, name: String| {
        let (status, answer) = disk.create(&name).await;
        if status == 200 {
            acknowledged.insert(name);
        }
        (status, answer, acknowledged.clone())
    };
    create(&disk, "before".to_owned()).await;

    fill(&disk.seen("fill"));
    let mut n = 0;
    let refusal = loop {
        let (status, answer, _) = create(&disk, format!("person{n}")).await;
        if status != 200 {
            break (status, answer);
        }
        n += 1;
        assert!(n < CHANGES_MAX, "the disk is never full");
    };
    assert_eq!(refusal.0, 507, "{}", refusal.1);
    let what = refusal.1["message"].as_str().unwrap();
    assert!(
        what.starts_with("the disk holding ") && what.ends_with(" is full, so nothing was changed"),
        "{what}"
    );
    let (code, error) = crate::errors::refused(&disk.seen(""), &["users", "create", "nor-by-command"]).await;
    assert_eq!((code, error["slug"].as_str()), (Some(1), Some("disk-full")), "{error}");
    let (status, _, kept) = create(&disk, "nor-this-one".to_owned()).await;
    assert_eq!(status, 507);
    assert_eq!(disk.names().await, kept, "what is served is what was acknowledged");

    std::fs::remove_file(disk.seen("fill")).unwrap();
    let (status, answer, kept) = create(&disk, "after".to_owned()).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(disk.names().await, kept);

    drop(server);
    let _server = disk.serve(&format!("http://{free}"), &free).await;
    assert_eq!(disk.names().await, kept, "after a kill and a start");
    println!("{} changes acknowledged around a full disk, none lost", kept.len());
}

fn skip(why: &str) {
    // Past the test harness, which would hide the line of a test that passes.
    writeln!(std::io::stderr(), "skipped: a full disk: {why}").expect("stderr");
}
