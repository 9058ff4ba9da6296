//! A real node in a large network: how soon it is usable, what it holds, what one change costs it.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::process::{Child, Command};

use crate::client::{Machine, Network};
use crate::server::{ServerProcess, cpu_of, memory_kib};

/// Changes that are averaged.
const CHANGES: u32 = 200;
/// Quiet before memory is read, and time over which the node's own CPU is measured.
const QUIET: Duration = Duration::from_secs(30);

/// A `samewire daemon` without a TUN.
struct Daemon {
    child: Child,
    program: PathBuf,
    folder: PathBuf,
}

impl Daemon {
    async fn start(program: &Path) -> Self {
        let folder = std::env::temp_dir().join(format!("samewire-bench-node-{}", std::process::id()));
        drop(std::fs::remove_dir_all(&folder));
        std::fs::create_dir_all(&folder).unwrap();
        let child = Command::new(program)
            .args(["daemon", "--tun=userspace-networking", "--port=0", "--statedir"])
            .arg(folder.join("state"))
            .arg("--socket")
            .arg(folder.join("socket"))
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("build it first: cargo build --release -p samewire");
        let this = Self { child, program: program.to_owned(), folder };
        let begun = Instant::now();
        while tokio::net::UnixStream::connect(this.folder.join("socket")).await.is_err() {
            assert!(begun.elapsed() < Duration::from_secs(10), "the daemon does not listen");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        this
    }

    async fn run(&self, words: &[&str]) -> String {
        let mut command = Command::new(&self.program);
        let output =
            command.arg("--socket").arg(self.folder.join("socket")).args(words).output().await.unwrap();
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Waits until it knows `peers` peers.
    async fn knows(&self, peers: usize) {
        loop {
            let status = self.run(&["status", "--json"]).await;
            if status.matches("\"PublicKey\"").count() > peers {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn pid(&self) -> u32 {
        self.child.id().unwrap()
    }

    fn memory(&self) -> (f64, f64) {
        let mib = |field| memory_kib(self.pid(), field) as f64 / 1024.0;
        (mib("VmRSS:"), mib("RssAnon:"))
    }
}

/// Measures `program` in a network of `nodes` machines.
pub(crate) async fn measure(
    program: &Path,
    server: &ServerProcess,
    network: &Network,
    machines: &mut [Machine],
) {
    let nodes = machines.len();
    let daemon = Daemon::start(program).await;
    let url = format!("http://{}", server.address);
    let (begun, cpu) = (Instant::now(), cpu_of(daemon.pid()));
    daemon.run(&["up", "--login-server", &url, "--auth-key", &server.auth_key, "--hostname", "probe"]).await;
    let up = begun.elapsed();
    daemon.knows(nodes).await;
    let (known, start_cpu) = (begun.elapsed(), cpu_of(daemon.pid()).saturating_sub(cpu));
    let (peak, _) = daemon.memory();

    // Another stream of the same network tells when a change has gone out.
    machines[0].listen().await;
    network.quiet().await;
    let cpu = cpu_of(daemon.pid());
    tokio::time::sleep(QUIET).await;
    let idle = cpu_of(daemon.pid()).saturating_sub(cpu).as_secs_f64() / QUIET.as_secs_f64();
    let (resident, own) = daemon.memory();

    let (begun, cpu) = (Instant::now(), cpu_of(daemon.pid()));
    for n in 0..CHANGES {
        let before = machines[0].messages();
        machines[1 + n as usize % (nodes - 1)].tell_endpoint(n).await;
        while machines[0].messages() == before {
            assert!(begun.elapsed() < Duration::from_secs(120), "a change did not arrive");
            network.next_message().await;
        }
    }
    let spent = cpu_of(daemon.pid()).saturating_sub(cpu).saturating_sub(begun.elapsed().mul_f64(idle));
    println!("a node in a network of {nodes}:");
    println!(
        "  up {:.2} s, every peer in its status {:.2} s, CPU {:.2} s",
        secs(up),
        secs(known),
        secs(start_cpu)
    );
    println!("  resident {peak:.1} MiB at once, {resident:.1} MiB at rest ({own:.1} of its own)");
    println!(
        "  one change {:.3} ms CPU, idle {:.3} % of a core",
        secs(spent) * 1e3 / f64::from(CHANGES),
        idle * 100.0
    );
    drop(std::fs::remove_dir_all(&daemon.folder));
}

fn secs(time: Duration) -> f64 {
    time.as_secs_f64()
}
