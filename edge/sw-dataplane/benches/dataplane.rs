//! `cargo xtask bench dataplane`: the cipher against the library, paired in one run, and the whole pipeline between
//! two devices in one process.
#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a bench prints and stops")]

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};
use sw_dataplane::{Device, DeviceConfig, PacketIo, PeerConfig, Roaming, SocketOptions};
use sw_types::{NodePrivate, Path};
use sw_wg::{BatchCipher, Key, Layout, Library, TAG_LEN};

const ROUNDS: usize = 4000;
const PIPELINE_PACKETS: usize = 200_000;

fn main() {
    println!("AEAD, one core, nanoseconds a packet: best of {ROUNDS} calls each, in turn");
    println!(
        "{:>6} {:>6} {:>18} {:>22} {:>13}",
        "bytes", "count", "library seal/open", "multi-buffer seal/open", "ratios"
    );
    for (len, count) in [(1420, 45), (1420, 16), (1420, 4), (100, 45), (100, 4), (1280, 52)] {
        aead(len, count);
    }
    many_peers();
    pipeline();
}

/// Times both ciphers in turn, call by call, and takes each one's best: other load slows calls, it quickens none.
fn aead(len: usize, count: usize) {
    let Some(fast) = sw_dataplane::multi_buffer() else {
        println!("skipped: this processor lacks AVX-512 with IFMA and VBMI2");
        return;
    };
    let key = Key::new([7; 32]);
    let stride = len + TAG_LEN + 16;
    let mut buffer = vec![1; stride * count];
    let layout = Layout::new(&buffer, stride, len, count);
    let counters: Vec<u64> = (0..count as u64).collect();
    let mut best = [[Duration::MAX; 2]; 2];
    for _ in 0..ROUNDS {
        for (best, cipher) in best.iter_mut().zip([&Library as &dyn BatchCipher, fast]) {
            let start = Instant::now();
            cipher.seal(&key, &mut buffer, layout, &counters);
            let middle = Instant::now();
            let genuine = cipher.open(&key, &mut buffer, layout, &counters);
            best[1] = best[1].min(middle.elapsed());
            best[0] = best[0].min(middle - start);
            assert_eq!(genuine.count_ones() as usize, count);
        }
    }
    let [[a, b], [c, d]] = best.map(|pair| pair.map(|time| time.as_nanos() as f64 / count as f64));
    println!("{len:>6} {count:>6} {a:>9.0} / {b:<6.0} {c:>12.0} / {d:<7.0} {:>8.2} / {:.2}", a / c, b / d);
}

/// What one more peer, and one less, cost beside ten thousand.
fn many_peers() {
    let (device, ..) = node(3);
    let config = |n: u32| {
        let mut key = [9; 32];
        key[..4].copy_from_slice(&n.to_le_bytes());
        PeerConfig {
            key: sw_types::NodeKey::from_bytes(key),
            psk: None,
            keepalive: None,
            allowed: vec![
                ipnet::Ipv4Net::from(Ipv4Addr::from(0x6440_0000 + n)).into(),
                ipnet::Ipv6Net::from(std::net::Ipv6Addr::from(0xfd7a_u128 << 112 | u128::from(n))).into(),
            ],
            path: None,
            roaming: Roaming::ByOwner,
        }
    };
    for n in 0..10_000 {
        device.upsert_peer(config(n));
    }
    let (mut adds, mut removes) = (Vec::new(), Vec::new());
    for n in 0..1000 {
        let peer = config(10_000 + n);
        let key = peer.key;
        let start = Instant::now();
        device.upsert_peer(peer);
        adds.push(start.elapsed().as_nanos() as f64 / 1000.0);
        let start = Instant::now();
        device.remove_peer(&key);
        removes.push(start.elapsed().as_nanos() as f64 / 1000.0);
    }
    println!("one peer of 10,000: add {:.1} µs, remove {:.1} µs", median(adds), median(removes));
}

/// Packets of 1,420 bytes from one device to another over loopback, without a TUN.
fn pipeline() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let rate = runtime.block_on(async {
        let (a, mut b) = (node(1), node(2));
        connect(&a, &b);
        connect(&b, &a);
        let packet = packet(a.1, b.1);
        let sender = a.2.to_network.clone();
        let start = Instant::now();
        let feed = tokio::spawn(async move {
            for _ in 0..PIPELINE_PACKETS {
                if sender.send(packet.clone()).await.is_err() {
                    return;
                }
            }
        });
        let mut received = 0u32;
        while let Ok(Some(_)) = tokio::time::timeout(Duration::from_secs(1), b.2.from_network.recv()).await {
            received += 1;
        }
        feed.await.unwrap();
        f64::from(received) / (start.elapsed() - Duration::from_secs(1)).as_secs_f64()
    });
    println!("pipeline without TUN: {:.0} thousand packets/s of 1,420 B received", rate / 1000.0);
}

type Node = (Device, Ipv4Addr, sw_dataplane::PacketChannel, sw_types::NodeKey);

fn node(n: u8) -> Node {
    let (io, inner) = PacketIo::channel();
    let sockets = SocketOptions { address: Some(Ipv4Addr::LOCALHOST.into()), ..SocketOptions::default() };
    let (device, _) = Device::start(DeviceConfig { io, port: 0, sockets, mtu: 1420 }).unwrap();
    let private = NodePrivate::from_bytes([n; 32]);
    let key = private.public();
    device.set_private_key(Some(private));
    (device, Ipv4Addr::new(100, 64, 0, n), inner, key)
}

fn connect(node: &Node, peer: &Node) {
    node.0.upsert_peer(PeerConfig {
        key: peer.3,
        psk: None,
        keepalive: None,
        allowed: vec![ipnet::Ipv4Net::from(peer.1).into()],
        path: Some(Path::Direct((Ipv4Addr::LOCALHOST, peer.0.local_port()).into())),
        roaming: Roaming::ByOwner,
    });
}

fn packet(src: Ipv4Addr, dst: Ipv4Addr) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0x05, 0x8c, 0, 0, 0x40, 0, 64, 253, 0, 0];
    packet.extend(src.octets());
    packet.extend(dst.octets());
    packet.resize(1420, 0);
    packet
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
