//! What a relay costs: packets per CPU second, latency among many clients, memory per idle client, slow receivers,
//! mass reconnects. The relay runs in a process of its own, so that its CPU time and memory are its own.
//!
//! `cargo xtask bench relay [--seconds N] [--pairs N] [--only PART] [--clients N,N] [--tls]`; with `DERPER` set to the
//! official relay's program, throughput and latency are measured side by side in the same run (plain HTTP, since that
//! program takes a certificate only from an authority).
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a program for people who measure")]

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use sw_net::derp_client::{Connection, DerpConfig, Upgrade, connect};
use sw_net::front::{Front, FrontLimits};
use sw_net::tls::{CertStore, Identity, server_config};
use sw_proto::derp::ClientFrame;
use sw_relay::{Relay, RelayConfig};
use sw_types::{CertCheck, DerpPrivate, NodeKey, NodePrivate, RegionId, RelayAddr, RelayNode, RelayRegion};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;

#[derive(Clone, Debug, Parser)]
struct Args {
    /// Seconds per measurement
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// Pairs of clients
    #[arg(long, default_value_t = 4)]
    pairs: usize,
    /// Packets under way per pair; the official relay's queue holds 32
    #[arg(long, default_value_t = 32)]
    window: u64,
    /// Numbers of connected clients for latency and memory
    #[arg(long, value_delimiter = ',', default_value = "10,1000,10000")]
    clients: Vec<usize>,
    /// throughput, latency, memory, slow or reconnect
    #[arg(long)]
    only: Option<String>,
    /// Throughput over TLS too
    #[arg(long)]
    tls: bool,
    #[arg(long, hide = true)]
    serve: bool,
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let args = Args::parse();
    raise_file_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async { if args.serve { serve().await } else { measure(args).await } });
}

fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
}

/// The relay under test: plain and TLS on one port.
async fn serve() {
    let mut config = RelayConfig::new(Arc::new(DerpPrivate::generate([1; 32])));
    config.plain_http = true;
    let relay = Relay::new(config).unwrap();
    let store = CertStore::new();
    let identity = Identity::self_signed(&["127.0.0.1".to_owned()]).unwrap();
    store.set_default(&identity);
    store.set_meta(&relay.meta_cert().unwrap());
    let listener = sw_net::socket::listen_tcp("127.0.0.1:0".parse().unwrap()).unwrap();
    println!("{} {}", listener.local_addr().unwrap(), hex::encode(identity.hash().0));
    // All clients of the bench come from one address.
    let limits = FrontLimits {
        unauthenticated_per_source: 4096,
        queue_wait: Duration::from_secs(60),
        ..Default::default()
    };
    let front = Front::new(relay.router(), limits);
    front.listen(listener, Some(server_config(store)));
    std::future::pending::<()>().await;
}

struct Server {
    name: &'static str,
    child: Child,
    address: SocketAddr,
    hash: Option<[u8; 32]>,
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Server {
    fn ours() -> Self {
        let program = std::env::current_exe().unwrap();
        let mut child = Command::new(program).arg("--serve").stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let (address, hash) = line.trim().split_once(' ').unwrap();
        let mut bytes = [0; 32];
        hex::decode_to_slice(hash, &mut bytes).unwrap();
        Self { name: "samewire", child, address: address.parse().unwrap(), hash: Some(bytes) }
    }

    fn official() -> Option<Self> {
        let program = std::env::var_os("DERPER")?;
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let config = std::env::temp_dir().join(format!("sw-bench-derper-{port}.json"));
        let child = Command::new(program)
            .arg("-c")
            .arg(config)
            .args(["-a", &address.to_string(), "-http-port", "-1", "-stun=false", "-hostname", "localhost"])
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let began = Instant::now();
        while std::net::TcpStream::connect(address).is_err() {
            assert!(began.elapsed() < Duration::from_secs(20), "the official relay does not start");
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(Self { name: "derper", child, address, hash: None })
    }

    /// CPU seconds so far, of user and system together.
    fn cpu(&self) -> f64 {
        let text = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let fields: Vec<&str> = text.rsplit_once(')').unwrap().1.split_whitespace().collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        ticks as f64 / 100.0
    }

    fn rss_kib(&self) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    async fn connect(&self, number: u64, tls: bool) -> (NodeKey, Connection) {
        let mut seed = [7; 32];
        seed[..8].copy_from_slice(&number.to_be_bytes());
        let key = Arc::new(NodePrivate::generate(seed));
        let public = key.public();
        let cert = self.hash.map_or(CertCheck::HostName, CertCheck::Sha256);
        let mut config = DerpConfig::new(region(self.address, cert), key);
        config.plain_http = !tls;
        let mut tries = 0;
        loop {
            match connect(&config, Upgrade::Derp).await {
                Ok(connection) => return (public, connection),
                Err(error) if tries > 10 => panic!("{}: {error}", self.name),
                Err(_) => tries += 1,
            }
        }
    }

    /// Many clients, some at a time.
    async fn connect_many(self: &Arc<Self>, first: u64, count: usize, tls: bool) -> Vec<Connection> {
        let mut all = Vec::with_capacity(count);
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..count as u64 {
            if tasks.len() >= 100 {
                all.push(tasks.join_next().await.unwrap().unwrap());
            }
            let server = Arc::clone(self);
            tasks.spawn(async move { server.connect(first + number, tls).await.1 });
        }
        all.extend(tasks.join_all().await);
        all
    }
}

fn region(address: SocketAddr, cert: CertCheck) -> RelayRegion {
    let SocketAddr::V4(v4) = address else { panic!("an IPv4 address") };
    let node = RelayNode {
        name: "a".to_owned(),
        host_name: v4.ip().to_string(),
        cert,
        ipv4: RelayAddr::Fixed(*v4.ip()),
        ipv6: RelayAddr::Disabled,
        stun_port: None,
        stun_only: false,
        derp_port: v4.port(),
        insecure_for_tests: false,
        stun_test_ip: None,
        can_port_80: false,
    };
    RelayRegion {
        id: RegionId(900),
        code: String::new(),
        name: String::new(),
        no_measure_no_home: false,
        nodes: vec![node],
    }
}

async fn measure(args: Args) {
    let wants = |part: &str| args.only.as_deref().is_none_or(|only| only == part);
    if wants("throughput") {
        for size in [100, 1280, 16_384] {
            let mut rates = Vec::new();
            for server in [Some(Server::ours()), Server::official()].into_iter().flatten() {
                rates.push(throughput(&Arc::new(server), size, &args, false).await);
            }
            if let [ours, official] = rates[..] {
                println!("throughput size={size} ratio_packets_per_cpu_second={:.2}", ours / official);
            }
            if args.tls {
                throughput(&Arc::new(Server::ours()), size, &args, true).await;
            }
        }
    }
    if wants("latency") {
        for count in &args.clients {
            // Anew each time: the machine is not equally busy all the time.
            let direct = direct_latency().await;
            for server in [Some(Server::ours()), Server::official()].into_iter().flatten() {
                latency(&Arc::new(server), *count, direct).await;
            }
        }
    }
    if wants("memory") {
        for tls in [false, true] {
            memory(*args.clients.iter().max().unwrap_or(&1000), tls).await;
        }
    }
    if wants("slow") {
        slow_receiver().await;
    }
    if wants("reconnect") {
        reconnect(*args.clients.iter().max().unwrap_or(&1000)).await;
    }
}

/// Pairs that send as fast as the window lets them; gives packets delivered per CPU second of the relay.
async fn throughput(server: &Arc<Server>, size: usize, args: &Args, tls: bool) -> f64 {
    let delivered = Arc::new(AtomicU64::new(0));
    let mut tasks = tokio::task::JoinSet::new();
    for pair in 0..args.pairs as u64 {
        let (_, sender) = server.connect(2 * pair, tls).await;
        let (to, receiver) = server.connect(2 * pair + 1, tls).await;
        let acknowledged = Arc::new((AtomicU64::new(0), Notify::new()));
        tasks.spawn(receive(receiver, size, Arc::clone(&acknowledged), Arc::clone(&delivered)));
        tasks.spawn(send(sender, to, size, args.window, acknowledged));
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let (packets, cpu, began) = (delivered.load(Ordering::Relaxed), server.cpu(), Instant::now());
    tokio::time::sleep(Duration::from_secs(args.seconds)).await;
    let packets = delivered.load(Ordering::Relaxed) - packets;
    let (cpu, seconds) = ((server.cpu() - cpu).max(0.01), began.elapsed().as_secs_f64());
    tasks.shutdown().await;
    let bytes = packets as f64 * size as f64;
    println!(
        "throughput relay={} tls={tls} size={size} pairs={} packets/s={:.0} Gbit/s={:.3} packets/cpu-s={:.0} cpu-s/GiB={:.2}",
        server.name,
        args.pairs,
        packets as f64 / seconds,
        bytes * 8.0 / seconds / 1e9,
        packets as f64 / cpu,
        cpu / (bytes / f64::from(1 << 30)),
    );
    packets as f64 / cpu
}

async fn send(
    mut sender: Connection,
    to: NodeKey,
    size: usize,
    window: u64,
    acknowledged: Arc<(AtomicU64, Notify)>,
) {
    let mut frame = Vec::new();
    ClientFrame::SendPacket { to, packet: &vec![1; size] }.encode(&mut frame);
    let burst = frame.repeat(window as usize);
    let mut sent = 0;
    loop {
        let room = window.saturating_sub(sent - acknowledged.0.load(Ordering::Acquire));
        if room == 0 {
            // A lost packet must not stop the pair: after a while the window opens again.
            let waiting = tokio::time::timeout(Duration::from_millis(100), acknowledged.1.notified()).await;
            if waiting.is_err() {
                acknowledged.0.store(sent, Ordering::Release);
            }
            continue;
        }
        sender.stream.write_all(&burst[..frame.len() * room as usize]).await.unwrap();
        sender.stream.flush().await.unwrap();
        sent += room;
    }
}

async fn receive(
    mut receiver: Connection,
    size: usize,
    acknowledged: Arc<(AtomicU64, Notify)>,
    delivered: Arc<AtomicU64>,
) {
    let frame = 5 + 32 + size;
    let mut buffer = vec![0; 256 << 10];
    let mut partial = 0;
    loop {
        let Ok(count @ 1..) = receiver.stream.read(&mut buffer).await else { return };
        partial += count;
        let packets = (partial / frame) as u64;
        partial %= frame;
        if packets > 0 {
            delivered.fetch_add(packets, Ordering::Relaxed);
            acknowledged.0.fetch_add(packets, Ordering::AcqRel);
            acknowledged.1.notify_one();
        }
    }
}

fn percentiles(name: &str, micros: Vec<f64>) {
    let (p50, p99) = p50_p99(micros);
    println!("{name} one_way_p50={p50:.0}us one_way_p99={p99:.0}us");
}

fn p50_p99(mut micros: Vec<f64>) -> (f64, f64) {
    micros.sort_by(f64::total_cmp);
    let at = |p: f64| micros[((micros.len() - 1) as f64 * p) as usize];
    (at(0.5), at(0.99))
}

const ROUNDS: usize = 3000;

/// The same round trip without a relay: what is to be taken off.
async fn direct_latency() -> (f64, f64) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let echo = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        let mut buffer = [0; 137];
        while stream.read_exact(&mut buffer).await.is_ok() {
            stream.write_all(&buffer).await.unwrap();
        }
    });
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let mut micros = Vec::new();
    for _ in 0..ROUNDS {
        let began = Instant::now();
        stream.write_all(&[0; 137]).await.unwrap();
        stream.read_exact(&mut [0; 137]).await.unwrap();
        micros.push(began.elapsed().as_secs_f64() * 5e5);
    }
    drop(stream);
    echo.await.unwrap();
    p50_p99(micros)
}

/// What the relay adds to the way between two sockets of this machine.
async fn latency(server: &Arc<Server>, count: usize, direct: (f64, f64)) {
    let others = server.connect_many(1000, count.saturating_sub(2), false).await;
    let (p50, p99) = p50_p99(ping_pong(server).await);
    println!(
        "latency relay={} clients={count} one_way_p50={p50:.0}us one_way_p99={p99:.0}us direct_p50={:.0}us \
         direct_p99={:.0}us added_p50={:.0}us added_p99={:.0}us",
        server.name,
        direct.0,
        direct.1,
        p50 - direct.0,
        p99 - direct.1,
    );
    drop(others);
}

/// Round trips of one pair, halved, in microseconds.
async fn ping_pong(server: &Arc<Server>) -> Vec<f64> {
    let (a_key, mut a) = server.connect(1, false).await;
    let (b_key, mut b) = server.connect(2, false).await;
    let mut to_b = Vec::new();
    ClientFrame::SendPacket { to: b_key, packet: &[0; 100] }.encode(&mut to_b);
    let mut to_a = Vec::new();
    ClientFrame::SendPacket { to: a_key, packet: &[0; 100] }.encode(&mut to_a);
    let echo = tokio::spawn(async move {
        let mut buffer = [0; 137];
        while b.stream.read_exact(&mut buffer).await.is_ok() {
            b.stream.write_all(&to_a).await.unwrap();
        }
    });
    let mut micros = Vec::new();
    for _ in 0..ROUNDS {
        let began = Instant::now();
        a.stream.write_all(&to_b).await.unwrap();
        a.stream.read_exact(&mut [0; 137]).await.unwrap();
        micros.push(began.elapsed().as_secs_f64() * 5e5);
    }
    echo.abort();
    micros
}

async fn memory(count: usize, tls: bool) {
    let server = Arc::new(Server::ours());
    drop(server.connect_many(0, 10, tls).await);
    let before = server.rss_kib();
    let clients = server.connect_many(100, count, tls).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let kib = (server.rss_kib() - before) as f64 / count as f64;
    println!("memory relay=samewire tls={tls} clients={count} KiB_per_idle_client={kib:.1}");
    drop(clients);
}

/// One receiver takes nothing while it is flooded; another pair's latency.
async fn slow_receiver() {
    let server = Arc::new(Server::ours());
    percentiles("slow relay=samewire flood=none", ping_pong(&server).await);
    let (slow_key, slow) = server.connect(50, false).await;
    let (_, mut sender) = server.connect(51, false).await;
    let flood = tokio::spawn(async move {
        let mut frame = Vec::new();
        ClientFrame::SendPacket { to: slow_key, packet: &[1; 1280] }.encode(&mut frame);
        // About 50 MB/s, so that the machine itself is not the limit.
        let mut tick = tokio::time::interval(Duration::from_millis(1));
        let burst = frame.repeat(40);
        loop {
            tick.tick().await;
            if sender.stream.write_all(&burst).await.is_err() {
                return;
            }
        }
    });
    percentiles("slow relay=samewire flood=to_one_who_takes_nothing", ping_pong(&server).await);
    println!("slow relay=samewire rss_mib={}", server.rss_kib() / 1024);
    flood.abort();
    drop(slow);
}

async fn reconnect(count: usize) {
    let server = Arc::new(Server::ours());
    let clients = server.connect_many(0, count, true).await;
    drop(clients);
    let (cpu, began) = (server.cpu(), Instant::now());
    let clients = server.connect_many(0, count, true).await;
    println!(
        "reconnect relay=samewire tls=true clients={count} seconds={:.1} relay_cpu_s={:.1} rss_mib={}",
        began.elapsed().as_secs_f64(),
        server.cpu() - cpu,
        server.rss_kib() / 1024
    );
    drop(clients);
}
