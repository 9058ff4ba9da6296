//! The router against a real kernel, in a network namespace of its own. Needs root.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::process::Command;

use ipnet::{IpNet, Ipv4Net};
use rustix::thread::{UnshareFlags, unshare_unsafe};
use sw_os::router::{Router, RouterConfig};

/// Runs `test` on a thread that is alone in a new network namespace.
fn in_new_namespace(test: impl FnOnce() + Send + 'static) {
    std::thread::spawn(|| {
        // SAFETY: only the network namespace of this thread changes; no descriptor is shared with it.
        if let Err(error) = unsafe { unshare_unsafe(UnshareFlags::NEWNET) } {
            writeln!(std::io::stderr(), "skipped: no new network namespace ({error})").expect("stderr");
            return;
        }
        test();
    })
    .join()
    .expect("the test passes");
}

/// Runs `ip` in the calling thread's namespace (children inherit it).
fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split(' ')).output().expect("iproute2 is installed");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn config(routes: impl IntoIterator<Item = IpNet>) -> RouterConfig {
    RouterConfig {
        interface: "lo".to_owned(),
        mtu: 1280,
        addresses: ["100.64.0.1/32", "fd7a:115c:a1e0::1/128"]
            .map(|text| text.parse().expect("a prefix"))
            .into(),
        routes: routes.into_iter().collect(),
        throw_routes: BTreeSet::new(),
    }
}

#[test]
fn applied_state_is_read_back_and_removed_without_a_trace() {
    in_new_namespace(|| {
        let rules_before = ip("rule");
        let mut router = Router::open().expect("a netlink socket");
        let mut wanted = config(
            ["100.64.0.2/32", "10.9.0.0/16", "fd7a:115c:a1e0::2/128"].map(|t| t.parse().expect("a prefix")),
        );
        wanted.throw_routes.insert("192.168.7.0/24".parse().expect("a prefix"));
        router.apply(&wanted).expect("root may");
        router.apply(&wanted).expect("a second time");
        let table = ip("route show table 52");
        assert!(table.contains("100.64.0.2 dev lo") && table.contains("throw 192.168.7.0/24"), "{table}");
        assert!(ip("-6 route show table 52").contains("fd7a:115c:a1e0::2"));
        let rules = ip("rule");
        assert!(rules.contains("5210:\tfrom all fwmark 0x80000/0xff0000 lookup main"), "{rules}");
        assert!(rules.contains("5250:\tfrom all fwmark 0x80000/0xff0000 unreachable"), "{rules}");
        assert!(rules.contains("5270:\tfrom all lookup 52"), "{rules}");
        assert!(ip("addr show dev lo").contains("inet 100.64.0.1/32"));

        wanted.routes.clear();
        router.apply(&wanted).expect("root may");
        assert!(!ip("route show table 52").contains("100.64.0.2"));

        router.remove_all("lo").expect("root may");
        assert!(!ip("addr show dev lo").contains("100.64.0.1"));
        assert_eq!(ip("route show table 52"), "");
        assert_eq!(ip("-6 route show table 52"), "");
        assert_eq!(ip("rule"), rules_before);
    });
}

#[test]
fn ten_thousand_routes_are_set_in_a_moment() {
    in_new_namespace(|| {
        let mut router = Router::open().expect("a netlink socket");
        let peers = (0..10_000u32).map(|n| IpNet::from(Ipv4Net::from(Ipv4Addr::from(0x6440_0100 + n))));
        let wanted = config(peers);
        let begin = std::time::Instant::now();
        router.apply(&wanted).expect("root may");
        let took = begin.elapsed();
        println!("10,000 routes in {took:?}");
        assert_eq!(ip("route show table 52").lines().count(), 10_000);
        assert!(took.as_secs() < 2, "10,000 routes took {took:?}");
    });
}
